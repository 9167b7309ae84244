//! A TRUNCATE of the source, as a table takes it: its rows go, or are all written again as deleted, or it is refused or
//! ignored where rows are only added.

use arrow_array::RecordBatch;
use arrow_select::filter::filter_record_batch;
use futures::StreamExt;
use roaring::RoaringBitmap;
use sooner_api::{Code, Error, LakeTable, Result, Rows};

use super::DeltaTable;
use super::appending::appends;
use crate::clock::now_millis;
use crate::generation::Generation;
use crate::index::key::KeyPlan;
use crate::index::key_index::RowAddress;
use crate::log::live_files::LiveFile;
use crate::merge::event_plan::copy_again;
use crate::merge::intake::changed_shape;
use crate::merge::parts::Parts;
use crate::merge::seal::next_columns;
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::fitting::{fitted, unfit};
use crate::rows::mark;
use crate::rows::source_block::commit_micros;
use crate::rows::stored_file::{READ_ROWS, StoredFile};

/// The source has removed all rows.
pub(super) async fn truncate(table: &mut DeltaTable, truncate: &Rows) -> Result<()> {
    if appends(table, &truncate.events.schema).is_some() {
        if let Some(appending) = &table.appending {
            appending.change("a TRUNCATE", truncate, &mut table.staging)?;
        }
        return Ok(());
    }
    if !table.base().exists() && table.staging.columns.is_none() {
        return Ok(());
    }
    if table.keeps_deleted {
        return mark_all(table, truncate).await;
    }
    table.staging.truncate();
    Ok(())
}

/// Writes all rows again, as deleted; those that were deleted before stay as they are.
async fn mark_all(table: &mut DeltaTable, truncate: &Rows) -> Result<()> {
    let deleted_at = committed_at(truncate)?;
    table.seal().await?;
    let location = table.generations.target().location.clone();
    table.staging.parts.close(&location).await?;
    let columns = marked_columns(table)?;
    let keys = match &table.staging.plan {
        Some(plan) => plan.keys.clone(),
        None => KeyPlan::for_rows(&table.staging.provenance_after(table.base()).key, table.secret),
    };
    let marking = Marking { table, keys: keys.stored_in(&columns), columns: &columns, deleted_at };
    let staged = &table.staging.parts;
    let mut parts = Parts::default();
    for (id, file) in staged.written() {
        let gone = staged.superseded().get(id).cloned().unwrap_or_default();
        marking.file(file, &gone, None, &mut parts).await?;
    }
    let replaced = table.staging.replaces();
    for (_, file) in table.base().files().iter().filter(|_| !replaced) {
        marking.file(file, &file.deleted, Some(staged), &mut parts).await?;
    }
    table.staging.truncate();
    table.staging.parts = parts;
    Ok(())
}

/// The table's columns from here on. No file is open that lacks the mark.
fn marked_columns(table: &mut DeltaTable) -> Result<Vec<LakeColumn>> {
    let known = next_columns(&table.staging, table.base()).to_vec();
    if mark::of(&known).is_some() {
        return Ok(known);
    }
    let columns = mark::beside(&table.name, known.clone(), &known, table.mapping().last_id)?;
    let provenance = table.staging.provenance_after(table.base());
    table.staging.set_columns(columns.clone(), provenance);
    Ok(columns)
}

fn committed_at(truncate: &Rows) -> Result<i64> {
    let events = &truncate.events;
    let message = events.events.first().map(|event| &events.bytes[event.value.clone()]);
    let micros = message.map(|message| commit_micros(&events.schema, message)).transpose().map_err(|why| {
        let what = format!("cannot read an event of {}", events.schema.table);
        Error::operator(Code::MessageUnreadable, what, why, copy_again(&events.schema.table))
    })?;
    Ok(micros.flatten().unwrap_or_else(|| now_millis() * 1000))
}

/// How rows are written again.
struct Marking<'a> {
    table: &'a DeltaTable,
    keys: KeyPlan,
    columns: &'a [LakeColumn],
    deleted_at: i64,
}

impl Marking<'_> {
    /// Writes the rows of a file again, but for those that are `gone`, and those whose keys have other rows in parts
    /// that are `newer`.
    async fn file(
        &self,
        file: &LiveFile,
        gone: &RoaringBitmap,
        newer: Option<&Parts>,
        parts: &mut Parts,
    ) -> Result<()> {
        let Generation { location, base, .. } = self.table.generations.target();
        let stored = StoredFile::open(&location.table, &file.path, file.size, true).await?;
        let rows = u32::try_from(stored.rows()).unwrap_or(u32::MAX);
        let live: Vec<u32> = (0..rows).filter(|row| !gone.contains(*row)).collect();
        let mut batches = stored.batches(None, Some(&live), READ_ROWS)?;
        while let Some(batch) = batches.next().await {
            let batch = fitted(&batch?, self.columns, &arrow_schema(self.columns));
            let batch = self.left(batch.map_err(|error| unfit(&file.path, error))?, newer).await?;
            let batch = self.marked(&batch).map_err(|error| unfit(&file.path, error))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let keys = self.hashes(&batch)?;
            let first = parts.append(&batch, &base.files().ids())?;
            let placed = keys.into_iter().zip(first.row..);
            let placed = placed.map(|(key, row)| (key, Some(RowAddress { file: first.file, row })));
            parts.place(placed.collect(), &self.table.settings.indexes).await?;
            parts.close_if_full(location, &self.table.settings.limits).await?;
        }
        Ok(())
    }

    fn hashes(&self, batch: &RecordBatch) -> Result<Vec<crate::index::key::KeyHash>> {
        self.keys.hash_rows(batch).ok_or_else(|| changed_shape(&self.table.name, "its key changed"))
    }

    /// Those rows whose keys have no newer ones.
    async fn left(&self, batch: RecordBatch, newer: Option<&Parts>) -> Result<RecordBatch> {
        let Some(newer) = newer else { return Ok(batch) };
        let hashes = self.hashes(&batch)?;
        let known = newer.rows_of(&hashes).await?;
        let is_left = hashes.iter().map(|key| Some(!known.contains_key(key))).collect();
        filter_record_batch(&batch, &is_left).map_err(|error| unfit(&self.table.name, error))
    }

    fn marked(&self, batch: &RecordBatch) -> std::result::Result<RecordBatch, arrow_schema::ArrowError> {
        let Some(place) = self.columns.iter().position(mark::is_mark) else { return Ok(batch.clone()) };
        let times = mark::times(batch, place).into_iter().map(|known| known.or(Some(self.deleted_at)));
        mark::replaced(batch, place, mark::values(times))
    }
}
