//! The order in which rows of files are written again: by the table's key, or by columns that somebody chose, so that
//! readers who look for some of them leave parts of files out, and equal values lie side by side.

use std::sync::Arc;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_ord::sort::{SortColumn, lexsort_to_indices};
use arrow_schema::{ArrowError, DataType};
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use futures::StreamExt;
use object_store::ObjectStore;
use sooner_api::{MemoryBudget, Result};

use crate::index::key_index::FileId;
use crate::log::live_files::LiveFile;
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::fitting::{bytes_of, fitted, unfit};
use crate::rows::stored_file::{READ_ROWS, StoredFile};

/// A file whose rows are written again.
pub struct Source {
    /// Its number.
    pub id: FileId,
    /// What the log says of it.
    pub file: LiveFile,
    /// The file itself.
    pub stored: StoredFile,
}

/// A live row of one of several sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRow {
    /// Which of the sources it lies in.
    pub source: u32,
    /// Its position there.
    pub row: u32,
}

impl Source {
    /// Opens a file. One that has another number of rows than its log says is an operator error: rows that nobody knows
    /// of would never be deleted.
    pub async fn open(table: &Arc<dyn ObjectStore>, id: FileId, file: LiveFile) -> Result<Source> {
        let stored = StoredFile::open(table, &file.path, file.size, true).await?;
        if Some(stored.rows()) != file.rows {
            return Err(unfit(&file.path, "it has another number of rows than the log says"));
        }
        Ok(Source { id, file, stored })
    }

    /// Number of its live rows.
    pub fn live_count(&self) -> u64 {
        self.file.rows.unwrap_or(0).saturating_sub(self.file.deleted.len())
    }

    fn live_rows(&self) -> impl Iterator<Item = u32> {
        let rows = self.file.rows.unwrap_or(0).min(u32::MAX.into()) as u32;
        (0..rows).filter(|row| !self.file.deleted.contains(*row))
    }
}

/// The live rows of sources in the order of these columns of the table. Columns that the table does not have, and
/// arrays, do not count. Where none is left, or `memory` has no room to compare the rows, they stay as they lie.
pub async fn order(
    sources: &[Source],
    columns: &[LakeColumn],
    sort_by: &[String],
    memory: &MemoryBudget,
) -> Result<Vec<SourceRow>> {
    let lying = (0..)
        .zip(sources)
        .flat_map(|(number, source)| source.live_rows().map(move |row| SourceRow { source: number, row }));
    let lying: Vec<_> = lying.collect();
    let named = sort_by.iter().filter_map(|name| columns.iter().find(|column| column.name == *name));
    let sorting: Vec<_> = named.filter(|column| is_sortable(column)).cloned().collect();
    let (mut batches, mut held) = (Vec::new(), Vec::new());
    for source in sources.iter().filter(|_| !sorting.is_empty()) {
        for batch in read_live(source, &sorting).await? {
            // Once more while they are compared.
            match memory.try_reserve(2 * bytes_of(&batch)) {
                Some(room) => held.push(room),
                None => return Ok(lying),
            }
            batches.push(batch);
        }
    }
    if batches.is_empty() {
        return Ok(lying);
    }
    let sorted = tokio::task::spawn_blocking(move || sort(&batches)).await;
    let sorted = sorted.map_err(|panic| sooner_api::Error::internal("cannot sort rows", panic))?;
    let sorted = sorted.map_err(|error| sooner_api::Error::internal("cannot sort rows", error))?;
    if sorted.len() != lying.len() {
        return Err(unfit(first_path(sources), "it has another number of rows than its footer says"));
    }
    Ok(sorted.into_iter().filter_map(|index| lying.get(index as usize).copied()).collect())
}

/// Names the files where it is not known which of them is meant.
fn first_path(sources: &[Source]) -> String {
    sources.first().map(|source| source.file.path.to_string()).unwrap_or_default()
}

fn is_sortable(column: &LakeColumn) -> bool {
    let schema = arrow_schema(std::slice::from_ref(column));
    !matches!(schema.field(0).data_type(), DataType::List(_))
}

/// These columns of a file's live rows.
async fn read_live(source: &Source, columns: &[LakeColumn]) -> Result<Vec<RecordBatch>> {
    let schema = arrow_schema(columns);
    let names: Vec<_> = columns.iter().map(LakeColumn::stored_name).collect();
    let mut batches = source.stored.batches(Some(&names), None, READ_ROWS)?;
    let (mut live, mut first) = (Vec::new(), 0u32);
    while let Some(batch) = batches.next().await {
        let batch = fitted(&batch?, columns, &schema).map_err(|error| unfit(&source.file.path, error))?;
        let next = first + batch.num_rows() as u32;
        let kept: BooleanArray = (first..next).map(|row| Some(!source.file.deleted.contains(row))).collect();
        live.push(filter_record_batch(&batch, &kept).map_err(|error| unfit(&source.file.path, error))?);
        first = next;
    }
    Ok(live)
}

/// Positions of the rows of all batches, in the order of their columns.
fn sort(batches: &[RecordBatch]) -> std::result::Result<Vec<u32>, ArrowError> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let rows = concat_batches(&first.schema(), batches)?;
    let columns = rows.columns().iter().map(|values| SortColumn { values: values.clone(), options: None });
    Ok(lexsort_to_indices(&columns.collect::<Vec<_>>(), None)?.values().to_vec())
}
