//! Writes the rows of a history that make up a table.

use std::collections::{HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{ArrowError, DataType};
use arrow_select::interleave::interleave;
use arrow_select::take::take;
use sooner_api::{Error, Result};

use super::choice::ChosenRow;
use super::{LEAVE_OUT, Rebuild};
use crate::log::live_files::FileIds;
use crate::merge::parts::{PartLimits, Parts};
use crate::replaying::facts::FactColumns;
use crate::rows::columns::arrow_schema;
use crate::store::location::TableLocation;

/// Values that rows lend to later ones, each by the row's number and the column's place.
type Lent = HashMap<(u64, usize), ArrayRef>;

impl Rebuild<'_> {
    /// Appends rows, which are in the order of their numbers. `first` is, for each column, the number of the first row
    /// that has a value of it.
    pub(super) async fn write(
        &self,
        rows: Vec<ChosenRow>,
        first: &[u64],
        (parts, ids): (&mut Parts, &FileIds),
        (location, limits): (&TableLocation, &PartLimits),
    ) -> Result<()> {
        let borrowed = rows.iter().flat_map(|row| row.borrowed.iter().copied());
        let lending: HashSet<(u64, usize)> = borrowed.map(|(place, number)| (number, place)).collect();
        let lenders: HashSet<u64> = lending.iter().map(|(number, _)| *number).collect();
        let (mut lent, mut number, mut written) = (Lent::new(), 0, 0);
        let each = async |batch: RecordBatch| {
            let facts = FactColumns::of(&batch)?;
            let mut past = 0;
            while past < facts.len() && facts.at(past)?.position.commit_lsn <= self.wanted.lsn {
                past += 1;
            }
            for row in (0..past).filter(|row| lenders.contains(&(number + *row as u64))) {
                let this = number + row as u64;
                for place in self.places.iter().filter(|place| lending.contains(&(this, **place))) {
                    let value = take(batch.column(*place), &UInt64Array::from(vec![row as u64]), None);
                    lent.insert((this, *place), value.map_err(internal)?);
                }
            }
            let end = written + rows[written..].partition_point(|row| row.number < number + past as u64);
            if written < end {
                let chosen = &rows[written..end];
                self.check_defaults(&batch, number, chosen, (first, &lent))?;
                let batch = self.assembled(&batch, number, chosen, &lent).map_err(internal)?;
                parts.append(&batch, ids)?;
                parts.close_if_full(location, limits).await?;
            }
            (written, number) = (end, number + past as u64);
            Ok(past == facts.len())
        };
        self.history.scan(self.history.columns(), each).await
    }

    /// An operator error if a row has no value of a column that was added with a default: it may be older than the
    /// column, and then it has the default, or NULL may have been written.
    fn check_defaults(
        &self,
        batch: &RecordBatch,
        from: u64,
        rows: &[ChosenRow],
        (first, lent): (&[u64], &Lent),
    ) -> Result<()> {
        let columns = self.columns.iter().zip(&self.places).zip(first);
        for ((_, place), first) in columns.filter(|((column, _), _)| column.missing.is_some()) {
            let values = batch.column(*place);
            let is_unclear = |row: &ChosenRow| match row.lender(*place) {
                Some(number) => number < *first && lent.get(&(number, *place)).is_some_and(|value| value.is_null(0)),
                None => row.number < *first && values.is_null((row.number - from) as usize),
            };
            if rows.iter().any(is_unclear) {
                let why = "a column was added with a default, and its history does not tell rows from before then from \
                           those in which it is NULL";
                return Err(self.refused(why, LEAVE_OUT));
            }
        }
        Ok(())
    }

    /// Rows of a batch, whose first one has the number `from`, as rows of the table.
    fn assembled(
        &self,
        batch: &RecordBatch,
        from: u64,
        rows: &[ChosenRow],
        lent: &Lent,
    ) -> std::result::Result<RecordBatch, ArrowError> {
        let columns = self.places.iter().map(|place| {
            let values = batch.column(*place);
            let mut sources: Vec<&dyn Array> = vec![values.as_ref()];
            let mut picks = Vec::with_capacity(rows.len());
            for row in rows {
                match row.lender(*place).and_then(|number| lent.get(&(number, *place))) {
                    Some(value) => {
                        picks.push((sources.len(), 0));
                        sources.push(value.as_ref());
                    }
                    None => picks.push((0, (row.number - from) as usize)),
                }
            }
            if sources.len() > 1 {
                return interleave(&sources, &picks);
            }
            let rows: UInt64Array = picks.iter().map(|(_, at)| *at as u64).collect();
            take(values, &rows, None)
        });
        let columns = columns.collect::<std::result::Result<Vec<_>, ArrowError>>()?;
        RecordBatch::try_new(arrow_schema(&self.columns), columns)
    }
}

impl ChosenRow {
    /// Number of the row that has its value of a column; none if it has that itself.
    fn lender(&self, place: usize) -> Option<u64> {
        self.borrowed.iter().find(|(borrowed, _)| *borrowed == place).map(|(_, number)| *number)
    }
}

/// Bytes of a row's texts in columns at these places.
pub(super) fn text_bytes(rows: &RecordBatch, places: &[usize], row: usize) -> u64 {
    let bytes = places.iter().map(|place| {
        let column = rows.column(*place);
        match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value_length(row),
            DataType::Binary => column.as_binary::<i32>().value_length(row),
            // About: values of arrays are texts at most.
            DataType::List(_) => {
                column.as_list::<i32>().value(row).get_buffer_memory_size().try_into().unwrap_or(i32::MAX)
            }
            _ => 0,
        }
    });
    bytes.map(|bytes| u64::try_from(bytes).unwrap_or_default()).sum()
}

fn internal(error: ArrowError) -> Error {
    Error::internal("cannot make rows of a table of its history", error)
}
