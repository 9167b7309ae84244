//! Columns of a lake table: derived from an event's Avro schema, and converted to and from a Delta table's schema.
//!
//! Delta types: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#schema-serialization-format>

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{Field, Schema as ArrowSchema, SchemaRef};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde_json::{Value, json};
use sooner_api::{Code, Error, Result};
use sooner_schemas::avro::{Schema, Shape};
use sooner_schemas::event::EventSchema;
use sooner_schemas::evolution::ColumnFacts;

use super::column_mapping::{field_metadata, parse_field_metadata, shown_names};
pub use super::lake_column::{LakeColumn, Stored};
use super::lake_type::{Meaning, arrow_type, delta_type, parse_type, type_name};

/// Key of the field metadata in a Delta schema that holds the column's number at the source.
const NUMBER_PROPERTY: &str = "sooner.number";
const NUMBER_POINTER: &str = "/metadata/sooner.number";
/// Key of the field metadata that holds the column's name at the source, where readers see another one.
const NAME_PROPERTY: &str = "sooner.name";
/// Key of the field metadata that holds what rows have in the column that are older than it.
const MISSING_PROPERTY: &str = "sooner.missing";
const NAME_POINTER: &str = "/metadata/sooner.name";

/// Columns of the rows that events of a schema carry. A type that the lake cannot hold is an operator error.
pub fn columns_of(schema: &EventSchema) -> Result<Vec<LakeColumn>> {
    let table = &schema.table;
    let unsupported = |why: String| {
        Error::operator(
            Code::TypeUnsupported,
            format!("cannot store events of {table} in the lake"),
            why,
            "leave the table out (exclude), or change the column",
        )
    };
    let row = row_record(&schema.value).ok_or_else(|| unsupported("their schema has no 'after' record".to_owned()))?;
    let Shape::Record(record) = &row.shape else {
        return Err(unsupported("their 'after' is no record".to_owned()));
    };
    let source = schema.relation.as_ref();
    let columns = record.fields.iter().enumerate().map(|(index, field)| {
        let known = source.and_then(|relation| relation.columns.get(index));
        let (number, missing) = known.map_or((None, None), |column| (column.number, column.missing.clone()));
        let (schema, null) = field.schema.without_null();
        let meaning = Meaning::of(schema)
            .ok_or_else(|| unsupported(format!("the type of column '{}' is not supported", field.column)))?;
        let (name, lake_type, nullable) = (field.column.clone(), meaning.lake_type(), null.is_some());
        Ok(LakeColumn { name, lake_type, nullable, number, stored: None, missing })
    });
    columns.collect()
}

/// Schema of the row in an envelope's `after` field, without null; none if the envelope has no such field.
pub fn row_record(envelope: &Schema) -> Option<&Schema> {
    let record = envelope.as_record()?;
    let after = &record.fields[record.field_index("after")?];
    Some(after.schema.without_null().0)
}

/// What of columns decides whether rows of them fit each other. `fills_older_rows` says of which columns older rows
/// hold values that no event carries.
pub fn facts(columns: &[LakeColumn], fills_older_rows: impl Fn(&LakeColumn) -> bool) -> Vec<ColumnFacts> {
    let facts = columns.iter().map(|column| ColumnFacts {
        name: column.name.clone(),
        number: column.number,
        type_name: Some(type_name(&column.lake_type)),
        nullable: column.nullable,
        fills_older_rows: fills_older_rows(column),
    });
    facts.collect()
}

/// Columns of a table after widening by those of its events: added columns are included and may be null, and a column
/// that may be null on either side may be null.
pub fn widen(table: &[LakeColumn], events: &[LakeColumn]) -> Vec<LakeColumn> {
    let merged = events.iter().enumerate().map(|(index, event)| {
        let nullable = event.nullable || table.get(index).is_none_or(|column| column.nullable);
        let was = table.get(index);
        let stored = was.and_then(|column| column.stored.clone());
        LakeColumn { nullable, stored, missing: missing(was, event), ..event.clone() }
    });
    merged.chain(table.iter().skip(events.len()).cloned()).collect()
}

/// What older rows hold in a column stays what it was, although the source may have forgotten it.
fn missing(was: Option<&LakeColumn>, event: &LakeColumn) -> Option<String> {
    was.and_then(|was| was.missing.clone()).or_else(|| event.missing.clone())
}

/// Columns of a table of which some were dropped or renamed, as its events have them: what is new may be null, and what
/// was.
pub fn reshape(table: &[LakeColumn], events: &[LakeColumn]) -> Vec<LakeColumn> {
    let reshaped = events.iter().map(|event| {
        let was = table.iter().find(|column| column.is_same(event));
        let nullable = event.nullable || was.is_none_or(|was| was.nullable);
        LakeColumn { nullable, missing: missing(was, event), ..event.clone() }
    });
    reshaped.collect()
}

/// Serialises columns as Delta's `schemaString`.
pub fn schema_string(columns: &[LakeColumn]) -> String {
    let fields = columns.iter().zip(shown_names(columns)).map(|(column, shown)| {
        let mut metadata = column.number.map_or(json!({}), |number| json!({NUMBER_PROPERTY: number}));
        for (property, value) in column.stored.iter().flat_map(field_metadata) {
            metadata[property] = value;
        }
        if let Some(missing) = &column.missing {
            metadata[MISSING_PROPERTY] = json!(missing);
        }
        if shown != column.name {
            metadata[NAME_PROPERTY] = json!(column.name);
        }
        json!({
            "name": shown,
            "type": delta_type(&column.lake_type),
            "nullable": column.nullable,
            "metadata": metadata,
        })
    });
    json!({"type": "struct", "fields": fields.collect::<Vec<_>>()}).to_string()
}

/// Parses columns from Delta's `schemaString`; none if it is malformed or has a type that we never write.
pub fn parse_schema_string(text: &str) -> Option<Vec<LakeColumn>> {
    let schema: Value = serde_json::from_str(text).ok()?;
    let columns = schema.get("fields")?.as_array()?.iter().map(|field| {
        let name = field.pointer(NAME_POINTER).or_else(|| field.get("name"));
        Some(LakeColumn {
            name: name?.as_str()?.to_owned(),
            lake_type: parse_type(field.get("type")?)?,
            nullable: field.get("nullable")?.as_bool()?,
            number: field.pointer(NUMBER_POINTER).and_then(Value::as_i64).and_then(|number| i16::try_from(number).ok()),
            stored: field.get("metadata").and_then(parse_field_metadata),
            missing: field.pointer("/metadata/sooner.missing").and_then(Value::as_str).map(str::to_owned),
        })
    });
    columns.collect()
}

/// Arrow schema with which data files of these columns are written.
pub fn arrow_schema(columns: &[LakeColumn]) -> SchemaRef {
    let fields = columns.iter().map(|column| {
        let field = Field::new(column.stored_name(), arrow_type(&column.lake_type), column.nullable);
        match &column.stored {
            Some(stored) => {
                field.with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), stored.id.to_string())]))
            }
            None => field,
        }
    });
    Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::lake_type::LakeType;

    fn column(name: &str, lake_type: LakeType, nullable: bool) -> LakeColumn {
        LakeColumn { name: name.to_owned(), lake_type, nullable, number: Some(1), stored: None, missing: None }
    }

    #[test]
    fn schemas_survive_delta() {
        let columns = vec![
            column("a", LakeType::Decimal(10, 2), true),
            column("b", LakeType::Array(Box::new(LakeType::TimestampNtz)), true),
            column("c", LakeType::Binary, false),
        ];
        assert_eq!(parse_schema_string(&schema_string(&columns)), Some(columns.clone()));
        let mapped = LakeColumn {
            stored: Some(Stored { id: 7, name: "col-7".to_owned() }),
            ..column("C", LakeType::Date, true)
        };
        let mapped = [columns, vec![mapped]].concat();
        let schema = schema_string(&mapped);
        assert!(schema.contains("\"C_1\""), "{schema}");
        assert_eq!(parse_schema_string(&schema), Some(mapped));
    }

    #[test]
    fn widened_columns_are_there_and_may_be_null_where_either_side_may() {
        let table = [column("a", LakeType::Integer, false), column("b", LakeType::String, true)];
        let events = [column("a", LakeType::Integer, true)];
        assert_eq!(widen(&table, &events), [column("a", LakeType::Integer, true), table[1].clone()]);
        let more = [table[0].clone(), table[1].clone(), column("c", LakeType::Long, false)];
        let widened = widen(&table, &more);
        assert!(widened[2].nullable, "older rows have no value in it");
        assert_eq!(widened[0], table[0]);
    }
}
