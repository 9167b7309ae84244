//! The actions of Delta's log that we read and write.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#actions>

use object_store::path::Path;
use serde_json::{Map, Value, json};
use sooner_api::{Code, Error, Result};

use crate::rows::columns::{LakeColumn, schema_string};

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
