//! What one entry of the log changes: read from the log's text, or planned by us. Both are the same to a
//! [`TableVersion`](super::table_version::TableVersion).
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#actions>

use std::collections::HashMap;

use serde_json::{Map, Value};
use uuid::Uuid;

use super::live_files::LiveFile;
use crate::index::key_index::FileId;

/// A file that is live after a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct AddedFile {
    /// Number that was reserved for it; none for a file of another writer.
    pub id: Option<FileId>,
    /// The file, with the rows that are gone from it.
    pub file: LiveFile,
}

/// What a commit changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Commit {
    /// Recognises it in the log, where its writer says so.
    pub id: Option<Uuid>,
    /// Versions by application id.
    pub txns: HashMap<String, i64>,
    /// Files that are live after it.
    pub adds: Vec<AddedFile>,
    /// Paths of files that are not; a path that is added as well only gets another deletion vector.
    pub removes: Vec<String>,
    /// The new metadata, if it changes.
    pub metadata: Option<Value>,
    /// The new protocol, if it changes.
    pub protocol: Option<Value>,
}

/// A commit's text, taken apart. The rows that deletion vectors remove are still to be read.
#[derive(Clone, Debug, Default)]
pub struct LogEntry {
    /// `txnId` of its commitInfo, by which a writer recognises its own.
    pub id: Option<String>,
    /// `operation` of its commitInfo.
    pub operation: Option<String>,
    /// Versions by application id.
    pub txns: HashMap<String, i64>,
    /// Add actions.
    pub adds: Vec<Map<String, Value>>,
    /// Paths of remove actions.
    pub removes: Vec<String>,
    /// Whether rows were removed or changed, rather than rearranged (`dataChange` of the remove actions) or erased.
    pub removes_rows: bool,
    /// Whether it erases rows, because somebody has asked for that: then they are missed by nobody.
    pub erases: bool,
    /// Metadata action.
    pub metadata: Option<Value>,
    /// Protocol action.
    pub protocol: Option<Value>,
}

impl LogEntry {
    /// Parses an entry: one action a line. Actions that change neither files nor positions are left out.
    pub fn parse(text: &[u8]) -> serde_json::Result<LogEntry> {
        let mut entry = LogEntry::default();
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let action: Map<String, Value> = serde_json::from_slice(line)?;
            for (kind, body) in action {
                entry.take(&kind, body);
            }
        }
        entry.removes_rows &= !entry.erases;
        Ok(entry)
    }

    fn take(&mut self, kind: &str, body: Value) {
        match (kind, body) {
            ("add", Value::Object(add)) => self.adds.push(add),
            ("remove", remove) => {
                self.removes_rows |= remove.get("dataChange").and_then(Value::as_bool) != Some(false);
                self.removes.extend(remove.get("path").and_then(Value::as_str).map(str::to_owned));
            }
            ("metaData", metadata) => self.metadata = Some(metadata),
            ("protocol", protocol) => self.protocol = Some(protocol),
            ("commitInfo", info) => {
                let text = |name: &str| info.get(name).and_then(Value::as_str).map(str::to_owned);
                (self.id, self.operation) = (text("txnId"), text("operation"));
                self.erases = info.pointer("/sooner/erasure").and_then(Value::as_bool) == Some(true);
            }
            ("txn", txn) => {
                let id = txn.get("appId").and_then(Value::as_str);
                if let (Some(id), Some(version)) = (id, txn.get("version").and_then(Value::as_i64)) {
                    self.txns.insert(id.to_owned(), version);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_taken_apart_and_unknown_ones_passed() {
        let text = br#"{"commitInfo":{"txnId":"me"}}
{"txn":{"appId":"a","version":7}}

{"add":{"path":"x","size":1}}
{"remove":{"path":"y"}}
{"domainMetadata":{"domain":"d"}}
{"metaData":{"id":"m"}}"#;
        let entry = LogEntry::parse(text).unwrap();
        assert_eq!(entry.id.as_deref(), Some("me"));
        assert_eq!(entry.txns, HashMap::from([("a".to_owned(), 7)]));
        assert_eq!((entry.adds.len(), entry.removes), (1, vec!["y".to_owned()]));
        assert!(entry.metadata.is_some() && entry.protocol.is_none());
    }

    #[test]
    fn rearranged_rows_are_told_from_removed_ones() {
        let removes = |change: &str| {
            let text = format!("{{\"add\":{{}}}}\n{{\"remove\":{{\"path\":\"x\"{change}}}}}");
            LogEntry::parse(text.as_bytes()).unwrap().removes_rows
        };
        assert!(!removes(",\"dataChange\":false"));
        assert!(removes(",\"dataChange\":true") && removes(""));
        assert!(!LogEntry::parse(b"{\"add\":{\"dataChange\":true}}").unwrap().removes_rows, "an append");
    }

    #[test]
    fn rows_that_are_erased_are_not_missed() {
        let remove = "{\"remove\":{\"path\":\"x\",\"dataChange\":true}}";
        let text = format!("{{\"commitInfo\":{{\"sooner\":{{\"erasure\":true}}}}}}\n{remove}");
        let entry = LogEntry::parse(text.as_bytes()).unwrap();
        assert!(entry.erases && !entry.removes_rows);
    }

    #[test]
    fn text_that_is_no_log_is_refused() {
        assert!(LogEntry::parse(b"{\"add\":").is_err());
    }
}
