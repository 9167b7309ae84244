//! The actions of Delta's log that we read and write.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#actions>

use object_store::path::Path;
use serde_json::{Map, Value, json};
use sooner_api::{Code, Error, Result};

use crate::rows::column_mapping;
use crate::rows::columns::{LakeColumn, schema_string};

/// Features of a table that we know, or that do not change how we read and write it.
const READER_FEATURES: [&str; 5] =
    [column_mapping::FEATURE, "deletionVectors", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"];
const WRITER_FEATURES: [&str; 8] = [
    column_mapping::FEATURE,
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
    let mut made = json!({
        "id": uuid::Uuid::new_v4(),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": schema_string(columns),
        "partitionColumns": [],
        "configuration": {"delta.enableDeletionVectors": "true", PIPELINE_PROPERTY: pipeline},
        "createdTime": created_millis,
    });
    column_mapping::set(&mut made, columns, &Value::Null, None);
    made
}

/// The metadata of a table that a pipeline replaces by a copy: whatever others made of the table, it is as this
/// pipeline creates tables, but for its id, name and properties that are no concern of writers.
pub fn of_copy(former: &Value, pipeline: &str, columns: &[LakeColumn], now_millis: i64) -> Value {
    let mut made = metadata(pipeline, columns, now_millis);
    for kept in ["id", "name", "description", "createdTime"] {
        if let Some(value) = former.get(kept).filter(|value| !value.is_null()) {
            made[kept] = value.clone();
        }
    }
    let properties = former.get("configuration").and_then(Value::as_object).into_iter().flatten();
    for (name, value) in properties.filter(|(name, _)| !concerns_writers(name)) {
        made["configuration"][name] = value.clone();
    }
    column_mapping::set(&mut made, columns, former, None);
    made
}

/// Whether a table property asks something of those who write the table.
fn concerns_writers(property: &str) -> bool {
    const KEPT: [&str; 5] = [
        "delta.enableExpiredLogCleanup",
        "delta.deletedFileRetentionDuration",
        "delta.logRetentionDuration",
        "delta.checkpointInterval",
        "delta.targetFileSize",
    ];
    property == PIPELINE_PROPERTY || (property.starts_with("delta.") && !KEPT.contains(&property))
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
    let mut changed = completed(changed);
    column_mapping::set(&mut changed, columns, metadata, None);
    changed
}

/// The same metadata with what the protocol requires, whatever stands in the log.
pub fn completed(metadata: Value) -> Value {
    let mut changed = metadata;
    let required = [
        ("id", json!(uuid::Uuid::new_v4())),
        ("format", json!({"provider": "parquet", "options": {}})),
        ("partitionColumns", json!([])),
        ("configuration", json!({})),
    ];
    for (name, value) in required {
        if changed.get(name).is_none_or(Value::is_null) {
            changed[name] = value;
        }
    }
    changed
}

/// Refuses a table that asks of its writers what we do not do.
pub fn check_protocol(table: &str, protocol: &Value, metadata: &Value) -> Result<()> {
    let refuse = |why: String| {
        let remedy =
            format!("`sooner resume {table}` copies it again, without the feature; let others only read the table");
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
    if column_mapping::is_by_number(metadata) {
        return refuse("its files know columns by numbers (delta.columnMapping.mode = id)".to_owned());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::lake_type::LakeType;

    fn columns() -> Vec<LakeColumn> {
        vec![LakeColumn {
            name: "id".into(),
            lake_type: LakeType::Long,
            nullable: false,
            number: Some(1),
            stored: None,
            missing: None,
        }]
    }

    #[test]
    fn a_copy_undoes_what_others_made_of_the_table_and_keeps_its_identity() {
        let mut former = metadata("shop", &columns(), 5);
        former["name"] = json!("Orders");
        former["partitionColumns"] = json!(["id"]);
        former["configuration"]["delta.appendOnly"] = json!("true");
        former["configuration"]["delta.constraints.positive"] = json!("id > 0");
        former["configuration"]["delta.logRetentionDuration"] = json!("interval 90 days");
        former["configuration"]["owner"] = json!("sales");
        let made = of_copy(&former, "shop", &columns(), 9);
        assert_eq!((&made["id"], &made["name"], &made["createdTime"]), (&former["id"], &json!("Orders"), &json!(5)));
        assert_eq!(made["partitionColumns"], json!([]));
        let expected = json!({
            "delta.enableDeletionVectors": "true",
            "sooner.pipeline": "shop",
            "delta.logRetentionDuration": "interval 90 days",
            "owner": "sales",
        });
        assert_eq!(made["configuration"], expected);
        assert!(check_protocol("t", &protocol(), &made).is_ok());
    }

    #[test]
    fn metadata_always_has_what_the_protocol_requires() {
        let replayed = json!({"schemaString": "{}", "partitionColumns": [], "configuration": {}});
        for made in [of_copy(&replayed, "shop", &columns(), 9), with_columns(&Value::Null, &columns())] {
            assert_eq!(made["format"]["provider"], json!("parquet"), "{made}");
            assert!(made["id"].is_string() && made["partitionColumns"].is_array(), "{made}");
        }
    }
}
