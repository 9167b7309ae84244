//! Makes rows of a history from events: one for an insert, a delete, a copied row or an event of the whole table, and
//! for an update one with the row as it became, after one with the row as it was where the event has that.

use std::sync::Arc;

use arrow_array::builder::{ArrayBuilder, Int64Builder, ListBuilder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, RecordBatch, new_null_array};
use arrow_schema::{DataType, Field};
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use sooner_schemas::avro::{RecordSchema, Schema, Shape};
use sooner_schemas::event::{Event, EventSchema};
use sooner_schemas::relation::ReplicaIdentity;
use sooner_schemas::wire::{Malformed, Reader, split_header};

use super::change_type::ChangeType;
use crate::rows::builder::{ColumnBuilder, Refused};
use crate::rows::columns::{LakeColumn, arrow_schema, columns_of};
use crate::rows::lake_type::{LakeType, arrow_type, list_field};
use crate::rows::source_block::{Source, read_source};

/// Reads events of one envelope schema into rows, which wait here until they are taken as a batch.
pub struct HistoryReader {
    /// Schemas of the events.
    pub schema: Arc<EventSchema>,
    /// Columns of the events' rows.
    pub columns: Vec<LakeColumn>,
    row: Arc<RecordSchema>,
    /// Of which columns an image of a former row has values.
    known_before: Vec<bool>,
    facts: Facts,
    values: Vec<ColumnBuilder>,
    bytes: usize,
}

#[derive(Default)]
struct Facts {
    change: StringBuilder,
    lsn: Int64Builder,
    ordinal: Int64Builder,
    time: TimestampMicrosecondBuilder,
    transaction: Int64Builder,
    unchanged: Option<ListBuilder<StringBuilder>>,
}

impl HistoryReader {
    /// Compiles a reader for an envelope schema; one that is no envelope, or has a type that is not supported, is an
    /// operator error.
    pub fn new(schema: &Arc<EventSchema>) -> Result<HistoryReader> {
        let columns = columns_of(schema)?;
        let row =
            after_record(&schema.value).ok_or_else(|| unreadable(&schema.table, "their schema has no 'after'"))?;
        let values = row.fields.iter().map(|field| ColumnBuilder::new(&field.schema)).collect::<Option<Vec<_>>>();
        let values = values.ok_or_else(|| unreadable(&schema.table, "a column's type is not supported"))?;
        let known_before = known_before(schema, &row);
        Ok(HistoryReader {
            schema: schema.clone(),
            columns,
            row,
            known_before,
            facts: Facts::default(),
            values,
            bytes: 0,
        })
    }

    /// Adds the rows of an event, whose value is `message`. After an error the reader is of no use.
    pub fn append(&mut self, event: &Event, message: &[u8]) -> Result<()> {
        let table = self.schema.table.clone();
        self.read(event, message).map_err(|why| {
            let remedy = format!("correct the value at the source, then `sooner resume {table}`");
            Error::operator(
                Code::ValueUnholdable,
                format!("cannot keep an event of {table} in its history"),
                why,
                remedy,
            )
        })?;
        self.bytes += message.len();
        Ok(())
    }

    fn read(&mut self, event: &Event, message: &[u8]) -> std::result::Result<(), Refused> {
        let (_, datum) = split_header(message)?;
        let schema = self.schema.clone();
        let Some(envelope) = schema.value.as_record() else { return Err(Malformed::NoSuchBranch.into()) };
        let mut reader = Reader::new(datum);
        let (mut before, mut after, mut source, mut op) = (false, false, Source::default(), None);
        for field in &envelope.fields {
            match field.name.as_str() {
                "before" if has_image(&field.schema, &mut reader)? => {
                    self.read_image(&mut reader, |index, known| !known[index])?;
                    before = true;
                }
                "after" if has_image(&field.schema, &mut reader)? => {
                    self.read_image(&mut reader, |index, _| event.unavailable.contains(&(index as u16)))?;
                    after = true;
                }
                "before" | "after" => {}
                "source" => source = read_source(&field.schema, &mut reader)?,
                "op" if matches!(field.schema.shape, Shape::String) => op = Some(reader.string()?),
                _ => field.schema.skip(&mut reader)?,
            }
        }
        let change = ChangeType::of(event.op, op);
        if before {
            let image = if change == ChangeType::Delete { ChangeType::Delete } else { ChangeType::Preimage };
            self.add_facts(image, event, source, &[]);
        }
        if after {
            self.add_facts(change, event, source, &event.unavailable);
        }
        if !before && !after {
            self.values.iter_mut().for_each(ColumnBuilder::append_null);
            self.add_facts(change, event, source, &[]);
        }
        Ok(())
    }

    /// Reads the image of a row; columns that are left out are null.
    fn read_image(
        &mut self,
        reader: &mut Reader<'_>,
        is_left_out: impl Fn(usize, &[bool]) -> bool,
    ) -> std::result::Result<(), Refused> {
        for (index, (field, builder)) in self.row.fields.iter().zip(&mut self.values).enumerate() {
            if is_left_out(index, &self.known_before) {
                builder.append_null();
                field.schema.skip(reader)?;
            } else {
                builder.append(reader)?;
            }
        }
        Ok(())
    }

    fn add_facts(&mut self, change: ChangeType, event: &Event, source: Source, unavailable: &[u16]) {
        let Facts { change: changes, lsn, ordinal, time, transaction, unchanged } = &mut self.facts;
        changes.append_value(change.name());
        lsn.append_value(event.position.commit_lsn.0.cast_signed());
        ordinal.append_value(event.position.ordinal.cast_signed());
        time.append_option(source.commit_micros);
        transaction.append_option(source.transaction);
        let unchanged = unchanged
            .get_or_insert_with(|| ListBuilder::new(StringBuilder::new()).with_field(list_field(&LakeType::String)));
        for column in unavailable.iter().filter_map(|index| self.columns.get(usize::from(*index))) {
            unchanged.values().append_value(&column.name);
        }
        unchanged.append(!unavailable.is_empty());
    }

    /// Bytes of the events that wait here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows that wait here, as rows of a table with these columns, of which those of the events stand at `places`;
    /// none if none wait.
    pub fn take(&mut self, columns: &[LakeColumn], places: &[usize]) -> Result<Option<RecordBatch>> {
        self.bytes = 0;
        let rows = self.facts.change.len();
        if rows == 0 {
            return Ok(None);
        }
        let mut arrays: Vec<Option<ArrayRef>> = vec![None; columns.len()];
        let facts = std::mem::take(&mut self.facts).finish();
        for (place, array) in facts.into_iter().enumerate() {
            arrays[place] = Some(array);
        }
        for (place, builder) in places.iter().zip(&mut self.values) {
            arrays[*place] = Some(builder.finish());
        }
        let arrays = arrays
            .into_iter()
            .zip(columns)
            .map(|(array, column)| array.unwrap_or_else(|| new_null_array(&arrow_type(&column.lake_type), rows)));
        let batch = RecordBatch::try_new(arrow_schema(columns), arrays.collect());
        batch.map(Some).map_err(|error| Error::internal("cannot keep events in a history", error))
    }
}

impl Facts {
    fn finish(mut self) -> Vec<ArrayRef> {
        let unchanged = self.unchanged.as_mut().map(ListBuilder::finish);
        vec![
            Arc::new(self.change.finish()),
            Arc::new(self.lsn.finish()),
            Arc::new(self.ordinal.finish()),
            Arc::new(self.time.finish().with_timezone("UTC")),
            Arc::new(self.transaction.finish()),
            unchanged.map_or_else(
                || new_null_array(&DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))), 0),
                |list| Arc::new(list) as ArrayRef,
            ),
        ]
    }
}

fn after_record(envelope: &Schema) -> Option<Arc<RecordSchema>> {
    let envelope = envelope.as_record()?;
    let after = &envelope.fields[envelope.field_index("after")?];
    after.schema.as_record().cloned()
}

/// Whether the next value, of a nullable image, is there; reads which branch it is.
fn has_image(schema: &Schema, reader: &mut Reader<'_>) -> std::result::Result<bool, Malformed> {
    match schema.without_null().1 {
        Some(null) => Ok(reader.length()? != null),
        None => Ok(true),
    }
}

/// Of which columns the image of a former row has values: of all where the replica identity is full, or another writer
/// does not say; otherwise of those of the key.
fn known_before(schema: &EventSchema, row: &RecordSchema) -> Vec<bool> {
    let is_whole = schema.relation.as_ref().is_none_or(|relation| relation.identity == ReplicaIdentity::Full);
    let key = schema.key.as_ref().and_then(Schema::as_record);
    let is_key = |column: &str| key.is_some_and(|key| key.fields.iter().any(|field| field.column == column));
    row.fields.iter().map(|field| is_whole || is_key(&field.column)).collect()
}

fn unreadable(table: &TableName, why: &str) -> Error {
    let what = format!("cannot keep a history of {table}");
    Error::operator(Code::MessageUnreadable, what, why, "send events in Debezium's envelope")
}
