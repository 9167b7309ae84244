//! Checkpoints: the state of a table in one file, so that readers need not replay its whole log. The next one is made
//! of the last one, which streams through, and of the log entries since then. What a table needs no longer then goes.

use std::collections::HashSet;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use sooner_api::{Class, Code, Error, Result, failpoint};

use super::reconcile::{Object, Recent, Reconciler};
use super::vacuum::{delete_unused, newest_entries};
use crate::log::actions::log_path;
use crate::log::checkpoint_file::{CheckpointWriter, each_batch, replayed_checkpoint};
use crate::log::last_checkpoint::{ClassicCheckpoint, LastCheckpoint, put_hint};
use crate::log::retention::Retention;
use crate::store::location::TableLocation;
use crate::store::operations::{get, put};

/// Log entries that are read at the same time.
const READS: usize = 8;
/// Objects that are deleted after one checkpoint, at most; those that are left go after the next one.
const MOST_EXPIRED: usize = 20_000;

/// A checkpoint that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its size.
    pub bytes: u64,
    /// Data files and files of vectors that nobody needed any more, and that are deleted.
    pub deleted: usize,
}

/// Writes the checkpoint of a version, and deletes what no version that is kept needs; none if somebody else has
/// written it, or a later one.
pub async fn write_checkpoint(
    location: &TableLocation,
    version: u64,
    retention: &Retention,
) -> Result<Option<Written>> {
    let former = match LastCheckpoint::read(location).await? {
        LastCheckpoint::Classic(former) if former.version >= version => return Ok(None),
        LastCheckpoint::Other(found) if found >= version => return Ok(None),
        LastCheckpoint::Classic(former) => Some(former),
        LastCheckpoint::Unknown => None,
        LastCheckpoint::Other(_) => return replay_for(location, version).await,
    };
    match write_next(location, version, former, retention).await {
        // What stands in the way of this one may not stand in the way of a replay of the whole log.
        Err(error) if error.class != Class::Retry => {
            tracing::info!(url = %location.url, %error, "writes a checkpoint from the whole log");
            replay_for(location, version).await
        }
        written => written.map(Some),
    }
}

async fn replay_for(location: &TableLocation, version: u64) -> Result<Option<Written>> {
    replayed_checkpoint(location, Some(version)).await?;
    Ok(None)
}

async fn write_next(
    location: &TableLocation,
    version: u64,
    former: Option<ClassicCheckpoint>,
    retention: &Retention,
) -> Result<Written> {
    let first = former.map_or(0, |former| former.version + 1);
    let recent = read_entries(location, first, version).await?;
    let cutoff = retention.deleted_files_cutoff_millis(SystemTime::now());
    let mut reconciler = Reconciler::new(recent, cutoff, MOST_EXPIRED);
    let mut writer = CheckpointWriter::new()?;
    let former = former.map(|former| former.paths()).unwrap_or_default();
    for path in &former {
        each_batch(location, path, false, |rows| writer.write_kept(&rows, &reconciler.keep(&rows))).await?;
    }
    writer.write_actions(&reconciler.recent_rows())?;
    for path in &former {
        each_batch(location, path, true, |rows| writer.write_kept(&rows, &reconciler.keep_removes(&rows))).await?;
    }
    writer.write_actions(&reconciler.recent_removes())?;
    let adds = reconciler.adds;
    let (bytes, rows) = writer.finish()?;
    let size = bytes.len() as u64;
    put(location.store(), &ClassicCheckpoint::path(version), bytes.into()).await?;
    failpoint("checkpoint_put");
    // Before the hint: whoever dies here finds them again in the former checkpoint. What cannot be deleted is found by
    // listing the table.
    let deleted = delete_expired(location, version, reconciler.into_unused()).await.unwrap_or_else(|error| {
        tracing::warn!(url = %location.url, %error, "could not delete files that no version needs");
        0
    });
    failpoint("unused_files_deleted");
    put_hint(location, version, rows, adds, size).await?;
    Ok(Written { bytes: size, deleted })
}

/// Deletes what a version does not need, unless somebody has taken it up again since.
async fn delete_expired(location: &TableLocation, version: u64, unused: Vec<Object>) -> Result<usize> {
    if unused.is_empty() {
        return Ok(0);
    }
    let (later, _) = newest_entries(location, version + 1).await?;
    let taken_up: HashSet<Object> = later.added_objects().collect();
    delete_unused(location, unused.into_iter().filter(|object| !taken_up.contains(object)).collect()).await
}

/// Reads the log's entries from one version to another.
pub async fn read_entries(location: &TableLocation, first: u64, last: u64) -> Result<Recent> {
    let mut recent = Recent::default();
    let texts = stream::iter(first..=last).map(|version| async move {
        let text = get(location.store(), &log_path(version)).await?;
        text.ok_or_else(|| unreadable(location, format!("version {version} is not there")))
    });
    let mut texts = texts.buffered(READS).boxed();
    while let Some(text) = texts.try_next().await? {
        recent.take(&text).map_err(|error| unreadable(location, error))?;
    }
    Ok(recent)
}

fn unreadable(location: &TableLocation, why: impl std::fmt::Display) -> Error {
    let what = format!("cannot read the log of the lake table {}", location.url);
    Error::operator(Code::LogUnreadable, what, why, "restore the table's log")
}
