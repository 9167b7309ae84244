//! What all tables of a lake are opened with.

use std::sync::Arc;

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
}
