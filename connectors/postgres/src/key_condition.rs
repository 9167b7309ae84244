//! Keys as SQL conditions: that of an event selects the row that the event was about.

use sooner_schemas::avro::{Schema, Shape};
use sooner_schemas::numeric::decimal_text;
use sooner_schemas::temporal::{push_zoned, time_text};
use sooner_schemas::wire::Reader;
use sooner_schemas::{Column, ColumnType, Relation, Scalar, TableName};

pub use crate::chunk_statement::has_keys;
use crate::client::{Client, quote_name, quote_text};
use crate::publication::quote_table;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// The condition for a key's datum, without the header of a schema's id; or, for a person, why there is none.
pub fn key_condition(schema: &Schema, datum: &[u8]) -> Result<String, String> {
    let record = schema.as_record().ok_or("its key is no record")?;
    let mut reader = Reader::new(datum);
    let mut parts = Vec::with_capacity(record.fields.len());
    for field in &record.fields {
        let value = literal(&field.schema, &mut reader)?;
        parts.push(format!("{} = {value}", quote_name(&field.column)));
    }
    match (parts.is_empty(), reader.rest().len()) {
        (true, _) => Err("its key has no columns".to_owned()),
        (_, 0) => Ok(parts.join(" AND ")),
        (_, left) => Err(format!("{left} bytes are left over after its key")),
    }
}

/// The column of a table's key, if it is one column of integers.
pub fn integer_key(relation: &Relation) -> Option<&Column> {
    let &[key] = &relation.key[..] else { return None };
    let column = relation.columns.get(key)?;
    let is_integer = matches!(column.column_type, ColumnType::Scalar(Scalar::Int2 | Scalar::Int4 | Scalar::Int8));
    is_integer.then_some(column)
}

/// The condition that a column's integer is within one of these ranges, both ends included.
pub fn within(column: &Column, ranges: &[(i64, i64)]) -> String {
    let name = quote_name(&column.name);
    let parts: Vec<_> = ranges.iter().map(|(first, last)| format!("{name} BETWEEN '{first}' AND '{last}'")).collect();
    parts.join(" OR ")
}

/// Whether the table has a row that fulfils a condition.
pub async fn has_row(client: &mut Client, table: &TableName, condition: &str) -> sooner_api::Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT FROM {} WHERE {condition})", quote_table(table));
    Ok(client.query_value(&sql).await?.as_deref() == Some("t"))
}

/// A value as a literal, which takes the type of the column that it is compared with.
fn literal(schema: &Schema, reader: &mut Reader<'_>) -> Result<String, String> {
    let malformed = |why: sooner_schemas::wire::Malformed| format!("its key: {why}");
    Ok(match &schema.shape {
        Shape::Boolean => reader.boolean().map_err(malformed)?.to_string(),
        Shape::Int | Shape::Long => integer(reader.long().map_err(malformed)?, schema.semantic.as_deref())?,
        Shape::Float => quote_text(&reader.float().map_err(malformed)?.to_string()),
        Shape::Double => quote_text(&reader.double().map_err(malformed)?.to_string()),
        Shape::String => quote_text(reader.string().map_err(malformed)?),
        Shape::Bytes => {
            let bytes = reader.bytes().map_err(malformed)?;
            match schema.decimal {
                Some((_, scale)) => decimal_text(bytes, scale.into()),
                None => bytea(bytes),
            }
        }
        Shape::Record(record) if schema.semantic.as_deref() == Some("io.debezium.data.VariableScaleDecimal") => {
            let scale = reader.int().map_err(malformed)?;
            let scale = usize::try_from(scale).map_err(|_| format!("{} of a negative scale", record.name))?;
            decimal_text(reader.bytes().map_err(malformed)?, scale)
        }
        Shape::Union(branches) => {
            let branch = reader.length().map_err(malformed)?;
            literal(branches.get(branch).ok_or("its key names a branch that its schema lacks")?, reader)?
        }
        _ => return Err("a column of its key is of a type that is no key's".to_owned()),
    })
}

fn integer(number: i64, semantic: Option<&str>) -> Result<String, String> {
    let far = || "a date of its key lies too far away".to_owned();
    Ok(match semantic {
        None => format!("'{number}'"),
        Some("io.debezium.time.Date" | "org.apache.kafka.connect.data.Date") => {
            let text = zoned(number.checked_mul(DAY_MICROS).ok_or_else(far)?);
            quote_text(text.split('T').next().unwrap_or_default())
        }
        Some("io.debezium.time.Timestamp" | "org.apache.kafka.connect.data.Timestamp") => {
            quote_text(&zoned(number.checked_mul(1000).ok_or_else(far)?))
        }
        Some("io.debezium.time.MicroTimestamp") => quote_text(&zoned(number)),
        Some("io.debezium.time.Time" | "org.apache.kafka.connect.data.Time") => {
            quote_text(&time_text(number.checked_mul(1000).ok_or_else(far)?))
        }
        Some("io.debezium.time.MicroTime") => quote_text(&time_text(number)),
        Some(other) => return Err(format!("a column of its key is {other}, which is no key's")),
    })
}

/// A moment without its zone.
fn zoned(micros: i64) -> String {
    let mut text = Vec::new();
    push_zoned(&mut text, micros, 6);
    String::from_utf8_lossy(&text).trim_end_matches('Z').to_owned()
}

fn bytea(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("'\\x{digits}'")
}

#[cfg(test)]
mod tests {
    use sooner_schemas::wire::{write_bytes, write_long};

    use super::*;

    fn condition(fields: &str, datum: &[u8]) -> Result<String, String> {
        let schema = format!(r#"{{"type":"record","name":"Key","fields":[{fields}]}}"#);
        key_condition(&Schema::parse(&schema).unwrap(), datum)
    }

    #[test]
    fn keys_of_several_columns_select_their_row() {
        let mut datum = Vec::new();
        write_long(&mut datum, -7);
        write_bytes(&mut datum, b"it's");
        let fields = r#"{"name":"id","type":"long"},{"name":"a_b","type":"string","sooner.name":"a \"b"}"#;
        let fields = fields.replace("sooner.name", sooner_schemas::envelope::NAME_PROPERTY);
        assert_eq!(condition(&fields, &datum).unwrap(), r#""id" = '-7' AND "a ""b" = 'it''s'"#);
        assert!(condition(&fields, &datum[..3]).unwrap_err().contains("middle of a value"));
        datum.push(0);
        assert!(condition(&fields, &datum).unwrap_err().contains("left over"));
        assert!(condition("", &[]).is_err());
    }

    #[test]
    fn types_that_keys_have_become_literals() {
        let one = |declared: &str, datum: &[u8]| {
            condition(&format!(r#"{{"name":"k","type":{declared}}}"#), datum).map(|text| text.replace("\"k\" = ", ""))
        };
        let long = |number: i64| {
            let mut out = Vec::new();
            write_long(&mut out, number);
            out
        };
        let int = |name: &str| format!(r#"{{"type":"long","connect.name":"io.debezium.time.{name}"}}"#);
        assert_eq!(one(&int("Date"), &long(19_000)).unwrap(), "'2022-01-08'");
        assert_eq!(one(&int("Timestamp"), &long(1_500)).unwrap(), "'1970-01-01T00:00:01.500000'");
        assert_eq!(one(&int("MicroTimestamp"), &long(-1)).unwrap(), "'1969-12-31T23:59:59.999999'");
        assert_eq!(one(&int("MicroTime"), &long(1_500_000)).unwrap(), "'00:00:01.5'");
        assert!(one(&int("Odd"), &long(1)).is_err());
        let decimal = r#"{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}"#;
        assert_eq!(one(decimal, &[4, 0x04, 0xD2]).unwrap(), "12.34");
        assert_eq!(one("\"bytes\"", &[4, 0, 0xFF]).unwrap(), "'\\x00ff'");
        assert_eq!(one(r#"["null","boolean"]"#, &[2, 1]).unwrap(), "true");
        assert_eq!(one("\"double\"", &0.25f64.to_le_bytes()).unwrap(), "'0.25'");
        assert!(one(r#"{"type":"array","items":"int"}"#, &[0]).is_err());
    }
}
