//! Holds versions of tables: each gets a checkpoint of its own, and an object that says what it consists of.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use sooner_api::{Error, Result};

use super::checkpoint::read_entries;
use super::holds::{Hold, hold_path};
use super::reconcile::Reconciler;
use super::vacuum::path_of;
use crate::log::checkpoint_file::{CheckpointWriter, each_batch};
use crate::log::last_checkpoint::ClassicCheckpoint;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::{put, put_new};

/// Holds a version of a table under a name, until a moment or for ever: it gets a checkpoint, from which it can be read
/// when the log before it is gone. Repeating it is safe.
pub async fn hold(location: &TableLocation, name: &str, version: u64, until_millis: Option<i64>) -> Result<()> {
    let objects = write_checkpoint_of(location, version).await?;
    put_hold(location, name, &Hold { version, until_millis, objects, everything: false }).await
}

/// Stores a hold under a name, in place of any that has it.
pub async fn put_hold(location: &TableLocation, name: &str, hold: &Hold) -> Result<()> {
    let text = serde_json::to_vec(hold).map_err(|error| Error::internal("cannot hold a version", error))?;
    put(location.store(), &hold_path(name), Bytes::from(text)).await
}

/// Writes the checkpoint of a version, if it has none, from the last one before it, and leaves the hint to the latest
/// as it is. Returns the objects that the version consists of.
async fn write_checkpoint_of(location: &TableLocation, version: u64) -> Result<Vec<String>> {
    let former = checkpoint_until(location, version).await?;
    let recent = read_entries(location, former.map_or(0, |former| former + 1), version).await?;
    // Without removes: whoever reads this version needs none, and nobody else reads from here on.
    let mut reconciler = Reconciler::new(recent, i64::MAX, usize::MAX);
    let mut writer = CheckpointWriter::new()?;
    if let Some(former) = former {
        let path = ClassicCheckpoint::path(former);
        each_batch(location, &path, false, |rows| writer.write_kept(&rows, &reconciler.keep(&rows))).await?;
    }
    writer.write_actions(&reconciler.recent_rows())?;
    if former != Some(version) {
        let (bytes, _) = writer.finish()?;
        // One that is there by now is as good, and somebody may be reading it.
        put_new(location.store(), &ClassicCheckpoint::path(version), bytes.into()).await?;
    }
    Ok(reconciler.used().filter_map(path_of).map(|path| path.to_string()).collect())
}

/// Version of the last checkpoint in one file that is not after a version; none if there is none.
async fn checkpoint_until(location: &TableLocation, version: u64) -> Result<Option<u64>> {
    let failed = |error: object_store::Error| store_error("cannot list the log of a lake table", &error);
    let listed = location.store().list(Some(&Path::from("_delta_log")));
    let objects: Vec<_> = listed.try_collect().await.map_err(failed)?;
    let versions = objects
        .iter()
        .filter_map(|object| object.location.filename()?.strip_suffix(".checkpoint.parquet")?.parse::<u64>().ok());
    Ok(versions.filter(|found| *found <= version).max())
}
