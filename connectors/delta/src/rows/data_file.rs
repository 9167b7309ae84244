//! Parquet data files: written whole, with the rows at the positions in which they were appended; read by columns and
//! by row positions, as [`stored_file`](super::stored_file) does.

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, FieldRef, SchemaRef};
use bytes::Bytes;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sooner_api::{Code, Error, Result};
use sync_wrapper::SyncWrapper;
use uuid::Uuid;

use super::statistics::{self, ColumnNotes};

/// Limit of a column's dictionary in bytes. A column with more distinct values is written plainly: looking up each
/// value would cost more than it saves.
const DICTIONARY_BYTES: usize = 64 << 10;
/// Size of texts, on average, that are not looked up in a dictionary.
const LARGE_BYTES: usize = 1 << 10;
/// Without this key, Spark takes dates before 1582 and instants before 1900 for those of another calendar, and refuses
/// to read them. Versions from 3.0 on write the one that everybody else does.
const CALENDAR_KEY: &str = "org.apache.spark.version";
const CALENDAR: &str = "3.0.0";
/// Rows of a row group: where rows are sorted, readers leave the groups out that do not have what they look for.
const GROUP_ROWS: usize = 128 << 10;

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
            .set_max_row_group_row_count(Some(GROUP_ROWS))
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

fn internal(error: &ParquetError) -> Error {
    Error::fatal(Code::Internal, "cannot write a data file", error, "report this")
}
