//! A key message as text: for a person, `id=7, region=eu`; and for the headers of a changed key, as Kafka Connect's
//! default header converter writes it, `{"id":7,"region":"eu"}`
//! (`org.apache.kafka.connect.data.Values#convertToString`).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sooner_schemas::avro::{RecordSchema, Schema, Shape};
use sooner_schemas::numeric::decimal_text;
use sooner_schemas::wire::{Malformed, Reader, split_header};

/// Columns of a key message as text for a person, `id=7, region=eu`. Ends before the first column that cannot be
/// read.
pub fn key_text(schema: &Schema, message: &[u8]) -> String {
    text_of(schema, message, |_| true)
}

/// Some of a key message's columns as text for a person. Ends before the first column that cannot be read.
pub fn columns_text(schema: &Schema, message: &[u8], columns: &[String]) -> String {
    text_of(schema, message, |column| columns.iter().any(|named| named == column))
}

fn text_of(schema: &Schema, message: &[u8], is_shown: impl Fn(&str) -> bool) -> String {
    let mut parts = Vec::new();
    let fields = schema.as_record().map(|record| record.fields.as_slice()).unwrap_or_default();
    if let Ok((_, datum)) = split_header(message) {
        let mut reader = Reader::new(datum);
        for field in fields {
            let Ok(value) = value_text(&field.schema, &mut reader, Quotes::None) else { break };
            if is_shown(&field.column) {
                parts.push(format!("{}={value}", field.column));
            }
        }
    }
    parts.join(", ")
}

/// A key message as the text of a header, `{"id":7,"region":"eu"}`, for an event that changes the key.
pub fn key_header(schema: &Schema, message: &[u8]) -> Result<String, Malformed> {
    let (_, datum) = split_header(message)?;
    value_text(schema, &mut Reader::new(datum), Quotes::Double)
}

/// How texts are marked, to distinguish them from numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    None,
    Double,
}

impl Quotes {
    fn around(self, text: &str) -> String {
        match self {
            Quotes::None => text.to_owned(),
            Quotes::Double => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        }
    }
}

fn value_text(schema: &Schema, reader: &mut Reader<'_>, quotes: Quotes) -> Result<String, Malformed> {
    Ok(match &schema.shape {
        Shape::Boolean => reader.boolean()?.to_string(),
        Shape::Int | Shape::Long => reader.long()?.to_string(),
        Shape::Float => format!("{:?}", reader.float()?),
        Shape::Double => format!("{:?}", reader.double()?),
        Shape::String => quotes.around(reader.string()?),
        Shape::Bytes => match schema.decimal {
            Some((_, scale)) => decimal_text(reader.bytes()?, scale.into()),
            None => quotes.around(&BASE64_STANDARD.encode(reader.bytes()?)),
        },
        Shape::Record(record) => record_text(record, reader, quotes)?,
        Shape::Union(branches) => {
            let branch = reader.length()?;
            value_text(branches.get(branch).ok_or(Malformed::NoSuchBranch)?, reader, quotes)?
        }
        Shape::Null => "null".to_owned(),
        _ => {
            schema.skip(reader)?;
            "…".to_owned()
        }
    })
}

fn record_text(record: &RecordSchema, reader: &mut Reader<'_>, quotes: Quotes) -> Result<String, Malformed> {
    let mut parts = Vec::new();
    for field in &record.fields {
        let value = value_text(&field.schema, reader, quotes)?;
        parts.push(format!("{}:{value}", quotes.around(&field.name)));
    }
    Ok(format!("{{{}}}", parts.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_to_people_and_to_consumers() {
        let schema = r#"{"type":"record","name":"Key","fields":[{"name":"a","type":"string"},{"name":"b","type":"long"},
            {"name":"c","type":{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}}]}"#;
        let schema = Schema::parse(schema).unwrap();
        let key = [0, 0, 0, 0, 1, 6, b'x', b'"', b'\\', 7, 4, 0x04, 0xD2];
        assert_eq!(key_text(&schema, &key), r#"a=x"\, b=-4, c=12.34"#);
        assert_eq!(columns_text(&schema, &key, &["c".into(), "b".into()]), "b=-4, c=12.34");
        assert_eq!(key_header(&schema, &key).unwrap(), r#"{"a":"x\"\\","b":-4,"c":12.34}"#);
        assert_eq!(key_header(&schema, &key[..9]), Err(Malformed::Truncated));
    }
}
