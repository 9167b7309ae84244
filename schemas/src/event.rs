//! Change events in batches: the bytes that go through the event log, and where they stand.

use std::ops::Range;
use std::sync::Arc;

use crate::avro::{BadSchema, Schema};
use crate::lsn::{Lsn, Position};
use crate::relation::TableName;

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read by the initial copy.
    Read,
    /// Inserted.
    Create,
    /// Updated.
    Update,
    /// Deleted. On a topic, a tombstone follows: the same key without a value.
    Delete,
    /// All rows of the table removed.
    Truncate,
    /// All rows come anew after this, maybe in another shape. On a topic, a truncate with a header that says so.
    CopyStart,
}

impl Op {
    /// Debezium's letter.
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

/// The two schemas of a table's events.
#[derive(Debug)]
pub struct EventSchema {
    /// Table.
    pub table: TableName,
    /// Key record; none for a table without a key.
    pub key: Option<Schema>,
    /// Envelope.
    pub value: Schema,
    /// Columns that rows older than them may hold a value in that no event tells of.
    pub columns_with_default: Vec<String>,
    /// Each column's number at the source, where it is known.
    pub column_numbers: Vec<Option<i16>>,
}

impl EventSchema {
    /// Parses the schemas' JSON texts.
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

/// One event: where it stands, and where its bytes lie in its batch.
#[derive(Clone, Debug)]
pub struct Event {
    /// Position in commit order.
    pub position: Position,
    /// What happened.
    pub op: Op,
    /// Key message with its header; empty for a truncate or a table without a key.
    pub key: Range<usize>,
    /// Value message with its header.
    pub value: Range<usize>,
    /// Indexes of columns of the row whose value Postgres left out; the value holds placeholders there.
    pub unavailable: Box<[u16]>,
    /// Key message of the row that this one was before its key changed.
    pub old_key: Option<Range<usize>>,
}

/// Events of one table under one pair of schemas, in commit order.
#[derive(Debug)]
pub struct TableEvents {
    /// The schemas.
    pub schema: Arc<EventSchema>,
    /// Key and value messages, back to back.
    pub bytes: Vec<u8>,
    /// Positions and ranges into `bytes`.
    pub events: Vec<Event>,
    /// What of the memory budget is reserved for this; whoever drops the events gives it back.
    pub reserved_bytes: usize,
    /// For events from a topic: partitions, each with the offset after the last of its events here.
    pub next_offsets: Vec<(i32, i64)>,
}

impl TableEvents {
    /// An empty batch.
    pub fn new(schema: Arc<EventSchema>) -> TableEvents {
        TableEvents { schema, bytes: Vec::new(), events: Vec::new(), reserved_bytes: 0, next_offsets: Vec::new() }
    }

    /// Memory that the batch holds, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.bytes.capacity() + self.events.capacity() * size_of::<Event>()
    }
}

/// How far the source has been read in whole transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Every event with `commit_lsn` at or below this one has been delivered.
    pub commit_lsn: Lsn,
    /// Where the next transaction's records start at the earliest; what may be confirmed once all is applied.
    pub end_lsn: Lsn,
    /// Commit time of the last transaction, in microseconds since 1970; the time of the report if there was none.
    pub commit_micros: i64,
}

/// A table whose next event cannot be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poisoned {
    /// Table.
    pub table: TableName,
    /// Why, for a person.
    pub reason: String,
}

/// What the source hands on at once: events of several tables, and the watermark reached with them.
#[derive(Debug, Default)]
pub struct EventBatch {
    /// Each table's events, in order within a table.
    pub tables: Vec<TableEvents>,
    /// Tables that cannot go on, after what `tables` holds of them.
    pub poisoned: Vec<Poisoned>,
    /// Tables whose copy ends with this batch, each with what it is complete to; the stream's watermark stays.
    pub completed: Vec<(TableName, Watermark)>,
    /// Set when the batch ends between transactions.
    pub watermark: Option<Watermark>,
    /// How far the server has written its log, for measuring lag.
    pub server_end: Lsn,
}

impl EventBatch {
    /// Memory that the batch holds, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.tables.iter().map(TableEvents::size_bytes).sum()
    }

    /// Number of events.
    pub fn event_count(&self) -> usize {
        self.tables.iter().map(|table| table.events.len()).sum()
    }
}
