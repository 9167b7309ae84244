//! A table's route to its topic: row shape, partitioning, size limit, and whether its events are written or dropped.

use std::sync::Arc;

use sooner_schemas::TableName;
use sooner_schemas::avro::{RecordSchema, Schema};
use sooner_schemas::event::EventSchema;
use sooner_schemas::wire::Malformed;

use crate::cluster::settings::PartitionBy;
use crate::cluster::topic_state::TopicState;
use crate::cluster::transactions::LARGEST_MESSAGE;
use crate::message::key_text::key_header;
use crate::message::partition::{column_bytes, partition_of};
use crate::progress::record::ColumnMark;

/// TopicRoute of one table to its topic: what the producer needs to know to write the table's events.
pub struct TopicRoute {
    /// Table whose events go through the route.
    pub table: TableName,
    /// Name of the table's topic.
    pub topic: Arc<str>,
    /// Number of the topic's partitions.
    pub partitions: i32,
    /// Largest message that can be sent to the topic, in bytes.
    pub limit_bytes: usize,
    /// Whether the topic is compacted.
    pub is_compacted: bool,
    /// Whether events are dropped, because the table is parked or waits to be copied.
    pub closed: bool,
    /// Columns of the last written events; empty before the first.
    pub columns: Vec<ColumnMark>,
    schema: Option<Arc<EventSchema>>,
    /// Names of the row's fields, as in the schema.
    fields: Vec<String>,
}

/// What a change of a table's row shape requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShapeChange {
    /// Nothing: the shape is the first known, is unchanged, or gained only nullable columns without a default.
    None,
    /// A copy of the table, since older rows hold values in an added column that no event carries; holds the reason.
    NeedsCopy(String),
    /// A stop, since events can no longer be merged with older ones; holds the reason.
    Broken(String),
}

impl TopicRoute {
    /// An open route of `table` to `topic`, with the partition count and limits of the topic's `state`.
    pub fn new(table: TableName, topic: String, state: &TopicState) -> TopicRoute {
        TopicRoute {
            table,
            topic: topic.into(),
            partitions: state.partitions,
            limit_bytes: state.max_message_bytes.min(LARGEST_MESSAGE),
            is_compacted: state.is_compacted(),
            closed: false,
            columns: Vec::new(),
            schema: None,
            fields: Vec::new(),
        }
    }

    /// Adopts the schema of the events that follow, and returns what the change of shape requires.
    pub fn adopt(&mut self, schema: &Arc<EventSchema>) -> ShapeChange {
        if self.schema.as_ref().is_some_and(|known| Arc::ptr_eq(known, schema)) {
            return ShapeChange::None;
        }
        let row = row_of(schema);
        let fields = row.map(|row| row.fields.as_slice()).unwrap_or_default();
        self.fields = fields.iter().map(|field| field.name.clone()).collect();
        self.schema = Some(schema.clone());
        let marks = fields.iter().enumerate().map(|(index, field)| ColumnMark {
            name: field.column.clone(),
            number: schema.column_numbers.get(index).copied().flatten(),
        });
        let former = std::mem::replace(&mut self.columns, marks.collect());
        if former.is_empty() { ShapeChange::None } else { compare(&former, &self.columns, schema, row) }
    }

    /// Names of the row's fields, in schema order.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Partition of a key message under a partitioning rule. Fails if the key's columns cannot be decoded.
    pub fn partition(&self, by: &PartitionBy, key: &[u8]) -> Result<i32, Malformed> {
        match (by, self.key_schema()) {
            (PartitionBy::Columns(columns), Some(schema)) => {
                Ok(partition_of(&column_bytes(schema, key, columns)?, self.partitions))
            }
            _ => Ok(partition_of(key, self.partitions)),
        }
    }

    /// Columns that a partitioning rule names and the key does not have; empty for a table without a key.
    pub fn missing_columns(&self, by: &PartitionBy) -> Vec<String> {
        let (PartitionBy::Columns(columns), Some(schema)) = (by, self.key_schema()) else { return Vec::new() };
        let fields = schema.as_record().map(|record| record.fields.as_slice()).unwrap_or_default();
        columns.iter().filter(|column| !fields.iter().any(|field| field.column == **column)).cloned().collect()
    }

    /// Text of a key message, for the header of an event that changes the key; none if it cannot be decoded.
    pub fn key_header(&self, key: &[u8]) -> Option<String> {
        key_header(self.key_schema()?, key).ok()
    }

    /// Schema of the table's keys; none for a table without a key, and before a schema is adopted.
    pub fn key_schema(&self) -> Option<&Schema> {
        self.schema.as_ref()?.key.as_ref()
    }
}

fn row_of(schema: &EventSchema) -> Option<&Arc<RecordSchema>> {
    let envelope = schema.value.as_record()?;
    envelope.fields[envelope.field_index("after")?].schema.as_record()
}

/// Compares two shapes. Added columns flow through, unless older rows hold a value in them; any other change
/// requires that the rows are copied again.
fn compare(
    former: &[ColumnMark],
    now: &[ColumnMark],
    schema: &EventSchema,
    row: Option<&Arc<RecordSchema>>,
) -> ShapeChange {
    for (index, was) in former.iter().enumerate() {
        let Some(is) = now.get(index).filter(|is| is.name == was.name) else {
            return ShapeChange::Broken(format!("column '{}' was dropped, renamed or moved", was.name));
        };
        if was.number.is_some() && is.number.is_some() && was.number != is.number {
            return ShapeChange::Broken(format!("column '{}' was dropped and added again", was.name));
        }
    }
    let fields = row.map(|row| row.fields.as_slice()).unwrap_or_default();
    let added = fields.get(former.len()..).unwrap_or_default();
    let filled = added
        .iter()
        .find(|field| field.schema.without_null().1.is_none() || schema.columns_with_default.contains(&field.column));
    filled.map_or(ShapeChange::None, |field| {
        ShapeChange::NeedsCopy(format!(
            "rows older than the column '{}' hold values that no event tells of",
            field.column
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(columns: &[(&str, i16, bool)]) -> Arc<EventSchema> {
        let fields: Vec<_> = columns
            .iter()
            .map(|(name, _, nullable)| {
                let of = if *nullable { r#"["null","long"]"# } else { r#""long""# };
                format!(r#"{{"name":"{name}","type":{of}}}"#)
            })
            .collect();
        let row = format!(r#"{{"type":"record","name":"Value","fields":[{}]}}"#, fields.join(","));
        let envelope =
            format!(r#"{{"type":"record","name":"Envelope","fields":[{{"name":"after","type":["null",{row}]}}]}}"#);
        let mut schema = EventSchema::parse(TableName::new("public", "t"), None, &envelope).unwrap();
        schema.column_numbers = columns.iter().map(|(_, number, _)| Some(*number)).collect();
        Arc::new(schema)
    }

    fn change(from: &[(&str, i16, bool)], to: &[(&str, i16, bool)]) -> ShapeChange {
        let state = TopicState {
            partitions: 1,
            replication: None,
            cleanup_policy: "delete".into(),
            compression: "producer".into(),
            max_message_bytes: 1000,
            retention_ms: -1,
        };
        let mut route = TopicRoute::new(TableName::new("public", "t"), "t".into(), &state);
        assert_eq!(route.adopt(&schema(from)), ShapeChange::None);
        route.adopt(&schema(to))
    }

    #[test]
    fn a_nullable_column_flows_through() {
        assert_eq!(change(&[("a", 1, false)], &[("a", 1, false), ("b", 2, true)]), ShapeChange::None);
    }

    #[test]
    fn a_column_that_older_rows_have_a_value_in_needs_a_copy() {
        let change = change(&[("a", 1, false)], &[("a", 1, false), ("b", 2, false)]);
        assert!(matches!(change, ShapeChange::NeedsCopy(why) if why.contains("'b'")));
    }

    #[test]
    fn columns_that_go_or_change_places_break_the_shape() {
        let two = [("a", 1, false), ("b", 2, true)];
        assert!(matches!(change(&two, &[("a", 1, false)]), ShapeChange::Broken(_)));
        assert!(matches!(change(&two, &[("a", 1, false), ("c", 2, true)]), ShapeChange::Broken(_)));
        assert!(matches!(change(&two, &[("a", 1, false), ("b", 3, true)]), ShapeChange::Broken(_)));
    }
}
