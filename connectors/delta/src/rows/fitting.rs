//! Rows of older files as rows of the table that it is by now.

use arrow_array::{Array, RecordBatch};
use arrow_cast::cast;
use arrow_schema::{ArrowError, SchemaRef};
use sooner_api::{Code, Error};

use crate::rows::columns::LakeColumn;

/// Rows with the columns of the table as it is by now: in those that came later they hold what older rows do.
pub fn fitted(batch: &RecordBatch, columns: &[LakeColumn], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = columns.iter().zip(schema.fields()).map(|(column, field)| match batch.column_by_name(field.name()) {
        Some(values) => cast(values, field.data_type()),
        None => column.missing_values(batch.num_rows()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?)
}

/// The error of a file whose rows do not fit the table.
pub fn unfit(path: impl std::fmt::Display, why: impl std::fmt::Display) -> Error {
    let what = format!("cannot write the rows of {path} again");
    Error::operator(Code::FileDamaged, what, why, "copy the table again with `sooner resume TABLE`")
}

/// Bytes of rows in memory, but for what their buffers have room for beyond them.
pub fn bytes_of(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}
