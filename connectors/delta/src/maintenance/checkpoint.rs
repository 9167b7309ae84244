//! Checkpoints: the state of a table in one file, so that readers need not replay its whole log.

use sooner_schemas::TableName;

use crate::log::replay::{delta_table, log_error};
use crate::store::location::TableLocation;

/// Commits between two checkpoints.
const INTERVAL_COMMITS: u64 = 50;

/// Says when a table's next checkpoint is due.
#[derive(Debug, Default)]
pub struct CheckpointSchedule {
    commits: u64,
}

impl CheckpointSchedule {
    /// Counts a commit; true if a checkpoint should follow it.
    pub fn count_commit(&mut self) -> bool {
        self.commits += 1;
        let due = self.commits >= INTERVAL_COMMITS;
        if due {
            self.commits = 0;
        }
        due
    }
}

/// Writes a checkpoint of a version beside the stream. Without it readers only take longer, so its failure is logged.
pub fn start_checkpoint(location: TableLocation, name: TableName, version: u64) {
    tokio::spawn(async move {
        let written = async {
            let mut table = delta_table(&location);
            table.load_version(version).await.map_err(|error| log_error(&location, &error))?;
            let created = deltalake_core::checkpoints::create_checkpoint(&table, None).await;
            created.map_err(|error| log_error(&location, &error))
        };
        match written.await {
            Ok(()) => tracing::debug!(table = %name, version, "wrote a checkpoint"),
            Err(error) => tracing::warn!(table = %name, version, %error, "could not write a checkpoint"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fiftieth_commit_is_followed_by_a_checkpoint() {
        let mut schedule = CheckpointSchedule::default();
        let due: Vec<u64> = (1..=100).filter(|_| schedule.count_commit()).collect();
        assert_eq!(due, [50, 100]);
    }
}
