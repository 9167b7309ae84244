//! Converts any Avro datum to JSON, so that two of them can be compared field by field.

use serde_json::{Map, Value, json};
use sooner_schemas::avro::{Schema, Shape, read_blocks};
use sooner_schemas::wire::Reader;

/// Decodes one Avro value as JSON. Bytes become hexadecimal text, floating-point numbers become decimal text.
pub fn to_json(schema: &Schema, reader: &mut Reader<'_>) -> Value {
    match &schema.shape {
        Shape::Null => Value::Null,
        Shape::Boolean => json!(reader.boolean().expect("a boolean")),
        Shape::Int | Shape::Long | Shape::Enum => json!(reader.long().expect("a number")),
        Shape::Float => json!(reader.float().expect("a float").to_string()),
        Shape::Double => json!(reader.double().expect("a double").to_string()),
        Shape::Bytes => json!(hex(reader.bytes().expect("bytes"))),
        Shape::Fixed(size) => json!(hex(reader.take(*size).expect("bytes"))),
        Shape::String => json!(reader.string().expect("a text")),
        Shape::Array(items) => {
            let mut values = Vec::new();
            read_blocks(reader, |reader| {
                values.push(to_json(items, reader));
                Ok(())
            })
            .expect("an array");
            Value::Array(values)
        }
        Shape::Map(items) => {
            let mut values = Map::new();
            read_blocks(reader, |reader| {
                let name = reader.string()?.to_owned();
                values.insert(name, to_json(items, reader));
                Ok(())
            })
            .expect("a map");
            Value::Object(values)
        }
        Shape::Union(branches) => {
            let branch = reader.length().expect("a branch");
            to_json(&branches[branch], reader)
        }
        Shape::Record(record) => {
            let fields = record.fields.iter().map(|field| (field.name.clone(), to_json(&field.schema, reader)));
            Value::Object(fields.collect())
        }
    }
}

/// Adds to `found` each path below `path` at which two values differ, with both values there. Fields in another order
/// are a difference, too.
pub fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<(String, Value, Value)>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            for name in names {
                let missing = json!("(absent)");
                let (ours, theirs) = (a.get(name).unwrap_or(&missing), b.get(name).unwrap_or(&missing));
                differences(&format!("{path}.{name}"), ours, theirs, found);
            }
            let (in_a, in_b): (Vec<_>, Vec<_>) = (a.keys().collect(), b.keys().collect());
            if in_a != in_b && a.len() == b.len() && a.keys().all(|name| b.contains_key(name)) {
                found.push((format!("{path}(order)"), json!(in_a), json!(in_b)));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (ours, theirs)) in a.iter().zip(b).enumerate() {
                let name = ours.get("name").and_then(Value::as_str).map_or(index.to_string(), str::to_owned);
                differences(&format!("{path}[{name}]"), ours, theirs, found);
            }
        }
        (ours, theirs) if ours != theirs => found.push((path.to_owned(), ours.clone(), theirs.clone())),
        _ => {}
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
