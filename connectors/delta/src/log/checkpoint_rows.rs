//! Rows of a checkpoint: one action each, in the column of its kind. Made of the log's actions, or of the rows of an
//! earlier checkpoint, whoever wrote it.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#checkpoint-schema>

use std::sync::{Arc, LazyLock};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, ListArray, MapArray, RecordBatch, StructArray, new_null_array};
use arrow_cast::cast;
use arrow_json::ReaderBuilder;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use serde_json::Value;

type Result<T> = std::result::Result<T, ArrowError>;

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let kinds = [
        ("protocol", protocol()),
        ("metaData", metadata()),
        ("txn", vec![text("appId"), long("version"), long("lastUpdated")]),
        ("domainMetadata", vec![text("domain"), text("configuration"), flag("removed")]),
        ("add", add()),
        ("remove", remove()),
    ];
    let columns = kinds.into_iter().map(|(kind, fields)| record(kind, fields));
    Arc::new(Schema::new(columns.collect::<Vec<_>>()))
});

/// The columns of the checkpoints that we write.
pub fn schema() -> &'static SchemaRef {
    &SCHEMA
}

/// Rows for actions as the log has them: each an object with one key, its kind. Fields that a checkpoint does not have
/// are left out.
pub fn of_actions(actions: &[Value]) -> Result<RecordBatch> {
    let mut decoder = ReaderBuilder::new(SCHEMA.clone()).with_batch_size(actions.len().max(1)).build_decoder()?;
    decoder.serialize(actions)?;
    Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(SCHEMA.clone())))
}

/// The same rows with our columns: fields that we do not know are left out, those that are missing are NULL.
pub fn conformed(rows: &RecordBatch) -> Result<RecordBatch> {
    let columns = SCHEMA.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(column) => conform(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), rows.num_rows())),
    });
    RecordBatch::try_new(SCHEMA.clone(), columns.collect::<Result<_>>()?)
}

fn conform(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    match (wanted, array.data_type()) {
        (wanted, found) if wanted == found => Ok(array.clone()),
        (DataType::Struct(fields), DataType::Struct(_)) => {
            Ok(Arc::new(conform_record(array.as_struct(), fields)?) as ArrayRef)
        }
        (DataType::Map(entries, sorted), DataType::Map(..)) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entries.data_type() else { return cast(array, wanted) };
            let (keys, values) =
                (conform(map.keys(), fields[0].data_type()), conform(map.values(), fields[1].data_type()));
            let pairs = StructArray::try_new(fields.clone(), vec![keys?, values?], None)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, pairs, nulls, *sorted)?) as ArrayRef)
        }
        (DataType::List(item), DataType::List(_)) => {
            let list = array.as_list::<i32>();
            let values = conform(list.values(), item.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(item.clone(), offsets, values, nulls)?) as ArrayRef)
        }
        _ => cast(array, wanted),
    }
}

fn conform_record(record: &StructArray, fields: &Fields) -> Result<StructArray> {
    let columns = fields.iter().map(|field| match record.column_by_name(field.name()) {
        Some(column) => conform(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), record.len())),
    });
    StructArray::try_new(fields.clone(), columns.collect::<Result<_>>()?, record.nulls().cloned())
}

fn protocol() -> Vec<FieldRef> {
    vec![number("minReaderVersion"), number("minWriterVersion"), texts("readerFeatures"), texts("writerFeatures")]
}

fn metadata() -> Vec<FieldRef> {
    vec![
        text("id"),
        text("name"),
        text("description"),
        record("format", vec![text("provider"), pairs("options")]),
        text("schemaString"),
        texts("partitionColumns"),
        pairs("configuration"),
        long("createdTime"),
    ]
}

fn add() -> Vec<FieldRef> {
    vec![
        text("path"),
        pairs("partitionValues"),
        long("size"),
        long("modificationTime"),
        flag("dataChange"),
        text("stats"),
        pairs("tags"),
        vector(),
        long("baseRowId"),
        long("defaultRowCommitVersion"),
        text("clusteringProvider"),
    ]
}

fn remove() -> Vec<FieldRef> {
    vec![
        text("path"),
        long("deletionTimestamp"),
        flag("dataChange"),
        flag("extendedFileMetadata"),
        pairs("partitionValues"),
        long("size"),
        vector(),
        long("baseRowId"),
        long("defaultRowCommitVersion"),
    ]
}

fn vector() -> FieldRef {
    let fields = [text("storageType"), text("pathOrInlineDv"), number("offset"), number("sizeInBytes")];
    record("deletionVector", fields.into_iter().chain([long("cardinality")]).collect())
}

fn nullable(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

fn text(name: &str) -> FieldRef {
    nullable(name, DataType::Utf8)
}

fn long(name: &str) -> FieldRef {
    nullable(name, DataType::Int64)
}

fn number(name: &str) -> FieldRef {
    nullable(name, DataType::Int32)
}

fn flag(name: &str) -> FieldRef {
    nullable(name, DataType::Boolean)
}

fn record(name: &str, fields: Vec<FieldRef>) -> FieldRef {
    nullable(name, DataType::Struct(fields.into()))
}

fn texts(name: &str) -> FieldRef {
    nullable(name, DataType::List(nullable("element", DataType::Utf8)))
}

/// A map of texts, with the names that the Parquet format asks for.
fn pairs(name: &str) -> FieldRef {
    let fields = vec![Arc::new(Field::new("key", DataType::Utf8, false)), text("value")];
    let entries = Field::new("key_value", DataType::Struct(fields.into()), false);
    nullable(name, DataType::Map(Arc::new(entries), false))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn actions_become_rows_and_what_a_checkpoint_does_not_have_is_left_out() {
        let actions = [
            json!({"add": {"path": "a", "size": 7, "partitionValues": {"p": null}, "stats": "{}", "unknown": [1]}}),
            json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"]}}),
        ];
        let rows = of_actions(&actions).unwrap();
        let adds = rows.column_by_name("add").unwrap().as_struct();
        assert_eq!((rows.num_rows(), adds.is_valid(0), adds.is_valid(1)), (2, true, false));
        assert_eq!(adds.column_by_name("path").unwrap().as_string::<i32>().value(0), "a");
        assert_eq!(conformed(&rows).unwrap(), rows, "rows of ours are as they should be");
    }

    #[test]
    fn rows_of_other_writers_get_our_columns() {
        let theirs = RecordBatch::try_from_iter([
            ("add", {
                let size = Arc::new(arrow_array::Int32Array::from(vec![5])) as ArrayRef;
                let parsed = Arc::new(arrow_array::BooleanArray::from(vec![true])) as ArrayRef;
                let fields: Fields = vec![
                    Field::new("size", DataType::Int32, false),
                    Field::new("stats_parsed", DataType::Boolean, false),
                ]
                .into();
                Arc::new(StructArray::new(fields, vec![size, parsed], None)) as ArrayRef
            }),
            ("sidecar", Arc::new(arrow_array::BooleanArray::from(vec![true])) as ArrayRef),
        ]);
        let rows = conformed(&theirs.unwrap()).unwrap();
        assert_eq!(rows.schema(), *schema());
        let adds = rows.column_by_name("add").unwrap().as_struct();
        assert_eq!(adds.column_by_name("size").unwrap().as_primitive::<arrow_array::types::Int64Type>().value(0), 5);
    }
}
