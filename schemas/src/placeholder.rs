//! Recognises Debezium's placeholders for values that Postgres left out, in events whose writer does not list those
//! columns.

use crate::avro::{RecordSchema, Schema, Shape, read_blocks};
use crate::value::{PLACEHOLDER, UUID_PLACEHOLDER};
use crate::wire::{Malformed, Reader};

/// Indexes of a row's fields that hold a placeholder. Reads from the row's first field, and leaves the reader after
/// the row.
pub fn find_placeholders(row: &RecordSchema, reader: &mut Reader<'_>) -> Result<Vec<u16>, Malformed> {
    let mut found = Vec::new();
    for (index, field) in row.fields.iter().enumerate() {
        let mut value = *reader;
        field.schema.skip(reader)?;
        if is_placeholder(&field.schema, &mut value)? {
            found.push(index as u16);
        }
    }
    Ok(found)
}

fn is_placeholder(schema: &Schema, reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    let (value, null) = schema.without_null();
    if let Some(null) = null
        && reader.length()? == null
    {
        return Ok(false);
    }
    match &value.shape {
        Shape::String | Shape::Bytes => Ok(reader.bytes()? == PLACEHOLDER),
        Shape::Array(items) => is_placeholder_array(items, reader),
        _ => Ok(false),
    }
}

/// Whether an array is a placeholder: a single text, or the placeholder's bytes as numbers.
fn is_placeholder_array(items: &Schema, reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    let (item, null) = items.without_null();
    let mut count = 0;
    let mut same = true;
    read_blocks(reader, |reader| {
        let is_null = match null {
            Some(null) => reader.length()? == null,
            None => false,
        };
        same &= !is_null;
        if !is_null {
            same &= match &item.shape {
                Shape::String | Shape::Bytes => {
                    let bytes = reader.bytes()?;
                    count == 0 && (bytes == PLACEHOLDER || bytes == UUID_PLACEHOLDER)
                }
                Shape::Int | Shape::Long => PLACEHOLDER.get(count).map(|byte| i64::from(*byte)) == Some(reader.long()?),
                _ => {
                    item.skip(reader)?;
                    false
                }
            };
        }
        count += 1;
        Ok(())
    })?;
    let expected = if matches!(item.shape, Shape::Int | Shape::Long) { PLACEHOLDER.len() } else { 1 };
    Ok(same && count == expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{write_bytes, write_long};

    fn schema() -> Schema {
        let fields = r#"{"name":"a","type":["null","string"]},{"name":"b","type":{"type":"array","items":["null","int"]}},
            {"name":"c","type":"long"},{"name":"d","type":[{"type":"array","items":"string"},"null"]}"#;
        Schema::parse(&format!(r#"{{"type":"record","name":"Value","fields":[{fields}]}}"#)).unwrap()
    }

    fn row(text: &[u8], numbers: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_long(&mut out, 1);
        write_bytes(&mut out, text);
        write_long(&mut out, numbers.len() as i64);
        for number in numbers {
            write_long(&mut out, 1);
            write_long(&mut out, i64::from(*number));
        }
        write_long(&mut out, 0);
        write_long(&mut out, 7);
        write_long(&mut out, 0);
        write_long(&mut out, 1);
        write_bytes(&mut out, text);
        write_long(&mut out, 0);
        out
    }

    #[test]
    fn placeholders_are_told_from_values() {
        let schema = schema();
        let record = schema.as_record().unwrap();
        let find = |bytes: &[u8]| find_placeholders(record, &mut Reader::new(bytes)).unwrap();
        assert_eq!(find(&row(PLACEHOLDER, PLACEHOLDER)), [0, 1, 3]);
        assert!(find(&row(b"text", &PLACEHOLDER[..27])).is_empty());
    }
}
