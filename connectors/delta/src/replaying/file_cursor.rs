//! One data file of a history, read in commit order, whatever order its rows are in.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{RecordBatch, UInt32Array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use futures::StreamExt;
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, Position};

use super::facts::FactColumns;
use crate::log::live_files::LiveFile;
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::fitting::{fitted, unfit};
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::location::TableLocation;

/// Bytes of the rows that are in memory of a file, as far as its averages tell.
const SLICE_BYTES: usize = 4 << 20;

/// A file that is being read: what is in memory are the numbers of its rows, and some of the rows.
pub struct FileCursor {
    stored: StoredFile,
    path: String,
    /// Numbers of the live rows, in commit order.
    order: Vec<u32>,
    /// How many of them have been read.
    read: usize,
    slice: Option<Slice>,
}

struct Slice {
    rows: RecordBatch,
    positions: Vec<Position>,
    next: usize,
}

impl FileCursor {
    /// Opens a file of a history with these columns, and finds the order of its rows.
    pub async fn open(location: &TableLocation, file: &LiveFile, columns: &[LakeColumn]) -> Result<FileCursor> {
        let stored = StoredFile::open(&location.table, &file.path, file.size, true).await?;
        let order = order_of(&stored, file, columns).await?;
        Ok(FileCursor { stored, path: file.path.to_string(), order, read: 0, slice: None })
    }

    /// Position of the next row, once it is read; none at the end.
    pub async fn head(&mut self, columns: &[LakeColumn]) -> Result<Option<Position>> {
        if self.slice.as_ref().is_none_or(|slice| slice.next == slice.positions.len()) {
            self.slice = self.next_slice(columns).await?;
        }
        Ok(self.slice.as_ref().and_then(|slice| slice.positions.get(slice.next)).copied())
    }

    /// The next rows of those in memory that come before `limit`, and at least those of the next event.
    pub fn take_before(&mut self, limit: Option<Position>) -> Option<RecordBatch> {
        let slice = self.slice.as_mut()?;
        let head = *slice.positions.get(slice.next)?;
        let rest = &slice.positions[slice.next..];
        let count = rest.iter().take_while(|at| **at == head || limit.is_none_or(|limit| **at < limit)).count();
        let taken = slice.rows.slice(slice.next, count);
        slice.next += count;
        Some(taken)
    }

    async fn next_slice(&mut self, columns: &[LakeColumn]) -> Result<Option<Slice>> {
        let most = (SLICE_BYTES / self.stored.row_bytes().max(1)).clamp(1, READ_ROWS);
        let wanted = self.order.get(self.read..self.order.len().min(self.read + most)).unwrap_or_default();
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut ascending = wanted.to_vec();
        ascending.sort_unstable();
        let schema = arrow_schema(columns);
        let names: Vec<&str> = columns.iter().map(LakeColumn::stored_name).collect();
        let mut batches = self.stored.batches(Some(&names), Some(&ascending), most)?;
        let mut read = Vec::new();
        while let Some(batch) = batches.next().await {
            read.push(fitted(&batch?, columns, &schema).map_err(|error| unfit(&self.path, error))?);
        }
        let mut rows = concat_batches(&schema, &read).map_err(|error| unfit(&self.path, error))?;
        if rows.num_rows() != wanted.len() {
            return Err(unfit(&self.path, "it lacks rows that it had"));
        }
        if ascending != wanted {
            let places = wanted.iter().filter_map(|row| ascending.binary_search(row).ok()).map(|place| place as u32);
            let places = UInt32Array::from_iter_values(places);
            rows = take_record_batch(&rows, &places).map_err(|error| unfit(&self.path, error))?;
        }
        self.read += wanted.len();
        let facts = FactColumns::of(&rows)?;
        let positions = (0..facts.len()).map(|row| facts.at(row).map(|facts| facts.position)).collect::<Result<_>>()?;
        Ok(Some(Slice { rows, positions, next: 0 }))
    }
}

/// Numbers of a file's live rows in commit order. The program writes them in that order, and others may not: then their
/// positions are in memory as well for a moment, 24 bytes a row.
async fn order_of(stored: &StoredFile, file: &LiveFile, columns: &[LakeColumn]) -> Result<Vec<u32>> {
    let (mut order, mut last, mut is_sorted) = (Vec::new(), Position::default(), true);
    each_position(stored, file, columns, |row, position| {
        is_sorted &= last <= position;
        last = position;
        order.push(row);
    })
    .await?;
    if is_sorted {
        return Ok(order);
    }
    let mut keyed = Vec::with_capacity(order.len());
    each_position(stored, file, columns, |row, position| keyed.push((position, row))).await?;
    keyed.sort_unstable();
    Ok(keyed.into_iter().map(|(_, row)| row).collect())
}

async fn each_position(
    stored: &StoredFile,
    file: &LiveFile,
    columns: &[LakeColumn],
    mut each: impl FnMut(u32, Position),
) -> Result<()> {
    let [lsn, ordinal] = [1, 2].map(|place: usize| columns[place].stored_name());
    let mut batches = stored.batches(Some(&[lsn, ordinal]), None, READ_ROWS)?;
    let mut row = 0;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let numbers = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>().cloned();
        let Some((lsns, ordinals)) = numbers(lsn).zip(numbers(ordinal)) else {
            let what = format!("cannot read the events of {}", file.path);
            let why = "it lacks the columns that say where in the log they are";
            return Err(Error::operator(Code::FileDamaged, what, why, "restore the file"));
        };
        for (lsn, ordinal) in lsns.values().iter().zip(ordinals.values()) {
            if !file.deleted.contains(row) {
                each(row, Position { commit_lsn: Lsn(lsn.cast_unsigned()), ordinal: ordinal.cast_unsigned() });
            }
            row += 1;
        }
    }
    Ok(())
}
