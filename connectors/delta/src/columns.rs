//! Columns of a lake table: derived from an event's Avro schema, and converted to and from a Delta table's schema.
//!
//! Delta types: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#schema-serialization-format>

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema as ArrowSchema, SchemaRef, TimeUnit};
use serde_json::{Value, json};
use sooner_api::{Code, Error, Result};
use sooner_schemas::avro::{Schema, Shape};
use sooner_schemas::event::EventSchema;

/// Number of digits that a Delta decimal can have.
const MAX_PRECISION: u16 = 38;
/// Characters that a column's name must not contain in Parquet as Spark reads it.
const FORBIDDEN: &str = " ,;{}()\n\t=";

/// Key of the field metadata in a Delta schema that holds the column's number at the source.
const NUMBER_PROPERTY: &str = "sooner.number";
const NUMBER_POINTER: &str = "/metadata/sooner.number";

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

/// A column of a lake table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeColumn {
    /// Name of the column, as at the source.
    pub name: String,
    /// Type of the column in the lake.
    pub lake_type: LakeType,
    /// Whether the column may be null.
    pub nullable: bool,
    /// Number of the column at the source, where it is known; a column that was dropped and added again has another
    /// one.
    pub number: Option<i16>,
}

/// How the columns of a table differ from those of its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The columns do not differ.
    None,
    /// The rows that are there stay valid: columns were only added at the end, or may be null now.
    Widened,
    /// The columns differ in another way; the text says how, as a phrase for a person.
    Incompatible(String),
}

/// Columns of the rows that events of a schema carry. A type or a name that the lake cannot hold is an operator error.
pub fn columns_of(schema: &EventSchema) -> Result<Vec<LakeColumn>> {
    let table = &schema.table;
    let unsupported = |why: String| {
        Error::operator(
            Code::TypeUnsupported,
            format!("cannot store events of {table} in the lake"),
            why,
            "leave the table out (exclude), or change the column",
        )
    };
    let row = row_record(&schema.value).ok_or_else(|| unsupported("their schema has no 'after' record".to_owned()))?;
    let Shape::Record(record) = &row.shape else {
        return Err(unsupported("their 'after' is no record".to_owned()));
    };
    let columns = record.fields.iter().enumerate().map(|(index, field)| {
        let number = schema.column_numbers.get(index).copied().flatten();
        let (schema, null) = field.schema.without_null();
        let meaning = Meaning::of(schema)
            .ok_or_else(|| unsupported(format!("the type of column '{}' is not supported", field.column)))?;
        if field.column.contains(|c| FORBIDDEN.contains(c)) {
            return Err(unsupported(format!(
                "the column name '{}' has a character that lake tables do not allow (one of space , ; {{ }} ( ) =)",
                field.column
            )));
        }
        Ok(LakeColumn { name: field.column.clone(), lake_type: meaning.lake_type(), nullable: null.is_some(), number })
    });
    columns.collect()
}

/// Schema of the row in an envelope's `after` field, without null; none if the envelope has no such field.
pub fn row_record(envelope: &Schema) -> Option<&Schema> {
    let record = envelope.as_record()?;
    let after = &record.fields[record.field_index("after")?];
    Some(after.schema.without_null().0)
}

/// Compares the columns of a table with those of its events, position by position.
pub fn compare(table: &[LakeColumn], events: &[LakeColumn]) -> Difference {
    let mut widened = events.len() > table.len();
    for (index, column) in table.iter().enumerate() {
        let Some(event) = events.get(index) else {
            return Difference::Incompatible(format!("column '{}' was dropped", column.name));
        };
        if event.name != column.name {
            let gone = !events.iter().any(|event| event.name == column.name);
            let what = if gone { "was dropped or renamed" } else { "moved" };
            return Difference::Incompatible(format!("column '{}' {what}", column.name));
        }
        if let (Some(former), Some(now)) = (column.number, event.number)
            && former != now
        {
            return Difference::Incompatible(format!("column '{}' was dropped and added again", column.name));
        }
        if event.lake_type != column.lake_type {
            return Difference::Incompatible(format!(
                "column '{}' changed its type from {} to {}",
                column.name,
                type_name(&column.lake_type),
                type_name(&event.lake_type)
            ));
        }
        widened |= event.nullable && !column.nullable;
    }
    if widened { Difference::Widened } else { Difference::None }
}

/// Compares the columns of a table with those of events that may be older than its last columns. Last columns that the
/// events lack are no difference if all of them may be null.
pub fn compare_older(table: &[LakeColumn], events: &[LakeColumn]) -> Difference {
    let newer = table.get(events.len()..).unwrap_or_default();
    match newer.iter().all(|column| column.nullable) {
        true => compare(&table[..table.len() - newer.len()], events),
        false => compare(table, events),
    }
}

/// Columns of a table after widening by those of its events: added columns are included and may be null, and a column
/// that may be null on either side may be null.
pub fn widen(table: &[LakeColumn], events: &[LakeColumn]) -> Vec<LakeColumn> {
    let merged = events.iter().enumerate().map(|(index, event)| {
        let nullable = event.nullable || table.get(index).is_none_or(|column| column.nullable);
        LakeColumn { nullable, ..event.clone() }
    });
    merged.chain(table.iter().skip(events.len()).cloned()).collect()
}

/// Serialises columns as Delta's `schemaString`.
pub fn schema_string(columns: &[LakeColumn]) -> String {
    let fields = columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": delta_type(&column.lake_type),
            "nullable": column.nullable,
            "metadata": column.number.map_or(json!({}), |number| json!({NUMBER_PROPERTY: number})),
        })
    });
    json!({"type": "struct", "fields": fields.collect::<Vec<_>>()}).to_string()
}

/// Parses columns from Delta's `schemaString`; none if it is malformed or has a type that we never write.
pub fn parse_schema_string(text: &str) -> Option<Vec<LakeColumn>> {
    let schema: Value = serde_json::from_str(text).ok()?;
    let columns = schema.get("fields")?.as_array()?.iter().map(|field| {
        Some(LakeColumn {
            name: field.get("name")?.as_str()?.to_owned(),
            lake_type: parse_type(field.get("type")?)?,
            nullable: field.get("nullable")?.as_bool()?,
            number: field.pointer(NUMBER_POINTER).and_then(Value::as_i64).and_then(|number| i16::try_from(number).ok()),
        })
    });
    columns.collect()
}

/// Arrow schema with which data files of these columns are written.
pub fn arrow_schema(columns: &[LakeColumn]) -> SchemaRef {
    let fields = columns.iter().map(|column| Field::new(&column.name, arrow_type(&column.lake_type), column.nullable));
    Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
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

fn delta_type(lake_type: &LakeType) -> Value {
    match lake_type {
        LakeType::Array(items) => {
            json!({"type": "array", "elementType": delta_type(items), "containsNull": true})
        }
        plain => json!(type_name(plain)),
    }
}

fn type_name(lake_type: &LakeType) -> String {
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

fn parse_type(value: &Value) -> Option<LakeType> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, lake_type: LakeType, nullable: bool) -> LakeColumn {
        LakeColumn { name: name.to_owned(), lake_type, nullable, number: Some(1) }
    }

    #[test]
    fn schemas_survive_delta() {
        let columns = vec![
            column("a", LakeType::Decimal(10, 2), true),
            column("b", LakeType::Array(Box::new(LakeType::TimestampNtz)), true),
            column("c", LakeType::Binary, false),
        ];
        assert_eq!(parse_schema_string(&schema_string(&columns)), Some(columns));
    }

    #[test]
    fn only_widening_flows_through() {
        let table = vec![column("a", LakeType::Integer, false), column("b", LakeType::String, true)];
        let with = |events: &[LakeColumn]| compare(&table, events);
        assert_eq!(with(&table), Difference::None);
        let added = [table.clone(), vec![column("c", LakeType::Long, true)]].concat();
        assert_eq!(with(&added), Difference::Widened);
        assert_eq!(with(&[column("a", LakeType::Integer, true), table[1].clone()]), Difference::Widened);
        for (events, expected) in [
            (vec![table[0].clone()], "'b' was dropped"),
            (vec![LakeColumn { number: Some(2), ..table[0].clone() }, table[1].clone()], "'a' was dropped and added"),
            (vec![column("a", LakeType::Long, false), table[1].clone()], "from integer to long"),
            (vec![table[0].clone(), column("z", LakeType::String, true)], "'b' was dropped or renamed"),
        ] {
            let Difference::Incompatible(what) = with(&events) else { panic!("{events:?} must be refused") };
            assert!(what.contains(expected), "{what}");
        }
        // Events of a partition that is behind may lack the last column, but not where that column needs a value.
        assert_eq!(compare_older(&table, &table[..1]), Difference::None);
        assert_eq!(compare_older(&table, &[column("a", LakeType::Integer, true)]), Difference::Widened);
        let required = [table[0].clone(), column("b", LakeType::String, false)];
        assert!(matches!(compare_older(&required, &table[..1]), Difference::Incompatible(_)));
    }
}
