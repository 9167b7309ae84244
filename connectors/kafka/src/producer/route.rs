//! A table's route to its topic: row shape, partitioning, size limit, and whether its events are written or dropped.

use std::sync::Arc;

use sooner_api::Rows;
use sooner_schemas::avro::{RecordSchema, Schema};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{Event, EventSchema, Op, TableEvents};
use sooner_schemas::wire::{Malformed, split_header};
use sooner_schemas::{Relation, TableName};

use crate::cluster::settings::PartitionBy;
use crate::cluster::topic_state::TopicState;
use crate::cluster::transactions::LARGEST_MESSAGE;
use crate::message::headers::{EventHeaders, unavailable_fields};
use crate::message::key_text::key_header;
use crate::message::partition::{column_bytes, partition_of};

/// One table's route to its topic.
pub struct TopicRoute {
    /// Table whose events go through the route.
    pub table: TableName,
    /// Topic that they are written to.
    pub topic: Arc<str>,
    /// Number of the topic's partitions.
    pub partitions: i32,
    /// Largest message that the topic takes, in bytes.
    pub limit_bytes: usize,
    /// Whether the topic is compacted.
    pub is_compacted: bool,
    /// Whether lake tables may hold something of the topic, or of one before it, that a copy has to replace.
    pub replaces: bool,
    /// Whether events are dropped, because the table is parked or waits to be copied.
    pub closed: bool,
    /// Whether the topic is only filled with what another one has, whose place it is to take.
    pub is_successor: bool,
    /// A copy of the table was begun here: whatever was written before counts for nothing.
    pub begins: bool,
    /// The table as it was when its last events were written; none before the first.
    pub relation: Option<Arc<Relation>>,
    /// The mark of a copy that has begun, as long as no row of it was written: rows tell of the copy themselves.
    pub unwritten_mark: Option<Rows>,
    schema: Option<Arc<EventSchema>>,
    /// Names of the row's fields in the schema.
    fields: Vec<String>,
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
            replaces: false,
            closed: false,
            is_successor: false,
            begins: false,
            relation: None,
            unwritten_mark: None,
            schema: None,
            fields: Vec::new(),
        }
    }

    /// Takes over the schema of the events that follow. What it means for rows that are there, the source has judged.
    pub fn adopt(&mut self, schema: &Arc<EventSchema>) {
        if self.schema.as_ref().is_some_and(|known| Arc::ptr_eq(known, schema)) {
            return;
        }
        let fields = row_of(schema).map(|row| row.fields.as_slice()).unwrap_or_default();
        self.fields = fields.iter().map(|field| field.name.clone()).collect();
        self.relation = schema.relation.clone().map(Arc::new).or(self.relation.take());
        self.schema = Some(schema.clone());
    }

    /// Takes over what keys of a relation look like, before any event has come.
    pub fn adopt_relation(&mut self, relation: &Relation) {
        let name = relation.name.to_string();
        let key = key_schema(&name, relation).map(|schema| schema.to_string());
        let value = value_schema(&name, relation).to_string();
        if let Ok(schema) = EventSchema::parse(self.table.clone(), key.as_deref(), &value) {
            self.adopt(&Arc::new(schema));
        }
    }

    /// Names of the row's fields in the schema.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Partition of a key message, which the schema's id has no part in: the same key stays where it is when its schema
    /// changes. The key must match the schema that was taken over last.
    pub fn partition(&self, by: &PartitionBy, key: &[u8]) -> Result<i32, Malformed> {
        partition_of_key(by, self.key_schema(), key, self.partitions)
    }

    /// Columns that the partitioning names and the key lacks.
    pub fn missing_columns(&self, by: &PartitionBy) -> Vec<String> {
        let (PartitionBy::Columns(columns), Some(schema)) = (by, self.key_schema()) else { return Vec::new() };
        let fields = schema.as_record().map(|record| record.fields.as_slice()).unwrap_or_default();
        columns.iter().filter(|column| !fields.iter().any(|field| field.column == **column)).cloned().collect()
    }

    /// A key message as the text of a header, on an event that changes the key. None if it cannot be read.
    pub fn key_header(&self, key: &[u8]) -> Option<String> {
        key_header(self.key_schema()?, key).ok()
    }

    /// Schema of the table's keys; none before the first schema, or if the table has no key.
    pub fn key_schema(&self) -> Option<&Schema> {
        self.schema.as_ref()?.key.as_ref()
    }

    /// Headers of an event among these, given the event after it.
    pub fn headers<'a>(&self, event: &Event, events: &'a TableEvents, next: Option<&Event>) -> EventHeaders<'a> {
        // The second event of a change of key is the next ordinal, and knows the first one's key.
        let renamed = next.filter(|next| {
            event.op == Op::Delete && next.old_key.is_some() && next.position.ordinal == event.position.ordinal + 1
        });
        let old_key = event.old_key.as_ref().map(|range| &events.bytes[range.clone()]);
        EventHeaders {
            position: event.position,
            unavailable: unavailable_fields(event, self.fields()),
            copy_start: event.op == Op::CopyStart,
            new_key_text: renamed.and_then(|next| self.key_header(&events.bytes[next.key.clone()])),
            old_key_text: old_key.and_then(|key| self.key_header(key)),
            old_key,
        }
    }
}

/// Partition of a key message of a schema, as [`TopicRoute::partition`] chooses it.
pub fn partition_of_key(
    by: &PartitionBy,
    schema: Option<&Schema>,
    key: &[u8],
    partitions: i32,
) -> Result<i32, Malformed> {
    match (by, schema) {
        (PartitionBy::Columns(columns), Some(schema)) => {
            Ok(partition_of(&column_bytes(schema, key, columns)?, partitions))
        }
        // Rows of a table without a key have none.
        _ => Ok(partition_of(split_header(key).map_or(key, |(_, datum)| datum), partitions)),
    }
}

fn row_of(schema: &EventSchema) -> Option<&Arc<RecordSchema>> {
    let envelope = schema.value.as_record()?;
    envelope.fields[envelope.field_index("after")?].schema.as_record()
}

#[cfg(test)]
mod tests {
    use sooner_schemas::{Column, ColumnType, Scalar};

    use super::*;

    fn schema(columns: &[(&str, i16, bool)]) -> Arc<EventSchema> {
        let columns = columns.iter().map(|(name, number, nullable)| Column {
            nullable: *nullable,
            ..Column::new(*name, ColumnType::Scalar(Scalar::Int8)).numbered(*number)
        });
        let relation = Relation::new(TableName::new("public", "t"), columns.collect(), vec![0]);
        let key = key_schema("t", &relation).unwrap().to_string();
        let value = value_schema("t", &relation).to_string();
        Arc::new(EventSchema::parse(relation.name.clone(), Some(&key), &value).unwrap())
    }

    fn route() -> TopicRoute {
        let state = TopicState {
            partitions: 4,
            replication: None,
            cleanup_policy: "delete".into(),
            compression: "producer".into(),
            max_message_bytes: 1000,
            retention_ms: -1,
        };
        TopicRoute::new(TableName::new("public", "t"), "t".into(), &state)
    }

    #[test]
    fn rows_that_agree_in_the_named_columns_share_a_partition() {
        let mut route = route();
        route.adopt(&schema(&[("a", 1, false)]));
        let by = PartitionBy::Columns(vec!["a".into()]);
        assert!(route.missing_columns(&by).is_empty());
        assert_eq!(route.missing_columns(&PartitionBy::Columns(vec!["z".into()])), ["z"]);
        let (key, other_id) = ([0, 0, 0, 0, 1, 14], [0, 0, 0, 0, 2, 14]);
        assert_eq!(route.partition(&PartitionBy::Key, &key), route.partition(&PartitionBy::Key, &other_id));
        assert_eq!(route.partition(&by, &key), route.partition(&by, &other_id), "whatever the schema's id is");
        assert_eq!(route.key_header(&key).as_deref(), Some("{\"a\":7}"));
    }
}
