//! Cuts: for each table the version that is complete to one position of the source's log, all tables together as one
//! transaction saw them. A cut is an object under `_sooner/<pipeline>/cuts/` of the lake; the versions that it names
//! are held until it ends or is dropped.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, TableName};

use crate::lake::DeltaLake;
use crate::legal_holds::LegalHolds;
use crate::maintenance::holding::hold;
use crate::maintenance::holds::{is_held, release};
use crate::rebuilt::{rebuilt_location, remove_rebuilt};
use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::{Put, get, put_new, retrying};

/// Tables that are held at the same time.
const AT_ONCE: usize = 16;

/// A cut, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Its name.
    pub name: String,
    /// Every transaction whose commit LSN is at or below this one is in it, and no other.
    pub lsn: Lsn,
    /// Commit time of the last of these transactions, in microseconds since 1970; if there was none lately, when the
    /// server said that there was none.
    pub commit_micros: i64,
    /// When the cut was made, in microseconds since 1970.
    pub made_micros: i64,
    /// Until when it is kept, in milliseconds since 1970; until it is dropped if none.
    pub until_millis: Option<i64>,
    /// Its tables.
    pub tables: BTreeMap<TableName, CutTable>,
}

impl Cut {
    /// Whether a table of it was made for it in a folder, as `rebuilt` of a version names it.
    pub fn is_made_of(&self, folder: &str) -> bool {
        self.tables.values().flat_map(|table| &table.mirror).any(|found| found.rebuilt.as_deref() == Some(folder))
    }
}

/// A table in a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutTable {
    /// Where the table lies, and its version; none if it is not mirrored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<CutVersion>,
    /// Where its history lies, and its version; none if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<CutVersion>,
}

/// A version of a table in a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutVersion {
    /// Location: a URL.
    pub url: String,
    /// Version.
    pub version: u64,
    /// Where a table lies that was made for the cut, of its history, because it had no version at the cut's position: a
    /// folder below those of the pipeline's rebuilt tables. None for a version of the pipeline's own table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilt: Option<String>,
    /// Of a history's version, only rows whose `_commit_lsn` is at or before this one belong to the cut; all if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<Lsn>,
}

/// Versions of a table, of its mirror and of its history, that a cut is made of.
pub type Versions = (Option<u64>, Option<u64>);

impl DeltaLake {
    /// Makes a cut of versions of tables: holds each of them, then stores the cut. Its `tables` are filled in. An
    /// operator error if there is one of that name, and it is another one. Repeating it after an error is safe.
    pub async fn make_cut(&self, mut cut: Cut, versions: BTreeMap<TableName, Versions>) -> Result<Cut> {
        cut.tables =
            versions.iter().map(|(table, versions)| (table.clone(), self.cut_table(table, *versions))).collect();
        self.check_new(&cut.name).await?;
        self.hold_cut(&cut).await?;
        let name = cut.name.clone();
        match self.store_cut(cut).await {
            Err(error) if error.code == Code::CutExists => {
                // Another process stored it meanwhile. Holds have the cut's name, so theirs may have been replaced.
                if let Some(theirs) = self.cut(&name).await? {
                    self.hold_cut(&theirs).await?;
                }
                Err(error)
            }
            stored => {
                let stored = stored?;
                // The cut is there, and whoever asks again would be told that its name is taken.
                if let Err(error) = secure(self, &stored).await {
                    tracing::warn!(cut = stored.name, %error, "whether a cut is still held could not be seen");
                }
                Ok(stored)
            }
        }
    }

    /// An operator error if there is a cut of this name.
    pub(crate) async fn check_new(&self, name: &str) -> Result<()> {
        match self.cut(name).await? {
            Some(_) => Err(name_taken(name)),
            None => Ok(()),
        }
    }

    /// Holds the versions of the pipeline's tables that are in a cut.
    pub(crate) async fn hold_cut(&self, cut: &Cut) -> Result<()> {
        let (name, until) = (&cut.name, cut.until_millis);
        let held: Vec<(TableName, Versions)> = cut
            .tables
            .iter()
            .map(|(table, found)| {
                let mirror = found.mirror.as_ref().filter(|found| found.rebuilt.is_none());
                let history = found.history.as_ref();
                (table.clone(), (mirror.map(|found| found.version), history.map(|found| found.version)))
            })
            .collect();
        let holding = held.into_iter().map(|(table, (mirror, history))| async move {
            if let Some(version) = mirror {
                hold(&self.location(&table), name, version, until).await?;
            }
            if let Some(version) = history {
                hold(&self.history_location(&table), name, version, until).await?;
            }
            Ok::<(), Error>(())
        });
        let mut holding = stream::iter(holding).buffer_unordered(AT_ONCE);
        while let Some(held) = holding.next().await {
            held?;
        }
        Ok(())
    }

    /// Stores a cut whose versions are held.
    pub(crate) async fn store_cut(&self, cut: Cut) -> Result<Cut> {
        let text = serde_json::to_vec_pretty(&cut).map_err(|error| Error::internal("cannot store a cut", error))?;
        let text = Bytes::from(text);
        match put_new(&*self.store().root(), &self.cut_path(&cut.name), text.clone()).await? {
            Put::Created => Ok(cut),
            // After a lost response the object that is there may be this one.
            Put::Exists if get(&*self.store().root(), &self.cut_path(&cut.name)).await? == Some(text) => Ok(cut),
            Put::Exists => Err(name_taken(&cut.name)),
        }
    }

    pub(crate) fn cut_table(&self, table: &TableName, (mirror, history): Versions) -> CutTable {
        let located =
            |url: &url::Url, version| CutVersion { url: url.to_string(), version, rebuilt: None, up_to: None };
        CutTable {
            mirror: mirror.map(|version| located(&self.location(table).url, version)),
            history: history.map(|version| located(&self.history_location(table).url, version)),
        }
    }

    /// Where a mirrored table of a cut lies.
    pub fn mirror_in_cut(&self, table: &TableName, found: &CutVersion) -> TableLocation {
        match &found.rebuilt {
            Some(folder) => rebuilt_location(self, folder, table),
            None => self.location(table),
        }
    }

    /// A cut by its name; none if there is none.
    pub async fn cut(&self, name: &str) -> Result<Option<Cut>> {
        let path = self.cut_path(name);
        let Some(text) = get(&*self.store().root(), &path).await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let remedy = "restore it from a former version; the versions that it names stay held";
            Error::operator(Code::ProgressUnreadable, format!("cannot understand {path}"), error, remedy)
        })
    }

    /// All cuts, by their names.
    pub async fn cuts(&self) -> Result<Vec<Cut>> {
        let folder = self.cuts_folder();
        let listed = retrying(|| async {
            let listed = self.store().root().list(Some(&folder)).try_collect::<Vec<_>>().await;
            listed.map_err(|error| store_error("cannot list the cuts of the lake", &error))
        });
        let mut cuts = Vec::new();
        for object in listed.await? {
            let name = object.location.filename().and_then(|name| name.strip_suffix(".json")).map(str::to_owned);
            if let Some(name) = name {
                cuts.extend(self.cut(&name).await?);
            }
        }
        Ok(cuts)
    }

    /// Drops a cut: what only it needs goes with the tables' upkeep. Also of one that was never made whole; false if
    /// there is no cut of that name. An operator error if a legal hold keeps the cut.
    pub async fn drop_cut(&self, name: &str) -> Result<bool> {
        LegalHolds::of(self).check_cut_not_held(name).await?;
        let cut = self.cut(name).await?;
        let known = cut.iter().flat_map(|cut| cut.tables.keys().cloned());
        let mut tables: Vec<_> = known.chain(self.tables().await?).collect();
        tables.sort();
        tables.dedup();
        for table in &tables {
            release(&self.location(table), name).await?;
            release(&self.history_location(table), name).await?;
        }
        remove_rebuilt(self, name).await?;
        match self.store().root().delete(&self.cut_path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(cut.is_some()),
            Err(error) => Err(store_error(format!("cannot drop the cut '{name}'"), &error)),
        }
    }

    fn cuts_folder(&self) -> Path {
        self.store().prefix().clone().join("_sooner").join(self.pipeline()).join("cuts")
    }

    fn cut_path(&self, name: &str) -> Path {
        self.cuts_folder().join(format!("{name}.json"))
    }
}

/// Holds again what a stored cut has, where another attempt at its name, which failed meanwhile, has released it.
pub(crate) async fn secure(lake: &DeltaLake, cut: &Cut) -> Result<()> {
    for (table, versions) in &cut.tables {
        let mirror = versions.mirror.as_ref().filter(|found| found.rebuilt.is_none());
        let held = [(mirror, lake.location(table)), (versions.history.as_ref(), lake.history_location(table))];
        for (found, location) in held {
            let Some(found) = found else { continue };
            if is_held(&location, &cut.name).await? {
                continue;
            }
            hold(&location, &cut.name, found.version, cut.until_millis).await?;
            if lake.cut(&cut.name).await?.is_none() {
                // It was being dropped.
                release(&location, &cut.name).await?;
            }
        }
    }
    Ok(())
}

/// Checks a cut's name: letters, digits, `-`, `_` and `.`, not `.` first, so that it is one folder's and one file's.
pub fn check_cut_name(name: &str) -> std::result::Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !name.is_empty() && name.len() <= 100 && !name.starts_with('.') && name.chars().all(is_plain) {
        true => Ok(()),
        false => Err(format!("'{name}' is no name for a cut: expected up to 100 letters, digits, '-', '_' and '.'")),
    }
}

fn name_taken(name: &str) -> Error {
    let why = "there is a cut of that name";
    Error::operator(
        Code::CutExists,
        format!("cannot make the cut '{name}'"),
        why,
        "give it another name, or drop that one",
    )
}
