//! The file of a checkpoint: read in batches, or encoded.

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use deltalake_core::DeltaTableError;
use deltalake_core::checkpoints::create_checkpoint;
use futures::StreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use serde_json::Value;
use sooner_api::{Code, Error, Result};

use super::checkpoint_rows::{conformed, of_actions, schema};
use super::last_checkpoint::ClassicCheckpoint;
use super::replay::{delta_table, log_error};
use crate::rows::stored_file;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;

/// Column of checkpoints that name further files.
const SIDECAR: &str = "sidecar";
/// Actions that become rows at the same time.
const ROWS: usize = 8 << 10;

/// Replays the whole log for a checkpoint of this version, or of the last one, whatever checkpoints the table has.
pub async fn replayed_checkpoint(location: &TableLocation, version: Option<u64>) -> Result<ClassicCheckpoint> {
    let written = async {
        let mut table = delta_table(location);
        match version {
            Some(version) => table.load_version(version).await?,
            None => table.load().await?,
        }
        create_checkpoint(&table, None).await?;
        Ok(table.version())
    };
    let version = written.await.map_err(|error: DeltaTableError| log_error(location, &error))?;
    let version = version.ok_or_else(|| log_error(location, &"it has no version"))?;
    Ok(ClassicCheckpoint { version, parts: None })
}

/// Reads a file of a checkpoint: its removes, or everything else.
pub async fn each_batch(
    location: &TableLocation,
    path: &Path,
    removes: bool,
    mut each: impl FnMut(RecordBatch) -> Result<()>,
) -> Result<()> {
    let head = location.store().head(path).await;
    let size = head.map_err(|error| store_error(format!("cannot read {path}"), &error))?.size;
    let kinds = schema().fields().iter().map(|field| field.name().as_str()).chain([SIDECAR]);
    let kinds: Vec<_> = kinds.filter(|kind| (*kind == "remove") == removes).collect();
    let mut batches =
        stored_file::open(&location.table, path, size, Some(&kinds), None, stored_file::READ_ROWS).await?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        if let Some(why) = lacks(&batch) {
            return Err(log_error(location, &why));
        }
        each(conformed(&batch).map_err(|error| log_error(location, &error))?)?;
    }
    Ok(())
}

/// Why rows of a checkpoint are not all that it says, if they are not.
fn lacks(rows: &RecordBatch) -> Option<&'static str> {
    if rows.column_by_name(SIDECAR).is_some_and(|sidecars| sidecars.null_count() < rows.num_rows()) {
        return Some("its checkpoint lies in several files");
    }
    let adds = rows.column_by_name("add")?.as_struct_opt()?;
    let (texts, parsed) = (adds.column_by_name("stats"), adds.column_by_name("stats_parsed")?);
    let has_text = |row| texts.is_some_and(|texts| texts.is_valid(row));
    let lost = (0..rows.num_rows()).any(|row| adds.is_valid(row) && parsed.is_valid(row) && !has_text(row));
    lost.then_some("its checkpoint has statistics in columns only")
}

/// Encodes a checkpoint in memory.
pub struct CheckpointWriter {
    writer: ArrowWriter<Vec<u8>>,
    rows: u64,
}

impl CheckpointWriter {
    /// Starts an empty one.
    pub fn new() -> Result<CheckpointWriter> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_dictionary_enabled(false)
            .set_created_by(concat!("sooner ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), schema().clone(), options);
        Ok(CheckpointWriter { writer: writer.map_err(|error| unwritable(&error))?, rows: 0 })
    }

    /// Writes those of the rows that are kept.
    pub fn write_kept(&mut self, rows: &RecordBatch, kept: &BooleanArray) -> Result<()> {
        if kept.true_count() == 0 {
            return Ok(());
        }
        let kept = filter_record_batch(rows, kept).map_err(|error| unwritable(&error.into()))?;
        self.write(&kept)
    }

    /// Writes actions as the log has them.
    pub fn write_actions(&mut self, actions: &[Value]) -> Result<()> {
        for actions in actions.chunks(ROWS) {
            let rows = of_actions(actions).map_err(|error: ArrowError| unwritable(&error.into()))?;
            self.write(&rows)?;
        }
        Ok(())
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        self.writer.write(rows).map_err(|error| unwritable(&error))
    }

    /// Completes it; returns the file and the number of its rows.
    pub fn finish(self) -> Result<(Vec<u8>, u64)> {
        let rows = self.rows;
        Ok((self.writer.into_inner().map_err(|error| unwritable(&error))?, rows))
    }
}

fn unwritable(error: &ParquetError) -> Error {
    Error::fatal(Code::Internal, "cannot write a checkpoint", error, "report this")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, StringArray, StructArray};
    use arrow_schema::Field;

    use super::*;

    fn record(fields: Vec<(&str, ArrayRef)>) -> ArrayRef {
        let field =
            |(name, array): (&str, ArrayRef)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array);
        Arc::new(StructArray::from(fields.into_iter().map(field).collect::<Vec<_>>()))
    }

    fn text(value: Option<&str>) -> ArrayRef {
        Arc::new(StringArray::from(vec![value]))
    }

    #[test]
    fn a_checkpoint_that_lies_in_several_files_is_not_taken_for_a_whole_one() {
        let adds = || record(vec![("path", text(Some("a"))), ("stats", text(None))]);
        let named = record(vec![("path", text(Some("x.parquet")))]);
        let rows = RecordBatch::try_from_iter_with_nullable([("add", adds(), true), (SIDECAR, named.clone(), true)]);
        assert!(lacks(&rows.unwrap()).is_some());
        let none = arrow_array::new_null_array(named.data_type(), 1);
        let rows = RecordBatch::try_from_iter_with_nullable([("add", adds(), true), (SIDECAR, none, true)]);
        assert_eq!(lacks(&rows.unwrap()), None);
    }

    #[test]
    fn statistics_that_are_only_in_columns_are_not_lost() {
        let parsed: ArrayRef = record(vec![("numRecords", Arc::new(Int64Array::from(vec![5])))]);
        for (stats, is_lost) in [(None, true), (Some("{}"), false)] {
            let adds = record(vec![("stats", text(stats)), ("stats_parsed", parsed.clone())]);
            let rows = RecordBatch::try_from_iter([("add", adds)]).unwrap();
            assert_eq!(lacks(&rows).is_some(), is_lost);
        }
    }
}
