//! From events in memory to rows in a part: the last state of each key, decoded, completed, and placed.

use std::collections::BTreeMap;

use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_cast::cast;
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave;
use sooner_api::{Code, Error, Result};
use sooner_schemas::event::Op;

use crate::builder::ColumnBuilder;
use crate::columns::arrow_schema;
use crate::data_file::{self, DataFileWriter};
use crate::index::{FileId, RowAddress};
use crate::key::KeyHash;
use crate::live_files::LiveFile;
use crate::pending::{Found, StateId};
use crate::rows::finish;
use crate::staging::OpenPart;
use crate::table::{DeltaTable, now_millis};

/// Rows of one Arrow batch.
const BATCH_ROWS: usize = 16 << 10;
/// The same, where values have to be filled in: those are large, or Postgres would not have left them out.
const FILLED_BATCH_ROWS: usize = 256;

/// A value that has to be filled in: row of the batch, and where it is.
struct Gap {
    row: usize,
    found: Found,
}

impl DeltaTable {
    /// Moves events from memory into parts.
    pub(crate) async fn seal_pending(&mut self) -> Result<()> {
        if self.staging.pending.is_empty() {
            return Ok(());
        }
        let winners = self.staging.pending.winners();
        let upserts: Vec<_> =
            winners.iter().copied().filter(|(state, _)| self.staging.pending.event(*state).op != Op::Delete).collect();
        let mut placed = Vec::with_capacity(upserts.len());
        let fills = upserts.iter().any(|(state, _)| !self.staging.pending.event(*state).unavailable.is_empty());
        for chunk in upserts.chunks(if fills { FILLED_BATCH_ROWS } else { BATCH_ROWS }) {
            let batch = self.decode(chunk).await?;
            let first = self.append(&batch)?;
            let rows = chunk.iter().zip(first.row..);
            placed.extend(rows.map(|((_, key), row)| (*key, RowAddress { file: first.file, row })));
            let part_bytes = self.part_bytes;
            if self.staging.open_part.as_mut().is_some_and(|part| part.writer.size_bytes() >= part_bytes) {
                self.close_part().await?;
            }
        }
        let deleted = winners.iter().filter(|(state, _)| self.staging.pending.event(*state).op == Op::Delete);
        let deleted: Vec<_> = deleted.map(|(_, key)| *key).collect();
        self.staging.moved.reserve(placed.len());
        for (key, row) in placed {
            self.staging.place(key, Some(row));
        }
        for key in deleted {
            self.staging.place(key, None);
        }
        self.staging.pending.clear();
        Ok(())
    }

    /// Writes the open part to the store.
    pub(crate) async fn close_part(&mut self) -> Result<()> {
        let Some(OpenPart { id, writer }) = self.staging.open_part.take() else {
            return Ok(());
        };
        let (rows, path) = (writer.rows(), data_file::new_path());
        let bytes = writer.finish()?;
        let size = bytes.len() as u64;
        crate::store::put(&*self.location.table, &path, bytes).await?;
        self.staging.parts.insert(id, LiveFile::written(path, size, rows.into(), now_millis()));
        Ok(())
    }

    fn append(&mut self, batch: &RecordBatch) -> Result<RowAddress> {
        let part = match &mut self.staging.open_part {
            Some(part) => part,
            none => none.insert(OpenPart { id: self.files.reserve_id(), writer: DataFileWriter::new(batch.schema())? }),
        };
        let first = RowAddress { file: part.id, row: part.writer.rows() };
        part.writer.write(batch)?;
        Ok(first)
    }

    async fn decode(&mut self, states: &[(StateId, KeyHash)]) -> Result<RecordBatch> {
        let schema = arrow_schema(self.next_columns());
        let staging = &self.staging;
        let Some(shape) = &staging.shape else {
            return Err(Error::fatal(Code::Internal, "cannot seal events", "their schema is not known", "report this"));
        };
        let mut builders = shape.rows.builders()?;
        let mut gaps: BTreeMap<usize, Vec<Gap>> = BTreeMap::new();
        for (row, (state, _)) in states.iter().enumerate() {
            let event = staging.pending.event(*state);
            shape.rows.append(staging.pending.message(*state), &event.unavailable, &mut builders)?;
            for &column in &event.unavailable {
                let found = staging.pending.find(*state, column);
                gaps.entry(column.into()).or_default().push(Gap { row, found });
            }
        }
        let mut arrays = finish(&mut builders);
        // Of events that are older than the table's last columns.
        let newer = schema.fields().iter().skip(arrays.len());
        arrays.extend(newer.map(|field| new_null_array(field.data_type(), states.len())));
        for (column, gaps) in gaps {
            arrays[column] = self.fill(column, &arrays[column], &gaps).await?;
        }
        RecordBatch::try_new(schema, arrays).map_err(|error| {
            Error::operator(
                Code::ValueUnholdable,
                format!("cannot store rows of {}", self.name),
                error,
                format!("`sooner resume {}` copies the table again", self.name),
            )
        })
    }

    /// Puts values that events left out into a column.
    async fn fill(&mut self, column: usize, array: &ArrayRef, gaps: &[Gap]) -> Result<ArrayRef> {
        let mut from_states = self.column_builder(column)?;
        let mut stored: BTreeMap<FileId, Vec<(u32, usize)>> = BTreeMap::new();
        // For each row of the batch: which array holds its value, and where. Array 0 is the column itself, 1 holds
        // values of earlier events, and each further one those of a data file.
        let mut sources: Vec<(usize, usize)> = (0..array.len()).map(|row| (0, row)).collect();
        for gap in gaps {
            match gap.found {
                Found::InState(state) => {
                    sources[gap.row] = (1, from_states.taken());
                    self.append_from_state(column, state, &mut from_states)?;
                }
                Found::Stored(key) => {
                    let row = self.find_row(key).ok_or_else(|| self.lost_value(column))?;
                    stored.entry(row.file).or_default().push((row.row, gap.row));
                }
                Found::Lost => return Err(self.lost_value(column)),
            }
        }
        let mut arrays = vec![array.clone(), from_states.finish()];
        for (file, mut rows) in stored {
            rows.sort_unstable();
            for (position, (_, target)) in rows.iter().enumerate() {
                sources[*target] = (arrays.len(), position);
            }
            let positions: Vec<u32> = rows.iter().map(|(row, _)| *row).collect();
            let values = self.read_column(column, file, &positions).await?;
            arrays.push(cast(&values, array.data_type()).map_err(|error| self.unfit(&error))?);
        }
        let arrays: Vec<_> = arrays.iter().map(AsRef::as_ref).collect();
        interleave(&arrays, &sources).map_err(|error| self.unfit(&error))
    }

    fn column_builder(&self, column: usize) -> Result<ColumnBuilder> {
        match &self.staging.shape {
            Some(shape) => shape.rows.builder(column),
            None => Err(self.lost_value(column)),
        }
    }

    fn append_from_state(&self, column: usize, state: StateId, builder: &mut ColumnBuilder) -> Result<()> {
        match &self.staging.shape {
            Some(shape) => shape.rows.append_column(self.staging.pending.message(state), column, builder),
            None => Err(self.lost_value(column)),
        }
    }

    /// Where a key's row lies, as of what is sealed; or lay, if it is gone: only the second event of a changed key, whose first
    /// one was sealed, asks for such a row.
    fn find_row(&self, key: KeyHash) -> Option<RowAddress> {
        if let Some(row) = self.staging.moved.get(key).or_else(|| self.staging.gone_rows.get(&key).copied()) {
            return Some(row);
        }
        if self.staging.replaces {
            return None;
        }
        let row = self.index.as_ref()?.get(key)?;
        self.files.holds(row).then_some(row)
    }

    /// One column of a file's rows at ascending positions.
    async fn read_column(&mut self, column: usize, file: FileId, positions: &[u32]) -> Result<ArrayRef> {
        if self.staging.open_part.as_ref().is_some_and(|part| part.id == file) {
            self.close_part().await?;
        }
        let file = self.staging.parts.get(&file).or_else(|| self.files.get(file));
        let Some(file) = file else { return Err(self.lost_value(column)) };
        let name = self.next_columns()[column].name.clone();
        let mut found: Vec<ArrayRef> = Vec::new();
        let (path, size) = (file.path.clone(), file.size);
        data_file::read(&self.location.table, &path, size, &[&name], Some(positions), |batch| {
            found.push(batch.column(0).clone());
            Ok(())
        })
        .await?;
        let found: Vec<_> = found.iter().map(AsRef::as_ref).collect();
        let rows: usize = found.iter().map(|array| array.len()).sum();
        if rows != positions.len() {
            return Err(self.lost_value(column));
        }
        arrow_select::concat::concat(&found).map_err(|error| self.unfit(&error))
    }

    fn lost_value(&self, column: usize) -> Error {
        let name = self.next_columns().get(column).map_or("?", |column| column.name.as_str());
        let mut remedy = format!("`sooner resume {}` copies the table again", self.name);
        if self.app_ids.are_of_topic() {
            remedy.push_str(
                "; where several sinks share a topic, or somebody else writes it, and keys change, set the table's \
                 REPLICA IDENTITY to FULL first",
            );
        }
        Error::operator(
            Code::ValueMissing,
            format!("cannot complete a row of {}", self.name),
            format!("Postgres left out the unchanged value of '{name}', and the lake has no row to take it from"),
            remedy,
        )
    }

    fn unfit(&self, error: &ArrowError) -> Error {
        Error::operator(
            Code::ValueUnholdable,
            format!("cannot complete a row of {}", self.name),
            error,
            format!("`sooner resume {}` copies the table again", self.name),
        )
    }
}
