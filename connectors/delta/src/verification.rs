//! Fingerprints of rows, the same for a row of the source and for one of the lake that has the same values: what
//! `sooner verify` compares. Rows of the source come as events, so that they have the lake's types.

use std::sync::Arc;

use arrow_array::Array;
pub use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_cast::display::array_value_to_string;
use arrow_schema::{DataType, SchemaRef};
use siphasher::sip128::{Hasher128, SipHasher13};
use sooner_api::{Code, Error, Result};
use sooner_schemas::event::EventSchema;
use sooner_schemas::{Column, ColumnType, Relation, Scalar, TableName};
use std::hash::Hasher;

use crate::index::key::{KeyHash, KeyPlan};
use crate::rows::columns::{LakeColumn, arrow_schema, columns_of};
use crate::rows::mark;
use crate::rows::reader::RowReader;
use crate::stored_rows::StoredRows;

/// What identifies a row, and what its values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Hash of its key.
    pub key: KeyHash,
    /// Hash of its values.
    pub values: u128,
}

/// Most characters of a row that are told, where no key tells it from others.
const MOST_CHARS: usize = 200;

/// Makes fingerprints of the rows of one table.
pub struct Fingerprinter {
    table: TableName,
    rows: RowReader,
    /// How keys are hashed; none if rows are told apart by their values alone.
    keys: Option<KeyPlan>,
    /// Columns of the key, in its order.
    key_names: Vec<String>,
    /// Their values' texts are those that the source has.
    texts_are_exact: bool,
    secret: (u64, u64),
    columns: Vec<LakeColumn>,
    schema: SchemaRef,
}

impl Fingerprinter {
    /// For events of a schema, and the columns of a lake table. An operator error if those lack a column of the events,
    /// or have it under another type: then there is nothing to compare.
    pub fn new(schema: &Arc<EventSchema>, table: &[LakeColumn]) -> Result<Fingerprinter> {
        let (rows, secret) = (RowReader::new(schema)?, rand::random());
        let keys = schema.key.as_ref().map(|key| KeyPlan::new(&schema.table, key, secret)).transpose()?;
        let mut columns = Vec::new();
        for column in &columns_of(schema)? {
            let known = table.iter().find(|known| known.is_same(column));
            let Some(known) = known.filter(|known| known.lake_type == column.lake_type) else {
                return Err(misshapen(&schema.table, &column.name));
            };
            columns.push(LakeColumn { nullable: true, ..known.clone() });
        }
        let key_names = keys.iter().flat_map(KeyPlan::columns).map(str::to_owned).collect();
        let keys = keys.map(|keys| keys.stored_in(&columns));
        let texts_are_exact = schema.relation.as_ref().is_some_and(has_exact_key);
        let (table, schema) = (schema.table.clone(), arrow_schema(&columns));
        Ok(Fingerprinter { table, rows, keys, key_names, texts_are_exact, secret, columns, schema })
    }

    /// For events of a schema, and a table that has just their columns.
    pub fn of_events(schema: &Arc<EventSchema>) -> Result<Fingerprinter> {
        Fingerprinter::new(schema, &columns_of(schema)?)
    }

    /// Whether rows are told apart by a key. Without one, there may be several of the same fingerprint.
    pub fn has_key(&self) -> bool {
        self.keys.is_some()
    }

    /// Rows of the source as those of the lake; `messages` are their events' value messages.
    pub fn decode<'a>(&self, messages: impl IntoIterator<Item = &'a [u8]>) -> Result<RecordBatch> {
        let mut builders = self.rows.builders()?;
        for message in messages {
            self.rows.append(message, &[], &mut builders)?;
        }
        let arrays = crate::rows::reader::finish(&mut builders);
        RecordBatch::try_new(self.schema.clone(), arrays)
            .map_err(|error| Error::internal("cannot compare rows of the source", error))
    }

    /// Fingerprints of rows, from either side.
    pub fn fingerprints(&self, rows: &RecordBatch) -> Result<Vec<Fingerprint>> {
        let (first, second) = self.secret;
        let values = (0..rows.num_rows()).map(|row| {
            let mut hasher = SipHasher13::new_with_keys(first, second);
            for column in rows.columns() {
                hash_value(column.as_ref(), row, &mut hasher);
            }
            hasher.finish128().as_u128()
        });
        let Some(keys) = &self.keys else {
            return Ok(values.map(|values| Fingerprint { key: values, values }).collect());
        };
        let keys = keys.hash_rows(rows);
        let keys = keys.ok_or_else(|| {
            Error::internal(format!("cannot compare rows of {}", self.table), "their key cannot be hashed")
        })?;
        Ok(keys.into_iter().zip(values).map(|(key, values)| Fingerprint { key, values }).collect())
    }

    /// Hands all live rows of a table to `each`, with the columns that are compared. Rows that the source has deleted
    /// are not among them, although the table may keep them.
    pub async fn scan(&self, table: &StoredRows, mut each: impl FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        let Some(mark) = mark::of(table.version.columns()) else {
            return table.scan(&self.columns, &self.schema, async |rows| each(rows)).await;
        };
        let columns: Vec<_> = self.columns.iter().chain([mark]).cloned().collect();
        let each_living = async |rows: RecordBatch| {
            let living = mark::living(&rows).map_err(|error| Error::internal("cannot compare rows of the lake", error));
            each(living?)
        };
        table.scan(&columns, &arrow_schema(&columns), each_living).await
    }

    /// The key of a row, as a person reads it; of a table without one, its values.
    pub fn key_text(&self, rows: &RecordBatch, row: usize) -> String {
        let counts = |column: &LakeColumn| !self.has_key() || self.key_names.contains(&column.name);
        let parts = self.columns.iter().zip(rows.columns()).filter(|(column, _)| counts(column));
        let parts = parts.map(|(column, values)| format!("{}={}", column.name, text_of(values.as_ref(), row)));
        let text = parts.collect::<Vec<_>>().join(", ");
        match text.char_indices().nth(MOST_CHARS).filter(|_| !self.has_key()) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }

    /// Texts of a row's key columns, in the key's order, by which the source finds the row; none if the lake's values
    /// do not tell them for certain.
    pub fn key_texts(&self, rows: &RecordBatch, row: usize) -> Option<Box<[Box<str>]>> {
        let texts = self.key_names.iter().map(|name| {
            let place = self.columns.iter().position(|column| column.name == *name)?;
            let values = rows.column(place);
            values.is_valid(row).then(|| text_of(values.as_ref(), row).into())
        });
        if self.texts_are_exact && self.has_key() { texts.collect() } else { None }
    }

    /// Names of the columns in which two rows differ.
    pub fn differing(&self, (a, row_a): (&RecordBatch, usize), (b, row_b): (&RecordBatch, usize)) -> Vec<String> {
        let hash = |rows: &RecordBatch, column: usize, row: usize| {
            let mut hasher = SipHasher13::new();
            hash_value(rows.column(column).as_ref(), row, &mut hasher);
            hasher.finish128().as_u128()
        };
        let differs = |column: &usize| hash(a, *column, row_a) != hash(b, *column, row_b);
        (0..self.columns.len()).filter(differs).map(|column| self.columns[column].name.clone()).collect()
    }
}

/// A value, as a person reads it.
pub(crate) fn text_of(values: &dyn Array, row: usize) -> String {
    array_value_to_string(values, row).unwrap_or_else(|_| "?".to_owned())
}

/// Hashes a value: whether it is there, then what it is, texts and lists with their lengths.
pub(crate) fn hash_value(values: &dyn Array, row: usize, hasher: &mut SipHasher13) {
    if values.is_null(row) {
        return hasher.write_u8(0);
    }
    hasher.write_u8(1);
    match values.data_type() {
        DataType::Boolean => hasher.write_u8(values.as_boolean().value(row).into()),
        DataType::Int16 => hasher.write_i64(values.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => hasher.write_i64(values.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => hasher.write_i64(values.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => hasher.write_u32(float_bits(values.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => {
            let value = values.as_primitive::<Float64Type>().value(row);
            hasher.write_u64(if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() });
        }
        DataType::Decimal128(..) => hasher.write_i128(values.as_primitive::<Decimal128Type>().value(row)),
        DataType::Utf8 => hash_bytes(values.as_string::<i32>().value(row).as_bytes(), hasher),
        DataType::Binary => hash_bytes(values.as_binary::<i32>().value(row), hasher),
        DataType::Date32 => hasher.write_i64(values.as_primitive::<Date32Type>().value(row).into()),
        DataType::Timestamp(..) => hasher.write_i64(values.as_primitive::<TimestampMicrosecondType>().value(row)),
        DataType::List(_) => {
            let items = values.as_list::<i32>().value(row);
            hasher.write_usize(items.len());
            for item in 0..items.len() {
                hash_value(items.as_ref(), item, hasher);
            }
        }
        // Columns have no other types.
        _ => hash_bytes(text_of(values, row).as_bytes(), hasher),
    }
}

fn float_bits(value: f32) -> u32 {
    if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }
}

fn hash_bytes(bytes: &[u8], hasher: &mut SipHasher13) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}

/// Whether values of the key have the same texts in the lake as at the source.
fn has_exact_key(relation: &Relation) -> bool {
    let exact = |column: &Column| {
        let ColumnType::Scalar(scalar) = &column.column_type else { return false };
        let is_exact = matches!(scalar, Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Text | Scalar::Uuid);
        is_exact && column.mask.is_none()
    };
    relation.key.iter().all(|&index| relation.columns.get(index).is_some_and(exact))
}

fn misshapen(table: &TableName, column: &str) -> Error {
    Error::operator(
        Code::ShapeChanged,
        format!("cannot compare {table} with the lake"),
        format!("the lake lacks the column '{column}', or has it under another type"),
        format!("wait until the table has followed the change (`sooner status`), or `sooner resume {table}`"),
    )
}
