//! Compares a row of the lake with the row of an event, value by value, as the lake would hold them.

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::cast;
use arrow_cast::display::array_value_to_string;
use sooner_api::Result;
use sooner_schemas::event::EventSchema;

use crate::rows::columns::{LakeColumn, columns_of};
use crate::rows::lake_type::arrow_type;
use crate::rows::reader::{RowReader, finish};

/// Names of the columns in which a row of the lake, given as a batch of it alone, is not what a value message says. A
/// column that only one of both has is none of these, if it is the lake's: Postgres may not send it.
pub fn differences(
    schema: &EventSchema,
    message: &[u8],
    columns: &[LakeColumn],
    row: &RecordBatch,
) -> Result<Vec<String>> {
    let reader = RowReader::new(schema)?;
    let mut builders = reader.builders()?;
    reader.append(message, &[], &mut builders)?;
    let expected = columns_of(schema)?.into_iter().zip(finish(&mut builders));
    let differs = |(event, expected): (LakeColumn, ArrayRef)| {
        let column = columns.iter().find(|column| column.is_same(&event));
        let is_same = column.is_some_and(|column| is_same(column, row, &expected));
        (!is_same).then_some(event.name)
    };
    Ok(expected.filter_map(differs).collect())
}

fn is_same(column: &LakeColumn, row: &RecordBatch, expected: &ArrayRef) -> bool {
    let data_type = arrow_type(&column.lake_type);
    let (Some(found), Ok(expected)) = (value(column, row), cast(expected, &data_type)) else { return false };
    found.as_ref() == expected.as_ref()
}

/// Value of a column in the row, in the type that the table says; none if it cannot be had in that type. A row that is
/// older than the column holds what the table says that such rows hold.
fn value(column: &LakeColumn, row: &RecordBatch) -> Option<ArrayRef> {
    match row.column_by_name(column.stored_name()) {
        Some(stored) => cast(stored, &arrow_type(&column.lake_type)).ok(),
        None => column.missing_values(row.num_rows()).ok(),
    }
}

/// The values of a row as texts, each with its column's name.
pub fn texts(columns: &[LakeColumn], row: &RecordBatch) -> Vec<(String, Option<String>)> {
    let text = |column: &LakeColumn| {
        let value = value(column, row).filter(|value| !value.is_empty() && value.is_valid(0));
        (column.name.clone(), value.and_then(|value| array_value_to_string(&value, 0).ok()))
    };
    columns.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringArray};
    use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
    use sooner_schemas::envelope::{key_schema, value_schema};
    use sooner_schemas::event::TableEvents;
    use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

    use super::*;
    use crate::rows::columns::arrow_schema;

    fn relation() -> Relation {
        let column = |name: &str, scalar| Column::new(name, ColumnType::Scalar(scalar));
        let columns = vec![
            column("id", Scalar::Int8).numbered(1),
            column("v", Scalar::Text).nullable().numbered(2),
            column("w", Scalar::Int4).nullable().numbered(3),
        ];
        Relation::new(TableName::new("public", "t"), columns, vec![0])
    }

    fn message() -> (Arc<EventSchema>, Vec<u8>) {
        let relation = relation();
        let key = key_schema("t", &relation).unwrap().to_string();
        let value = value_schema("t", &relation).to_string();
        let schema = Arc::new(EventSchema::parse(relation.name.clone(), Some(&key), &value).unwrap());
        let encoder = Encoder::new(&relation, schema.clone(), SchemaIds { key: Some(1), value: 2 }, "p", "db");
        let mut events = TableEvents::new(schema.clone());
        let origin = Origin {
            position: Position { commit_lsn: Lsn(1), ordinal: 0 },
            lsn: Lsn(1),
            xid: 0,
            source_micros: 0,
            now_micros: 0,
            snapshot: Snapshot::No,
        };
        let row = [TupleValue::Text(b"7"), TupleValue::Text(b"a"), TupleValue::Null];
        encoder.read(&mut events, &origin, &row).unwrap();
        let value = events.bytes[events.events[0].value.clone()].to_vec();
        (schema, value)
    }

    #[test]
    fn a_row_is_compared_as_the_lake_would_hold_it() {
        let (schema, message) = message();
        let columns = columns_of(&schema).unwrap();
        let row = |id: i64, v: Option<&str>| {
            // The column w is younger than the file.
            let arrays: Vec<ArrayRef> =
                vec![Arc::new(Int64Array::from(vec![id])), Arc::new(StringArray::from(vec![v]))];
            RecordBatch::try_new(arrow_schema(&columns[..2]), arrays).unwrap()
        };
        let differ = |row: &RecordBatch, columns: &[LakeColumn]| differences(&schema, &message, columns, row).unwrap();
        assert_eq!(differ(&row(7, Some("a")), &columns), Vec::<String>::new());
        assert_eq!(differ(&row(7, Some("b")), &columns), ["v"]);
        assert_eq!(differ(&row(7, None), &columns), ["v"]);
        assert_eq!(differ(&row(7, Some("a")), &columns[..2]), ["w"], "the lake lacks it");
        let filled = LakeColumn { missing: Some("5".into()), ..columns[2].clone() };
        let columns = [columns[0].clone(), columns[1].clone(), filled];
        assert_eq!(differ(&row(7, Some("a")), &columns), ["w"], "older rows hold 5 in it");
        let expected = [("id", Some("7")), ("v", None), ("w", Some("5"))];
        assert_eq!(
            texts(&columns, &row(7, None)),
            expected.map(|(name, text)| (name.to_owned(), text.map(str::to_owned)))
        );
    }
}
