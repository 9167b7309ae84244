//! Any Avro datum as JSON for a person, as far as it can be read: what comes before the first byte that does not fit
//! its schema is shown, and why it ends there.
//!
//! Decimals, dates and times are texts as Postgres writes them, bytes are hexadecimal, and enums are their numbers.

use serde_json::{Map, Value, json};
use sooner_schemas::avro::{RecordSchema, Schema, Shape, read_blocks};
use sooner_schemas::numeric::decimal_text;
use sooner_schemas::temporal::{push_zoned, time_text};
use sooner_schemas::wire::{Malformed, Reader};

/// So many values are shown at most: a few bytes may claim to be millions of nulls.
const MOST_VALUES: usize = 100_000;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// A datum as JSON; and why it could not be read to its end, or that bytes are left over after it.
pub fn datum_json(schema: &Schema, datum: &[u8]) -> (Value, Option<String>) {
    let (mut decoder, mut reader, mut value) = (Decoder { left: MOST_VALUES }, Reader::new(datum), Value::Null);
    let read = decoder.read(schema, &mut reader, &mut value);
    let why = match (read, reader.rest().len()) {
        (Err(_), _) if decoder.left == 0 => Some(format!("more than {MOST_VALUES} values are not shown")),
        (Err(why), _) => Some(why.to_string()),
        (Ok(()), 0) => None,
        (Ok(()), left) => Some(format!("{left} bytes are left over after its value")),
    };
    (value, why)
}

struct Decoder {
    /// How many more values are read.
    left: usize,
}

impl Decoder {
    /// Reads a value into `out`, which has what there is of it also after an error.
    fn read(&mut self, schema: &Schema, reader: &mut Reader<'_>, out: &mut Value) -> Result<(), Malformed> {
        self.left = self.left.checked_sub(1).ok_or(Malformed::OutOfRange)?;
        match &schema.shape {
            Shape::Null => {}
            Shape::Boolean => *out = json!(reader.boolean()?),
            Shape::Int | Shape::Long => *out = integer(reader.long()?, schema.semantic.as_deref()),
            Shape::Enum => *out = json!(reader.long()?),
            Shape::Float => *out = shortest(reader.float()?),
            Shape::Double => *out = float(reader.double()?),
            Shape::Bytes => *out = bytes(reader.bytes()?, schema.decimal),
            Shape::Fixed(size) => *out = bytes(reader.take(*size)?, schema.decimal),
            Shape::String => text(reader, out)?,
            Shape::Array(items) => self.items(items, reader, out)?,
            Shape::Map(values) => self.map(values, reader, out)?,
            Shape::Union(branches) => {
                let branch = reader.length()?;
                self.read(branches.get(branch).ok_or(Malformed::NoSuchBranch)?, reader, out)?;
            }
            Shape::Record(record) => self.record(record, reader, out)?,
        }
        Ok(())
    }

    fn record(&mut self, record: &RecordSchema, reader: &mut Reader<'_>, out: &mut Value) -> Result<(), Malformed> {
        let mut fields = Map::new();
        let read = record.fields.iter().try_for_each(|field| {
            let mut value = Value::Null;
            let read = self.read(&field.schema, reader, &mut value);
            // What was not reached is not there, rather than null.
            if read.is_ok() || !value.is_null() {
                fields.insert(field.column.clone(), value);
            }
            read
        });
        *out = Value::Object(fields);
        read
    }

    fn items(&mut self, items: &Schema, reader: &mut Reader<'_>, out: &mut Value) -> Result<(), Malformed> {
        let mut values = Vec::new();
        let read = read_blocks(reader, |reader| {
            let mut value = Value::Null;
            let read = self.read(items, reader, &mut value);
            values.push(value);
            read
        });
        *out = Value::Array(values);
        read
    }

    fn map(&mut self, items: &Schema, reader: &mut Reader<'_>, out: &mut Value) -> Result<(), Malformed> {
        let mut values = Map::new();
        let read = read_blocks(reader, |reader| {
            let name = reader.string()?.to_owned();
            let mut value = Value::Null;
            let read = self.read(items, reader, &mut value);
            values.insert(name, value);
            read
        });
        *out = Value::Object(values);
        read
    }
}

/// A text that is not UTF-8 is shown as far as it is.
fn text(reader: &mut Reader<'_>, out: &mut Value) -> Result<(), Malformed> {
    let bytes = reader.bytes()?;
    *out = json!(String::from_utf8_lossy(bytes));
    std::str::from_utf8(bytes).map(drop).map_err(|_| Malformed::NotUtf8)
}

fn integer(number: i64, semantic: Option<&str>) -> Value {
    match semantic {
        Some("io.debezium.time.Date" | "org.apache.kafka.connect.data.Date") => {
            let text = number.checked_mul(DAY_MICROS).map(|micros| zoned(micros, 0));
            text.and_then(|text| text.split_once('T').map(|(date, _)| json!(date))).unwrap_or(json!(number))
        }
        Some("io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp") => {
            number.checked_mul(1000).map_or(json!(number), |micros| json!(zoned(micros, 3)))
        }
        Some("io.debezium.time.MicroTimestamp") => json!(zoned(number, 6)),
        Some("io.debezium.time.Time" | "org.apache.kafka.connect.data.Time") if number >= 0 => {
            number.checked_mul(1000).map_or(json!(number), |micros| json!(time_text(micros)))
        }
        Some("io.debezium.time.MicroTime") if number >= 0 => json!(time_text(number)),
        _ => json!(number),
    }
}

fn zoned(micros: i64, digits: u8) -> String {
    let mut text = Vec::new();
    push_zoned(&mut text, micros, digits);
    // Such a time has no zone.
    String::from_utf8_lossy(&text).trim_end_matches('Z').to_owned()
}

/// The shortest number that is this one in 32 bits.
fn shortest(number: f32) -> Value {
    float(number.to_string().parse().unwrap_or(f64::from(number)))
}

/// JSON has neither infinity nor NaN.
fn float(number: f64) -> Value {
    serde_json::Number::from_f64(number).map_or_else(|| json!(number.to_string()), Value::Number)
}

fn bytes(bytes: &[u8], decimal: Option<(u16, u16)>) -> Value {
    match decimal {
        Some((_, scale)) => json!(decimal_text(bytes, scale.into())),
        None => json!(hex(bytes)),
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use sooner_schemas::wire::{write_bytes, write_long};

    use super::*;

    fn schema() -> Schema {
        let fields = r#"{"name":"id","type":"long"},{"name":"note","type":["null","string"]},
            {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}},
            {"name":"day","type":{"type":"int","connect.name":"io.debezium.time.Date"}},
            {"name":"list","type":{"type":"array","items":["null","int"]}},{"name":"raw","type":"bytes"}"#;
        Schema::parse(&format!(r#"{{"type":"record","name":"Value","fields":[{fields}]}}"#)).unwrap()
    }

    fn datum() -> Vec<u8> {
        let mut out = Vec::new();
        write_long(&mut out, 7);
        write_long(&mut out, 1);
        write_bytes(&mut out, b"hi");
        write_bytes(&mut out, &[0x04, 0xD2]);
        write_long(&mut out, 19_000);
        write_long(&mut out, 2);
        write_long(&mut out, 0);
        write_long(&mut out, 1);
        write_long(&mut out, -3);
        write_long(&mut out, 0);
        write_bytes(&mut out, &[0xFF, 0]);
        out
    }

    #[test]
    fn a_whole_datum_is_shown_as_postgres_would() {
        let expected =
            json!({"id": 7, "note": "hi", "price": "12.34", "day": "2022-01-08", "list": [null, -3], "raw": "ff00"});
        assert_eq!(datum_json(&schema(), &datum()), (expected, None));
        let longer = [&datum()[..], &[1, 2]].concat();
        assert_eq!(datum_json(&schema(), &longer).1.unwrap(), "2 bytes are left over after its value");
    }

    #[test]
    fn a_datum_that_ends_early_is_shown_as_far_as_it_goes() {
        let (value, why) = datum_json(&schema(), &datum()[..5]);
        assert_eq!(value, json!({"id": 7, "note": "hi"}));
        assert_eq!(why.unwrap(), Malformed::Truncated.to_string());
        let mut spoilt = datum();
        spoilt[4] = 0xFF;
        let (value, why) = datum_json(&schema(), &spoilt);
        assert_eq!((value["note"].as_str().unwrap(), why.unwrap()), ("h\u{FFFD}", Malformed::NotUtf8.to_string()));
    }

    #[test]
    fn a_few_bytes_that_claim_to_be_millions_of_nulls_are_not_believed() {
        let schema = Schema::parse(r#"{"type":"array","items":"null"}"#).unwrap();
        let mut out = Vec::new();
        for _ in 0..3 {
            write_long(&mut out, 1 << 19);
        }
        write_long(&mut out, 0);
        let (value, why) = datum_json(&schema, &out);
        assert!(value.as_array().unwrap().len() <= MOST_VALUES && why.unwrap().contains("not shown"));
    }

    #[test]
    fn times_and_odd_numbers() {
        assert_eq!(integer(1_500, Some("io.debezium.time.Timestamp")), json!("1970-01-01T00:00:01.500"));
        assert_eq!(integer(1, Some("io.debezium.time.MicroTimestamp")), json!("1970-01-01T00:00:00.000001"));
        assert_eq!(integer(3_600_500, Some("io.debezium.time.Time")), json!("01:00:00.5"));
        assert_eq!(integer(i64::MAX, Some("io.debezium.time.Date")), json!(i64::MAX));
        assert_eq!((float(f64::NAN), float(1.5)), (json!("NaN"), json!(1.5)));
        assert_eq!(shortest(1.1), json!(1.1));
    }
}
