//! Decodes Avro values straight into Arrow arrays, with one builder for each column.

use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, ListArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use sooner_schemas::avro::{Schema, read_blocks};
use sooner_schemas::numeric::{decimal_text, small_unscaled};
use sooner_schemas::temporal::{time_text, zoned_micros};
use sooner_schemas::unholdable::Unholdable;
use sooner_schemas::wire::{Malformed, Reader};

use super::lake_type::{LakeType, Meaning, arrow_type, list_field};

/// Why a column builder refused a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The bytes do not match the schema.
    Malformed(Malformed),
    /// The bytes match the schema, but the column cannot hold the value.
    Unholdable(Unholdable),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Malformed(why) => why.fmt(f),
            Refused::Unholdable(why) => why.fmt(f),
        }
    }
}

impl From<Malformed> for Refused {
    fn from(why: Malformed) -> Refused {
        Refused::Malformed(why)
    }
}

impl From<Unholdable> for Refused {
    fn from(why: Unholdable) -> Refused {
        Refused::Unholdable(why)
    }
}

/// Builds the Arrow array of one column from Avro values.
pub struct ColumnBuilder {
    null_branch: Option<usize>,
    values: Values,
}

enum Values {
    Boolean(BooleanBuilder),
    Short(Int16Builder),
    Integer(Int32Builder),
    Long(Int64Builder),
    Float(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder, u8),
    String(StringBuilder, Text),
    Binary(BinaryBuilder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder, Instant),
    List(Box<List>),
}

/// Kinds of Avro values that become text in the lake.
enum Text {
    Plain,
    TimeMillis,
    TimeMicros,
    WideDecimal(usize),
    VariableScale,
}

/// Kinds of Avro values that become microseconds since 1970 in the lake.
enum Instant {
    Micros,
    Millis,
    Zoned,
}

struct List {
    items: ColumnBuilder,
    item_type: LakeType,
    offsets: Vec<i32>,
    nulls: NullBufferBuilder,
}

impl ColumnBuilder {
    /// A builder for values of a field's schema; none if its type is not supported.
    pub fn new(schema: &Schema) -> Option<ColumnBuilder> {
        let (value, null_branch) = schema.without_null();
        let meaning = Meaning::of(value)?;
        let values = match meaning {
            Meaning::TimeMillis => Values::String(StringBuilder::new(), Text::TimeMillis),
            Meaning::TimeMicros => Values::String(StringBuilder::new(), Text::TimeMicros),
            Meaning::WideDecimal(scale) => Values::String(StringBuilder::new(), Text::WideDecimal(scale)),
            Meaning::VariableScale => Values::String(StringBuilder::new(), Text::VariableScale),
            Meaning::TimestampMillis => Values::Timestamp(TimestampMicrosecondBuilder::new(), Instant::Millis),
            Meaning::Zoned => {
                let builder = TimestampMicrosecondBuilder::new().with_timezone("UTC");
                Values::Timestamp(builder, Instant::Zoned)
            }
            Meaning::List(items) => {
                let sooner_schemas::avro::Shape::Array(item_schema) = &value.shape else { return None };
                Values::List(Box::new(List {
                    items: ColumnBuilder::new(item_schema)?,
                    item_type: items.lake_type(),
                    offsets: vec![0],
                    nulls: NullBufferBuilder::new(0),
                }))
            }
            Meaning::Plain(lake_type) => plain(lake_type),
        };
        Some(ColumnBuilder { null_branch, values })
    }

    /// Decodes the next value from `reader` and appends it. After an error a list's builder may hold a part of the
    /// value.
    #[inline]
    pub fn append(&mut self, reader: &mut Reader<'_>) -> Result<(), Refused> {
        if let Some(null_branch) = self.null_branch {
            let branch = reader.length()?;
            if branch == null_branch {
                self.append_null();
                return Ok(());
            }
            if branch > 1 {
                return Err(Malformed::NoSuchBranch.into());
            }
        }
        match &mut self.values {
            Values::Boolean(builder) => builder.append_value(reader.boolean()?),
            Values::Short(builder) => {
                builder.append_value(i16::try_from(reader.long()?).map_err(|_| Malformed::OutOfRange)?);
            }
            Values::Integer(builder) => builder.append_value(reader.int()?),
            Values::Long(builder) => builder.append_value(reader.long()?),
            Values::Float(builder) => builder.append_value(reader.float()?),
            Values::Double(builder) => builder.append_value(reader.double()?),
            Values::Decimal(builder, precision) => builder.append_value(decimal(reader.bytes()?, *precision)?),
            Values::String(builder, Text::Plain) => builder.append_value(reader.string()?),
            Values::String(builder, text) => builder.append_value(text.read(reader)?),
            Values::Binary(builder) => builder.append_value(reader.bytes()?),
            Values::Date(builder) => builder.append_value(reader.int()?),
            Values::Timestamp(builder, instant) => builder.append_value(instant.read(reader)?),
            Values::List(list) => list.append(reader)?,
        }
        Ok(())
    }

    /// Appends a null.
    pub fn append_null(&mut self) {
        match &mut self.values {
            Values::Boolean(builder) => builder.append_null(),
            Values::Short(builder) => builder.append_null(),
            Values::Integer(builder) => builder.append_null(),
            Values::Long(builder) => builder.append_null(),
            Values::Float(builder) => builder.append_null(),
            Values::Double(builder) => builder.append_null(),
            Values::Decimal(builder, _) => builder.append_null(),
            Values::String(builder, _) => builder.append_null(),
            Values::Binary(builder) => builder.append_null(),
            Values::Date(builder) => builder.append_null(),
            Values::Timestamp(builder, _) => builder.append_null(),
            Values::List(list) => {
                list.offsets.push(list.items.taken() as i32);
                list.nulls.append_null();
            }
        }
    }

    /// Number of values appended so far, nulls included.
    pub fn taken(&self) -> usize {
        match &self.values {
            Values::Boolean(builder) => builder.len(),
            Values::Short(builder) => builder.len(),
            Values::Integer(builder) => builder.len(),
            Values::Long(builder) => builder.len(),
            Values::Float(builder) => builder.len(),
            Values::Double(builder) => builder.len(),
            Values::Decimal(builder, _) => builder.len(),
            Values::String(builder, _) => builder.len(),
            Values::Binary(builder) => builder.len(),
            Values::Date(builder) => builder.len(),
            Values::Timestamp(builder, _) => builder.len(),
            Values::List(list) => list.offsets.len() - 1,
        }
    }

    /// Returns an array of all values, and leaves the builder empty.
    pub fn finish(&mut self) -> ArrayRef {
        match &mut self.values {
            Values::Boolean(builder) => Arc::new(builder.finish()),
            Values::Short(builder) => Arc::new(builder.finish()),
            Values::Integer(builder) => Arc::new(builder.finish()),
            Values::Long(builder) => Arc::new(builder.finish()),
            Values::Float(builder) => Arc::new(builder.finish()),
            Values::Double(builder) => Arc::new(builder.finish()),
            Values::Decimal(builder, _) => Arc::new(builder.finish()),
            Values::String(builder, _) => Arc::new(builder.finish()),
            Values::Binary(builder) => Arc::new(builder.finish()),
            Values::Date(builder) => Arc::new(builder.finish()),
            Values::Timestamp(builder, _) => Arc::new(builder.finish()),
            Values::List(list) => Arc::new(list.finish()),
        }
    }
}

impl Text {
    fn read(&self, reader: &mut Reader<'_>) -> Result<String, Refused> {
        Ok(match self {
            Text::Plain => reader.string()?.to_owned(),
            Text::TimeMillis => time_text(reader.long()?.checked_mul(1000).ok_or(Malformed::OutOfRange)?),
            Text::TimeMicros => time_text(reader.long()?),
            Text::WideDecimal(scale) => decimal_text(reader.bytes()?, *scale),
            Text::VariableScale => {
                let scale = reader.length()?;
                decimal_text(reader.bytes()?, scale)
            }
        })
    }
}

impl Instant {
    fn read(&self, reader: &mut Reader<'_>) -> Result<i64, Refused> {
        Ok(match self {
            Instant::Micros => reader.long()?,
            Instant::Millis => reader.long()?.checked_mul(1000).ok_or(Malformed::OutOfRange)?,
            Instant::Zoned => zoned_micros(reader.string()?)?,
        })
    }
}

impl List {
    fn append(&mut self, reader: &mut Reader<'_>) -> Result<(), Refused> {
        let mut refused = None;
        read_blocks(reader, |reader| {
            self.items.append(reader).map_err(|why| match why {
                Refused::Malformed(why) => why,
                Refused::Unholdable(_) => {
                    refused = Some(why);
                    Malformed::OutOfRange
                }
            })
        })
        .map_err(|why| refused.unwrap_or(Refused::Malformed(why)))?;
        self.offsets.push(i32::try_from(self.items.taken()).map_err(|_| Malformed::OutOfRange)?);
        self.nulls.append_non_null();
        Ok(())
    }

    fn finish(&mut self) -> ListArray {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        ListArray::new(list_field(&self.item_type), offsets, self.items.finish(), self.nulls.finish())
    }
}

fn plain(lake_type: LakeType) -> Values {
    match lake_type {
        LakeType::Boolean => Values::Boolean(BooleanBuilder::new()),
        LakeType::Short => Values::Short(Int16Builder::new()),
        LakeType::Integer => Values::Integer(Int32Builder::new()),
        LakeType::Long => Values::Long(Int64Builder::new()),
        LakeType::Float => Values::Float(Float32Builder::new()),
        LakeType::Double => Values::Double(Float64Builder::new()),
        LakeType::Decimal(precision, _) => {
            let builder = Decimal128Builder::new().with_data_type(arrow_type(&lake_type));
            Values::Decimal(builder, precision)
        }
        LakeType::Binary => Values::Binary(BinaryBuilder::new()),
        LakeType::Date => Values::Date(Date32Builder::new()),
        LakeType::Timestamp => {
            Values::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC"), Instant::Micros)
        }
        LakeType::TimestampNtz => Values::Timestamp(TimestampMicrosecondBuilder::new(), Instant::Micros),
        LakeType::String | LakeType::Array(_) => Values::String(StringBuilder::new(), Text::Plain),
    }
}

fn decimal(unscaled: &[u8], precision: u8) -> Result<i128, Refused> {
    let too_wide = Refused::Unholdable(Unholdable("it has more digits than the column declares"));
    let value = small_unscaled(unscaled).ok_or(too_wide)?;
    if value.unsigned_abs() < 10u128.pow(precision.into()) { Ok(value) } else { Err(too_wide) }
}
