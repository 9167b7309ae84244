//! Change events in batches: the bytes that travel through the event log, and the position of each event.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::avro::{BadSchema, Schema};
use crate::envelope::RELATION_PROPERTY;
use crate::lsn::{Lsn, Position};
use crate::relation::Relation;
use crate::table_name::TableName;

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A row was read by the initial copy.
    Read,
    /// A row was inserted.
    Create,
    /// A row was updated.
    Update,
    /// A row was deleted. On a topic, a tombstone follows: the same key without a value.
    Delete,
    /// All rows of the table were removed.
    Truncate,
    /// The table is copied again: all its rows follow, possibly under another schema. On a topic this is a truncate
    /// with a header that marks it.
    CopyStart,
}

impl Op {
    /// Debezium's one-letter code for the operation.
    pub fn code(self) -> &'static str {
        match self {
            Op::Read => "r",
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Truncate | Op::CopyStart => "t",
        }
    }
}

/// Key and value schemas of a table's events.
#[derive(Debug)]
pub struct EventSchema {
    /// Table whose events they describe.
    pub table: TableName,
    /// Schema of the key record; none for a table without a key.
    pub key: Option<Schema>,
    /// Schema of the envelope, which is the message's value.
    pub value: Schema,
    /// The table as it was when the events were written; none where another writer than sooner wrote them.
    pub relation: Option<Relation>,
}

impl EventSchema {
    /// Parses the JSON texts of the schemas, and the relation that sooner's schemas bring with them.
    pub fn parse(table: TableName, key: Option<&str>, value: &str) -> Result<EventSchema, BadSchema> {
        let key = key.map(Schema::parse).transpose()?;
        Ok(EventSchema { table, key, relation: relation_of(value)?, value: Schema::parse(value)? })
    }
}

fn relation_of(value: &str) -> Result<Option<Relation>, BadSchema> {
    let mut value: Value = serde_json::from_str(value)?;
    let Some(property) = value.get_mut(RELATION_PROPERTY) else { return Ok(None) };
    Ok(Some(serde_json::from_value(property.take())?))
}

/// One event: its position in commit order, and the ranges of its bytes in the batch.
#[derive(Clone, Debug)]
pub struct Event {
    /// Position in commit order.
    pub position: Position,
    /// What happened to the row or the table.
    pub op: Op,
    /// Range of the key message with its header; empty for a truncate, a copy start, or a table without a key.
    pub key: Range<usize>,
    /// Range of the value message with its header.
    pub value: Range<usize>,
    /// Indexes of the row's columns whose value Postgres left out; the value message holds placeholders there.
    pub unavailable: Box<[u16]>,
    /// For a row whose key was changed by an update: range of the key message that it had before.
    pub old_key: Option<Range<usize>>,
}

/// Events of one table under one pair of schemas, in commit order.
#[derive(Debug)]
pub struct TableEvents {
    /// Schemas under which the events are written.
    pub schema: Arc<EventSchema>,
    /// Key and value messages, back to back.
    pub bytes: Vec<u8>,
    /// Positions and ranges into `bytes`.
    pub events: Vec<Event>,
}

impl TableEvents {
    /// An empty batch.
    pub fn new(schema: Arc<EventSchema>) -> TableEvents {
        TableEvents { schema, bytes: Vec::new(), events: Vec::new() }
    }

    /// Memory that the table's events hold, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.capacity() + self.events.capacity() * size_of::<Event>()
    }
}

/// How far the source has been read in whole transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Every event with `commit_lsn` at or below this one has been delivered.
    pub commit_lsn: Lsn,
    /// Commit records of later transactions start at or after this LSN, so it may be confirmed to the slot once
    /// every event before it is applied.
    pub end_lsn: Lsn,
    /// Commit time of the last transaction, in microseconds since 1970; if there was none, the time of the report.
    pub commit_micros: i64,
}
