//! Checkpoints: the state of a table in one file, so that readers need not replay its whole log; and the end of the
//! entries that nobody needs any more after that.

use std::time::Duration;

use deltalake_core::checkpoints::{cleanup_metadata, create_checkpoint};
use deltalake_core::table::config::TablePropertiesExt;
use sooner_schemas::TableName;
use tokio::time::Instant;

use crate::log::replay::{delta_table, log_error};
use crate::store::location::TableLocation;

/// Commits between two checkpoints.
const INTERVAL_COMMITS: u64 = 50;
/// Who keeps the log for less than this keeps entries that a restart needs too short, so nothing is deleted.
const SHORTEST_RETENTION: Duration = Duration::from_secs(3600);
/// Entries that are older than the table keeps them are looked for so often, at most: the whole log is listed for it.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(3600);

/// What is to follow a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// A checkpoint.
    Checkpoint,
    /// A checkpoint, and the end of old entries.
    CheckpointAndCleanup,
}

/// Says when a table's next checkpoint is due.
#[derive(Debug, Default)]
pub struct CheckpointSchedule {
    commits: u64,
    cleaned: Option<Instant>,
}

impl CheckpointSchedule {
    /// Counts a commit; says what should follow it.
    pub fn count_commit(&mut self) -> Due {
        self.commits += 1;
        if self.commits < INTERVAL_COMMITS {
            return Due::Nothing;
        }
        self.commits = 0;
        if self.cleaned.is_some_and(|cleaned| cleaned.elapsed() < CLEANUP_INTERVAL) {
            return Due::Checkpoint;
        }
        self.cleaned = Some(Instant::now());
        Due::CheckpointAndCleanup
    }
}

/// Writes a checkpoint of a version beside the stream; then deletes what is older than `delta.logRetentionDuration`
/// (30 days, unless the table says so) and not needed to read a younger version, unless the table has
/// `delta.enableExpiredLogCleanup` switched off. Without that readers only take longer, so a failure is logged.
pub fn start_checkpoint(location: &TableLocation, name: &TableName, version: u64, due: Due) {
    if due == Due::Nothing {
        return;
    }
    let (location, name) = (location.clone(), name.clone());
    tokio::spawn(async move {
        let written = async {
            let mut table = delta_table(&location);
            table.load_version(version).await?;
            create_checkpoint(&table, None).await?;
            let config = table.snapshot()?.table_config();
            let is_wanted =
                config.enable_expired_log_cleanup() && config.log_retention_duration() >= SHORTEST_RETENTION;
            match due == Due::CheckpointAndCleanup && is_wanted {
                true => cleanup_metadata(&table, None).await,
                false => Ok(0),
            }
        };
        match written.await.map_err(|error| log_error(&location, &error)) {
            Ok(deleted) => tracing::debug!(table = %name, version, deleted, "wrote a checkpoint"),
            Err(error) => tracing::warn!(table = %name, version, %error, "could not write a checkpoint"),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_fiftieth_commit_is_followed_by_a_checkpoint_and_old_entries_go_once_an_hour() {
        let mut schedule = CheckpointSchedule::default();
        let mut due = |commits: u64| (1..=commits).map(|_| schedule.count_commit()).last();
        assert_eq!([due(49), due(1), due(50)], [Due::Nothing, Due::CheckpointAndCleanup, Due::Checkpoint].map(Some));
        tokio::time::advance(CLEANUP_INTERVAL).await;
        assert_eq!(due(50), Some(Due::CheckpointAndCleanup));
    }
}
