//! The start of an event's path: a database with a slot, and what is read from it.
//!
//! Unless a method says otherwise, its error leaves the object unusable: drop it and open it again. Futures may be
//! cancelled only where that is said.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use sooner_schemas::{CatalogFacts, Lsn, Relation, TableName};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{CopyProgress, CopyRequest, Error, EventBatch, Positions, Result};

/// A table of the database.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceTable {
    /// What it is: the name by which the pipeline knows it, object id, columns and key.
    pub relation: Relation,
    /// Its name in the database, which is another one where tables keep the name that they had first.
    pub source_name: TableName,
    /// Rows, as the planner estimates; none if the table was never analysed.
    pub estimated_rows: Option<u64>,
    /// Size of its rows without what is stored out of line, in bytes, as the planner estimates.
    pub size_bytes: u64,
    /// What the catalog says of it, to tell whether rows changed without an event.
    pub facts: CatalogFacts,
    /// Why it cannot be copied and followed at the moment, and what to do.
    pub blocked: Option<Error>,
}

impl SourceTable {
    /// A table of which nothing else is known.
    pub fn new(relation: Relation) -> SourceTable {
        let source_name = relation.name.clone();
        let facts = CatalogFacts::default();
        SourceTable { relation, source_name, estimated_rows: None, size_bytes: 0, facts, blocked: None }
    }

    /// Name by which the pipeline knows the table.
    pub fn name(&self) -> &TableName {
        &self.relation.name
    }
}

/// Names by which tables are known, by object id.
pub type KnownNames = HashMap<u32, TableName>;

/// Which server it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Unique to a cluster and its copies.
    pub system_id: String,
    /// Changes with every promotion or recovery to a point in time.
    pub timeline: u32,
    /// Its log is flushed up to here.
    pub flushed_lsn: Lsn,
    /// Earlier timelines, each with where its history ends in this server's log.
    pub forks: Vec<(u32, Lsn)>,
    /// Its version as a number, such as 170004.
    pub version: u32,
    /// Changes when it recovers from a crash, which may lose transactions that were visible before.
    pub run: String,
}

/// The database before anything is read from it.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Tables that take part, in the order of their names.
    pub tables: Vec<SourceTable>,
    /// Where the slot stands; none if it does not exist, or is to be replaced.
    pub slot: Option<Lsn>,
    /// Why a slot that exists is to be replaced. [`Database::create_slot`] does so.
    pub unusable: Option<Error>,
}

/// What a source is to do.
pub struct SourcePlan<S> {
    /// The slot's position, or a later one: transactions that end before it are not sent.
    pub start_lsn: Lsn,
    /// What is known of the rows at the position of a new slot.
    pub snapshot: Option<S>,
    /// Tables whose rows are copied.
    pub copy: Vec<TableToCopy>,
    /// Tables that follow the stream.
    pub stream: Vec<FollowedTable>,
    /// Tables that take no part at the moment; what changes of them is noticed.
    pub apart: Vec<SourceTable>,
    /// Columns that are dropped or renamed cost no copy.
    pub keeps_columns: bool,
    /// Requests for tables to be copied again, which the source answers in its batches.
    pub requests: UnboundedReceiver<CopyRequest>,
}

/// A table whose rows are copied.
#[derive(Clone, Debug, PartialEq)]
pub struct TableToCopy {
    /// The table, as it was inspected.
    pub table: SourceTable,
    /// How its copy goes on after a break; none if it begins.
    pub goes_on: Option<GoesOn>,
}

/// A copy that goes on after a break.
#[derive(Clone, Debug, PartialEq)]
pub struct GoesOn {
    /// How far it is at the source.
    pub progress: CopyProgress,
    /// The table. What is covered had been handed on when that was said.
    pub followed: FollowedTable,
    /// What its consumer has by now. The rest of the table may not come before the stream has got there.
    pub reached: Lsn,
}

/// A table that follows the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowedTable {
    /// The table, as it was inspected.
    pub table: SourceTable,
    /// What it was when its events were last written; none if that is not known.
    pub written: Option<Arc<Relation>>,
    /// What its consumer has already of it, which is left out.
    pub covered: Positions,
}

/// A database with a slot.
pub trait Database: Send + Sync {
    /// Reads its tables and its stream.
    type Source: Source;
    /// What is known of its rows at the position of a new slot.
    type Snapshot: Send;

    /// Whether tables keep the name by which they were known first, whatever they are called later.
    fn keeps_names(&self) -> bool;

    /// Checks what has to hold before anything is read, and creates the publication if it is missing. `known` are names
    /// of tables that keep theirs. An error of class `Retry` if somebody else uses the slot at the moment.
    fn inspect(&self, known: KnownNames) -> impl Future<Output = Result<Inspection>> + Send;

    /// Which server it is, and where its log ends: asked after it is known what was read of it, so its log has got
    /// further than that.
    fn identify(&self) -> impl Future<Output = Result<SystemIdentity>> + Send;

    /// Creates the slot; returns its position, and what is known of the rows at that position. May wait for running
    /// transactions. Cancelling may leave the slot behind.
    fn create_slot(&self) -> impl Future<Output = Result<(Lsn, Self::Snapshot)>> + Send;

    /// Starts to read.
    fn open(&self, plan: SourcePlan<Self::Snapshot>) -> impl Future<Output = Result<Self::Source>> + Send;
}

/// Reads copies and changes.
pub trait Source: Send {
    /// Waits for the next steps. Within a table they are in commit order, and no event is left out or repeated between
    /// two batches. A transaction larger than a batch spans several; [`Step::Complete`] stands only between
    /// transactions. Where events of a table are left out, because it is copied again, the copy's start stands before
    /// the first [`Step::Complete`] that covers them.
    ///
    /// A table's copy runs beside the stream, from its start to its end. Between those two, copied rows stand between
    /// the stream's transactions, and the last step that concerns a row is right; a change may leave out a value of a
    /// row that has not been copied yet, which then follows. A copy that starts before the former one has ended
    /// replaces it; one that goes on after a break does not start again. A source whose `next` was cancelled must not
    /// be asked again: it may have lost its place.
    ///
    /// [`Step::Complete`]: crate::Step::Complete
    fn next(&mut self) -> impl Future<Output = Result<EventBatch>> + Send;

    /// Lets the database forget everything before this LSN, as far as no later copy depends on it. It never moves back.
    fn confirm(&mut self, durable_lsn: Lsn);

    /// Confirms once more, and ends: returns when the database has taken note of it, or does not answer for seconds.
    fn finish(self, durable_lsn: Lsn) -> impl Future<Output = ()> + Send;
}
