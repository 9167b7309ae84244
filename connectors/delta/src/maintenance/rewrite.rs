//! Writes the live rows of files again, into fewer files. That happens beside merging: rows that go meanwhile are taken
//! out of the new files when they are committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_cast::cast;
use arrow_schema::{ArrowError, SchemaRef};
use futures::StreamExt;
use object_store::path::Path;
use roaring::RoaringBitmap;
use sooner_api::{Code, Error, Result};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::index::key::{KeyHash, KeyPlan};
use crate::index::key_index::{FileId, RowAddress};
use crate::index::segment::Entry;
use crate::log::live_files::{FileIds, LiveFile};
use crate::log::table_version::TableVersion;
use crate::log::transaction::{Kind, Transaction};
use crate::merge::parts::{PartLimits, Parts};
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::data_file;
use crate::store::location::TableLocation;
use crate::store::operations::discard;

/// Files that are to be written again, and what that takes.
pub struct Rewrite {
    /// The files, as they were when this was decided.
    pub sources: Vec<(FileId, LiveFile)>,
    /// Where the table lies.
    pub location: TableLocation,
    /// Its columns.
    pub columns: Vec<LakeColumn>,
    /// How its keys are hashed; none where no index follows the rows.
    pub keys: Option<KeyPlan>,
    /// Numbers for the new files.
    pub ids: FileIds,
    /// Limits for files in memory.
    pub limits: PartLimits,
    /// One place for each rewrite at the same time, of all tables.
    pub places: Arc<Semaphore>,
}

/// Files that are written, and not committed yet.
pub struct Rewritten {
    /// The files, with the rows that they had lost when they were read.
    sources: Vec<(FileId, RoaringBitmap)>,
    written: BTreeMap<FileId, LiveFile>,
    moved: Vec<MovedRow>,
}

/// A row that lies in two files until the newer one is committed.
struct MovedRow {
    key: KeyHash,
    from: RowAddress,
    to: RowAddress,
}

impl Rewrite {
    /// Writes the new files, once it is this rewrite's turn. After an error none of them is left.
    pub async fn run(self) -> Result<Rewritten> {
        // The semaphore is never closed.
        let _place = self.places.acquire().await.ok();
        let (mut parts, mut moved, location) = (Parts::default(), Vec::new(), self.location.clone());
        let mut result = Ok(());
        for (id, file) in &self.sources {
            result = self.copy_rows(*id, file, &mut parts, &mut moved).await;
            if result.is_err() {
                break;
            }
        }
        let result = match result {
            Ok(()) => parts.close(&self.location).await,
            failed => failed,
        };
        let sources = self.sources.into_iter().map(|(id, file)| (id, file.deleted)).collect();
        let rewritten = Rewritten { sources, written: parts.written().clone(), moved };
        match result {
            Ok(()) => Ok(rewritten),
            Err(error) => {
                rewritten.discard_unused(&location, &TableVersion::default()).await;
                Err(error)
            }
        }
    }

    async fn copy_rows(&self, id: FileId, file: &LiveFile, parts: &mut Parts, moved: &mut Vec<MovedRow>) -> Result<()> {
        let schema = arrow_schema(&self.columns);
        let rows = live_rows(file);
        let mut rows_left = rows.iter().copied();
        let selected = (!file.deleted.is_empty()).then_some(&rows[..]);
        let mut batches =
            data_file::open(&self.location.table, &file.path, file.size, None, selected, data_file::READ_ROWS).await?;
        while let Some(batch) = batches.next().await {
            let batch = fitted(&batch?, &self.columns, &schema).map_err(|error| unfit(&file.path, error))?;
            let keys = match &self.keys {
                Some(keys) => keys.hash_rows(&batch),
                None => Some(vec![KeyHash::default(); batch.num_rows()]),
            };
            let keys = keys.ok_or_else(|| unfit(&file.path, "its key columns are missing or of another type"))?;
            if keys.len() > rows_left.len() {
                return Err(unfit(&file.path, "it has more rows than the log says"));
            }
            let first = parts.append(&batch, &self.ids)?;
            let places = keys.into_iter().zip(&mut rows_left).zip(first.row..);
            moved.extend(places.map(|((key, row), to)| MovedRow {
                key,
                from: RowAddress { file: id, row },
                to: RowAddress { file: first.file, row: to },
            }));
            parts.close_if_full(&self.location, &self.limits).await?;
            tokio::task::yield_now().await;
        }
        if rows_left.len() > 0 {
            return Err(unfit(&file.path, "it has fewer rows than the log says"));
        }
        Ok(())
    }
}

impl Rewritten {
    /// Whether there are fewer files than before, or one of them is smaller than it was.
    pub fn is_worth_it(&self) -> bool {
        self.sources.len() == 1 || self.written.len() < self.sources.len()
    }

    /// Whether no row has come back to one of the files since they were read: such a row is not in the new ones.
    pub fn has_all_rows(&self, base: &TableVersion) -> bool {
        let mut files = self.sources.iter().filter_map(|(id, deleted)| Some((base.files().get(*id)?, deleted)));
        files.all(|(file, deleted)| deleted.is_subset(&file.deleted))
    }

    /// The transaction by which the new files take the place of the former ones, with the rows that are left.
    pub fn transaction(&self, base: &TableVersion, pipeline: &str) -> Transaction {
        let mut superseded: BTreeMap<FileId, RoaringBitmap> = BTreeMap::new();
        for row in self.moved.iter().filter(|row| !base.files().holds(row.from)) {
            superseded.entry(row.to.file).or_default().insert(row.to.row);
        }
        let removed = self.sources.iter().filter(|(id, _)| base.files().get(*id).is_some());
        Transaction {
            id: Uuid::new_v4(),
            kind: Kind::Rearrange,
            pipeline: pipeline.to_owned(),
            retention: Default::default(),
            columns: None,
            last_column_id: None,
            provenance: Default::default(),
            refilled: Default::default(),
            added: self.written.clone(),
            superseded,
            removed: removed.map(|(id, _)| (*id, RoaringBitmap::new())).collect(),
            txns: Default::default(),
            watermark: None,
        }
    }

    /// Where the rows lie after the commit that are left of those in `base`, the version before it.
    pub fn moved_rows(&self, base: &TableVersion) -> Vec<Entry> {
        let left = self.moved.iter().filter(|row| base.files().holds(row.from));
        left.map(|row| (row.key, row.to)).collect()
    }

    /// Deletes those of the new files that are not part of the table, and never will be.
    pub async fn discard_unused(&self, location: &TableLocation, base: &TableVersion) {
        for file in self.written.values().filter(|file| base.files().find(file.key()).is_none()) {
            discard(location.store(), &file.path).await;
        }
    }
}

/// Positions of the rows that are left of a file, ascending.
fn live_rows(file: &LiveFile) -> Vec<u32> {
    let rows = file.rows.unwrap_or(0).min(u32::MAX.into()) as u32;
    (0..rows).filter(|row| !file.deleted.contains(*row)).collect()
}

/// Rows with the columns of the table as it is by now: in those that came later they hold what older rows do.
pub fn fitted(
    batch: &RecordBatch,
    columns: &[LakeColumn],
    schema: &SchemaRef,
) -> std::result::Result<RecordBatch, ArrowError> {
    let columns = columns.iter().zip(schema.fields()).map(|(column, field)| match batch.column_by_name(field.name()) {
        Some(values) => cast(values, field.data_type()),
        None => column.missing_values(batch.num_rows()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect::<std::result::Result<_, _>>()?)
}

/// The error of a file whose rows do not fit the table.
pub fn unfit(path: &Path, why: impl std::fmt::Display) -> Error {
    let what = format!("cannot write the rows of {path} again");
    Error::operator(Code::FileDamaged, what, why, "copy the table again with `sooner resume TABLE`")
}
