//! The path of an event: [`Source`] → [`EventWriter`] ⇢ [`EventReader`] → [`LakeTable`].

use std::future::Future;
use std::sync::Arc;

use sooner_schemas::event::{EventBatch, EventSchema, TableEvents, Watermark};
use sooner_schemas::{Lsn, TableName};

use crate::Result;

/// Reads changes in commit order.
pub trait Source: Send {
    /// Waits for the next events. Within a table they are in commit order, and no event is left out or repeated between
    /// two batches. A transaction larger than a batch spans several; only batches that end between transactions carry
    /// a watermark. A source whose `next` was cancelled must not be asked again: it may have lost its place.
    fn next(&mut self) -> impl Future<Output = Result<EventBatch>> + Send;

    /// Lets the database forget everything before this LSN. It never moves back.
    fn confirm(&mut self, durable_lsn: Lsn);
}

/// Gives schemas their ids.
pub trait SchemaRegistry: Send + Sync + 'static {
    /// The id of this schema (JSON text) under this subject; the same schema has the same id.
    fn register(&self, subject: &str, schema: &str) -> impl Future<Output = Result<u32>> + Send;
}

/// The event log's entrance.
pub trait EventWriter: Send {
    /// Hands events over; waits while the log is full.
    fn append(&mut self, batch: EventBatch) -> impl Future<Output = Result<()>> + Send;

    /// Everything before this LSN is durable. Never moves back.
    fn durable_lsn(&self) -> Lsn;
}

/// The event log's exit.
pub trait EventReader: Send {
    /// Waits for the next events, in the order in which they were appended; `None` when the log ends here: its writer is gone
    /// and all has been read, or what is read has changed hands. Cancelling loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Option<EventBatch>>> + Send;

    /// Reports that everything before this LSN is in the lake.
    fn applied(&mut self, durable_lsn: Lsn);
}

/// What a commit to a lake table did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The table's version afterwards.
    pub table_version: u64,
    /// Rows written.
    pub rows_written: u64,
    /// Rows superseded or deleted.
    pub rows_removed: u64,
}

/// What became of staged events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Staged {
    /// They wait for the commit.
    Taken,
    /// They were not taken: the table has to be copied again first. Holds why.
    NeedsCopy(String),
}

/// One table of the lake. Staged events become visible all at once, by a commit, or not at all.
pub trait LakeTable: Send {
    /// The table's name at the source.
    fn name(&self) -> &TableName;

    /// The LSN up to which the table's own log says that events are in it; none before the initial copy.
    fn applied_lsn(&self) -> Option<Lsn>;

    /// The table's version; none before it exists.
    fn table_version(&self) -> Option<u64>;

    /// Starts over: the next commit replaces all rows, and the schema, by what is staged from here on.
    fn begin_copy(&mut self, schema: Arc<EventSchema>) -> impl Future<Output = Result<()>> + Send;

    /// Takes events, in commit order. Those at or below `applied_lsn` are dropped. May write files, but commits nothing.
    fn stage(&mut self, events: TableEvents) -> impl Future<Output = Result<Staged>> + Send;

    /// Bytes of events held in memory since the last seal, commit or discard.
    fn staged_bytes(&self) -> usize;

    /// Moves what is staged from memory into files that are not visible yet.
    fn seal(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Makes what is staged visible, together with the watermark. Repeating it after an error is safe.
    fn commit(&mut self, watermark: Watermark) -> impl Future<Output = Result<Committed>> + Send;

    /// Forgets what is staged.
    fn discard(&mut self);
}

/// Where the tables are.
pub trait Lake: Send + Sync {
    /// Its tables.
    type Table: LakeTable + 'static;

    /// Opens a table as it is in the lake; it need not exist.
    fn open(&self, table: &TableName) -> impl Future<Output = Result<Self::Table>> + Send;
}

/// The time of day. Timers are tokio's, which a simulation can pause and advance.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The wall clock, in microseconds since 1970.
    fn now_micros(&self) -> i64;
}
