//! What reports are made of: the tables of a cut, as plain Parquet files in a folder of this machine, so that any
//! engine reads them as they were, whatever it knows of Delta; and the number of rows in what an engine wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use crate::cuts::{Cut, CutVersion};
use crate::export::{Place, export, folder_of};
use crate::history::views::Described;
use crate::lake::DeltaLake;
use crate::log::horizon::Horizon;
use crate::store::lake_store::{LakeStore, S3Settings};
use crate::store::location::TableLocation;
use crate::stored_rows::StoredRows;

/// Size of the files that are written, and about as much memory as that takes.
const FILE_BYTES: usize = 16 << 20;

/// A table of a cut, as files of this machine.
#[derive(Clone, Debug)]
pub struct LocalTable {
    /// Where the table lies in the lake.
    pub url: String,
    /// Its version.
    pub version: u64,
    /// Number of rows.
    pub rows: u64,
    /// The files.
    pub files: Vec<PathBuf>,
}

/// The history of a table of a cut, as files of this machine.
#[derive(Clone, Debug)]
pub struct LocalHistory {
    /// The files.
    pub table: LocalTable,
    /// The history, at a location that is the pattern of the files' names.
    pub described: Described,
}

impl DeltaLake {
    /// Writes the mirrored tables of a cut below a folder of this machine, as they are in the cut.
    pub async fn tables_to(&self, cut: &Cut, folder: &Path) -> Result<BTreeMap<TableName, LocalTable>> {
        let mut tables = BTreeMap::new();
        for (table, versions) in &cut.tables {
            if let Some(found) = &versions.mirror {
                let local = local(self.mirror_in_cut(table, found), found, table, folder).await?;
                tables.insert(table.clone(), local);
            }
        }
        Ok(tables)
    }

    /// Writes the histories of a cut's tables below a folder of this machine, as they are in the cut.
    pub async fn histories_to(&self, cut: &Cut, folder: &Path) -> Result<BTreeMap<TableName, LocalHistory>> {
        let mut histories = BTreeMap::new();
        for (table, versions) in &cut.tables {
            let Some(found) = &versions.history else { continue };
            let stored = StoredRows::at(self.history_location(table), found.version).await?;
            let (columns, key) = (stored.version.columns().to_vec(), stored.version.provenance().key);
            let files = local(self.history_location(table), found, table, folder).await?;
            let url = folder.join(folder_of(table)).join("*.parquet").display().to_string();
            let horizon = Horizon::of(stored.version.metadata());
            let described = Described { url, columns, key, horizon };
            histories.insert(table.clone(), LocalHistory { table: files, described });
        }
        Ok(histories)
    }
}

/// Number of rows of a mirrored table of a cut.
pub async fn rows_of(lake: &DeltaLake, table: &TableName, found: &CutVersion) -> Result<u64> {
    let stored = StoredRows::at(lake.mirror_in_cut(table, found), found.version).await?;
    let size = stored.version.files().size();
    Ok(size.rows.saturating_sub(size.deleted_rows))
}

async fn local(location: TableLocation, found: &CutVersion, table: &TableName, folder: &Path) -> Result<LocalTable> {
    let target = LakeStore::open(&folder.display().to_string(), &S3Settings::default())?;
    let place = Place { folder: folder_of(table), target: &target, file_bytes: FILE_BYTES };
    let exported = export(location, found, place).await?;
    let files = exported.files.iter().map(|file| folder.join(&file.path)).collect();
    Ok(LocalTable { url: found.url.clone(), version: found.version, rows: exported.rows, files })
}

/// Number of rows of a Parquet file of this machine.
pub fn parquet_rows(path: &Path) -> Result<u64> {
    let what = || format!("cannot read the engine's result {}", path.display());
    let file = std::fs::File::open(path).map_err(|error| unreadable(what(), error))?;
    let reader = SerializedFileReader::new(file).map_err(|error| unreadable(what(), error))?;
    let rows = reader.metadata().file_metadata().num_rows();
    Ok(u64::try_from(rows).unwrap_or_default())
}

fn unreadable(what: String, error: impl std::fmt::Display) -> Error {
    Error::operator(Code::ReportFailed, what, error, "see that the report's engine runs DuckDB's SQL")
}
