//! Exports of cuts: plain Parquet files, with a manifest that says what they are, and by which anybody can check them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, Field, Schema as ArrowSchema};
use arrow_select::filter::filter_record_batch;
use bytes::Bytes;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, TableName};

use crate::cuts::{Cut, CutVersion};
use crate::history::columns::LSN_PLACE;
use crate::lake::DeltaLake;
use crate::rows::column_mapping::shown_names;
use crate::rows::data_file::DataFileWriter;
use crate::rows::lake_type::arrow_type;
use crate::store::folder_name::folder_name;
use crate::store::lake_store::LakeStore;
use crate::store::location::{HISTORY_SUFFIX, TableLocation};
use crate::store::operations::{Put, get, put, put_new};
use crate::stored_rows::StoredRows;

/// Name of the manifest, which is written last.
pub const MANIFEST: &str = "manifest.json";

/// What was exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the cut.
    pub cut: String,
    /// Every transaction up to this commit LSN is in the files, and no other.
    pub lsn: Lsn,
    /// Commit time of the last of these, in microseconds since 1970.
    pub commit_micros: i64,
    /// Pipeline that the cut is of.
    pub pipeline: String,
    /// What wrote the files.
    pub written_by: String,
    /// The tables as they were.
    pub tables: BTreeMap<TableName, ExportedTable>,
    /// The histories of tables that have one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub histories: BTreeMap<TableName, ExportedTable>,
}

impl Manifest {
    /// All files, of tables and of histories.
    pub fn files(&self) -> impl Iterator<Item = &ExportedFile> {
        self.tables.values().chain(self.histories.values()).flat_map(|table| &table.files)
    }
}

/// The files of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedTable {
    /// Version of the lake table.
    pub version: u64,
    /// Number of rows.
    pub rows: u64,
    /// Files, in the order of their rows.
    pub files: Vec<ExportedFile>,
}

/// A file that was exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedFile {
    /// Path below the manifest's folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Number of its rows.
    pub rows: u64,
    /// SHA-256 of its bytes, as hexadecimal digits.
    pub sha256: String,
}

/// Writes the tables of a cut, as they are in it, to a folder or an S3 prefix that has no export yet. The manifest
/// comes last: without it, an export was broken off, and can be repeated. Files are closed at `file_bytes`, and take
/// about as much memory.
pub async fn export_cut(lake: &DeltaLake, cut: &Cut, target: &LakeStore, file_bytes: usize) -> Result<Manifest> {
    let manifest_path = target.prefix().clone().join(MANIFEST);
    if get(&*target.root(), &manifest_path).await?.is_some() {
        return Err(taken(&cut.name));
    }
    let (mut tables, mut histories) = (BTreeMap::new(), BTreeMap::new());
    for (table, versions) in &cut.tables {
        let place = |suffix| Place { folder: folder_of(table) + suffix, target, file_bytes };
        if let Some(found) = &versions.mirror {
            tables.insert(table.clone(), export(lake.mirror_in_cut(table, found), found, place("")).await?);
        }
        if let Some(found) = &versions.history {
            let exported = export(lake.history_location(table), found, place(HISTORY_SUFFIX)).await?;
            histories.insert(table.clone(), exported);
        }
    }
    let manifest = Manifest {
        cut: cut.name.clone(),
        lsn: cut.lsn,
        commit_micros: cut.commit_micros,
        pipeline: lake.pipeline().to_owned(),
        written_by: concat!("sooner ", env!("CARGO_PKG_VERSION")).to_owned(),
        tables,
        histories,
    };
    let text = serde_json::to_vec_pretty(&manifest);
    let text = text.map_err(|error| Error::internal("cannot write a manifest", error))?;
    match put_new(&*target.root(), &manifest_path, Bytes::from(text)).await? {
        Put::Created => Ok(manifest),
        Put::Exists => Err(taken(&cut.name)),
    }
}

/// The manifest of the export that is at a place; none if there is no complete one. An error if it is no manifest.
pub async fn manifest_at(target: &LakeStore) -> Result<Option<Manifest>> {
    let Some(text) = get(&*target.root(), &target.prefix().clone().join(MANIFEST)).await? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let what = format!("cannot understand the manifest at {}", target.folder_url(&[]));
        Error::operator(Code::FileDamaged, what, error, "name another folder, or remove what is in that one")
    })
}

/// Where files of a table are exported to.
pub struct Place<'a> {
    /// Folder below the target.
    pub folder: String,
    /// The target.
    pub target: &'a LakeStore,
    /// Size at which a file is closed, and the next one begins; so much of it is in memory.
    pub file_bytes: usize,
}

/// Folder of a table's files in an export.
pub fn folder_of(table: &TableName) -> String {
    format!("{}/{}", folder_name(&table.schema), folder_name(&table.table))
}

/// Writes the live rows of a version that belong to a cut as Parquet files, at least one, so that an empty table has
/// its columns.
pub async fn export(location: TableLocation, found: &CutVersion, place: Place<'_>) -> Result<ExportedTable> {
    let stored = StoredRows::at(location, found.version).await?;
    let columns = stored.version.columns();
    let read = crate::rows::columns::arrow_schema(columns);
    let fields = columns.iter().zip(shown_names(columns));
    let fields = fields.map(|(column, shown)| Field::new(shown, arrow_type(&column.lake_type), column.nullable));
    let shown = Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()));
    let mut exporting = Exporting { place, files: Vec::new(), open: None };
    let each = async |rows: RecordBatch| {
        let rows = RecordBatch::try_new(shown.clone(), rows.columns().to_vec());
        let rows = rows.and_then(|rows| up_to(found.up_to, rows));
        exporting.append(&rows.map_err(|error| Error::internal("cannot export rows", error))?).await
    };
    stored.scan(columns, &read, each).await?;
    if exporting.files.is_empty() && exporting.open.is_none() {
        exporting.append(&RecordBatch::new_empty(shown)).await?;
    }
    exporting.close().await?;
    let rows = exporting.files.iter().map(|file| file.rows).sum();
    Ok(ExportedTable { version: found.version, rows, files: exporting.files })
}

/// Rows of a history whose commit LSN is at or before a bound; all rows without one.
fn up_to(bound: Option<Lsn>, rows: RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
    let Some(bound) = bound else { return Ok(rows) };
    let lsns = rows.column(LSN_PLACE).as_primitive::<Int64Type>();
    let belongs =
        BooleanArray::from_iter(lsns.iter().map(|lsn| Some(lsn.is_some_and(|lsn| lsn <= bound.0.cast_signed()))));
    filter_record_batch(&rows, &belongs)
}

struct Exporting<'a> {
    place: Place<'a>,
    files: Vec<ExportedFile>,
    open: Option<DataFileWriter>,
}

impl Exporting<'_> {
    /// Adds rows to the open file, and closes it if it is large enough.
    async fn append(&mut self, rows: &RecordBatch) -> Result<()> {
        let writer = match &mut self.open {
            Some(writer) => writer,
            none => none.insert(DataFileWriter::for_rows_like(rows)?),
        };
        writer.write(rows)?;
        if writer.size_bytes() >= self.place.file_bytes { self.close().await } else { Ok(()) }
    }

    async fn close(&mut self) -> Result<()> {
        let Some(writer) = self.open.take() else { return Ok(()) };
        let (rows, path) = (u64::from(writer.rows()), self.next_path());
        let bytes = writer.finish()?.bytes;
        let sha256 = hexadecimal(&Sha256::digest(&bytes));
        self.files.push(ExportedFile { path: path.clone(), bytes: bytes.len() as u64, rows, sha256 });
        let below = Path::from(path);
        let target = self.place.target;
        let path = below.parts().fold(target.prefix().clone(), |path, part| path.join(part));
        put(&*target.root(), &path, bytes).await
    }

    fn next_path(&self) -> String {
        format!("{}/part-{:05}.parquet", self.place.folder, self.files.len())
    }
}

/// Bytes as hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn taken(cut: &str) -> Error {
    Error::operator(
        Code::CutExists,
        format!("cannot export the cut '{cut}'"),
        "there is an export at that place already",
        "name another folder, or remove what is in that one",
    )
}
