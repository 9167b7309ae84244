//! Types of columns in the lake, and how values of events become values of these types.
//!
//! Delta types: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#schema-serialization-format>

use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};
use serde_json::{Value, json};
use sooner_schemas::avro::{Schema, Shape};

/// Number of digits that a Delta decimal can have.
const MAX_PRECISION: u16 = 38;

/// Type of a column in the lake; each variant names its Delta type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LakeType {
    /// `boolean`
    Boolean,
    /// `short`
    Short,
    /// `integer`
    Integer,
    /// `long`
    Long,
    /// `float`
    Float,
    /// `double`
    Double,
    /// `decimal(precision,scale)`
    Decimal(u8, i8),
    /// `string`
    String,
    /// `binary`
    Binary,
    /// `date`
    Date,
    /// `timestamp`: an instant
    Timestamp,
    /// `timestamp_ntz`: without a zone
    TimestampNtz,
    /// `array`: a list whose items may be null
    Array(Box<LakeType>),
}

/// How an Avro value is converted for the lake. Several meanings share one type in the lake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The value as it is, in this type.
    Plain(LakeType),
    /// Milliseconds since midnight, converted to Postgres' text.
    TimeMillis,
    /// Microseconds since midnight, converted to Postgres' text.
    TimeMicros,
    /// Milliseconds since 1970, without a zone.
    TimestampMillis,
    /// An instant as ISO 8601 text, converted to microseconds.
    Zoned,
    /// A decimal of more digits than a Delta decimal can have, converted to text with this scale.
    WideDecimal(usize),
    /// Debezium's `VariableScaleDecimal`, converted to text.
    VariableScale,
    /// A list whose items have this meaning.
    List(Box<Meaning>),
}

impl Meaning {
    /// Type in the lake of values with this meaning.
    pub fn lake_type(&self) -> LakeType {
        match self {
            Meaning::Plain(lake_type) => lake_type.clone(),
            Meaning::TimeMillis | Meaning::TimeMicros | Meaning::WideDecimal(_) | Meaning::VariableScale => {
                LakeType::String
            }
            Meaning::TimestampMillis => LakeType::TimestampNtz,
            Meaning::Zoned => LakeType::Timestamp,
            Meaning::List(items) => LakeType::Array(Box::new(items.lake_type())),
        }
    }

    /// The meaning of an Avro type that is not a union; none if the type is not supported.
    pub fn of(schema: &Schema) -> Option<Meaning> {
        let semantic = schema.semantic.as_deref().unwrap_or_default();
        let plain = match (&schema.shape, semantic) {
            (Shape::Boolean, _) => LakeType::Boolean,
            (Shape::Int, "io.debezium.time.Date") => LakeType::Date,
            (Shape::Int, "io.debezium.time.Time") => return Some(Meaning::TimeMillis),
            (Shape::Int, _) if schema.narrow.is_some() => LakeType::Short,
            (Shape::Int, _) => LakeType::Integer,
            (Shape::Long, "io.debezium.time.MicroTime") => return Some(Meaning::TimeMicros),
            (Shape::Long, "io.debezium.time.Timestamp") => return Some(Meaning::TimestampMillis),
            (Shape::Long, "io.debezium.time.MicroTimestamp") => LakeType::TimestampNtz,
            (Shape::Long, _) => LakeType::Long,
            (Shape::Float, _) => LakeType::Float,
            (Shape::Double, _) => LakeType::Double,
            (Shape::Bytes, _) => return Some(bytes_meaning(schema)),
            (Shape::String, "io.debezium.time.ZonedTimestamp") => return Some(Meaning::Zoned),
            (Shape::String, _) => LakeType::String,
            (Shape::Record(_), "io.debezium.data.VariableScaleDecimal") => return Some(Meaning::VariableScale),
            (Shape::Array(items), _) => {
                let items = Meaning::of(items.without_null().0)?;
                return Some(Meaning::List(Box::new(items)));
            }
            _ => return None,
        };
        Some(Meaning::Plain(plain))
    }
}

fn bytes_meaning(schema: &Schema) -> Meaning {
    match schema.decimal {
        None => Meaning::Plain(LakeType::Binary),
        Some((precision, scale)) if precision <= MAX_PRECISION => {
            Meaning::Plain(LakeType::Decimal(precision as u8, scale as i8))
        }
        Some((_, scale)) => Meaning::WideDecimal(scale.into()),
    }
}

/// Arrow type that holds values of a lake type.
pub fn arrow_type(lake_type: &LakeType) -> DataType {
    match lake_type {
        LakeType::Boolean => DataType::Boolean,
        LakeType::Short => DataType::Int16,
        LakeType::Integer => DataType::Int32,
        LakeType::Long => DataType::Int64,
        LakeType::Float => DataType::Float32,
        LakeType::Double => DataType::Float64,
        LakeType::Decimal(precision, scale) => DataType::Decimal128(*precision, *scale),
        LakeType::String => DataType::Utf8,
        LakeType::Binary => DataType::Binary,
        LakeType::Date => DataType::Date32,
        LakeType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        LakeType::TimestampNtz => DataType::Timestamp(TimeUnit::Microsecond, None),
        LakeType::Array(items) => DataType::List(list_field(items)),
    }
}

/// Arrow field of a list's items, nullable and named `element`, which Delta's readers expect.
pub fn list_field(items: &LakeType) -> Arc<Field> {
    Arc::new(Field::new("element", arrow_type(items), true))
}

/// The Delta schema's form of a type.
pub fn delta_type(lake_type: &LakeType) -> Value {
    match lake_type {
        LakeType::Array(items) => {
            json!({"type": "array", "elementType": delta_type(items), "containsNull": true})
        }
        plain => json!(type_name(plain)),
    }
}

/// Name of a type in Delta's schema.
pub fn type_name(lake_type: &LakeType) -> String {
    match lake_type {
        LakeType::Boolean => "boolean".to_owned(),
        LakeType::Short => "short".to_owned(),
        LakeType::Integer => "integer".to_owned(),
        LakeType::Long => "long".to_owned(),
        LakeType::Float => "float".to_owned(),
        LakeType::Double => "double".to_owned(),
        LakeType::Decimal(precision, scale) => format!("decimal({precision},{scale})"),
        LakeType::String => "string".to_owned(),
        LakeType::Binary => "binary".to_owned(),
        LakeType::Date => "date".to_owned(),
        LakeType::Timestamp => "timestamp".to_owned(),
        LakeType::TimestampNtz => "timestamp_ntz".to_owned(),
        LakeType::Array(items) => format!("array<{}>", type_name(items)),
    }
}

/// A type from Delta's schema; none for one that events do not have.
pub fn parse_type(value: &Value) -> Option<LakeType> {
    if let Some(items) = value.get("elementType") {
        return Some(LakeType::Array(Box::new(parse_type(items)?)));
    }
    let name = value.as_str()?;
    Some(match name {
        "boolean" => LakeType::Boolean,
        "short" => LakeType::Short,
        "integer" => LakeType::Integer,
        "long" => LakeType::Long,
        "float" => LakeType::Float,
        "double" => LakeType::Double,
        "string" => LakeType::String,
        "binary" => LakeType::Binary,
        "date" => LakeType::Date,
        "timestamp" => LakeType::Timestamp,
        "timestamp_ntz" => LakeType::TimestampNtz,
        _ => {
            let (precision, scale) = name.strip_prefix("decimal(")?.strip_suffix(')')?.split_once(',')?;
            LakeType::Decimal(precision.trim().parse().ok()?, scale.trim().parse().ok()?)
        }
    })
}
