//! The last log entry that this writer has put: other writers may overwrite it, where their log stores do not ask for
//! a version that is free (Spark's for local disks, and for S3 with a single driver).

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use uuid::Uuid;

use super::committer::Committer;
use super::position_names::PositionNames;
use crate::merge::intake::copy_needed;

/// An entry of ours.
#[derive(Clone, Copy, Debug)]
pub struct OwnEntry {
    /// Its version.
    pub version: u64,
    /// Its id.
    pub id: Uuid,
}

impl OwnEntry {
    /// An error if the entry is not in the log any more. The rows of a slot's table are copied again then; a topic's are
    /// read again, from where its table was set back to.
    pub async fn check(&self, committer: &Committer<'_>, table: &TableName, names: &PositionNames) -> Result<()> {
        let found = committer.read(self.version).await?;
        if found.is_some_and(|entry| entry.id == Some(self.id.to_string())) {
            return Ok(());
        }
        let why = format!(
            "somebody else has replaced or removed version {} of the lake table, which this pipeline had written",
            self.version
        );
        if !names.is_topic() {
            return Err(copy_needed(table, &why));
        }
        let remedy = "nothing; let others write the lake by log stores that put an entry only where there is none";
        Err(Error::retry(Code::TableAltered, format!("{table} in the lake was set back"), why, remedy))
    }
}
