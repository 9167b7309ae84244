//! The actions of Delta's log that we read and write.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#actions>

use std::collections::HashMap;

use object_store::path::Path;
use serde_json::{Map, Value, json};
use sooner_api::{Code, Error, Result};

use crate::columns::{LakeColumn, schema_string};

/// Features of a table that do not change how we read and write it.
const READER_FEATURES: [&str; 4] = ["deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"];
const WRITER_FEATURES: [&str; 7] = [
    "deletionVectors",
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    "invariants",
    "appendOnly",
    "domainMetadata",
];

/// What one commit of the log says.
#[derive(Debug, Default)]
pub struct Commit {
    /// `txnId` of its commitInfo: who wrote it.
    pub id: Option<String>,
    /// Versions by application id.
    pub txns: HashMap<String, i64>,
    /// Files that are live after it.
    pub adds: Vec<Map<String, Value>>,
    /// Files, with their vectors, that are not.
    pub removes: Vec<Map<String, Value>>,
    /// New metadata.
    pub metadata: Option<Value>,
    /// New protocol.
    pub protocol: Option<Value>,
}

impl Commit {
    /// Parses a commit's text: one action a line.
    pub fn parse(text: &[u8]) -> serde_json::Result<Commit> {
        let mut commit = Commit::default();
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let action: Map<String, Value> = serde_json::from_slice(line)?;
            for (kind, body) in action {
                commit.take(&kind, body);
            }
        }
        Ok(commit)
    }

    fn take(&mut self, kind: &str, body: Value) {
        match (kind, body) {
            ("add", Value::Object(add)) => self.adds.push(add),
            ("remove", Value::Object(remove)) => self.removes.push(remove),
            ("metaData", metadata) => self.metadata = Some(metadata),
            ("protocol", protocol) => self.protocol = Some(protocol),
            ("commitInfo", info) => self.id = info.get("txnId").and_then(Value::as_str).map(str::to_owned),
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

/// The protocol of the tables that we create. Spark wants `invariants` listed where a column is NOT NULL.
pub fn protocol() -> Value {
    json!({
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors", "timestampNtz"],
        "writerFeatures": ["deletionVectors", "timestampNtz", "invariants"],
    })
}

/// The table property that says which pipeline made a table.
const PIPELINE_PROPERTY: &str = "sooner.pipeline";

/// The metadata of a table that a pipeline creates.
pub fn metadata(pipeline: &str, columns: &[LakeColumn], created_millis: i64) -> Value {
    json!({
        "id": uuid::Uuid::new_v4(),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": schema_string(columns),
        "partitionColumns": [],
        "configuration": {"delta.enableDeletionVectors": "true", PIPELINE_PROPERTY: pipeline},
        "createdTime": created_millis,
    })
}

/// Whether a pipeline made the table of this metadata.
pub fn is_made_by(pipeline: &str, metadata: &Value) -> bool {
    let maker = metadata.get("configuration").and_then(|all| all.get(PIPELINE_PROPERTY));
    maker.and_then(Value::as_str) == Some(pipeline)
}

/// The same metadata with other columns.
pub fn with_columns(metadata: &Value, columns: &[LakeColumn]) -> Value {
    let mut changed = metadata.clone();
    changed["schemaString"] = json!(schema_string(columns));
    changed
}

/// Refuses a table that asks of its writers what we do not do.
pub fn check_protocol(table: &str, protocol: &Value, metadata: &Value) -> Result<()> {
    let refuse = |why: String| {
        let remedy = "remove the feature from the table, or move the table away and let it be copied again";
        Err(Error::operator(
            Code::TableProtocolUnsupported,
            format!("cannot write to the lake table {table}"),
            why,
            remedy,
        ))
    };
    for (list, known) in [("readerFeatures", &READER_FEATURES[..]), ("writerFeatures", &WRITER_FEATURES[..])] {
        let features = protocol.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let unknown = features.iter().filter_map(Value::as_str).find(|feature| !known.contains(feature));
        if let Some(feature) = unknown {
            return refuse(format!("it has the feature '{feature}', which is not supported"));
        }
    }
    if !protocol.is_null() && protocol.get("minReaderVersion").and_then(Value::as_i64) != Some(3) {
        return refuse("its protocol is older than deletion vectors (reader version 3)".to_owned());
    }
    if metadata.get("partitionColumns").and_then(Value::as_array).is_some_and(|columns| !columns.is_empty()) {
        return refuse("it is partitioned".to_owned());
    }
    let schema = metadata.get("schemaString").and_then(Value::as_str).unwrap_or_default();
    if schema.contains("delta.invariants") {
        return refuse("a column has an invariant".to_owned());
    }
    let configuration = metadata.get("configuration");
    if configuration.and_then(|all| all.get("delta.appendOnly")).and_then(Value::as_str) == Some("true") {
        return refuse("it is append-only".to_owned());
    }
    Ok(())
}

/// Where a version's commit lies, below the table.
pub fn log_path(version: u64) -> Path {
    Path::from(format!("_delta_log/{version:020}.json"))
}

/// A line of the log.
pub fn line(out: &mut String, kind: &str, body: Value) {
    let mut action = Map::new();
    action.insert(kind.to_owned(), body);
    out.push_str(&Value::Object(action).to_string());
    out.push('\n');
}

/// A `txn` action.
pub fn txn(app_id: &str, version: u64, now_millis: i64) -> Value {
    json!({"appId": app_id, "version": version, "lastUpdated": now_millis})
}
