//! What all tables of a lake are opened with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sooner_schemas::TableName;

use crate::effort::Effort;
use crate::index::index_store::IndexStore;
use crate::log::retention::RetentionSettings;
use crate::merge::parts::PartLimits;

/// Settings of a lake's tables.
#[derive(Clone, Debug)]
pub struct TableSettings {
    /// Limits for files in memory.
    pub limits: PartLimits,
    /// Where key indexes lie.
    pub indexes: Arc<IndexStore>,
    /// What tables are to keep.
    pub retention: RetentionSettings,
    /// Tables get column mapping where they need it.
    pub maps_columns: bool,
    /// Columns that rows are sorted by in files that are written again.
    pub sort_columns: SortColumns,
    /// The ways in which tables are written.
    pub ways: WaysToWrite,
    /// What all of them spend on being fast to read.
    pub effort: Arc<Effort>,
}

/// Says by which columns the rows of a table are sorted, by their names at the source; none for its key.
#[derive(Clone)]
pub struct SortColumns(Arc<Named>);

type Named = dyn Fn(&TableName) -> Vec<String> + Send + Sync;

impl SortColumns {
    /// Tables are sorted by the columns that this names.
    pub fn new(named: impl Fn(&TableName) -> Vec<String> + Send + Sync + 'static) -> SortColumns {
        SortColumns(Arc::new(named))
    }

    /// Columns that a table with this key is sorted by.
    pub fn of(&self, table: &TableName, key: &[impl AsRef<str>]) -> Vec<String> {
        let named = (self.0)(table);
        if named.is_empty() { key.iter().map(|column| column.as_ref().to_owned()).collect() } else { named }
    }
}

impl Default for SortColumns {
    fn default() -> SortColumns {
        SortColumns::new(|_| Vec::new())
    }
}

impl fmt::Debug for SortColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SortColumns")
    }
}

/// The ways in which a table is written, at least one of them; a mirror is not appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// It has its source's rows as they are now.
    pub mirror: bool,
    /// Every event is kept.
    pub history: bool,
    /// It has the rows that were inserted; says what becomes of changes to them.
    pub append: Option<OnChange>,
    /// What becomes of the mirror's rows that the source deletes.
    pub deletes: Deletes,
    /// The history's rows are chained, so that a changed or missing one is found.
    pub chain: bool,
    /// How long the history keeps what is superseded; for ever if none.
    pub keep_history: Option<Duration>,
}

/// What becomes of a mirror's rows that the source deletes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deletes {
    /// They go.
    #[default]
    Hard,
    /// They stay, with the time at which they were deleted.
    Soft,
}

/// What an UPDATE, DELETE or TRUNCATE does to a table that rows are only added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnChange {
    /// It stops the table, until a person decides.
    #[default]
    Park,
    /// Nothing: rows stay as they were inserted.
    Ignore,
}

impl Ways {
    /// Whether the mirror's rows stay that the source deletes.
    pub fn keeps_deleted(self) -> bool {
        self.mirror && self.deletes == Deletes::Soft
    }
}

impl Default for Ways {
    fn default() -> Ways {
        let deletes = Deletes::default();
        Ways { mirror: true, history: false, append: None, deletes, chain: false, keep_history: None }
    }
}

/// Says in which ways a table is written.
#[derive(Clone)]
pub struct WaysToWrite(Arc<dyn Fn(&TableName) -> Ways + Send + Sync>);

impl WaysToWrite {
    /// Tables are written in the ways that this says.
    pub fn new(ways: impl Fn(&TableName) -> Ways + Send + Sync + 'static) -> WaysToWrite {
        WaysToWrite(Arc::new(ways))
    }

    /// The ways in which a table is written.
    pub fn of(&self, table: &TableName) -> Ways {
        (self.0)(table)
    }
}

impl Default for WaysToWrite {
    fn default() -> WaysToWrite {
        WaysToWrite::new(|_| Ways::default())
    }
}

impl fmt::Debug for WaysToWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaysToWrite")
    }
}
