//! Rows that the source has deleted, where the table keeps them: each stays under its key with its last values and the
//! time at which it was deleted, until its key comes again.

use std::collections::BTreeMap;

use arrow_array::{Array, BooleanArray};
use arrow_select::filter::filter_record_batch;
use futures::StreamExt;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use sooner_schemas::event::Op;

use super::event_plan::{EventPlan, copy_again};
use super::intake::ColumnChange;
use super::parts::Parts;
use super::pending::{Former, Pending, RowState, StateId};
use super::sealing::{Outcome, Sealer, Sealing, StoredRow};
use crate::clock::now_millis;
use crate::index::key::KeyHash;
use crate::index::key_index::{FileId, RowAddress};
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::fitting::{fitted, unfit};
use crate::rows::mark;
use crate::rows::source_block::commit_micros;
use crate::rows::stored_file::{self, READ_ROWS};

impl Sealer<'_> {
    /// Rows that the source has deleted are written again, with the time at which that was committed.
    pub fn keep_deleted(&self, plan: &EventPlan, pending: &Pending, replaces: bool) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for RowState { state: last, key } in pending.winners() {
            if pending.event(last).op != Op::Delete {
                outcome.rows.push(RowState { state: last, key });
                continue;
            }
            let (deletion, former) = pending.deletion(last);
            let deleted_at = deleted_at(plan, pending, deletion)?;
            match former {
                Former::State(state) => {
                    outcome.rows.push(RowState { state, key });
                    outcome.deleted_at.insert(key, deleted_at);
                }
                Former::Stored(stored) => match self.row_of(stored, replaces) {
                    Some(address) => outcome.stored.push(StoredRow { key, address, deleted_at }),
                    None => outcome.gone.push(key),
                },
                Former::Nothing => outcome.gone.push(key),
            }
        }
        Ok(outcome)
    }
}

/// Commit time of a delete; the present where another writer does not tell it.
fn deleted_at(plan: &EventPlan, pending: &Pending, deletion: StateId) -> Result<i64> {
    let table = &plan.schema.table;
    let micros = commit_micros(&plan.schema, pending.message(deletion)).map_err(|why| {
        let what = format!("cannot read an event of {table}");
        Error::operator(Code::MessageUnreadable, what, why, copy_again(table))
    })?;
    Ok(micros.unwrap_or_else(|| now_millis() * 1000))
}

impl Sealing<'_> {
    /// Writes deleted rows again that lie in files, with the times at which they were deleted. A row that was deleted
    /// before stays as it is. Returns where the others lie from now on.
    pub async fn mark_stored(
        &self,
        rows: Vec<StoredRow>,
        parts: &mut Parts,
    ) -> Result<Vec<(KeyHash, Option<RowAddress>)>> {
        let mut files: BTreeMap<FileId, Vec<StoredRow>> = BTreeMap::new();
        for row in rows {
            files.entry(row.address.file).or_default().push(row);
        }
        let mut placed = Vec::new();
        for (file, mut rows) in files {
            rows.sort_unstable_by_key(|row| row.address.row);
            self.mark_in_file(file, &rows, parts, &mut placed).await?;
        }
        Ok(placed)
    }

    async fn mark_in_file(
        &self,
        file: FileId,
        rows: &[StoredRow],
        parts: &mut Parts,
        placed: &mut Vec<(KeyHash, Option<RowAddress>)>,
    ) -> Result<()> {
        let Sealer { location, base, limits, table, .. } = self.sealer;
        if parts.is_open(file) {
            parts.close(location).await?;
        }
        let Some(file) = parts.file(file).or_else(|| base.files().get(file)) else {
            return Err(Error::internal(format!("cannot keep a deleted row of {table}"), "its file is gone"));
        };
        let (path, schema) = (file.path.clone(), arrow_schema(self.columns));
        let positions: Vec<u32> = rows.iter().map(|row| row.address.row).collect();
        let read = stored_file::open(&location.table, &path, file.size, None, Some(&positions), READ_ROWS);
        let (mut batches, mut rest) = (read.await?, rows.iter());
        let Some(place) = self.columns.iter().position(mark::is_mark) else { return Ok(()) };
        while let Some(batch) = batches.next().await {
            let batch = fitted(&batch?, self.columns, &schema).map_err(|error| unfit(&path, error))?;
            let rows: Vec<&StoredRow> = rest.by_ref().take(batch.num_rows()).collect();
            let is_new: BooleanArray = (0..rows.len()).map(|row| Some(batch.column(place).is_null(row))).collect();
            let times = mark::values(rows.iter().map(|row| Some(row.deleted_at)));
            let batch = mark::replaced(&batch, place, times);
            let batch = batch.and_then(|batch| filter_record_batch(&batch, &is_new));
            let batch = batch.map_err(|error| unfit(&path, error))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let first = parts.append(&batch, &base.files().ids())?;
            let new = rows.iter().zip(&is_new).filter(|(_, is_new)| *is_new == Some(true)).zip(first.row..);
            placed.extend(new.map(|((row, _), at)| (row.key, Some(RowAddress { file: first.file, row: at }))));
            parts.close_if_full(location, limits).await?;
        }
        Ok(())
    }
}

/// What a change of the source's columns means for a table that keeps deleted rows, whose columns are `former`.
pub fn change_beside_mark(
    table: &TableName,
    change: ColumnChange,
    former: &[LakeColumn],
    last_id: Option<i32>,
) -> Result<ColumnChange> {
    let columns = match change {
        ColumnChange::None if mark::of(former).is_some() => return Ok(ColumnChange::None),
        ColumnChange::None => former.to_vec(),
        ColumnChange::Changed(columns) => columns,
        ColumnChange::NeedsCopy(why) => return Ok(ColumnChange::NeedsCopy(why)),
    };
    Ok(ColumnChange::Changed(mark::beside(table, columns, former, last_id)?))
}

/// Why a table has to be copied again whose deleted rows are not to be kept any more.
pub fn no_longer_kept() -> String {
    "rows that its source deleted were kept (deletes = \"soft\"), and are not any more".to_owned()
}

/// The error of a table whose deleted rows cannot be kept because of how its events are read.
pub fn unordered(table: &TableName) -> Error {
    Error::operator(
        Code::PartitionsUnordered,
        format!("cannot keep deleted rows of {table}"),
        "its topic's partitions are not all read here in commit order, so that a copy could not be told from the rows \
         before it",
        "set deletes = \"hard\" for this table, or let one sink read all partitions of a topic that sooner writes",
    )
}
