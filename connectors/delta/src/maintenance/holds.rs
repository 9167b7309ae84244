//! Holds: versions of a table that stay readable whatever its retention says, because a cut names them. Each is an
//! object in a folder of the table that readers leave alone, and says which objects its version consists of.

use std::collections::{BTreeSet, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sooner_api::{Code, Error, Result};

use super::checkpoint::read_entries;
use super::reconcile::Reconciler;
use super::vacuum::path_of;
use crate::log::checkpoint_file::{CheckpointWriter, each_batch};
use crate::log::last_checkpoint::ClassicCheckpoint;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::{get, put};

/// Folder of a table's holds, below the table.
const FOLDER: &str = "_sooner/holds";

/// One hold, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    /// Version of the table.
    version: u64,
    /// When it ends, in milliseconds since 1970; never if none.
    until_millis: Option<i64>,
    /// Data files and files of vectors, below the table.
    objects: Vec<String>,
}

/// What the holds of a table keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Versions, each with a checkpoint of its own.
    pub versions: BTreeSet<u64>,
    /// Data files and files of vectors.
    pub objects: HashSet<Path>,
}

/// Holds a version of a table under a name, until a moment or for ever: it gets a checkpoint, from which it can be read
/// when the log before it is gone. Repeating it is safe.
pub async fn hold(location: &TableLocation, name: &str, version: u64, until_millis: Option<i64>) -> Result<()> {
    let objects = write_checkpoint_of(location, version).await?;
    let hold = Hold { version, until_millis, objects };
    let text = serde_json::to_vec(&hold).map_err(|error| Error::internal("cannot hold a version", error))?;
    put(location.store(), &hold_path(name), Bytes::from(text)).await
}

/// Ends a hold; one that is not there has ended.
pub async fn release(location: &TableLocation, name: &str) -> Result<()> {
    match location.store().delete(&hold_path(name)).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(store_error("cannot end the hold of a lake table's version", &error)),
    }
}

/// What the holds of a table keep that have not ended.
pub async fn held(location: &TableLocation, now: SystemTime) -> Result<Held> {
    let now_millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let failed = |error: object_store::Error| store_error("cannot list the holds of a lake table", &error);
    let listed = location.store().list(Some(&Path::from(FOLDER)));
    let objects: Vec<_> = listed.try_collect().await.map_err(failed)?;
    let mut held = Held::default();
    for object in objects {
        let Some(text) = get(location.store(), &object.location).await? else { continue };
        let hold: Hold =
            serde_json::from_slice(&text).map_err(|error| unreadable(location, &object.location, error))?;
        if hold.until_millis.is_none_or(|until| until > now_millis) {
            held.versions.insert(hold.version);
            held.objects.extend(hold.objects.iter().map(|path| Path::from(path.as_str())));
        }
    }
    Ok(held)
}

fn hold_path(name: &str) -> Path {
    Path::from(FOLDER).join(format!("{name}.json"))
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
        put(location.store(), &ClassicCheckpoint::path(version), bytes.into()).await?;
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

fn unreadable(location: &TableLocation, path: &Path, why: impl std::fmt::Display) -> Error {
    let what = format!("cannot tell what {path} of the lake table {} holds", location.url);
    let remedy = "restore it, or drop its cut and remove it; nothing of the table is deleted until then";
    Error::operator(Code::LogUnreadable, what, why, remedy)
}
