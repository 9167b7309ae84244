//! Holds: versions of a table that stay readable whatever its retention says, because a cut names them. Each is an
//! object in a folder of the table that readers leave alone, and says which objects its version consists of.

use std::collections::{BTreeSet, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sooner_api::{Code, Error, Result};

use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// Folder of a table's holds, below the table.
const FOLDER: &str = "_sooner/holds";

/// One hold, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Version of the table.
    pub version: u64,
    /// When it ends, in milliseconds since 1970; never if none.
    pub until_millis: Option<i64>,
    /// Data files and files of vectors, below the table.
    pub objects: Vec<String>,
}

/// What the holds of a table keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Versions, each with a checkpoint of its own.
    pub versions: BTreeSet<u64>,
    /// Data files and files of vectors.
    pub objects: HashSet<Path>,
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

/// Objects that a hold of this name keeps, below the table; none if there is no such hold.
pub async fn objects_of(location: &TableLocation, name: &str) -> Result<Vec<Path>> {
    let path = hold_path(name);
    let Some(text) = get(location.store(), &path).await? else { return Ok(Vec::new()) };
    let hold: Hold = serde_json::from_slice(&text).map_err(|error| unreadable(location, &path, error))?;
    Ok(hold.objects.iter().map(|path| Path::from(path.as_str())).collect())
}

/// Where a hold lies, below the table.
pub fn hold_path(name: &str) -> Path {
    Path::from(FOLDER).join(format!("{name}.json"))
}

fn unreadable(location: &TableLocation, path: &Path, why: impl std::fmt::Display) -> Error {
    let what = format!("cannot tell what {path} of the lake table {} holds", location.url);
    let remedy = "restore it, or drop its cut and remove it; nothing of the table is deleted until then";
    Error::operator(Code::LogUnreadable, what, why, remedy)
}
