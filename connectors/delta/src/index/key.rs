//! A row's key as a keyed hash, the same whether the key comes from an event or from a data file.
//!
//! What is hashed follows the lake's types: numbers as 8 or 16 little-endian bytes, texts and bytes with their length.

use std::hash::{BuildHasherDefault, Hasher};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use siphasher::sip128::{Hasher128, SipHasher13};
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use sooner_schemas::avro::{Schema, Shape, read_blocks};
use sooner_schemas::numeric::{decimal_text, small_unscaled};
use sooner_schemas::temporal::{time_text, zoned_micros};
use sooner_schemas::wire::{Malformed, Reader, split_header};

use crate::rows::columns::LakeColumn;
use crate::rows::lake_type::{LakeType, Meaning};

/// Keyed hash of a row's key: 112 bits, above 16 zeros.
pub type KeyHash = u128;

/// A set of key hashes, which are not hashed a second time.
pub type KeySet = hashbrown::HashSet<KeyHash, BuildHasherDefault<AlreadyHashed>>;
/// A map by key hashes, which are not hashed a second time.
pub type KeyMap<V> = hashbrown::HashMap<KeyHash, V, BuildHasherDefault<AlreadyHashed>>;

/// A hasher for what is a hash already: takes a `u64` as it is, and of a `u128` the upper half.
#[derive(Default)]
pub struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value >> 64) as u64;
    }
}

/// How keys are hashed: which columns, in which order, with which secret.
#[derive(Clone, Debug)]
pub struct KeyPlan {
    fields: Vec<KeyField>,
    secret: (u64, u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyField {
    column: String,
    meaning: Meaning,
}

impl KeyPlan {
    /// Compiles the schema of a table's key record. A key column that cannot be hashed is an operator error.
    pub fn new(table: &TableName, key: &Schema, secret: (u64, u64)) -> Result<KeyPlan> {
        let unusable = |why: String| {
            let remedy = "give the table a primary key of numbers, texts, dates or uuids, or leave it out (exclude)";
            Error::operator(Code::KeyMissing, format!("cannot merge {table} into the lake"), why, remedy)
        };
        let record = key.as_record().ok_or_else(|| unusable("its key is no record".to_owned()))?;
        let fields = record.fields.iter().map(|field| match Meaning::of(&field.schema) {
            Some(Meaning::List(_)) if !has_nullable_items(&field.schema) => {
                Err(unusable(format!("the items of the key column '{}' cannot be told apart", field.column)))
            }
            None => Err(unusable(format!("the key column '{}' cannot be hashed", field.column))),
            Some(meaning) => Ok(KeyField { column: field.column.clone(), meaning }),
        });
        Ok(KeyPlan { fields: fields.collect::<Result<_>>()?, secret })
    }

    /// A plan for rows of files with these key columns. Keys of events cannot be hashed by it.
    pub fn for_rows(columns: &[String], secret: (u64, u64)) -> KeyPlan {
        let field = |column: &String| KeyField { column: column.clone(), meaning: Meaning::Plain(LakeType::String) };
        KeyPlan { fields: columns.iter().map(field).collect(), secret }
    }

    /// The same plan for rows of files, which may know these columns by other names.
    pub fn stored_in(&self, columns: &[LakeColumn]) -> KeyPlan {
        let fields = self.fields.iter().map(|field| {
            let column = columns.iter().find(|column| column.name == field.column);
            let stored = column.map_or(field.column.as_str(), LakeColumn::stored_name);
            KeyField { column: stored.to_owned(), meaning: field.meaning.clone() }
        });
        KeyPlan { fields: fields.collect(), secret: self.secret }
    }

    /// Whether another plan hashes the same columns in the same way; the secrets are not compared.
    pub fn same_columns(&self, other: &KeyPlan) -> bool {
        self.fields == other.fields
    }

    /// The columns and how they are hashed, as a text that can be compared.
    pub fn description(&self) -> String {
        format!("{:?}", self.fields)
    }

    /// The secret that keys are hashed with.
    pub fn secret(&self) -> (u64, u64) {
        self.secret
    }

    /// Names of the key columns, in the order of the key.
    pub fn columns(&self) -> Vec<&str> {
        self.fields.iter().map(|field| field.column.as_str()).collect()
    }

    /// Hashes the key of an encoded key message; `scratch` is a buffer to be reused.
    pub fn hash_message(&self, message: &[u8], scratch: &mut Vec<u8>) -> std::result::Result<KeyHash, Malformed> {
        let (_, datum) = split_header(message)?;
        let mut reader = Reader::new(datum);
        scratch.clear();
        for field in &self.fields {
            push_avro(scratch, &field.meaning, &mut reader)?;
        }
        Ok(self.hash(scratch))
    }

    /// Hashes the key of each row in a batch that has the key columns by name. None if a column is missing or has a
    /// type that is no key's.
    pub fn hash_rows(&self, batch: &RecordBatch) -> Option<Vec<KeyHash>> {
        let columns: Option<Vec<_>> = self.fields.iter().map(|field| batch.column_by_name(&field.column)).collect();
        let columns = columns?;
        let mut scratch = Vec::new();
        let mut hashes = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            scratch.clear();
            for column in &columns {
                push_arrow(&mut scratch, column.as_ref(), row)?;
            }
            hashes.push(self.hash(&scratch));
        }
        Some(hashes)
    }

    fn hash(&self, bytes: &[u8]) -> KeyHash {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write(bytes);
        hasher.finish128().as_u128() >> 16 << 16
    }
}

fn push_avro(out: &mut Vec<u8>, meaning: &Meaning, reader: &mut Reader<'_>) -> std::result::Result<(), Malformed> {
    match meaning {
        Meaning::Plain(lake_type) => match lake_type {
            LakeType::Boolean => push_number(out, reader.boolean()?.into()),
            LakeType::Float => push_float(out, reader.float()?.into()),
            LakeType::Double => push_float(out, reader.double()?),
            LakeType::Decimal(..) => {
                push_decimal(out, small_unscaled(reader.bytes()?).ok_or(Malformed::OutOfRange)?);
            }
            LakeType::String | LakeType::Binary => push_bytes(out, reader.bytes()?),
            _ => push_number(out, reader.long()?),
        },
        Meaning::TimeMillis => {
            let millis = reader.long()?;
            push_bytes(out, time_text(millis.checked_mul(1000).ok_or(Malformed::OutOfRange)?).as_bytes());
        }
        Meaning::TimeMicros => push_bytes(out, time_text(reader.long()?).as_bytes()),
        Meaning::TimestampMillis => push_number(out, reader.long()?.checked_mul(1000).ok_or(Malformed::OutOfRange)?),
        Meaning::Zoned => push_number(out, zoned_micros(reader.string()?).map_err(|_| Malformed::OutOfRange)?),
        Meaning::WideDecimal(scale) => push_bytes(out, decimal_text(reader.bytes()?, *scale).as_bytes()),
        Meaning::VariableScale => {
            let scale = reader.length()?;
            push_bytes(out, decimal_text(reader.bytes()?, scale).as_bytes());
        }
        Meaning::List(items) => push_avro_list(out, items, reader)?,
    }
    Ok(())
}

/// Whether the items of an array may be null, as those that Postgres' arrays become.
fn has_nullable_items(array: &Schema) -> bool {
    matches!(&array.shape, Shape::Array(items) if items.without_null().1 == Some(0))
}

/// Appends the items of a list, each after whether it is there, and their number after them.
fn push_avro_list(out: &mut Vec<u8>, items: &Meaning, reader: &mut Reader<'_>) -> std::result::Result<(), Malformed> {
    let mut count = 0;
    read_blocks(reader, |reader| {
        count += 1;
        let is_there = reader.length()? != 0;
        out.push(is_there.into());
        if is_there { push_avro(out, items, reader) } else { Ok(()) }
    })?;
    push_number(out, count);
    Ok(())
}

fn push_arrow(out: &mut Vec<u8>, column: &dyn Array, row: usize) -> Option<()> {
    match column.data_type() {
        DataType::Boolean => push_number(out, column.as_boolean().value(row).into()),
        DataType::Int16 => push_number(out, column.as_primitive::<Int16Type>().value(row).into()),
        DataType::Int32 => push_number(out, column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => push_number(out, column.as_primitive::<Int64Type>().value(row)),
        DataType::Date32 => push_number(out, column.as_primitive::<Date32Type>().value(row).into()),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            push_number(out, column.as_primitive::<TimestampMicrosecondType>().value(row));
        }
        DataType::Float32 => push_float(out, column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => push_float(out, column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => push_decimal(out, column.as_primitive::<Decimal128Type>().value(row)),
        DataType::Utf8 => push_bytes(out, column.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => push_bytes(out, column.as_binary::<i32>().value(row)),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            for item in 0..items.len() {
                out.push(items.is_valid(item).into());
                if items.is_valid(item) {
                    push_arrow(out, items.as_ref(), item)?;
                }
            }
            push_number(out, items.len() as i64);
        }
        _ => return None,
    }
    Some(())
}

fn push_number(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn push_decimal(out: &mut Vec<u8>, value: i128) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a float in one canonical form, because Postgres holds all NaNs equal, and both zeros.
fn push_float(out: &mut Vec<u8>, value: f64) {
    let canonical = if value.is_nan() { f64::NAN } else { value + 0.0 };
    out.extend_from_slice(&canonical.to_bits().to_le_bytes());
}

fn push_bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    out.extend_from_slice(value);
}
