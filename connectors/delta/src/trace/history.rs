//! Goes back through a table's log: which commit a file came with, or which one a row went with.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use roaring::RoaringBitmap;
use serde_json::{Map, Value};
use sooner_api::{Code, Error, Result};

use super::row_trace::CommitFacts;
use super::search::{SoughtKey, rows_of};
use crate::log::actions::log_path;
use crate::log::deletion_vector;
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// Entries that are read at the same time.
const READERS: usize = 8;

/// What is looked for.
pub enum Wanted<'a> {
    /// The commit that a file of this path came with.
    Arrival(&'a str),
    /// The commit that the last row of a key went with.
    Departure(&'a SoughtKey),
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// What the newest entry says of itself.
    pub last: Option<CommitFacts>,
    /// The commit that was looked for.
    pub commit: Option<CommitFacts>,
    /// Version of the oldest entry that was looked at; none if there was none.
    pub looked_back_to: Option<u64>,
}

/// An entry of the log, taken apart.
#[derive(Debug, Default)]
struct PastEntry {
    facts: CommitFacts,
    adds: Vec<Map<String, Value>>,
    removes: Vec<Map<String, Value>>,
}

/// Reads the log backwards from a version, until the commit is found, time is up, or there is no older entry.
pub async fn look_back(location: &TableLocation, version: u64, wanted: Wanted<'_>, deadline: Instant) -> Result<Past> {
    let entries = (0..=version).rev().map(|version| async move {
        let text = get(location.store(), &log_path(version)).await?;
        text.map(|text| PastEntry::parse(version, &text)).transpose()
    });
    let mut entries = futures::stream::iter(entries).buffered(READERS);
    let mut past = Past::default();
    while let Ok(Some(entry)) = tokio::time::timeout_at(deadline.into(), entries.next()).await {
        // Older entries were cleaned up.
        let Some(entry) = entry? else { break };
        past.last.get_or_insert_with(|| entry.facts.clone());
        let is_it = match &wanted {
            Wanted::Arrival(path) => Some(entry.brings(path)),
            Wanted::Departure(key) => {
                let judged = entry.takes_away(&location.table, key);
                tokio::time::timeout_at(deadline.into(), judged).await.unwrap_or_default()
            }
        };
        // A file is gone, so nobody knows whether the row went then.
        let Some(is_it) = is_it else { break };
        past.looked_back_to = Some(entry.facts.version);
        if is_it {
            past.commit = Some(entry.facts);
            break;
        }
    }
    Ok(past)
}

impl PastEntry {
    fn parse(version: u64, text: &[u8]) -> Result<PastEntry> {
        let mut entry = PastEntry::default();
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let action: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
                let what = format!("cannot read {}", log_path(version));
                Error::operator(Code::LogUnreadable, what, error, "restore the table's log")
            })?;
            for (kind, body) in action {
                match (kind.as_str(), body) {
                    ("add", Value::Object(add)) => entry.adds.push(add),
                    ("remove", Value::Object(remove)) => entry.removes.push(remove),
                    ("commitInfo", info) => entry.facts = facts_of(&info),
                    _ => {}
                }
            }
        }
        entry.facts.version = version;
        Ok(entry)
    }

    /// Whether a file comes with this commit; one that is removed as well was there before.
    fn brings(&self, path: &str) -> bool {
        named(&self.adds, path).is_some() && named(&self.removes, path).is_none()
    }

    /// Whether a row of the key goes with this commit; none if that cannot be told, because a file is gone.
    async fn takes_away(&self, store: &Arc<dyn ObjectStore>, key: &SoughtKey) -> Option<bool> {
        for remove in self.removes.iter().filter(|remove| changes_rows(remove)) {
            let path = remove.get("path").and_then(Value::as_str).unwrap_or_default();
            let after = named(&self.adds, path);
            // Statistics stand in the add action, where the file stays with fewer rows.
            if !after.is_none_or(|add| key.bounds.may_be_in(add)) || !key.bounds.may_be_in(remove) {
                continue;
            }
            let was_deleted = deleted(store, remove).await?;
            let gone = match after {
                Some(add) => Some(deleted(store, add).await? - &was_deleted),
                None => None,
            };
            let size = remove.get("size").or_else(|| after?.get("size")).and_then(Value::as_u64)?;
            let location = Path::from_url_path(path).ok()?;
            let rows = rows_of(store, &location, size, key, gone.as_ref()).await.ok()?;
            if rows.into_iter().any(|row| !was_deleted.contains(row)) {
                return Some(true);
            }
        }
        Some(false)
    }
}

/// The action of a file among some.
fn named<'a>(actions: &'a [Map<String, Value>], path: &str) -> Option<&'a Map<String, Value>> {
    actions.iter().find(|action| action.get("path").and_then(Value::as_str) == Some(path))
}

/// Whether rows go by a remove action, rather than lie elsewhere.
fn changes_rows(remove: &Map<String, Value>) -> bool {
    remove.get("dataChange").and_then(Value::as_bool) != Some(false)
}

/// Rows that an action says are deleted; none if its deletion vector is gone.
async fn deleted(store: &Arc<dyn ObjectStore>, action: &Map<String, Value>) -> Option<RoaringBitmap> {
    match action.get("deletionVector").filter(|vector| !vector.is_null()) {
        Some(vector) => deletion_vector::read(&**store, vector).await.ok(),
        None => Some(RoaringBitmap::new()),
    }
}

fn facts_of(info: &Value) -> CommitFacts {
    let text = |name: &str| info.get(name).and_then(Value::as_str).map(str::to_owned);
    let watermark = info.pointer("/sooner/watermark").and_then(Value::as_str);
    CommitFacts {
        version: 0,
        at_millis: info.get("timestamp").and_then(Value::as_i64),
        operation: text("operation"),
        engine: text("engineInfo").or_else(|| text("clientVersion")),
        watermark: watermark.and_then(|text| text.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::Lsn;

    use super::*;

    #[test]
    fn an_entry_says_who_made_it_and_up_to_where_the_table_is_complete() {
        let text = br#"{"commitInfo":{"timestamp":17,"operation":"MERGE","engineInfo":"sooner/1","sooner":{"watermark":"0/A0"}}}
{"remove":{"path":"a"}}
{"add":{"path":"a"}}
{"add":{"path":"b"}}"#;
        let entry = PastEntry::parse(9, text).unwrap();
        let expected = CommitFacts {
            version: 9,
            at_millis: Some(17),
            operation: Some("MERGE".into()),
            engine: Some("sooner/1".into()),
            watermark: Some(Lsn(0xA0)),
        };
        assert_eq!(entry.facts, expected);
        assert!(entry.brings("b") && !entry.brings("a") && !entry.brings("c"), "a only lost rows");
        assert!(PastEntry::parse(9, b"{\"add\":").is_err());
    }
}
