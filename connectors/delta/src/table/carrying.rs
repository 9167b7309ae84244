//! Rows that are carried over into a copy because it lacks them: where changes of rows are ignored, or deleted rows are
//! kept, what the source has removed stays. Enters: the generation that readers see, and the one that a copy has built;
//! leaves: rows in parts.

use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_cast::cast;
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use futures::StreamExt;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use crate::generation::Generation;
use crate::index::build::index_files;
use crate::index::key::{KeyHash, KeyPlan, KeySet};
use crate::index::key_index::RowAddress;
use crate::index::table_index::TableIndex;
use crate::log::live_files::LiveFile;
use crate::merge::event_plan::copy_again;
use crate::merge::seal::next_columns;
use crate::merge::staging::Staging;
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::fitting::unfit;
use crate::rows::lake_type::arrow_type;
use crate::rows::mark;
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::settings::TableSettings;

/// What is carried over, and from where.
pub struct Carrying<'a> {
    /// The table.
    pub table: &'a TableName,
    /// The generation that readers see.
    pub former: &'a Generation,
    /// What keys are hashed with.
    pub secret: (u64, u64),
    /// When rows were deleted of which nothing says it, in microseconds since 1970; none where the table does not tell.
    pub deleted_at: Option<i64>,
    /// Settings of the table.
    pub settings: &'a TableSettings,
}

impl Carrying<'_> {
    /// Adds the rows of the former generation to what is staged whose keys neither that nor `next` has; returns how
    /// many. Everything must be sealed. What was added before a break is found in `next`, and not added again.
    pub async fn run(&self, next: &mut Generation, staging: &mut Staging) -> Result<u64> {
        let columns = self.columns(next, staging).await?;
        let keys = match &staging.plan {
            Some(plan) => plan.keys.clone(),
            None => KeyPlan::for_rows(&staging.provenance_after(&next.base).key, self.secret),
        };
        let keys = keys.stored_in(&columns);
        self.index(next, &keys).await?;
        let mut carried = 0;
        for (_, file) in self.former.base.files().iter() {
            carried += self.carry(file, &columns, &keys, next, staging).await?;
        }
        Ok(carried)
    }

    /// The columns that the table has afterwards: of a row that is carried over, those that came since are NULL.
    async fn columns(&self, next: &Generation, staging: &mut Staging) -> Result<Vec<LakeColumn>> {
        let former = self.former.base.columns();
        let mut columns = next_columns(staging, &next.base).to_vec();
        for column in &mut columns {
            let was = source_of(column, former);
            column.nullable |= was.is_none_or(|was| was.nullable || was.lake_type != column.lake_type);
        }
        if columns != next_columns(staging, &next.base) {
            // The open part has the former columns.
            staging.parts.close(&next.location).await?;
            let provenance = staging.provenance_after(&next.base);
            staging.set_columns(columns.clone(), provenance);
        }
        Ok(columns)
    }

    /// Has the keys of what is durable of the copy at hand.
    async fn index(&self, next: &mut Generation, keys: &KeyPlan) -> Result<()> {
        if next.index.is_some() || !next.base.exists() {
            return Ok(());
        }
        let mut index = TableIndex::new(&self.settings.indexes, self.table);
        let files = next.indexed_files();
        index_files(&next.location.table, &self.table.to_string(), keys, files, &mut index).await?;
        next.index = Some(index);
        Ok(())
    }

    async fn carry(
        &self,
        file: &LiveFile,
        columns: &[LakeColumn],
        keys: &KeyPlan,
        next: &Generation,
        staging: &mut Staging,
    ) -> Result<u64> {
        let stored = StoredFile::open(&self.former.location.table, &file.path, file.size, true).await?;
        let rows = u32::try_from(stored.rows()).unwrap_or(u32::MAX);
        let live: Vec<u32> = (0..rows).filter(|row| !file.deleted.contains(*row)).collect();
        let mut batches = stored.batches(None, Some(&live), READ_ROWS)?;
        let mut carried = 0;
        while let Some(batch) = batches.next().await {
            let former = batch?;
            let batch = self.fitted(&former, columns).map_err(|error| unfit(&file.path, error))?;
            let hashes = keys.hash_rows(&batch).ok_or_else(|| self.unkept("its key changed"))?;
            let mut known = self.known(hashes.clone(), next, staging).await?;
            // Under a key that changed, several rows may be one.
            let lacks = BooleanArray::from_iter(hashes.iter().map(|key| Some(known.insert(*key))));
            let only = |batch: &RecordBatch| filter_record_batch(batch, &lacks);
            let batch = only(&batch).map_err(|error| unfit(&file.path, error))?;
            if batch.num_rows() == 0 {
                continue;
            }
            self.check_values(&only(&former).map_err(|error| unfit(&file.path, error))?, &batch, columns)?;
            carried += batch.num_rows() as u64;
            let batch = self.marked(batch, columns).map_err(|error| unfit(&file.path, error))?;
            let first = staging.parts.append(&batch, &next.base.files().ids())?;
            if self.deleted_at.is_some() {
                // A row is found by its key when that comes again.
                let added = hashes.into_iter().zip(&lacks).filter(|(_, lacks)| *lacks == Some(true)).zip(first.row..);
                let placed = added.map(|((key, _), row)| (key, Some(RowAddress { file: first.file, row })));
                staging.parts.place(placed.collect(), &self.settings.indexes).await?;
            }
            staging.parts.close_if_full(&next.location, &self.settings.limits).await?;
        }
        Ok(carried)
    }

    /// Those of these keys that the copy has.
    async fn known(&self, hashes: Vec<KeyHash>, next: &Generation, staging: &Staging) -> Result<KeySet> {
        let mut known = staging.parts.live_keys(&hashes).await?;
        if let Some(index) = &next.index {
            let found = index.locate(hashes).await.map_err(|error| unreadable(self.table, error))?;
            let live = found.into_iter().filter(|(_, row)| next.base.files().holds(*row));
            known.extend(live.map(|(key, _)| key));
        }
        Ok(known)
    }

    /// An error if values of the former rows are others in the columns that the table has afterwards.
    fn check_values(&self, former: &RecordBatch, now: &RecordBatch, columns: &[LakeColumn]) -> Result<()> {
        for (column, values) in columns.iter().zip(now.columns()) {
            let Some(was) = source_of(column, self.former.base.columns()) else { continue };
            let Some(before) = former.column_by_name(was.stored_name()).filter(|_| was.lake_type != column.lake_type)
            else {
                continue;
            };
            let is_same = cast(values, before.data_type()).is_ok_and(|back| back.as_ref() == before.as_ref());
            if !is_same {
                let what = format!("column '{}' had a type before that its type cannot hold", was.name);
                return Err(self.unkept(&what));
            }
        }
        Ok(())
    }

    /// Rows that are carried over, with the time at which they were deleted, where the table tells that.
    fn marked(&self, batch: RecordBatch, columns: &[LakeColumn]) -> std::result::Result<RecordBatch, ArrowError> {
        match (self.deleted_at, columns.iter().position(mark::is_mark)) {
            (Some(deleted_at), Some(place)) => {
                let times = mark::times(&batch, place).into_iter().map(|known| known.or(Some(deleted_at)));
                mark::replaced(&batch, place, mark::values(times))
            }
            _ => Ok(batch),
        }
    }

    /// The error of rows that only the lake has and that do not fit the copy.
    fn unkept(&self, what: &str) -> Error {
        let (table, url) = (self.table, &self.former.location.url);
        Error::operator(
            Code::ShapeChanged,
            format!("cannot keep the rows of {table} that only the lake has"),
            format!("the table's shape changed: {what}"),
            format!(
                "move the lake table at {url} away, which keeps those rows as they are; then `sooner resume {table}` \
                 begins it again with the rows that the source has"
            ),
        )
    }

    /// Rows of the former generation with the columns that the table has afterwards. What a changed type cannot hold is
    /// NULL.
    fn fitted(&self, batch: &RecordBatch, columns: &[LakeColumn]) -> std::result::Result<RecordBatch, ArrowError> {
        let former = self.former.base.columns();
        let arrays = columns.iter().map(|column| match source_of(column, former) {
            None => LakeColumn { missing: None, ..column.clone() }.missing_values(batch.num_rows()),
            Some(was) => match batch.column_by_name(was.stored_name()) {
                Some(values) => cast(values, &arrow_type(&column.lake_type)),
                None => cast(&was.missing_values(batch.num_rows())?, &arrow_type(&column.lake_type)),
            },
        });
        RecordBatch::try_new(arrow_schema(columns), arrays.collect::<std::result::Result<_, _>>()?)
    }
}

/// The former column whose values one has: that of its name, or else the one that was called otherwise.
fn source_of<'a>(column: &LakeColumn, former: &'a [LakeColumn]) -> Option<&'a LakeColumn> {
    former.iter().find(|was| was.name == column.name).or_else(|| former.iter().find(|was| was.is_same(column)))
}

fn unreadable(table: &TableName, error: std::io::Error) -> Error {
    Error::retry(
        Code::IndexUnreadable,
        format!("cannot tell which rows of {table} its copy lacks"),
        error,
        format!("check the disk that state_dir lies on; it is tried again. If it stays so, {}", copy_again(table)),
    )
}
