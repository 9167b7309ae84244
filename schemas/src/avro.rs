//! Avro schemas as the sink needs them: parsed from JSON, names resolved, semantic names kept, any value skippable.
//!
//! <https://avro.apache.org/docs/1.12.0/specification/#schema-declaration>

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value;

use crate::envelope::{NAME_PROPERTY, source_schema, transaction_schema};
use crate::wire::{Malformed, Reader};

/// The structure of a value.
#[derive(Clone, Debug)]
pub enum Shape {
    /// `null`: no bytes.
    Null,
    /// `boolean`: one byte.
    Boolean,
    /// `int`: 32 bits, of variable length when encoded.
    Int,
    /// `long`: 64 bits, of variable length when encoded.
    Long,
    /// `float`: 4 bytes.
    Float,
    /// `double`: 8 bytes.
    Double,
    /// `bytes`: length and content.
    Bytes,
    /// `string`: length and UTF-8 content.
    String,
    /// `fixed`: this many bytes.
    Fixed(usize),
    /// `enum`: an index into the symbols.
    Enum,
    /// `array`: blocks of items.
    Array(Box<Schema>),
    /// `map`: blocks of string keys and values.
    Map(Box<Schema>),
    /// `union`: a branch index and the branch's value.
    Union(Vec<Schema>),
    /// `record`: the values of its fields, in order.
    Record(Arc<RecordSchema>),
}

/// A record's name and fields.
#[derive(Debug)]
pub struct RecordSchema {
    /// Full name, including the namespace.
    pub name: String,
    /// Fields in the order of the schema, which is also the order of their bytes.
    pub fields: Vec<Field>,
}

/// A field of a record.
#[derive(Clone, Debug)]
pub struct Field {
    /// Name.
    pub name: String,
    /// Name of the source's column; differs from `name` where Avro's rules do not allow the column's name.
    pub column: String,
    /// Type.
    pub schema: Schema,
}

/// A schema: a shape, and the properties that give it a meaning.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Structure of the encoded bytes.
    pub shape: Shape,
    /// `connect.name`: Kafka Connect's name for the meaning, such as `io.debezium.time.Date`.
    pub semantic: Option<String>,
    /// `connect.type`: the narrower integer that an `int` holds, `int8` or `int16`.
    pub narrow: Option<String>,
    /// Precision and scale of a decimal.
    pub decimal: Option<(u16, u16)>,
}

/// Error: the text is not an Avro schema that can be parsed.
#[derive(Debug, thiserror::Error)]
pub enum BadSchema {
    /// The text is not JSON.
    #[error("the schema is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The text is JSON, but not a valid schema.
    #[error("the schema is not valid Avro: {0}")]
    Avro(String),
}

impl Schema {
    /// Parses a schema's JSON text.
    pub fn parse(json: &str) -> Result<Schema, BadSchema> {
        let value: Value = serde_json::from_str(json)?;
        Parser { named: HashMap::new() }.schema(&value, "")
    }

    /// The record, if the schema is one or is a nullable union with one.
    pub fn as_record(&self) -> Option<&Arc<RecordSchema>> {
        match &self.without_null().0.shape {
            Shape::Record(record) => Some(record),
            _ => None,
        }
    }

    /// The other branch of a nullable union, with the index of its null branch; the schema itself, with none, if it
    /// is not nullable.
    pub fn without_null(&self) -> (&Schema, Option<usize>) {
        match &self.shape {
            Shape::Union(branches) if branches.len() == 2 => match (&branches[0].shape, &branches[1].shape) {
                (Shape::Null, _) => (&branches[1], Some(0)),
                (_, Shape::Null) => (&branches[0], Some(1)),
                _ => (self, None),
            },
            _ => (self, None),
        }
    }

    /// Moves the reader past one value of this schema.
    pub fn skip(&self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        match &self.shape {
            Shape::Null => {}
            Shape::Boolean => drop(reader.take(1)?),
            Shape::Int | Shape::Long | Shape::Enum => drop(reader.long()?),
            Shape::Float => drop(reader.take(4)?),
            Shape::Double => drop(reader.take(8)?),
            Shape::Bytes | Shape::String => drop(reader.bytes()?),
            Shape::Fixed(size) => drop(reader.take(*size)?),
            Shape::Array(items) => skip_blocks(reader, |reader| items.skip(reader))?,
            Shape::Map(values) => skip_blocks(reader, |reader| {
                reader.bytes()?;
                values.skip(reader)
            })?,
            Shape::Union(branches) => {
                let branch = reader.length()?;
                branches.get(branch).ok_or(Malformed::NoSuchBranch)?.skip(reader)?;
            }
            Shape::Record(record) => {
                for field in &record.fields {
                    field.schema.skip(reader)?;
                }
            }
        }
        Ok(())
    }
}

impl RecordSchema {
    /// Index of the field with this name.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.name == name)
    }
}

/// Calls `item` for each item of an array or map. In Avro a negative block count is followed by the block's size in
/// bytes. Items that take no bytes are refused in blocks of more than 2^20.
pub fn read_blocks<'a>(
    reader: &mut Reader<'a>,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    loop {
        let count = reader.long()?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            reader.long()?;
        }
        for _ in 0..count.unsigned_abs() {
            let before = reader.rest().len();
            item(reader)?;
            if reader.rest().len() == before && count.unsigned_abs() > 1 << 20 {
                return Err(Malformed::OutOfRange);
            }
        }
    }
}

fn skip_blocks<'a>(
    reader: &mut Reader<'a>,
    item: impl FnMut(&mut Reader<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    read_blocks(reader, item)
}

/// Records that are the same in the envelopes of all tables, parsed once for all of them.
static COMMON: LazyLock<Vec<(Value, Schema)>> = LazyLock::new(|| {
    let parsed = |value: Value| {
        let schema = Parser { named: HashMap::new() }.parse_record(&value, "").ok()?;
        Some((value, schema))
    };
    [source_schema(), transaction_schema()].into_iter().filter_map(parsed).collect()
});

struct Parser {
    named: HashMap<String, Schema>,
}

impl Parser {
    fn schema(&mut self, value: &Value, namespace: &str) -> Result<Schema, BadSchema> {
        match value {
            Value::String(name) => self.by_name(name, namespace),
            Value::Array(branches) => {
                let branches = branches.iter().map(|branch| self.schema(branch, namespace));
                Ok(plain(Shape::Union(collected(branches)?)))
            }
            Value::Object(_) => self.declared(value, namespace),
            other => Err(BadSchema::Avro(format!("{other} is no schema"))),
        }
    }

    fn by_name(&self, name: &str, namespace: &str) -> Result<Schema, BadSchema> {
        let shape = match name {
            "null" => Shape::Null,
            "boolean" => Shape::Boolean,
            "int" => Shape::Int,
            "long" => Shape::Long,
            "float" => Shape::Float,
            "double" => Shape::Double,
            "bytes" => Shape::Bytes,
            "string" => Shape::String,
            _ => {
                let full = full_name(name, namespace);
                let found = self.named.get(&full).or_else(|| self.named.get(name)).cloned();
                return found.ok_or_else(|| BadSchema::Avro(format!("type '{name}' is not defined before its use")));
            }
        };
        Ok(plain(shape))
    }

    fn declared(&mut self, value: &Value, namespace: &str) -> Result<Schema, BadSchema> {
        let Some(Value::String(kind)) = value.get("type") else {
            let inner = value.get("type").ok_or_else(|| BadSchema::Avro("a type has no 'type'".to_owned()))?;
            return self.schema(inner, namespace);
        };
        let part = |name: &str| value.get(name).ok_or_else(|| BadSchema::Avro(format!("{kind} without '{name}'")));
        let shape = match kind.as_str() {
            "array" => Shape::Array(Box::new(self.schema(part("items")?, namespace)?)),
            "map" => Shape::Map(Box::new(self.schema(part("values")?, namespace)?)),
            "record" | "error" => return self.record(value, namespace),
            "enum" => Shape::Enum,
            "fixed" => {
                let size = part("size")?.as_u64().and_then(|size| usize::try_from(size).ok());
                Shape::Fixed(size.ok_or_else(|| BadSchema::Avro("fixed with a bad 'size'".to_owned()))?)
            }
            name => self.by_name(name, namespace)?.shape,
        };
        let schema = with_meaning(shape, value);
        if let (Shape::Enum | Shape::Fixed(_), Some(name)) = (&schema.shape, declared_name(value, namespace)) {
            self.named.insert(name, schema.clone());
        }
        Ok(schema)
    }

    fn record(&mut self, value: &Value, namespace: &str) -> Result<Schema, BadSchema> {
        let Some((_, schema)) = COMMON.iter().find(|(common, _)| common == value) else {
            return self.parse_record(value, namespace);
        };
        if let Some(record) = schema.as_record() {
            self.named.insert(record.name.clone(), schema.clone());
        }
        Ok(schema.clone())
    }

    fn parse_record(&mut self, value: &Value, namespace: &str) -> Result<Schema, BadSchema> {
        let name =
            declared_name(value, namespace).ok_or_else(|| BadSchema::Avro("record without 'name'".to_owned()))?;
        let inner = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
        let Some(Value::Array(fields)) = value.get("fields") else {
            return Err(BadSchema::Avro(format!("record '{name}' without 'fields'")));
        };
        let fields = collected(fields.iter().map(|field| self.field(field, &inner)))?;
        let record = RecordSchema { name: name.clone(), fields };
        let schema = with_meaning(Shape::Record(Arc::new(record)), value);
        self.named.insert(name, schema.clone());
        Ok(schema)
    }

    fn field(&mut self, value: &Value, namespace: &str) -> Result<Field, BadSchema> {
        let name = value.get("name").and_then(Value::as_str);
        let name = name.ok_or_else(|| BadSchema::Avro("a field has no 'name'".to_owned()))?.to_owned();
        let declared = value.get("type").ok_or_else(|| BadSchema::Avro(format!("field '{name}' has no 'type'")))?;
        let column = value.get(NAME_PROPERTY).and_then(Value::as_str).unwrap_or(&name).to_owned();
        Ok(Field { schema: self.schema(declared, namespace)?, name, column })
    }
}

/// All of them, in no more room than they take: schemas of many tables are kept.
fn collected<T>(parsed: impl Iterator<Item = Result<T, BadSchema>>) -> Result<Vec<T>, BadSchema> {
    let mut all = parsed.collect::<Result<Vec<T>, BadSchema>>()?;
    all.shrink_to_fit();
    Ok(all)
}

fn plain(shape: Shape) -> Schema {
    Schema { shape, semantic: None, narrow: None, decimal: None }
}

fn with_meaning(shape: Shape, value: &Value) -> Schema {
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| value.get(name).and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
    let decimal = match text("logicalType").as_deref() {
        Some("decimal") => number("precision").map(|precision| (precision, number("scale").unwrap_or(0))),
        _ => None,
    };
    Schema { shape, semantic: text("connect.name"), narrow: text("connect.type"), decimal }
}

fn declared_name(value: &Value, namespace: &str) -> Option<String> {
    let name = value.get("name")?.as_str()?;
    let namespace = value.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
    Some(full_name(name, namespace))
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}
