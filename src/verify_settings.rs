//! Settings of the verifications that a running pipeline makes, as they were checked.

use std::time::Duration;

use sooner_schemas::TableName;

use crate::schedule::Schedule;

/// When and how a running pipeline verifies its tables.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifySettings {
    /// When they are verified.
    pub schedule: Schedule,
    /// The tables; all of the pipeline if none are named.
    pub tables: Vec<TableName>,
    /// Bytes per second that are read of the database, at most.
    pub bytes_per_second: Option<u64>,
    /// How long the lake may take to get to where the source was looked at.
    pub patience: Duration,
    /// Whether what differs is repaired.
    pub repairs: bool,
}
