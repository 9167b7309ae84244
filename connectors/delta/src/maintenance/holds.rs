//! Holds: versions of a table that stay readable whatever its retention says, because a cut names them, and tables of
//! which nothing is deleted, because a legal hold says so. Each is an object in a folder of the table that readers
//! leave alone, and says which objects its version consists of.

use std::collections::{BTreeMap, BTreeSet, HashSet};
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
    /// Nothing of the table is deleted, whichever version it belongs to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub everything: bool,
}

impl Hold {
    /// Whether it has not ended by a moment, in milliseconds since 1970.
    pub fn is_in_force(&self, now_millis: i64) -> bool {
        self.until_millis.is_none_or(|until| until > now_millis)
    }
}

/// What the holds of a table keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Versions, each with a checkpoint of its own.
    pub versions: BTreeSet<u64>,
    /// Data files and files of vectors.
    pub objects: HashSet<Path>,
    /// All that the table has.
    pub everything: bool,
}

impl Held {
    /// Whether a data file or a file of vectors is kept.
    pub fn keeps(&self, path: &Path) -> bool {
        self.everything || self.objects.contains(path)
    }
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
    let mut held = Held::default();
    for (_, hold) in holds_in_force(location, now).await? {
        held.everything |= hold.everything;
        held.versions.insert(hold.version);
        held.objects.extend(hold.objects.iter().map(|path| Path::from(path.as_str())));
    }
    Ok(held)
}

/// The holds of a table that have not ended, by their names.
pub async fn holds_in_force(location: &TableLocation, now: SystemTime) -> Result<BTreeMap<String, Hold>> {
    let now_millis = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let failed = |error: object_store::Error| store_error("cannot list the holds of a lake table", &error);
    let listed = location.store().list(Some(&Path::from(FOLDER)));
    let objects: Vec<_> = listed.try_collect().await.map_err(failed)?;
    let mut holds = BTreeMap::new();
    for object in objects {
        let Some(text) = get(location.store(), &object.location).await? else { continue };
        let hold: Hold =
            serde_json::from_slice(&text).map_err(|error| unreadable(location, &object.location, error))?;
        if hold.is_in_force(now_millis) {
            let name = object.location.filename().unwrap_or_default();
            holds.insert(name.strip_suffix(".json").unwrap_or(name).to_owned(), hold);
        }
    }
    Ok(holds)
}

/// Whether there is a hold of this name.
pub async fn is_held(location: &TableLocation, name: &str) -> Result<bool> {
    Ok(get(location.store(), &hold_path(name)).await?.is_some())
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
