//! What all tables of a lake are opened with.

use crate::log::retention::RetentionSettings;
use crate::merge::parts::PartLimits;

/// Settings of a lake's tables.
#[derive(Clone, Debug)]
pub struct TableSettings {
    /// Limits for files in memory.
    pub limits: PartLimits,
    /// What tables are to keep.
    pub retention: RetentionSettings,
}
