//! Rows that stay without some of their values when their file is written again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave;
use arrow_select::take::take;
use roaring::RoaringBitmap;
use sooner_api::{Error, Result};

use super::sorting::{Source, SourceRow};
use crate::index::key_index::FileId;

/// Which rows lose values, and which.
#[derive(Clone, Debug, Default)]
pub struct Blanking {
    /// The rows, by file.
    pub rows: BTreeMap<FileId, RoaringBitmap>,
    /// Places of the columns whose values go.
    pub columns: Vec<usize>,
    /// Place of a column that gets a text in these rows, and the text.
    pub told: Option<(usize, String)>,
}

impl Blanking {
    /// Rows of a batch, each of which is one of the sources', without the values that go.
    pub fn apply(&self, batch: RecordBatch, rows: &[SourceRow], sources: &[Source]) -> Result<RecordBatch> {
        if self.rows.is_empty() {
            return Ok(batch);
        }
        let is_meant = |row: &SourceRow| {
            let source = sources.get(row.source as usize);
            source.and_then(|source| self.rows.get(&source.id)).is_some_and(|meant| meant.contains(row.row))
        };
        let meant: Vec<bool> = rows.iter().map(is_meant).collect();
        if !meant.contains(&true) {
            return Ok(batch);
        }
        self.without_values(&batch, &meant).map_err(|error| Error::internal("cannot erase values of rows", error))
    }

    fn without_values(&self, batch: &RecordBatch, meant: &[bool]) -> std::result::Result<RecordBatch, ArrowError> {
        // Taken one by one, so that no buffer keeps the values that go.
        let kept: UInt32Array = (0..).zip(meant).map(|(row, is_meant)| (!is_meant).then_some(row)).collect();
        let columns = batch.columns().iter().enumerate().map(|(place, values)| match &self.told {
            _ if self.columns.contains(&place) => take(values, &kept, None),
            Some((told, text)) if *told == place => told_in(values, text, meant),
            _ => Ok(values.clone()),
        });
        RecordBatch::try_new(batch.schema(), columns.collect::<std::result::Result<Vec<_>, _>>()?)
    }
}

/// Texts with another one in the rows that are meant.
fn told_in(values: &ArrayRef, text: &str, meant: &[bool]) -> std::result::Result<ArrayRef, ArrowError> {
    let told: ArrayRef = Arc::new(StringArray::from(vec![text]));
    let places: Vec<_> =
        meant.iter().enumerate().map(|(row, is_meant)| if *is_meant { (1, 0) } else { (0, row) }).collect();
    interleave(&[values.as_ref() as &dyn Array, told.as_ref()], &places)
}

#[cfg(test)]
mod tests {
    use arrow_array::Int32Array;

    use super::*;

    #[test]
    fn rows_that_are_meant_lose_their_values_and_say_why_and_others_stay() {
        let ids: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        let names: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("secret"), None]));
        let erased: ArrayRef = Arc::new(StringArray::from(vec![Some("first"), None, None]));
        let rows = [("id", ids.clone(), true), ("name", names, true), ("erased", erased, true)];
        let rows = RecordBatch::try_from_iter_with_nullable(rows).unwrap();
        let blanking = Blanking { columns: vec![1], told: Some((2, "second".to_owned())), ..Blanking::default() };
        let blanked = blanking.without_values(&rows, &[false, true, false]).unwrap();
        let expected: [ArrayRef; 3] = [
            ids,
            Arc::new(StringArray::from(vec![Some("a"), None, None])),
            Arc::new(StringArray::from(vec![Some("first"), Some("second"), None])),
        ];
        assert_eq!(blanked.columns(), expected);
        assert!(!String::from_utf8_lossy(&blanked.column(1).to_data().buffers()[1]).contains("secret"));
    }
}
