//! The mark of rows that the source has deleted, where a table keeps them: a column with the commit time of the delete,
//! which is NULL in rows that the source has. It is the table's last column.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use super::column_mapping::{greatest_id, is_used};
use super::lake_column::{LakeColumn, Stored};
use super::lake_type::LakeType;

/// Name of the column.
pub const NAME: &str = "_deleted_at";
/// Number that tells the mark from columns of the source: Postgres numbers those from 1.
const NUMBER: i16 = 0;

/// Whether a column is the mark.
pub fn is_mark(column: &LakeColumn) -> bool {
    column.number == Some(NUMBER)
}

/// The mark among a table's columns; none where deleted rows are not kept.
pub fn of(columns: &[LakeColumn]) -> Option<&LakeColumn> {
    columns.iter().find(|column| is_mark(column))
}

/// A table's columns without the mark.
pub fn without(columns: &[LakeColumn]) -> Vec<LakeColumn> {
    columns.iter().filter(|column| !is_mark(column)).cloned().collect()
}

/// Columns of the source with the mark, which stands in files as it does among the `former` columns, if it is there.
/// `last_id` is the last column's number that the table has given, none without column mapping. An operator error if
/// the source has a column of its name.
pub fn beside(
    table: &TableName,
    columns: Vec<LakeColumn>,
    former: &[LakeColumn],
    last_id: Option<i32>,
) -> Result<Vec<LakeColumn>> {
    if let Some(taken) = columns.iter().find(|column| column.name.eq_ignore_ascii_case(NAME)) {
        return Err(name_taken(table, &taken.name));
    }
    let was = of(former);
    let stored = was.and_then(|was| was.stored.clone());
    let stored = stored.or_else(|| is_used(&columns).then(|| given(&columns, former, last_id)));
    let mark = LakeColumn {
        name: NAME.to_owned(),
        lake_type: LakeType::Timestamp,
        nullable: true,
        number: Some(NUMBER),
        stored,
        missing: None,
    };
    Ok(columns.into_iter().chain([mark]).collect())
}

/// How the mark stands in files from now on, where columns are mapped. A mark that is there keeps its name in files.
fn given(columns: &[LakeColumn], former: &[LakeColumn], last_id: Option<i32>) -> Stored {
    let id = greatest_id(columns).max(greatest_id(former)).max(last_id).unwrap_or(0) + 1;
    let name = if of(former).is_some() { NAME.to_owned() } else { format!("col-{id}") };
    Stored { id, name }
}

/// Values of the mark, in microseconds since 1970.
pub fn values(deleted_at: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter(deleted_at).with_timezone("UTC"))
}

/// When each row of a batch was deleted, given the place of the mark.
pub fn times(batch: &RecordBatch, place: usize) -> Vec<Option<i64>> {
    let marks = batch.columns().get(place).and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    match marks {
        Some(marks) => marks.iter().collect(),
        None => vec![None; batch.num_rows()],
    }
}

/// The rows of a batch with other values of the mark, given its place.
pub fn replaced(
    batch: &RecordBatch,
    place: usize,
    deleted_at: ArrayRef,
) -> std::result::Result<RecordBatch, ArrowError> {
    let mut columns = batch.columns().to_vec();
    if let Some(marks) = columns.get_mut(place) {
        *marks = deleted_at;
    }
    RecordBatch::try_new(batch.schema(), columns)
}

/// Those rows of a batch that the source has, without the mark, which is the last column.
pub fn living(batch: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
    let place = batch.num_columns().saturating_sub(1);
    let is_living: BooleanArray = (0..batch.num_rows()).map(|row| Some(batch.column(place).is_null(row))).collect();
    let others: Vec<usize> = (0..place).collect();
    filter_record_batch(&batch.project(&others)?, &is_living)
}

fn name_taken(table: &TableName, name: &str) -> Error {
    Error::operator(
        Code::TypeUnsupported,
        format!("cannot keep deleted rows of {table}"),
        format!("its column '{name}' has the name of the one that says when a row was deleted"),
        "rename the column, or set deletes = \"hard\" for this table",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::columns::{parse_schema_string, schema_string};

    fn column(name: &str, stored: Option<Stored>) -> LakeColumn {
        let name = name.to_owned();
        LakeColumn { name, lake_type: LakeType::Long, nullable: false, number: Some(1), stored, missing: None }
    }

    #[test]
    fn the_mark_is_the_last_column_and_no_column_of_the_source_has_its_name() {
        let table = TableName::new("public", "t");
        let columns = beside(&table, vec![column("id", None)], &[], None).unwrap();
        assert_eq!(parse_schema_string(&schema_string(&columns)), Some(columns.clone()));
        assert_eq!((columns.len(), of(&columns)), (2, columns.last()));
        assert_eq!(without(&columns), [column("id", None)]);
        let error = beside(&table, vec![column("_Deleted_at", None)], &[], None).unwrap_err();
        assert!(error.why.contains("'_Deleted_at'") && error.remedy.contains("deletes"), "{error}");
    }

    #[test]
    fn where_columns_are_mapped_the_mark_has_a_number_and_keeps_its_name_in_files() {
        let table = TableName::new("public", "t");
        let mapped = || vec![column("a b", Some(Stored { id: 4, name: "col-4".to_owned() }))];
        let plain = beside(&table, vec![column("id", None)], &[], None).unwrap();
        let stored = |former: &[LakeColumn], last_id| {
            of(&beside(&table, mapped(), former, last_id).unwrap()).unwrap().stored.clone().unwrap()
        };
        assert_eq!(stored(&[], Some(6)), Stored { id: 7, name: "col-7".to_owned() });
        assert_eq!(stored(&plain, Some(2)), Stored { id: 5, name: NAME.to_owned() });
        let former = beside(&table, mapped(), &[], None).unwrap();
        assert_eq!(stored(&former, Some(9)), Stored { id: 5, name: "col-5".to_owned() });
    }
}
