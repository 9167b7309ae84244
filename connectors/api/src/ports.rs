//! The path of an event: [`Database`] → [`Source`] → [`EventWriter`] ⇢ [`EventReader`] → [`LakeTable`].
//!
//! Unless a method says otherwise, its error leaves the object unusable: drop it and open it again. Futures may be
//! cancelled only where that is said.
//!
//! [`Database`]: crate::Database
//! [`Source`]: crate::Source

use std::collections::BTreeSet;
use std::future::Future;

use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use crate::{
    Applied, CopyProgress, Error, EventBatch, KnownNames, LakeCopy, LakePosition, Positions, ProgressRecord, Result,
    Rows, SourceTable, TableState, UnfinishedCopy,
};

/// Gives schemas their ids.
pub trait SchemaRegistry: Send + Sync + 'static {
    /// The id of this schema (JSON text) under this subject; the same schema has the same id.
    fn register(&self, subject: &str, schema: &str) -> impl Future<Output = Result<u32>> + Send;
}

/// Who asks for the entrance of an event log.
#[derive(Clone, Debug)]
pub struct WriterRequest<'a> {
    /// Tables that will be written.
    pub tables: &'a [SourceTable],
    /// Whether the slot exists: then somebody has written before.
    pub slot_exists: bool,
    /// Whatever was written before does not count: all tables are copied again.
    pub recopy: bool,
}

/// An event log with an entrance and an exit, which may be in different processes.
pub trait EventLog: Send {
    /// Its entrance.
    type Writer: EventWriter;
    /// Its exit.
    type Reader: EventReader;

    /// Names by which tables are known in what was stored last. Writes nothing, and fences nobody.
    fn known_names(&mut self) -> impl Future<Output = Result<KnownNames>> + Send;

    /// Opens the entrance: fences whoever wrote under this pipeline's name before, and reads what they stored.
    fn open_writer(&mut self, request: WriterRequest<'_>) -> impl Future<Output = Result<Self::Writer>> + Send;

    /// Opens the exit.
    fn open_reader(&mut self) -> impl Future<Output = Result<Self::Reader>> + Send;
}

/// How a table is to be read from the database.
#[derive(Clone, Debug, PartialEq)]
pub struct TableStart {
    /// Table.
    pub table: TableName,
    /// Its state: whoever is copying is copied first, whoever takes no events is left out.
    pub state: TableState,
    /// What the log, or its reader, has of the table's events already.
    pub covered: Positions,
    /// How far its copy is, if that goes on, and the commit LSN that its reader has got to.
    pub copy: Option<(CopyProgress, Lsn)>,
}

/// An event log's entrance.
pub trait EventWriter: Send {
    /// The record that was stored last under this pipeline's name; none if nothing counts.
    fn stored(&self) -> Option<&ProgressRecord>;

    /// Whether whoever reads the log knows columns by their numbers: then those that are dropped or renamed cost no
    /// copy.
    fn keeps_columns(&self) -> bool;

    /// Tables of the request that the log cannot take, each with the reason: they wait until that has changed.
    fn refused(&self) -> &[(TableName, Error)];

    /// Stores the record to start with, and says how each of its tables is to be read. A table may have to be copied
    /// although its record says otherwise, because what reads the log has not got it.
    fn begin(&mut self, record: ProgressRecord) -> impl Future<Output = Result<Vec<TableStart>>> + Send;

    /// Stores that nothing is written before a new slot's position.
    fn start_at(&mut self, slot_lsn: Lsn) -> impl Future<Output = Result<()>> + Send;

    /// Hands steps over; waits while the log is full. Once this returns, the steps come out in the same order, or not
    /// at all if the process dies before they are durable.
    fn append(&mut self, batch: EventBatch) -> impl Future<Output = Result<()>> + Send;

    /// Everything before this LSN is durable. Never moves back.
    fn durable_lsn(&self) -> Lsn;

    /// Waits until the log has to be opened again, and returns why; never, if nothing can show that. May be cancelled,
    /// and outlives what follows.
    fn broken(&self) -> impl Future<Output = Error> + Send + 'static;

    /// Makes everything that was appended durable, as far as that does not wait for a reader, and closes the entrance:
    /// nothing may be appended afterwards.
    fn finish(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Waits, once it is finished, until nothing more can become durable, which may be when the reader has ended, and
    /// returns up to where everything is durable.
    fn settle(self) -> impl Future<Output = Lsn> + Send;
}

/// Where a table's events come from, which decides under which names its positions are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// A slot, whose events all come here, in commit order.
    Slot(String),
    /// Partitions of a topic.
    Topic {
        /// Topic.
        topic: String,
        /// Its incarnation, where its writer reports it.
        generation: Option<i64>,
        /// Number of its partitions.
        partitions: i32,
        /// Those that are read here.
        assigned: BTreeSet<i32>,
        /// They are read in commit order, up to watermarks.
        in_commit_order: bool,
    },
}

impl Feed {
    /// Whether all events of the table come here, so that nobody else commits them.
    pub fn is_whole(&self) -> bool {
        match self {
            Feed::Slot(_) => true,
            Feed::Topic { partitions, assigned, .. } => assigned.len() as i32 == *partitions,
        }
    }

    /// Whether a watermark is true of the whole table: all of its events come here, in commit order.
    pub fn knows_watermark(&self) -> bool {
        self.is_whole() && !matches!(self, Feed::Topic { in_commit_order: false, .. })
    }
}

/// A table that is read here.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// Table.
    pub table: TableName,
    /// Where its events come from.
    pub feed: Feed,
    /// Its state, as far as the log knows it.
    pub state: TableState,
    /// What its lake table was when that was last stored; none before its first commit.
    pub lake: Option<LakePosition>,
    /// The copy that had not ended when that was last stored.
    pub copy: Option<UnfinishedCopy>,
}

/// What a lake table holds, compared with the feed that it was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// There is no table yet.
    Absent,
    /// It follows this feed.
    Follows,
    /// This pipeline made it, but from another feed: its positions mean nothing here, and it waits for a copy.
    FollowsOther,
    /// Somebody else made it.
    Foreign,
}

/// A table that was opened in the lake.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Table.
    pub table: TableName,
    /// What it holds.
    pub standing: Standing,
    /// What it has taken of the feed; none unless it follows it.
    pub positions: Option<Positions>,
    /// The LSN up to which it is complete, where its log says so.
    pub watermark: Option<Lsn>,
    /// Why it could not be opened.
    pub error: Option<Error>,
    /// Its rows are not those that it had when its position was last stored, and have to be copied.
    pub needs_copy: bool,
    /// A copy of it goes on, to which positions and watermark apply.
    pub copy: Option<LakeCopy>,
    /// The last copy that has ended in the lake; none if that is not known.
    pub copied: Option<u64>,
}

/// Why a lake table does not hold what it held before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// It is at an earlier version than before: what was taken since is to be taken again.
    SetBack(String),
    /// Somebody else removed or changed rows.
    Rows(String),
}

/// An event log's exit.
pub trait EventReader: Send {
    /// Waits until it is known which tables are read here, first and after each change; none if the log has ended.
    /// Cancelling loses nothing.
    fn assigned(&mut self) -> impl Future<Output = Result<Option<Vec<Assigned>>>> + Send;

    /// Starts to read the assigned tables from where each of them stands in the lake. Those that cannot be read are
    /// stopped by the first batch.
    fn start(&mut self, tables: Vec<Opened>) -> impl Future<Output = Result<()>> + Send;

    /// Waits for the next steps, in the order in which they were appended; `None` when what is read has changed hands,
    /// or the log ends here: its writer is gone and all has been read. Cancelling loses nothing.
    fn next(&mut self) -> impl Future<Output = Result<Option<EventBatch>>> + Send;

    /// Stores what has been applied: how far everything is in the lake, and how tables are doing. All of it is stored
    /// at once; only when this returns may anything rely on it.
    fn store(&mut self, applied: Applied) -> impl Future<Output = Result<()>> + Send;
}

/// What a commit to a lake table did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Table version afterwards.
    pub table_version: u64,
    /// Rows written.
    pub rows_written: u64,
    /// Rows superseded or deleted.
    pub rows_removed: u64,
}

/// What a table's current version consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Data files.
    pub files: u64,
    /// Bytes of the data files.
    pub bytes: u64,
    /// Rows in them, those that are gone included.
    pub rows: u64,
    /// Rows that are gone, which readers pass over.
    pub deleted_rows: u64,
    /// Keys in its index; none where no event has needed it yet.
    pub index_keys: Option<u64>,
    /// Bytes of the index on disk.
    pub index_bytes: u64,
}

/// What became of events that were to be staged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Staged {
    /// They wait for the commit.
    Taken,
    /// They were not taken: the table has to be copied again first, for this reason.
    NeedsCopy(Error),
}

/// One table of the lake. What is staged becomes visible all at once, by a commit, or not at all. After an error of
/// class `Operator` the table may be used on after [`LakeTable::discard`]; after any other error it has to be opened
/// again, because what its log says is not known.
pub trait LakeTable: Send {
    /// The table's name at the source.
    fn name(&self) -> &TableName;

    /// What it holds, compared with its feed.
    fn standing(&self) -> Standing;

    /// What its own log says that has been taken of the feed; none before the first commit.
    fn positions(&self) -> Option<&Positions>;

    /// The LSN up to which its own log says that it is complete.
    fn watermark(&self) -> Option<Lsn>;

    /// Whether all of its events come here, in commit order, so that a commit says up to where it is complete.
    fn knows_watermark(&self) -> bool {
        self.watermark().is_some()
    }

    /// The LSN after which it holds nothing of its feed: more than [`LakeTable::watermark`] where one way of writing it
    /// is ahead of another after a break.
    fn reached(&self) -> Option<Lsn> {
        self.watermark()
    }

    /// Table version, or that of its history, where only that is kept; none before it exists.
    fn version(&self) -> Option<u64>;

    /// Version of the table itself; none where only its history is kept, or before it exists.
    fn mirror_version(&self) -> Option<u64> {
        self.version()
    }

    /// Version of the table's history; none where none is kept, or before it exists.
    fn history_version(&self) -> Option<u64>;

    /// What readers of the table have to read; none before it exists, or where nobody counts.
    fn size(&self) -> Option<TableSize>;

    /// Why it no longer holds what it held when this position was stored. None if others have only rearranged or added
    /// rows. To be asked before anything is staged.
    fn altered_since(&self, stored: &LakePosition) -> impl Future<Output = Result<Option<Alteration>>> + Send;

    /// Whether nobody has committed since it was opened or last committed.
    fn is_current(&self) -> impl Future<Output = Result<bool>> + Send;

    /// Looks for what others have done since it was opened, last committed or inspected, and follows it. An error if
    /// its last entry is not the one that was written here any more, or if somebody else removed or changed rows: of
    /// code [`CopyNeeded`](crate::Code::CopyNeeded) where the table is to be copied again. What is staged stays staged.
    fn inspect(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// A copy begins: the next commit replaces all rows, and the columns, by what is staged from here on.
    fn begin_copy(&mut self, start: Rows) -> impl Future<Output = Result<Staged>> + Send;

    /// All rows are removed by the next commit; what is staged from here on comes after that.
    fn truncate(&mut self, truncate: Rows) -> impl Future<Output = Result<Staged>> + Send;

    /// Takes rows, in commit order. Those that [`LakeTable::positions`] cover are dropped. May write files, but commits
    /// nothing.
    fn stage(&mut self, rows: Rows) -> impl Future<Output = Result<Staged>> + Send;

    /// Bytes of events held in memory since the last seal, commit or discard.
    fn staged_bytes(&self) -> usize;

    /// Moves what is staged from memory into files that are not visible yet.
    fn seal(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Makes what is staged visible, together with its positions and the watermark. Repeating it after an error is
    /// safe. During a copy it only makes it durable, where [`LakeTable::keeps_copies`]; otherwise it is not to be
    /// called.
    fn commit(&mut self, watermark: Watermark) -> impl Future<Output = Result<Committed>> + Send;

    /// All rows of a copy are staged: makes them visible at once, as [`LakeTable::commit`] does.
    fn end_copy(&mut self, watermark: Watermark) -> impl Future<Output = Result<Committed>> + Send;

    /// Rows of a copy come, also where its start is not told: a topic of a source of ours may begin with rows. To be
    /// called before anything is staged.
    fn expect_copy(&mut self);

    /// Whether a copy can become durable before it has ended.
    fn keeps_copies(&self) -> bool;

    /// Goes on with a copy that was broken off, or with none; true if it is there and at least as far as is said.
    /// Positions and watermark are those of the copy then. To be called before anything is staged.
    fn resume_copy(&mut self, copy: Option<LakeCopy>) -> impl Future<Output = Result<bool>> + Send;

    /// The copy that has not ended, as far as it is durable.
    fn unfinished_copy(&self) -> Option<LakeCopy>;

    /// The last copy that has ended; none if its log does not say so.
    fn last_copy(&self) -> Option<u64>;

    /// Waits until the table has something to do for itself, beside merging; for ever, if it never has. May be
    /// cancelled. Not to be called while a copy is staged.
    fn maintenance_due(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Does what was waited for: readers find the same rows afterwards. What is staged stays staged. Repeating it after
    /// an error is safe.
    fn maintain(&mut self) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Ok(()))
    }

    /// Forgets what is staged.
    fn discard(&mut self);
}

/// Where the tables are.
pub trait Lake: Send + Sync {
    /// Its tables.
    type Table: LakeTable + 'static;

    /// Shows that the lake can be written, and that its store keeps two writers apart.
    fn probe(&self) -> impl Future<Output = Result<()>> + Send;

    /// Opens a table as it is in the lake, to be fed from this feed; it need not exist.
    fn open(&self, table: &TableName, feed: &Feed) -> impl Future<Output = Result<Self::Table>> + Send;
}

/// The time of day. Timers are tokio's, which a simulation can pause and advance.
pub trait Clock: Clone + Send + Sync + 'static {
    /// The wall clock, in microseconds since 1970.
    fn now_micros(&self) -> i64;
}
