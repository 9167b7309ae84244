//! Rows that lie in several files, brought into one order.

use arrow_array::RecordBatch;
use arrow_select::interleave::interleave_record_batch;
use futures::StreamExt;
use sooner_api::{Error, Result};

use super::sorting::{Source, SourceRow};
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::fitting::{bytes_of, fitted, unfit};
use crate::rows::stored_file::READ_ROWS;

/// Rows that are read, and where among them each row of the wanted order is.
pub struct Gathered {
    read: Vec<RecordBatch>,
    /// Batch and row of each.
    places: Vec<(usize, usize)>,
}

/// Reads these rows of sources, with the columns of the table.
pub async fn gather(sources: &[Source], rows: &[SourceRow], columns: &[LakeColumn]) -> Result<Gathered> {
    let schema = arrow_schema(columns);
    let mut gathered = Gathered { read: Vec::new(), places: vec![(0, 0); rows.len()] };
    for (number, source) in (0..).zip(sources) {
        let of_source = rows.iter().enumerate().filter(|(_, row)| row.source == number);
        let mut wanted: Vec<_> = of_source.map(|(place, row)| (row.row, place)).collect();
        if wanted.is_empty() {
            continue;
        }
        wanted.sort_unstable();
        let positions: Vec<_> = wanted.iter().map(|(row, _)| *row).collect();
        let mut places = wanted.iter().map(|(_, place)| *place);
        let mut batches = source.stored.batches(None, Some(&positions), READ_ROWS.min(positions.len()))?;
        while let Some(batch) = batches.next().await {
            let batch = fitted(&batch?, columns, &schema).map_err(|error| unfit(&source.file.path, error))?;
            for (row, place) in (0..batch.num_rows()).zip(&mut places) {
                if let Some(known) = gathered.places.get_mut(place) {
                    *known = (gathered.read.len(), row);
                }
            }
            gathered.read.push(batch);
        }
        if places.next().is_some() {
            return Err(unfit(&source.file.path, "it has fewer rows than the log says"));
        }
    }
    Ok(gathered)
}

impl Gathered {
    /// Bytes of the rows in memory.
    pub fn bytes(&self) -> usize {
        self.read.iter().map(bytes_of).sum()
    }

    /// The rows in the wanted order, so many in each batch as are read at once.
    pub fn batches(&self) -> impl Iterator<Item = Result<RecordBatch>> {
        let read: Vec<_> = self.read.iter().collect();
        self.places.chunks(READ_ROWS).map(move |places| {
            interleave_record_batch(&read, places).map_err(|error| Error::internal("cannot put rows into order", error))
        })
    }
}
