//! The images of one change of a row: its key, and the row before and after. They are written as soon as the change is
//! read; the rest of the envelope is added once its transaction's position and commit time are known.

use std::ops::Range;

use super::masking::Masking;
use super::row::RowPlan;
use super::tuple::{RowChange, TupleValue, ValueError};
use crate::event::Op;
use crate::relation::Relation;
use crate::wire::{write_header, write_long};

/// Registry ids of a table's key and value schemas.
#[derive(Clone, Copy, Debug)]
pub struct SchemaIds {
    /// Id of the key schema; none for a table without a key.
    pub key: Option<u32>,
    /// Id of the value schema.
    pub value: u32,
}

/// Where the images of a change lie in the bytes that they were appended to. The value is an envelope that ends after
/// its `after` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// What happened to the row or the table.
    pub op: Op,
    /// Key message with its header; empty for an event without a key.
    pub key: Range<usize>,
    /// Key message of the row before its key was changed.
    pub old_key: Option<Range<usize>>,
    /// Value message with its header, as far as it is written.
    pub value: Range<usize>,
    /// Indexes of columns whose value Postgres left out; the image holds placeholders there.
    pub unavailable: Box<[u16]>,
}

impl Images {
    /// Where all of it begins.
    pub fn start(&self) -> usize {
        self.old_key.as_ref().unwrap_or(&self.key).start
    }

    /// The same, after the bytes were moved to begin at another place.
    pub fn moved(self, start: usize) -> Images {
        let former = self.start();
        let moved = |range: Range<usize>| range.start - former + start..range.end - former + start;
        Images { key: moved(self.key), old_key: self.old_key.map(moved), value: moved(self.value), ..self }
    }
}

/// Writes the images of one relation's rows. A method that fails leaves the bytes as they were.
#[derive(Debug)]
pub struct ImageWriter {
    ids: SchemaIds,
    key: Option<RowPlan>,
    row: RowPlan,
    masking: Option<Masking>,
}

impl ImageWriter {
    /// Compiles the plans for a relation, as events carry it; `masking` makes its rows of those that Postgres sends.
    pub fn new(relation: &Relation, ids: SchemaIds, masking: Option<Masking>) -> ImageWriter {
        let key = (!relation.key.is_empty()).then(|| RowPlan::key(relation));
        ImageWriter { ids, key, row: RowPlan::value(relation), masking }
    }

    /// Number of columns that a row must have.
    pub fn width(&self) -> usize {
        self.masking.as_ref().map_or_else(|| self.row.width(), Masking::width)
    }

    /// Appends the images of a change.
    pub fn write(&self, bytes: &mut Vec<u8>, op: Op, change: RowChange<'_>) -> Result<Images, ValueError> {
        match &self.masking {
            None => self.write_masked(bytes, op, change),
            Some(masking) => masking.apply(change, |change| self.write_masked(bytes, op, change)),
        }
    }

    fn write_masked(&self, bytes: &mut Vec<u8>, op: Op, change: RowChange<'_>) -> Result<Images, ValueError> {
        let start = bytes.len();
        let written = match change {
            RowChange::New(row) => self.write_upsert(bytes, None, None, row),
            RowChange::Changed(before, row) => self.write_upsert(bytes, None, before, row),
            RowChange::Renamed(old, row) => self.write_upsert(bytes, Some(old), None, row),
            RowChange::Removed(old) => {
                self.write_removed(bytes, old, |bytes| self.row.write(bytes, old, &mut Vec::new()))
            }
            RowChange::RemovedKey(old) => self.write_removed(bytes, old, |bytes| self.row.write_key_only(bytes, old)),
        };
        match written {
            Ok(images) => Ok(Images { op, ..images }),
            Err(error) => {
                bytes.truncate(start);
                Err(error)
            }
        }
    }

    /// Appends the images of an event of the whole table, which has no rows.
    pub fn write_without_rows(&self, bytes: &mut Vec<u8>, op: Op) -> Images {
        let start = bytes.len();
        write_header(bytes, self.ids.value);
        write_long(bytes, 0);
        write_long(bytes, 0);
        Images { op, key: start..start, old_key: None, value: start..bytes.len(), unavailable: Box::default() }
    }

    fn write_upsert(
        &self,
        bytes: &mut Vec<u8>,
        old_key: Option<&[TupleValue<'_>]>,
        before: Option<&[TupleValue<'_>]>,
        row: &[TupleValue<'_>],
    ) -> Result<Images, ValueError> {
        let old_key = old_key.map(|old| self.write_key(bytes, old)).transpose()?;
        let key = self.write_key(bytes, row)?;
        let value_start = bytes.len();
        write_header(bytes, self.ids.value);
        match before {
            None => write_long(bytes, 0),
            Some(before) => {
                write_long(bytes, 1);
                self.row.write(bytes, before, &mut Vec::new())?;
            }
        }
        write_long(bytes, 1);
        let mut unavailable = Vec::new();
        self.row.write(bytes, row, &mut unavailable)?;
        let value = value_start..bytes.len();
        Ok(Images { op: Op::Update, key, old_key, value, unavailable: unavailable.into() })
    }

    fn write_removed(
        &self,
        bytes: &mut Vec<u8>,
        old: &[TupleValue<'_>],
        write_before: impl FnOnce(&mut Vec<u8>) -> Result<(), ValueError>,
    ) -> Result<Images, ValueError> {
        let key = self.write_key(bytes, old)?;
        let value_start = bytes.len();
        write_header(bytes, self.ids.value);
        write_long(bytes, 1);
        write_before(bytes)?;
        write_long(bytes, 0);
        let value = value_start..bytes.len();
        Ok(Images { op: Op::Delete, key, old_key: None, value, unavailable: Box::default() })
    }

    fn write_key(&self, bytes: &mut Vec<u8>, row: &[TupleValue<'_>]) -> Result<Range<usize>, ValueError> {
        let start = bytes.len();
        if let (Some(plan), Some(id)) = (&self.key, self.ids.key) {
            write_header(bytes, id);
            plan.write_complete(bytes, row)?;
        }
        Ok(start..bytes.len())
    }
}
