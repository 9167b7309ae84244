//! The last log entry that this writer has put: other writers may overwrite it, where their log stores do not ask for
//! a version that is free (Spark's for local disks, and for S3 with a single driver).

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use uuid::Uuid;

use super::intake::copy_needed;
use crate::log::actions::log_path;
use crate::log::last_checkpoint::LastCheckpoint;
use crate::log::position_names::PositionNames;
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// The version and the id of an entry of ours, if there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnEntry(pub Option<(u64, Uuid)>);

impl OwnEntry {
    /// Whether the entry is still in the log, or a checkpoint stands for it; true if there is none.
    pub async fn is_kept(&self, location: &TableLocation) -> Result<bool> {
        let Some((version, id)) = self.0 else { return Ok(true) };
        let Some(text) = get(location.store(), &log_path(version)).await? else {
            // It may have been older than the table keeps its log.
            return Ok(LastCheckpoint::read(location).await?.version() >= Some(version));
        };
        // Without parsing it: its first line says who wrote it.
        let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        Ok(String::from_utf8_lossy(first).contains(&format!("\"txnId\":\"{id}\"")))
    }

    /// The error of a table whose log has lost the entry. The rows of a slot's table are copied again then; a topic's
    /// are read again, from where its table was set back to.
    pub fn lost(&self, table: &TableName, names: &PositionNames) -> Error {
        let why = format!(
            "somebody else has replaced or removed version {} of the lake table, which this pipeline had written",
            self.0.map_or(0, |(version, _)| version)
        );
        if !names.is_topic() {
            return copy_needed(table, &why);
        }
        let remedy = "nothing; let others write the lake by log stores that put an entry only where there is none";
        Error::retry(Code::TableAltered, format!("{table} in the lake was set back"), why, remedy)
    }
}
