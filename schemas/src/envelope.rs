//! Avro schemas of a table's events: Debezium's envelope and key for Postgres, as its Avro converter registers them.
//!
//! <https://debezium.io/documentation/reference/3.6/connectors/postgresql.html#postgresql-events>; the order of
//! attributes is that of Confluent's `AvroData`.

use serde_json::{Map, Value, json};

use crate::column_type::{ColumnType, Scalar};
use crate::default_value::DefaultValue;
use crate::relation::{Column, Relation};

/// Property of a field that keeps the column's name where Avro's rules do not allow it as the field's name.
pub const NAME_PROPERTY: &str = "sooner.name";

/// Property of the envelope that holds the [`Relation`] which its events were written from, as JSON: so whoever reads
/// an event reads it by the relation of its time.
pub const RELATION_PROPERTY: &str = "sooner.relation";

/// Property of a type that holds its column's default.
const DEFAULT_PROPERTY: &str = "connect.default";

/// Schema of the key record; none for a table without a key.
pub fn key_schema(topic: &str, relation: &Relation) -> Option<Value> {
    if relation.key.is_empty() {
        return None;
    }
    let mut names = DeclaredNames::default();
    let field_names = field_names(relation);
    let fields = relation.key.iter().map(|&index| {
        let column = &relation.columns[index];
        let (declared, default) = with_default(column, names.column_type(&column.column_type));
        named(column, &field_names[index], declared, default)
    });
    Some(row_record(topic, "Key", fields.collect()))
}

/// Schema of the envelope, which is the message's value.
pub fn value_schema(topic: &str, relation: &Relation) -> Value {
    let mut names = DeclaredNames::default();
    let fields = relation.columns.iter().zip(field_names(relation)).map(|(column, name)| {
        let (declared, default) = with_default(column, names.column_type(&column.column_type));
        match (column.nullable, default) {
            (false, default) => named(column, &name, declared, default),
            // In Avro a field's default has the type of the union's first branch.
            (true, Some(default)) => named(column, &name, json!([declared, "null"]), Some(default)),
            (true, None) => named(column, &name, json!(["null", declared]), Some(Value::Null)),
        }
    });
    let mut row = row_record(topic, "Value", fields.collect());
    if let Some(row) = row.as_object_mut() {
        row.shift_remove("namespace");
    }
    let namespace = namespace(topic);
    json!({
        "type": "record",
        "name": "Envelope",
        "namespace": namespace,
        "fields": [
            {"name": "before", "type": ["null", row], "default": null},
            {"name": "after", "type": ["null", "Value"], "default": null},
            {"name": "source", "type": source_schema()},
            {"name": "transaction", "type": ["null", transaction_schema()], "default": null},
            {"name": "op", "type": "string"},
            optional_long("ts_ms"),
            optional_long("ts_us"),
            optional_long("ts_ns"),
        ],
        "connect.version": 2,
        "connect.name": format!("{namespace}.Envelope"),
        RELATION_PROPERTY: relation,
    })
}

/// Schema of a column's values, without that they may be null, and without their default.
pub fn column_schema(column: &Column) -> Value {
    DeclaredNames::default().column_type(&column.column_type)
}

/// Schema of the envelope's `source` block.
pub fn source_schema() -> Value {
    json!({
        "type": "record",
        "name": "Source",
        "namespace": "io.debezium.connector.postgresql",
        "fields": [
            {"name": "version", "type": "string"},
            {"name": "connector", "type": "string"},
            {"name": "name", "type": "string"},
            {"name": "ts_ms", "type": "long"},
            {"name": "snapshot", "type": [{
                "type": "string",
                "connect.version": 1,
                "connect.parameters":
                    {"allowed": "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},
                "connect.default": "false",
                "connect.name": "io.debezium.data.Enum",
            }, "null"], "default": "false"},
            {"name": "db", "type": "string"},
            {"name": "sequence", "type": ["null", "string"], "default": null},
            optional_long("ts_us"),
            optional_long("ts_ns"),
            {"name": "schema", "type": "string"},
            {"name": "table", "type": "string"},
            optional_long("txId"),
            optional_long("lsn"),
            optional_long("xmin"),
            {"name": "origin", "type": ["null", "string"], "default": null},
            optional_long("origin_lsn"),
        ],
        "connect.version": 1,
        "connect.name": "io.debezium.connector.postgresql.Source",
    })
}

/// Schema of the envelope's `transaction` block.
pub fn transaction_schema() -> Value {
    json!({
        "type": "record",
        "name": "block",
        "namespace": "event",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "total_order", "type": "long"},
            {"name": "data_collection_order", "type": "long"},
        ],
        "connect.version": 1,
        "connect.name": "event.block",
    })
}

/// Adjusts a name to what Avro allows: letters, digits and underscores, no digit first. Other characters become
/// underscores.
pub fn avro_name(name: &str) -> String {
    let mut adjusted: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if adjusted.starts_with(|first: char| first.is_ascii_digit()) || adjusted.is_empty() {
        adjusted.insert(0, '_');
    }
    adjusted
}

/// Namespace of the records of a topic's events: topics that differ only in characters that Avro forbids share it.
pub fn namespace(topic: &str) -> String {
    topic.split('.').map(avro_name).collect::<Vec<_>>().join(".")
}

fn row_record(topic: &str, name: &str, fields: Vec<Value>) -> Value {
    let namespace = namespace(topic);
    json!({
        "type": "record",
        "name": name,
        "namespace": namespace,
        "fields": fields,
        "connect.name": format!("{namespace}.{name}"),
    })
}

/// Field names in column order: each column's name in Avro's form; a name that is already taken gets a number appended.
fn field_names(relation: &Relation) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(relation.columns.len());
    for column in &relation.columns {
        let adjusted = avro_name(&column.name);
        let numbered = (2..).map(|number| format!("{adjusted}_{number}"));
        let free = std::iter::once(adjusted.clone()).chain(numbered).find(|name| !names.contains(name));
        names.push(free.unwrap_or(adjusted));
    }
    names
}

fn named(column: &Column, name: &str, declared: Value, default: Option<Value>) -> Value {
    let mut field = Map::new();
    field.insert("name".to_owned(), json!(name));
    field.insert("type".to_owned(), declared);
    if let Some(default) = default {
        field.insert("default".to_owned(), default);
    }
    if name != column.name {
        field.insert(NAME_PROPERTY.to_owned(), json!(column.name));
    }
    Value::Object(field)
}

/// Adds a column's default to its declared type; also returns the default of its field, if there is one.
fn with_default(column: &Column, declared: Value) -> (Value, Option<Value>) {
    let Some((parameter, default)) = column.default.as_ref().and_then(DefaultValue::json) else {
        return (declared, None);
    };
    let properties = match declared {
        Value::Object(properties) => properties,
        name => Map::from_iter([("type".to_owned(), name)]),
    };
    let mut with = Map::new();
    let mut parameter = Some(parameter);
    for (name, value) in properties {
        // `AvroData` writes the default before these attributes.
        if matches!(name.as_str(), "connect.name" | "connect.type")
            && let Some(parameter) = parameter.take()
        {
            with.insert(DEFAULT_PROPERTY.to_owned(), parameter);
        }
        with.insert(name, value);
    }
    if let Some(parameter) = parameter {
        with.insert(DEFAULT_PROPERTY.to_owned(), parameter);
    }
    (Value::Object(with), Some(default))
}

fn optional_long(name: &str) -> Value {
    json!({"name": name, "type": ["null", "long"], "default": null})
}

/// Named types that a schema has already declared: Avro declares each once and then refers to it by name.
#[derive(Default)]
struct DeclaredNames {
    variable_scale: bool,
}

impl DeclaredNames {
    fn column_type(&mut self, column_type: &ColumnType) -> Value {
        match column_type {
            ColumnType::Scalar(scalar) => self.scalar(scalar),
            ColumnType::Array(items) => json!({"type": "array", "items": ["null", self.scalar(items)]}),
        }
    }

    fn scalar(&mut self, scalar: &Scalar) -> Value {
        match scalar {
            Scalar::Bool => json!("boolean"),
            Scalar::Int2 => json!({"type": "int", "connect.type": "int16"}),
            Scalar::Int4 => json!("int"),
            Scalar::Int8 => json!("long"),
            Scalar::Float4 => json!("float"),
            Scalar::Float8 => json!("double"),
            Scalar::Decimal { precision, scale } => decimal(*precision, *scale),
            Scalar::Numeric => self.variable_scale_decimal(),
            Scalar::Text | Scalar::Other => json!("string"),
            Scalar::Bytea => json!("bytes"),
            Scalar::Date => semantic("int", "io.debezium.time.Date"),
            Scalar::Time(0..=3) => semantic("int", "io.debezium.time.Time"),
            Scalar::Time(_) => semantic("long", "io.debezium.time.MicroTime"),
            Scalar::Timestamp(0..=3) => semantic("long", "io.debezium.time.Timestamp"),
            Scalar::Timestamp(_) => semantic("long", "io.debezium.time.MicroTimestamp"),
            Scalar::Timestamptz(_) => semantic("string", "io.debezium.time.ZonedTimestamp"),
            Scalar::Uuid => semantic("string", "io.debezium.data.Uuid"),
            Scalar::Json => semantic("string", "io.debezium.data.Json"),
            Scalar::Enum(labels) => json!({
                "type": "string",
                "connect.version": 1,
                "connect.parameters": {"allowed": labels.join(",")},
                "connect.name": "io.debezium.data.Enum",
            }),
        }
    }

    fn variable_scale_decimal(&mut self) -> Value {
        if std::mem::replace(&mut self.variable_scale, true) {
            return json!("io.debezium.data.VariableScaleDecimal");
        }
        json!({
            "type": "record",
            "name": "VariableScaleDecimal",
            "namespace": "io.debezium.data",
            "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
            "connect.doc": "Variable scaled decimal",
            "connect.version": 1,
            "connect.name": "io.debezium.data.VariableScaleDecimal",
        })
    }
}

fn semantic(primitive: &str, name: &str) -> Value {
    json!({"type": primitive, "connect.version": 1, "connect.name": name})
}

fn decimal(precision: u16, scale: u16) -> Value {
    json!({
        "type": "bytes",
        "scale": scale,
        "precision": precision,
        "connect.version": 1,
        "connect.parameters": {"scale": scale.to_string(), "connect.decimal.precision": precision.to_string()},
        "connect.name": "org.apache.kafka.connect.data.Decimal",
        "logicalType": "decimal",
    })
}
