//! Parquet data files: written whole, with the rows at the positions in which they were appended; read by columns and
//! by row positions.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, FieldRef, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ArrowWriter, ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sooner_api::{Code, Error, Result};
use sync_wrapper::SyncWrapper;
use uuid::Uuid;

use super::statistics::{self, ColumnNotes};
use crate::store::errors::store_error;
use crate::store::operations::retrying;

/// Limit of a column's dictionary in bytes. A column with more distinct values is written plainly: looking up each
/// value would cost more than it saves.
const DICTIONARY_BYTES: usize = 64 << 10;
/// Size of texts, on average, that are not looked up in a dictionary.
const LARGE_BYTES: usize = 1 << 10;
/// Without this key, Spark takes dates before 1582 and instants before 1900 for those of another calendar, and refuses
/// to read them. Versions from 3.0 on write the one that everybody else does.
const CALENDAR_KEY: &str = "org.apache.spark.version";
const CALENDAR: &str = "3.0.0";
/// Rows of a batch that is read, at most, unless fewer are asked for.
pub const READ_ROWS: usize = 16 << 10;
/// Bytes of a batch that is read, as far as a file's averages tell.
const BATCH_BYTES: usize = 4 << 20;

/// Encodes rows into one data file in memory.
pub struct DataFileWriter {
    writer: SyncWrapper<ArrowWriter<Vec<u8>>>,
    schema: SchemaRef,
    notes: ColumnNotes,
    rows: u32,
}

/// A data file that is written.
pub struct DataFile {
    /// The file.
    pub bytes: Bytes,
    /// What its columns hold, as JSON.
    pub statistics: String,
}

impl DataFileWriter {
    /// Starts an empty data file for rows like these.
    pub fn for_rows_like(rows: &RecordBatch) -> Result<DataFileWriter> {
        let schema = rows.schema();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_created_by(concat!("sooner ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_key_value_metadata(Some(vec![KeyValue::new(CALENDAR_KEY.to_owned(), CALENDAR.to_owned())]));
        for (field, column) in schema.fields().iter().zip(rows.columns()) {
            let Some(path) = text_column(field) else { continue };
            let is_large = value_bytes(column) > rows.num_rows() * LARGE_BYTES;
            // Of statistics, four whole values of each page and file would be kept.
            properties = properties
                .set_column_dictionary_enabled(path.clone(), !is_large)
                .set_column_statistics_enabled(path, EnabledStatistics::None);
        }
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        let writer =
            ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options).map_err(|error| internal(&error))?;
        Ok(DataFileWriter { writer: SyncWrapper::new(writer), schema, notes: ColumnNotes::default(), rows: 0 })
    }

    /// Appends rows to the file. The first of them gets the position that [`DataFileWriter::rows`] returned before.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.writer.get_mut().write(batch).map_err(|error| internal(&error))?;
        self.notes.note(batch);
        self.rows += batch.num_rows() as u32;
        Ok(())
    }

    /// Number of rows written so far.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Approximate size so far in bytes: what is encoded, and what waits to be encoded.
    pub fn size_bytes(&mut self) -> usize {
        let writer = self.writer.get_mut();
        writer.bytes_written() + writer.in_progress_size()
    }

    /// Bytes of memory that the file takes so far.
    pub fn memory_bytes(&mut self) -> usize {
        let writer = self.writer.get_mut();
        writer.bytes_written() + writer.memory_size()
    }

    /// Completes the file.
    pub fn finish(self) -> Result<DataFile> {
        let mut writer = self.writer.into_inner();
        let metadata = writer.finish().map_err(|error| internal(&error))?;
        let statistics = statistics::of_file(&metadata, &self.schema, &self.notes);
        Ok(DataFile { bytes: std::mem::take(writer.inner_mut()).into(), statistics })
    }
}

/// Bytes of a column's texts; 0 of any other column.
fn value_bytes(column: &ArrayRef) -> usize {
    let offsets = match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value_offsets(),
        DataType::Binary => column.as_binary::<i32>().value_offsets(),
        _ => return 0,
    };
    let bytes = offsets.last().zip(offsets.first()).map_or(0, |(end, start)| end - start);
    usize::try_from(bytes).unwrap_or_default()
}

/// Path of the Parquet column of a field of texts or bytes, or of arrays of these; none for any other field.
fn text_column(field: &FieldRef) -> Option<ColumnPath> {
    match field.data_type() {
        DataType::List(items) if ColumnNotes::cover(items.data_type()) => {
            Some(ColumnPath::new(vec![field.name().clone(), "list".to_owned(), items.name().clone()]))
        }
        data_type => ColumnNotes::cover(data_type).then(|| ColumnPath::from(field.name().as_str())),
    }
}

/// A unique name for a new data file, as a path below the table.
pub fn new_path() -> Path {
    Path::from(format!("part-00000-{}-c000.snappy.parquet", Uuid::new_v4()))
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

/// Opens the data file at `path`, which is `size` bytes long. The stream has batches in row order, with those of the
/// columns that are there, or with all that are there: all rows, or those at the ascending positions `rows`; each has
/// `most_rows` at most. A damaged file is an operator error.
pub async fn open(
    table: &Arc<dyn ObjectStore>,
    path: &Path,
    size: u64,
    columns: Option<&[&str]>,
    rows: Option<&[u32]>,
    most_rows: usize,
) -> Result<impl Stream<Item = Result<RecordBatch>> + Send + Unpin + use<>> {
    let mut reader = FileReader { store: table.clone(), path: path.clone(), size };
    let unreadable = |error: ParquetError| read_error(path, error);
    // With it, only those pages are read that have one of the rows.
    let page_index = if rows.is_some() { PageIndexPolicy::Optional } else { PageIndexPolicy::Skip };
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_offset_index_policy(page_index);
    let metadata = ArrowReaderMetadata::load_async(&mut reader, options.clone()).await.map_err(unreadable)?;
    let schema = Arc::new(in_micros(metadata.schema()));
    let metadata = ArrowReaderMetadata::try_new(metadata.metadata().clone(), options.with_schema(schema));
    let mut builder = ParquetRecordBatchStreamBuilder::new_with_metadata(reader, metadata.map_err(unreadable)?);
    let fields = builder.schema().fields().iter().enumerate();
    let roots: Vec<_> = fields
        .filter(|(_, field)| columns.is_none_or(|columns| columns.contains(&field.name().as_str())))
        .map(|(root, _)| root)
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let batch_rows = batch_rows(builder.metadata()).min(most_rows);
    builder = builder.with_projection(mask).with_batch_size(batch_rows);
    if let Some(rows) = rows {
        let total = builder.metadata().file_metadata().num_rows() as u32;
        builder = builder.with_row_selection(selection(rows, total));
    }
    let path = path.clone();
    let batches = builder.build().map_err(|error| read_error(&path, error))?;
    Ok(batches.map(move |batch| batch.map_err(|error| read_error(&path, error))))
}

/// Rows of a batch: fewer where they are large.
fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let rows = metadata.file_metadata().num_rows().max(1) as usize;
    let bytes = metadata.row_groups().iter().map(|group| group.total_byte_size().max(0) as usize).sum::<usize>();
    (BATCH_BYTES / (bytes / rows).max(1)).clamp(1, READ_ROWS)
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

fn internal(error: &ParquetError) -> Error {
    Error::fatal(Code::Internal, "cannot write a data file", error, "report this")
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
