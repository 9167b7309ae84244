//! A key message as a person reads it: `id=7, region=eu`.

use sooner_schemas::avro::{Schema, Shape};
use sooner_schemas::wire::{Malformed, Reader, split_header};

/// The columns of a key, as text. What cannot be read is left out.
pub fn key_text(schema: &Schema, message: &[u8]) -> String {
    let mut parts = Vec::new();
    let fields = schema.as_record().map(|record| record.fields.as_slice()).unwrap_or_default();
    if let Ok((_, datum)) = split_header(message) {
        let mut reader = Reader::new(datum);
        for field in fields {
            let Ok(value) = value_text(&field.schema, &mut reader) else { break };
            parts.push(format!("{}={value}", field.column));
        }
    }
    parts.join(", ")
}

fn value_text(schema: &Schema, reader: &mut Reader<'_>) -> Result<String, Malformed> {
    Ok(match &schema.shape {
        Shape::Boolean => reader.boolean()?.to_string(),
        Shape::Int | Shape::Long => reader.long()?.to_string(),
        Shape::Float => reader.float()?.to_string(),
        Shape::Double => reader.double()?.to_string(),
        Shape::String => reader.string()?.to_owned(),
        _ => {
            schema.skip(reader)?;
            "…".to_owned()
        }
    })
}
