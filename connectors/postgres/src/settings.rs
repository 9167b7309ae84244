//! What is read of a database, and how.

use std::collections::HashSet;

use sooner_api::{FollowedTable, SourceTable};
use sooner_schemas::Lsn;
use tokio::runtime::Handle;

use crate::guard::SlotLimit;
use crate::inspection::TableFilter;
use crate::memory::ReadLimits;
use crate::options::ConnectOptions;
use crate::visibility::Visibility;

/// What to stream, and from where.
pub struct StreamSettings {
    /// Slot to stream from.
    pub slot: String,
    /// How much log it may keep.
    pub slot_limit: SlotLimit,
    /// What reading may take of the memory.
    pub limits: ReadLimits,
    /// Publication that determines what the server sends.
    pub publication: String,
    /// Tables that take part.
    pub selects: TableFilter,
    /// Tables whose events are carried from the start.
    pub follow: Vec<FollowedTable>,
    /// Tables that are copied, and carried from when their copy begins or goes on.
    pub copy: Vec<FollowedTable>,
    /// Tables that take no part at the moment.
    pub apart: Vec<SourceTable>,
    /// Columns that are dropped or renamed cost no copy.
    pub keeps_columns: bool,
    /// Transactions that end before this LSN are not carried. It is the slot's confirmed position or a later one: what
    /// comes between them is read nevertheless, since copies may not see it yet.
    pub start_lsn: Lsn,
}

/// How tables are copied.
#[derive(Clone)]
pub struct CopySettings {
    /// How to connect.
    pub connect: ConnectOptions,
    /// Parts of tables that are read at the same time.
    pub workers: usize,
    /// How fast they are read at most, all together.
    pub bytes_per_second: Option<u64>,
    /// What reading may take of the memory.
    pub limits: ReadLimits,
    /// Tables, by object id, that take no part: nobody takes their rows.
    pub apart: HashSet<u32>,
    /// For a new slot: the transactions that come before it, which snapshots must see.
    pub before_slot: Option<Visibility>,
    /// Which run of the server it is, from crash to crash.
    pub run: String,
    /// Threads that read.
    pub runtime: Handle,
}
