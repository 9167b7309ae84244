//! Change events in batches: the bytes that travel through the event log, and the position of each event.

use std::ops::Range;
use std::sync::Arc;

use crate::avro::{BadSchema, Schema};
use crate::lsn::{Lsn, Position};
use crate::relation::TableName;

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
    /// Columns that have, or had, a default: rows older than such a column may hold a value that no event carries.
    pub columns_with_default: Vec<String>,
    /// Each column's attribute number at the source, where it is known.
    pub column_numbers: Vec<Option<i16>>,
}

impl EventSchema {
    /// Parses the JSON texts of the schemas; without columns that have a default, and without column numbers.
    pub fn parse(table: TableName, key: Option<&str>, value: &str) -> Result<EventSchema, BadSchema> {
        let key = key.map(Schema::parse).transpose()?;
        Ok(EventSchema {
            table,
            key,
            value: Schema::parse(value)?,
            columns_with_default: Vec::new(),
            column_numbers: Vec::new(),
        })
    }
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
    /// Bytes of the memory budget that are reserved for this batch; whoever drops the events must release them.
    pub reserved_bytes: usize,
    /// For events read from a topic: its partitions, each with the offset after the last of its events in this batch.
    pub next_offsets: Vec<(i32, i64)>,
}

impl TableEvents {
    /// An empty batch.
    pub fn new(schema: Arc<EventSchema>) -> TableEvents {
        TableEvents { schema, bytes: Vec::new(), events: Vec::new(), reserved_bytes: 0, next_offsets: Vec::new() }
    }

    /// Memory that the table's events hold, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.capacity() + self.events.capacity() * size_of::<Event>()
    }
}

/// How far the source has been read in whole transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Every event with `commit_lsn` at or below this one has been delivered.
    pub commit_lsn: Lsn,
    /// Commit records of later transactions start at or after this LSN, so it may be confirmed to the slot once
    /// every event before it is applied.
    pub end_lsn: Lsn,
    /// Commit time of the last transaction, in microseconds since 1970; if there was none, the time of the report.
    pub commit_micros: i64,
}

/// A table whose next event cannot be represented, so that its events stop here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poisoned {
    /// Table that stops.
    pub table: TableName,
    /// Reason, as a text for the operator.
    pub reason: String,
}

/// What a source returns at once: events of several tables, and the watermark reached with them.
#[derive(Debug, Default)]
pub struct EventBatch {
    /// Each table's events, in order within a table.
    pub tables: Vec<TableEvents>,
    /// Tables that cannot be carried any further; their events in `tables` come before the failure.
    pub poisoned: Vec<Poisoned>,
    /// Tables whose copy ends with this batch, each with the watermark to which the copy is complete; the stream's
    /// watermark is unaffected.
    pub completed: Vec<(TableName, Watermark)>,
    /// Watermark of the stream; set only if the batch ends between transactions.
    pub watermark: Option<Watermark>,
    /// LSN up to which the server has written its log, for measuring lag.
    pub server_end: Lsn,
}

impl EventBatch {
    /// Memory that the batch holds, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.tables.iter().map(TableEvents::size_bytes).sum()
    }

    /// Number of events in the batch, over all tables.
    pub fn event_count(&self) -> usize {
        self.tables.iter().map(|table| table.events.len()).sum()
    }
}
