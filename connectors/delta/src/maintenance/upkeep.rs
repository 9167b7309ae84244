//! What follows commits, beside the stream: checkpoints, and the end of what a table does not need any more.

use std::time::SystemTime;

use sooner_api::{Error, Result};
use sooner_schemas::TableName;
use tokio::sync::Semaphore;

use super::checkpoint::write_checkpoint;
use super::log_cleanup::clean_log;
use super::schedule::{CheckpointSchedule, Due};
use super::vacuum::{delete, find_unneeded};
use crate::log::retention::Retention;
use crate::store::location::TableLocation;

/// Tables that are looked after at the same time.
static PLACES: Semaphore = Semaphore::const_new(2);

/// Writes a checkpoint of a version beside the stream, if it is due; then deletes log entries that are older than the
/// table keeps them. Without a checkpoint readers only take longer, so a failure is logged.
pub fn start_checkpoint(
    location: &TableLocation,
    name: &TableName,
    version: u64,
    retention: Retention,
    schedule: &mut CheckpointSchedule,
    entry_bytes: usize,
) {
    let Some(due) = schedule.count_commit(entry_bytes) else { return };
    let (location, name, running, effort) = (location.clone(), name.clone(), schedule.running(), schedule.effort());
    tokio::spawn(async move {
        // The semaphore is never closed.
        let _place = PLACES.acquire().await.ok();
        let _work = effort.work();
        let written = async {
            let written = write_checkpoint(&location, version, &retention).await?;
            clean_up(&location, &name, version, &retention, due).await?;
            Ok::<_, Error>(written)
        };
        match written.await {
            Ok(written) => {
                tracing::debug!(table = %name, version, ?written, "wrote a checkpoint");
                running.end(written.map(|written| written.bytes));
            }
            Err(error) => {
                tracing::warn!(table = %name, version, %error, "could not look after the table");
                running.end(None);
            }
        }
    });
}

async fn clean_up(
    location: &TableLocation,
    name: &TableName,
    version: u64,
    retention: &Retention,
    due: Due,
) -> Result<()> {
    if due.cleans_log {
        let entries = clean_log(location, retention, SystemTime::now()).await?;
        tracing::debug!(table = %name, entries, "deleted old log entries");
    }
    if due.lists_table && !location.is_next_generation {
        let unneeded = find_unneeded(location, version, retention, SystemTime::now()).await?;
        let files = delete(location, unneeded.into_iter().map(|object| object.path).collect()).await?;
        tracing::debug!(table = %name, files, "deleted files that no version needs");
    }
    Ok(())
}
