//! Values that Postgres left out of an event, because the change did not touch them: taken from an earlier event in
//! memory, or from the row that the event supersedes.
//!
//! <https://www.postgresql.org/docs/current/storage-toast.html>

use std::collections::BTreeMap;

use arrow_array::{Array, ArrayRef};
use arrow_cast::cast;
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave;
use futures::StreamExt;
use sooner_api::{Code, Error, Result};

use super::event_plan::copy_again;
use super::parts::Parts;
use super::pending::Found;
use super::sealing::Sealing;
use crate::index::key_index::FileId;
use crate::rows::columns::LakeColumn;
use crate::rows::stored_file;

/// Rows that are read at a time: their values are large, or Postgres would not have left them out.
const FILLED_ROWS: usize = 4;

/// A value that has to be filled in.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// Row of the batch.
    pub row: usize,
    /// Where the value is.
    pub found: Found,
}

/// A column of events, given by its place there and as it is in the table, with its gaps filled; none if the values
/// that are read for that are larger than `left_bytes`, of which they take what they need.
pub async fn fill(
    sealing: &Sealing<'_>,
    parts: &mut Parts,
    (column, in_table): (usize, &LakeColumn),
    array: &ArrayRef,
    gaps: &[Gap],
    left_bytes: &mut usize,
) -> Result<Option<ArrayRef>> {
    let filler = Filler { sealing, column: in_table };
    let mut from_states = sealing.plan.rows.builder(column)?;
    let mut stored: BTreeMap<FileId, Vec<(u32, usize)>> = BTreeMap::new();
    // For each row of the batch: which array holds its value, and where. Array 0 is the column itself, 1 holds values
    // of earlier events, and all others those of data files.
    let mut sources: Vec<(usize, usize)> = (0..array.len()).map(|row| (0, row)).collect();
    for gap in gaps {
        match gap.found {
            Found::InState(state) => {
                sources[gap.row] = (1, from_states.taken());
                let message = sealing.pending.message(state);
                sealing.plan.rows.append_column(message, column, &mut from_states)?;
            }
            Found::Stored(key) => {
                let row = sealing.sealer.row_of(key, sealing.replaces).ok_or_else(|| filler.lost_value())?;
                stored.entry(row.file).or_default().push((row.row, gap.row));
            }
            Found::Lost => return Err(filler.lost_value()),
        }
    }
    let mut arrays = vec![array.clone(), from_states.finish()];
    for (file, mut rows) in stored {
        rows.sort_unstable();
        // Several gaps may need the value of one row.
        let mut positions: Vec<u32> = rows.iter().map(|(row, _)| *row).collect();
        positions.dedup();
        let Some(values) = filler.read_column(parts, file, &positions, left_bytes).await? else {
            return Ok(None);
        };
        let (mut positions, mut targets) = (positions.into_iter(), rows.into_iter().peekable());
        for values in values {
            for (at, position) in positions.by_ref().take(values.len()).enumerate() {
                while let Some((_, target)) = targets.next_if(|(row, _)| *row == position) {
                    sources[target] = (arrays.len(), at);
                }
            }
            arrays.push(cast(&values, array.data_type()).map_err(|error| filler.unfit(&error))?);
        }
    }
    let arrays: Vec<_> = arrays.iter().map(AsRef::as_ref).collect();
    interleave(&arrays, &sources).map(Some).map_err(|error| filler.unfit(&error))
}

/// Fills one column.
struct Filler<'a> {
    sealing: &'a Sealing<'a>,
    column: &'a LakeColumn,
}

impl Filler<'_> {
    /// The column of a file's rows at ascending positions, in pieces; none once they have more bytes than are left.
    async fn read_column(
        &self,
        parts: &mut Parts,
        file: FileId,
        positions: &[u32],
        left_bytes: &mut usize,
    ) -> Result<Option<Vec<ArrayRef>>> {
        let location = self.sealing.sealer.location;
        if parts.is_open(file) {
            parts.close(location).await?;
        }
        let file = parts.file(file).or_else(|| self.sealing.sealer.base.files().get(file));
        let Some(file) = file else { return Err(self.lost_value()) };
        let name = self.column.stored_name();
        let columns = Some(&[name][..]);
        let mut batches =
            stored_file::open(&location.table, &file.path, file.size, columns, Some(positions), FILLED_ROWS).await?;
        let mut found: Vec<ArrayRef> = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            let Some(array) = batch.columns().first() else { return Err(self.lost_value()) };
            found.push(array.clone());
            let bytes = array.get_array_memory_size();
            if bytes > *left_bytes {
                return Ok(None);
            }
            *left_bytes -= bytes;
        }
        if found.iter().map(|array| array.len()).sum::<usize>() != positions.len() {
            return Err(self.lost_value());
        }
        Ok(Some(found))
    }

    fn lost_value(&self) -> Error {
        let name = &self.column.name;
        let table = self.sealing.sealer.table;
        let mut remedy = copy_again(table);
        if self.sealing.sealer.from_topic {
            remedy.push_str(
                "; where several sinks share a topic, or somebody else writes it, and keys change, set the table's \
                 REPLICA IDENTITY to FULL first",
            );
        }
        Error::operator(
            Code::ValueMissing,
            format!("cannot complete a row of {table}"),
            format!("Postgres left out the unchanged value of '{name}', and the lake has no row to take it from"),
            remedy,
        )
    }

    fn unfit(&self, error: &ArrowError) -> Error {
        let table = self.sealing.sealer.table;
        let what = format!("cannot complete a row of {table}");
        Error::operator(Code::ValueUnholdable, what, error, copy_again(table))
    }
}
