//! Finds rows of subjects in every data file below a table's folder: of any version, hidden by vectors or not, or of no
//! version at all.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::Path;
use roaring::RoaringBitmap;
use sooner_api::Result;
use sooner_schemas::TableName;

use super::objects::{FoundFile, data_objects, open};
use super::same_key::{KeyColumns, Keys, other_states};
use super::subject::{Subject, Wanted};
use crate::index::key_index::FileId;
use crate::log::live_files::LiveFile;
use crate::log::replay::replay;
use crate::log::table_version::TableVersion;
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::errors::store_error;
use crate::store::location::{NEXT_GENERATIONS, TableLocation};

/// What a table holds of subjects.
#[derive(Debug)]
pub struct Found {
    /// The last version of the table.
    pub version: TableVersion,
    /// Files that hold rows of subjects.
    pub files: Vec<FoundFile>,
    /// Number of files that were read.
    pub searched: usize,
    /// Whether a copy builds the table's next generation.
    pub is_copying: bool,
}

impl Found {
    /// Rows of subjects that readers of the last version see.
    pub fn live_rows(&self) -> u64 {
        self.files.iter().map(FoundFile::live_rows).sum()
    }
}

/// Finds what a table, or a history, holds of subjects; none if there is no such table.
pub async fn find(location: &TableLocation, table: &TableName, subjects: &[Subject]) -> Result<Option<Found>> {
    // Listed first: what is in the list was committed before the version that is read, or is not yet.
    let objects = data_objects(location).await?;
    let version = replay(location, &[]).await?;
    if !version.exists() {
        return Ok(None);
    }
    let is_copying = is_copying(location).await?;
    let wanted = Wanted::of(subjects, table, version.columns());
    let live = live_files(&version);
    let key = KeyColumns::of(&version);
    let (mut files, mut keys, mut searched) = (Vec::new(), Keys::default(), 0);
    if wanted.columns().is_empty() {
        return Ok(Some(Found { version, files, searched, is_copying }));
    }
    for object in &objects {
        let Some(stored) = open(location, object).await? else { continue };
        searched += 1;
        let rows = rows_in(&stored, &wanted, &key, &mut keys).await?;
        if !rows.is_empty() {
            files.push(FoundFile { object: object.clone(), rows, live: live.get(&object.path).cloned() });
        }
    }
    if !keys.is_empty() {
        other_states(location, &objects, &live, &key, &keys, &mut files).await?;
    }
    Ok(Some(Found { version, files, searched, is_copying }))
}

async fn is_copying(location: &TableLocation) -> Result<bool> {
    let folder = Path::from(NEXT_GENERATIONS);
    let first = location.table.list(Some(&folder)).try_next().await;
    Ok(first.map_err(|error| store_error("cannot list a lake table", &error))?.is_some())
}

fn live_files(version: &TableVersion) -> HashMap<Path, (FileId, LiveFile)> {
    version.files().iter().map(|(id, file)| (file.path.clone(), (id, file.clone()))).collect()
}

/// Positions of rows that have one of the values; their keys are noted.
async fn rows_in(stored: &StoredFile, wanted: &Wanted, key: &KeyColumns, keys: &mut Keys) -> Result<RoaringBitmap> {
    let (mut rows, mut first) = (RoaringBitmap::new(), 0);
    let mut columns = wanted.columns();
    if !stored.has_any(&columns) {
        return Ok(rows);
    }
    columns.extend(key.key.iter().map(String::as_str));
    let mut batches = stored.batches(Some(&columns), None, READ_ROWS)?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        for (row, _) in wanted.matches(&batch).into_iter().enumerate().filter(|(_, is_meant)| *is_meant) {
            rows.insert(first + row as u32);
            keys.extend(key.text_of(&batch, row));
        }
        first += batch.num_rows() as u32;
    }
    Ok(rows)
}
