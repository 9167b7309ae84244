//! What a table is to its readers: its columns with the types of Delta, as its log has them by now. Only the log's
//! metadata is read, whatever the number of files.

use serde_json::Value;
use sooner_api::Result;
use sooner_schemas::TableName;

use super::horizon::Horizon;
use super::provenance::Provenance;
use super::replay::{delta_table, log_error};
use crate::store::lake_store::LakeStore;
use crate::store::location::TableLocation;

/// A column as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownColumn {
    /// Name in the lake.
    pub name: String,
    /// Name at the source, where readers see another one.
    pub source_name: Option<String>,
    /// Number of the column at the source, where it is known.
    pub number: Option<i16>,
    /// Delta type, as `decimal(10,2)` or `array<string>`.
    pub type_name: String,
    /// Whether it may be null.
    pub nullable: bool,
}

/// A table as readers see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableShape {
    /// Version of the table.
    pub version: u64,
    /// Its columns, in their order.
    pub columns: Vec<ShownColumn>,
    /// Names of the key's columns at the source; none where that is not known.
    pub key: Vec<String>,
    /// Columns that the source's table has, and Postgres does not send.
    pub unsent: Vec<String>,
    /// Of a history of which rows were removed: since when it is whole, as RFC 3339.
    pub whole_since: Option<String>,
}

/// The table in a lake; none if there is no such table there yet.
pub async fn table_shape(lake: &LakeStore, table: &TableName) -> Result<Option<TableShape>> {
    shape_at(&TableLocation::of_table(lake, table)).await
}

/// The history of a table in a lake; none if there is none yet.
pub async fn history_shape(lake: &LakeStore, table: &TableName) -> Result<Option<TableShape>> {
    shape_at(&TableLocation::of_history(lake, table)).await
}

async fn shape_at(location: &TableLocation) -> Result<Option<TableShape>> {
    let mut found = delta_table(location);
    if !found.verify_deltatable_existence().await.map_err(|error| log_error(location, &error))? {
        return Ok(None);
    }
    // This reads the log's metadata; files would be read as they are asked for.
    found.load().await.map_err(|error| log_error(location, &error))?;
    let state = found.snapshot().map_err(|error| log_error(location, &error))?;
    let metadata = serde_json::to_value(state.metadata()).map_err(|error| log_error(location, &error))?;
    let columns = metadata.get("schemaString").and_then(Value::as_str).map(shown_columns);
    let Provenance { key, unsent, .. } = Provenance::of(&metadata);
    let whole_since = Horizon::of(&metadata).map(|horizon| horizon.instant());
    Ok(Some(TableShape { version: state.version(), columns: columns.unwrap_or_default(), key, unsent, whole_since }))
}

/// The columns of a Delta schema, whoever wrote it.
fn shown_columns(schema: &str) -> Vec<ShownColumn> {
    let schema: Value = serde_json::from_str(schema).unwrap_or_default();
    let fields = schema.get("fields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let columns = fields.iter().filter_map(|field| {
        let of_source = |key: &str| field.get("metadata").and_then(|metadata| metadata.get(key));
        let number = of_source("sooner.number").and_then(Value::as_i64);
        Some(ShownColumn {
            name: field.get("name")?.as_str()?.to_owned(),
            source_name: of_source("sooner.name").and_then(Value::as_str).map(str::to_owned),
            number: number.and_then(|number| i16::try_from(number).ok()),
            type_name: type_text(field.get("type")?),
            nullable: field.get("nullable").and_then(Value::as_bool).unwrap_or(true),
        })
    });
    columns.collect()
}

/// A Delta type as SQL of Spark writes it.
fn type_text(of: &Value) -> String {
    let part = |name: &str| of.get(name).map(type_text).unwrap_or_default();
    match (of.as_str(), of.get("type").and_then(Value::as_str)) {
        (Some(name), _) => name.to_owned(),
        (_, Some("array")) => format!("array<{}>", part("elementType")),
        (_, Some("map")) => format!("map<{},{}>", part("keyType"), part("valueType")),
        (_, Some("struct")) => {
            let fields = of.get("fields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let name = |field: &Value| field.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let fields = fields
                .iter()
                .map(|field| format!("{}:{}", name(field), field.get("type").map(type_text).unwrap_or_default()));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(","))
        }
        _ => of.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_of_any_writer_are_shown_with_their_types() {
        let array = json!({"type": "array", "elementType": "string", "containsNull": true});
        let nested = json!({"type": "struct", "fields": [{"name": "a", "type": array, "nullable": true}]});
        let schema = json!({"type": "struct", "fields": [
            {"name": "C_1", "type": "decimal(10,2)", "nullable": false,
             "metadata": {"sooner.number": 3, "sooner.name": "c"}},
            {"name": "d", "type": nested, "nullable": true, "metadata": {}},
        ]});
        let column = |name: &str, type_name: &str| ShownColumn {
            name: name.to_owned(),
            source_name: None,
            number: None,
            type_name: type_name.to_owned(),
            nullable: true,
        };
        let first = ShownColumn {
            source_name: Some("c".to_owned()),
            number: Some(3),
            nullable: false,
            ..column("C_1", "decimal(10,2)")
        };
        assert_eq!(shown_columns(&schema.to_string()), [first, column("d", "struct<a:array<string>>")]);
        assert_eq!(shown_columns("nonsense"), []);
    }
}
