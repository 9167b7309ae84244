//! Rows that are carried over into a copy because it lacks them: where changes of rows are ignored, what the source has
//! removed stays. Enters: the generation that readers see, and the one that a copy has built; leaves: rows in parts.

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use futures::StreamExt;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use crate::generation::Generation;
use crate::index::build::index_files;
use crate::index::key::{KeyHash, KeyPlan, KeySet};
use crate::index::table_index::TableIndex;
use crate::log::live_files::LiveFile;
use crate::maintenance::fitting::unfit;
use crate::merge::event_plan::copy_again;
use crate::merge::intake::changed_shape;
use crate::merge::seal::next_columns;
use crate::merge::staging::Staging;
use crate::rows::columns::{LakeColumn, arrow_schema};
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
            if let Some(was) = was.filter(|was| was.lake_type != column.lake_type) {
                let what =
                    format!("column '{}' had another type before, which rows have that only the lake has", was.name);
                return Err(changed_shape(self.table, &what));
            }
            column.nullable |= was.is_none_or(|was| was.nullable);
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
            let batch = self.fitted(&batch?, columns).map_err(|error| unfit(&file.path, error))?;
            let hashes = keys.hash_rows(&batch).ok_or_else(|| changed_shape(self.table, "its key changed"))?;
            let known = self.known(hashes.clone(), next, staging).await?;
            let lacks = BooleanArray::from_iter(hashes.iter().map(|key| Some(!known.contains(key))));
            let batch = filter_record_batch(&batch, &lacks).map_err(|error| unfit(&file.path, error))?;
            if batch.num_rows() == 0 {
                continue;
            }
            carried += batch.num_rows() as u64;
            staging.parts.append(&batch, &next.base.files().ids())?;
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

    /// Rows of the former generation with the columns that the table has afterwards.
    fn fitted(&self, batch: &RecordBatch, columns: &[LakeColumn]) -> std::result::Result<RecordBatch, ArrowError> {
        let former = self.former.base.columns();
        let arrays = columns.iter().map(|column| match source_of(column, former) {
            None => LakeColumn { missing: None, ..column.clone() }.missing_values(batch.num_rows()),
            Some(was) => match batch.column_by_name(was.stored_name()) {
                Some(values) => Ok(values.clone()),
                None => was.missing_values(batch.num_rows()),
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
