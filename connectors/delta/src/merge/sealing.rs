//! What a seal works with: the table, and what is on its way.

use std::sync::Arc;

use sooner_schemas::TableName;

use super::event_plan::EventPlan;
use super::parts::PartLimits;
use super::pending::{Pending, RowState};
use crate::index::index_store::IndexStore;
use crate::index::key::{KeyHash, KeyMap};
use crate::index::key_index::RowAddress;
use crate::log::table_version::TableVersion;
use crate::rows::columns::LakeColumn;
use crate::store::location::TableLocation;

/// The table that events are sealed for.
pub struct Sealer<'a> {
    /// Name of the table.
    pub table: &'a TableName,
    /// Where it lies.
    pub location: &'a TableLocation,
    /// The version that the next commit builds on.
    pub base: &'a TableVersion,
    /// Where the table's rows of those keys lie that [`stored_keys`](super::seal::stored_keys) has named.
    pub located: &'a KeyMap<RowAddress>,
    /// Where those of their rows lie, or lay before they were gone, that are sealed.
    pub sealed: &'a KeyMap<RowAddress>,
    /// Where keys go that are too many for the memory.
    pub indexes: &'a Arc<IndexStore>,
    /// Events come in commit order.
    pub in_commit_order: bool,
    /// Events come from a topic.
    pub from_topic: bool,
    /// Rows are being copied: a change may leave out a value of a row that follows.
    pub is_copy: bool,
    /// Limits for files in memory.
    pub limits: &'a PartLimits,
}

impl Sealer<'_> {
    /// Where a key's row lies, as of what is sealed.
    pub fn row_of(&self, key: KeyHash, replaces: bool) -> Option<RowAddress> {
        if let Some(row) = self.sealed.get(&key) {
            return Some(*row);
        }
        let row = self.located.get(&key).filter(|_| !replaces)?;
        self.base.files().holds(*row).then_some(*row)
    }
}

/// One seal on its way.
pub struct Sealing<'a> {
    /// The table.
    pub sealer: &'a Sealer<'a>,
    /// How events are read.
    pub plan: &'a EventPlan,
    /// Columns of the rows.
    pub columns: &'a [LakeColumn],
    /// Events in memory.
    pub pending: &'a Pending,
    /// No row that the table has now counts.
    pub replaces: bool,
    /// When the source deleted rows that are written, in microseconds since 1970, by their keys.
    pub deleted_at: &'a KeyMap<i64>,
}

/// A deleted row that lies in a file.
#[derive(Clone, Copy, Debug)]
pub struct StoredRow {
    /// Its key.
    pub key: KeyHash,
    /// Where it lies.
    pub address: RowAddress,
    /// When it was deleted, in microseconds since 1970.
    pub deleted_at: i64,
}

/// What becomes of the rows of all keys that events in memory touch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Rows to be written.
    pub rows: Vec<RowState>,
    /// When the source deleted rows that are to be written, in microseconds since 1970, by their keys. Empty where the
    /// table does not tell.
    pub deleted_at: KeyMap<i64>,
    /// Rows that were deleted, and that lie in files.
    pub stored: Vec<StoredRow>,
    /// Keys that have no row any more.
    pub gone: Vec<KeyHash>,
}
