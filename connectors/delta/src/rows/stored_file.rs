//! A Parquet data file that lies in the store: opened once, read as often as needed, by columns and by row positions.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, FieldRef, Schema, TimeUnit};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use sooner_api::{Code, Error, Result};

use crate::store::errors::store_error;
use crate::store::operations::retrying;

/// Rows of a batch that is read, at most, unless fewer are asked for.
pub const READ_ROWS: usize = 16 << 10;
/// Bytes of a batch that is read, as far as a file's averages tell.
const BATCH_BYTES: usize = 4 << 20;

/// A data file of which the footer is read.
pub struct StoredFile {
    reader: FileReader,
    metadata: ArrowReaderMetadata,
}

impl StoredFile {
    /// Opens the data file at `path`, which is `size` bytes long. If rows of it are read by their positions, only the
    /// pages that have one of them will be. A damaged file is an operator error.
    pub async fn open(
        table: &Arc<dyn ObjectStore>,
        path: &Path,
        size: u64,
        reads_positions: bool,
    ) -> Result<StoredFile> {
        let mut reader = FileReader { store: table.clone(), path: path.clone(), size };
        let page_index = if reads_positions { PageIndexPolicy::Optional } else { PageIndexPolicy::Skip };
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_offset_index_policy(page_index);
        let unreadable = |error: ParquetError| read_error(path, error);
        let metadata = ArrowReaderMetadata::load_async(&mut reader, options.clone()).await.map_err(unreadable)?;
        let schema = Arc::new(in_micros(metadata.schema()));
        let metadata = ArrowReaderMetadata::try_new(metadata.metadata().clone(), options.with_schema(schema));
        Ok(StoredFile { reader, metadata: metadata.map_err(unreadable)? })
    }

    /// Number of its rows.
    pub fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// Whether it has one of the columns.
    pub fn has_any(&self, columns: &[&str]) -> bool {
        self.metadata.schema().fields().iter().any(|field| columns.contains(&field.name().as_str()))
    }

    /// Bytes of a row on average, as they are encoded before compression.
    pub fn row_bytes(&self) -> usize {
        let groups = self.metadata.metadata().row_groups().iter();
        let bytes: usize = groups.map(|group| group.total_byte_size().max(0) as usize).sum();
        bytes / self.rows().max(1) as usize
    }

    /// Its rows in batches, in row order, with those of the columns that are there, or with all that are there: all
    /// rows, or those at the ascending positions `rows`; each batch has `most_rows` at most.
    pub fn batches(
        &self,
        columns: Option<&[&str]>,
        rows: Option<&[u32]>,
        most_rows: usize,
    ) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + Unpin + use<>> {
        let mut builder =
            ParquetRecordBatchStreamBuilder::new_with_metadata(self.reader.clone(), self.metadata.clone());
        let fields = builder.schema().fields().iter().enumerate();
        let roots: Vec<_> = fields
            .filter(|(_, field)| columns.is_none_or(|columns| columns.contains(&field.name().as_str())))
            .map(|(root, _)| root)
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        // Fewer where they are large.
        let batch_rows = (BATCH_BYTES / self.row_bytes().max(1)).clamp(1, READ_ROWS).min(most_rows);
        builder = builder.with_projection(mask).with_batch_size(batch_rows);
        if let Some(rows) = rows {
            builder = builder.with_row_selection(selection(rows, self.rows() as u32));
        }
        let path = self.reader.path.clone();
        let batches = builder.build().map_err(|error| read_error(&path, error))?;
        Ok(batches.map(move |batch| batch.map_err(|error| read_error(&path, error))))
    }
}

/// Opens a data file as [`StoredFile::open`] does, and reads it as [`StoredFile::batches`] does.
pub async fn open(
    table: &Arc<dyn ObjectStore>,
    path: &Path,
    size: u64,
    columns: Option<&[&str]>,
    rows: Option<&[u32]>,
    most_rows: usize,
) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + Unpin + use<>> {
    StoredFile::open(table, path, size, rows.is_some()).await?.batches(columns, rows, most_rows)
}

/// Reads columns of the data file at `path`, which is `size` bytes long: all rows, or those at the ascending
/// positions `rows`. Hands batches to `each` in row order, and stops at its first error. A missing column or a
/// damaged file is an operator error.
pub async fn read(
    table: &Arc<dyn ObjectStore>,
    path: &Path,
    size: u64,
    columns: &[&str],
    rows: Option<&[u32]>,
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let mut batches = open(table, path, size, Some(columns), rows, READ_ROWS).await?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if batch.num_columns() < columns.len() {
            let what = format!("cannot read the data file {path}");
            let why = format!("it lacks one of the columns {}", columns.join(", "));
            return Err(Error::operator(
                Code::FileDamaged,
                what,
                why,
                "copy the table again with `sooner resume TABLE`",
            ));
        }
        each(batch)?;
    }
    Ok(())
}

/// A file's schema with nanoseconds read as microseconds in UTC: Spark writes instants as INT96, which would otherwise
/// be read as nanoseconds and reach no further than the year 2262.
fn in_micros(schema: &Schema) -> Schema {
    Schema::new(schema.fields().iter().map(field_in_micros).collect::<Vec<_>>())
}

fn field_in_micros(field: &FieldRef) -> FieldRef {
    let data_type = match field.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, None) => {
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
        }
        DataType::List(items) => DataType::List(field_in_micros(items)),
        _ => return field.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

/// Converts ascending positions in a file of `total` rows to runs of rows to skip and to read.
fn selection(rows: &[u32], total: u32) -> RowSelection {
    let mut selectors = Vec::new();
    let mut next = 0;
    for &row in rows {
        if row > next {
            selectors.push(RowSelector::skip((row - next) as usize));
        }
        selectors.push(RowSelector::select(1));
        next = row + 1;
    }
    if total > next {
        selectors.push(RowSelector::skip((total - next) as usize));
    }
    selectors.into()
}

#[derive(Clone)]
struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, parquet::errors::Result<Bytes>> {
        let (store, path) = (&self.store, &self.path);
        retrying(move || {
            let range = range.clone();
            async move { store.get_range(path, range).await.map_err(|error| store_error("cannot read", &error)) }
        })
        .map_err(|error| ParquetError::External(Box::new(error)))
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, parquet::errors::Result<Vec<Bytes>>> {
        let (store, path) = (&self.store, &self.path);
        // Ranges that lie near each other are read by one request, and several requests go side by side.
        retrying(move || {
            let ranges = ranges.clone();
            async move { store.get_ranges(path, &ranges).await.map_err(|error| store_error("cannot read", &error)) }
        })
        .map_err(|error| ParquetError::External(Box::new(error)))
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, parquet::errors::Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}

fn read_error(path: &Path, error: ParquetError) -> Error {
    let what = format!("cannot read the data file {path}");
    if let ParquetError::External(source) = &error
        && let Some(inner) = source.downcast_ref::<Error>()
    {
        return Error { what, ..inner.clone() };
    }
    let remedy = "the file is damaged: restore it, or copy the table again with `sooner resume TABLE`";
    Error::operator(Code::FileDamaged, what, error, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_become_runs() {
        let expected: RowSelection = vec![
            RowSelector::skip(2),
            RowSelector::select(2),
            RowSelector::skip(1),
            RowSelector::select(1),
            RowSelector::skip(4),
        ]
        .into();
        assert_eq!(selection(&[2, 3, 5], 10), expected);
    }
}
