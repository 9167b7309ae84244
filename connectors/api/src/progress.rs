//! The pipeline's progress record: what has been confirmed to the slot, and each table's phase.

use std::collections::BTreeMap;
use std::future::Future;

use serde::{Deserialize, Serialize};
use sooner_schemas::Lsn;

use crate::Result;

/// What a pipeline knows about itself, beyond what its tables' logs say. It is stored before anything relies on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// Postgres' system identifier.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
    /// The slot.
    pub slot: String,
    /// The slot has been confirmed up to here at most.
    pub confirmed_lsn: Lsn,
    /// The tables that take part, by `schema.table`.
    pub tables: BTreeMap<String, TableProgress>,
}

/// A table's part in the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProgress {
    /// What it is doing.
    pub phase: TablePhase,
    /// Why it is parked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// The table's object id: another one under the same name is another table.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oid: Option<u32>,
    /// Events at or below this LSN are in the table's last copy.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub copied_lsn: Option<Lsn>,
}

/// What a table is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TablePhase {
    /// The initial copy has not been committed.
    Copying,
    /// Follows the stream.
    Streaming,
    /// Stopped until `sooner resume`; its events are dropped meanwhile, and resuming copies it again.
    Parked,
}

/// Keeps the progress record, one version after the other.
pub trait ProgressStore: Send {
    /// The last record saved under this pipeline's name; none if there was none.
    fn load(&mut self) -> impl Future<Output = Result<Option<ProgressRecord>>> + Send;

    /// Saves the next record. Fails if somebody else saved one since this store last loaded or saved: then a second
    /// process runs this pipeline.
    fn save(&mut self, record: &ProgressRecord) -> impl Future<Output = Result<()>> + Send;
}
