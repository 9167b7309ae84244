//! Writes the live rows of files again, into fewer files. That happens beside merging: rows that go meanwhile are taken
//! out of the new files when they are committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use roaring::RoaringBitmap;
use sooner_api::Result;
use uuid::Uuid;

use super::blanking::Blanking;
use super::gathering::gather;
use super::sorting::{Source, SourceRow, order};
use crate::effort::Effort;
use crate::index::entries::Entry;
use crate::index::key::{KeyHash, KeyPlan};
use crate::index::key_index::{FileId, RowAddress};
use crate::log::live_files::{FileIds, LiveFile};
use crate::log::table_version::TableVersion;
use crate::log::transaction::{Kind, Transaction};
use crate::merge::parts::{PartLimits, Parts};
use crate::rows::columns::LakeColumn;
use crate::rows::fitting::unfit;
use crate::rows::stored_file::READ_ROWS;
use crate::store::location::TableLocation;
use crate::store::operations::discard;

/// Bytes of rows that are in memory at once while they are brought into their order.
const SLICE_BYTES: usize = 8 << 20;
/// The same, where there is no room for so many.
const LEAST_SLICE_BYTES: usize = 2 << 20;
/// Number of these rows, at most.
const SLICE_ROWS: usize = 256 << 10;
/// Slices into which rows are sorted, at most: more of them are written as they lie.
const MOST_SLICES: usize = 8;

/// Files that are to be written again, and what that takes.
pub struct Rewrite {
    /// The files, as they were when this was decided.
    pub sources: Vec<(FileId, LiveFile)>,
    /// Rows of the files that are left out, because they are erased.
    pub erased: BTreeMap<FileId, RoaringBitmap>,
    /// Rows of the files that stay without their values.
    pub blanked: Blanking,
    /// Where the table lies.
    pub location: TableLocation,
    /// Its columns.
    pub columns: Vec<LakeColumn>,
    /// Columns that the rows are sorted by, by their names at the source.
    pub sort_by: Vec<String>,
    /// How its keys are hashed; none where no index follows the rows.
    pub keys: Option<KeyPlan>,
    /// Numbers for the new files.
    pub ids: FileIds,
    /// Limits for files in memory.
    pub limits: PartLimits,
    /// That of all tables together.
    pub effort: Arc<Effort>,
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
        let effort = self.effort.clone();
        let _work = effort.rewrite().await;
        let (mut parts, mut moved) = (Parts::default(), Vec::new());
        let result = match self.write(&mut parts, &mut moved).await {
            Ok(()) => parts.close(&self.location).await,
            failed => failed,
        };
        let sources = self.sources.into_iter().map(|(id, file)| (id, file.deleted)).collect();
        let rewritten = Rewritten { sources, written: parts.written().clone(), moved };
        match result {
            Ok(()) => Ok(rewritten),
            Err(error) => {
                rewritten.discard_unused(&self.location, &TableVersion::default()).await;
                Err(error)
            }
        }
    }

    /// Writes all live rows in their order, slice by slice.
    async fn write(&self, parts: &mut Parts, moved: &mut Vec<MovedRow>) -> Result<()> {
        let mut sources = Vec::new();
        for (id, file) in &self.sources {
            let mut file = file.clone();
            if let Some(erased) = self.erased.get(id) {
                file.deleted |= erased;
            }
            sources.push(Source::open(&self.location.table, *id, file).await?);
        }
        let rows = sources.iter().map(Source::live_count).sum::<u64>() as usize;
        let largest = sources.iter().map(|source| source.stored.row_bytes()).max().unwrap_or(0).max(1);
        let budget = &self.limits.budget;
        let slice_bytes = (budget.free_bytes() / 4).clamp(LEAST_SLICE_BYTES, SLICE_BYTES);
        let mut slice_rows = (slice_bytes / largest).clamp(1, SLICE_ROWS);
        // Each slice may lie anywhere in the sources, which are read as often as there are slices then.
        let sort_by = if rows.div_ceil(slice_rows) <= MOST_SLICES { &self.sort_by[..] } else { &[] };
        let rows = order(&sources, &self.columns, sort_by, budget).await?;
        let _room = if slice_bytes < budget.free_bytes() { budget.try_reserve(slice_bytes) } else { None };
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let (slice, left) = rest.split_at(slice_rows.min(rest.len()));
            let gathered = gather(&sources, slice, &self.columns).await?;
            if gathered.bytes() > 2 * slice_bytes {
                slice_rows = (slice_rows / 2).max(1);
            }
            for (batch, rows) in gathered.batches().zip(slice.chunks(READ_ROWS)) {
                let batch = self.blanked.apply(batch?, rows, &sources)?;
                self.append(&batch, rows, &sources, parts, moved)?;
                parts.close_if_full(&self.location, &self.limits).await?;
                tokio::task::yield_now().await;
            }
            rest = left;
        }
        Ok(())
    }

    fn append(
        &self,
        batch: &RecordBatch,
        rows: &[SourceRow],
        sources: &[Source],
        parts: &mut Parts,
        moved: &mut Vec<MovedRow>,
    ) -> Result<()> {
        let keys = match &self.keys {
            Some(keys) => keys.hash_rows(batch),
            None => Some(vec![KeyHash::default(); batch.num_rows()]),
        };
        let missing = "its key columns are missing or of another type";
        let keys = keys.ok_or_else(|| unfit(&self.location.url, missing))?;
        let first = parts.append(batch, &self.ids)?;
        let places = keys.into_iter().zip(rows).zip(first.row..);
        // A row that was left out here would be there twice after its next change.
        moved.extend(places.map(|((key, row), to)| {
            let from = RowAddress { file: sources[row.source as usize].id, row: row.row };
            MovedRow { key, from, to: RowAddress { file: first.file, row: to } }
        }));
        Ok(())
    }
}

impl Rewritten {
    /// Whether there are fewer files than before, or one of them is smaller than it was.
    pub fn is_worth_it(&self) -> bool {
        self.sources.len() == 1 || self.written.len() < self.sources.len()
    }

    /// The files that were read, each with the rows that it had lost then, and those that were written: all that counts
    /// where nobody removes single rows meanwhile.
    pub fn into_files(self) -> (Vec<(FileId, RoaringBitmap)>, BTreeMap<FileId, LiveFile>) {
        (self.sources, self.written)
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
            span: Default::default(),
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
