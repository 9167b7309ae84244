//! Encodes the text of one value as Avro bytes.

use crate::column_type::{ColumnType, Scalar};
use crate::unholdable::Unholdable;
use crate::wire::{write_bytes, write_long};
use crate::{array, numeric, temporal};

/// Placeholder for a value that Postgres left out, as Debezium writes it.
///
/// <https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-toasted-values>
pub const PLACEHOLDER: &[u8] = b"__debezium_unavailable_value";

/// The placeholder of a `uuid[]` element: the version 3 UUID of the placeholder's text.
pub const UUID_PLACEHOLDER: &[u8] = b"b68a35a7-17ad-35b3-af2a-ae46edb4545a";

const NOT_A_NUMBER: Unholdable = Unholdable("its text is not a number of the declared type");

/// Appends the Avro bytes of a value that is not NULL, given in Postgres' text form.
pub fn write_value(out: &mut Vec<u8>, column_type: &ColumnType, text: &[u8]) -> Result<(), Unholdable> {
    match column_type {
        ColumnType::Scalar(scalar) => write_scalar(out, scalar, text),
        ColumnType::Array(items) => write_array(out, items, text),
    }
}

fn write_scalar(out: &mut Vec<u8>, scalar: &Scalar, text: &[u8]) -> Result<(), Unholdable> {
    match scalar {
        Scalar::Bool => out.push(u8::from(text == b"t")),
        Scalar::Int2 | Scalar::Int4 | Scalar::Int8 => write_long(out, integer(text)?),
        Scalar::Float4 => out.extend_from_slice(&float::<f32>(text)?.to_le_bytes()),
        Scalar::Float8 => out.extend_from_slice(&float::<f64>(text)?.to_le_bytes()),
        Scalar::Decimal { scale, .. } => numeric::write_decimal(out, text, *scale)?,
        Scalar::Numeric => numeric::write_variable_scale(out, text)?,
        Scalar::Text | Scalar::Uuid | Scalar::Json | Scalar::Enum(_) | Scalar::Other => write_text(out, text)?,
        Scalar::Bytea => write_bytea(out, text)?,
        Scalar::Date => write_long(out, temporal::date_days(text)?.into()),
        Scalar::Time(digits) => write_long(out, to_unit(temporal::time_micros(text)?, *digits)),
        Scalar::Timestamp(digits) => write_long(out, to_unit(temporal::timestamp_micros(text)?, *digits)),
        Scalar::Timestamptz(digits) => write_zoned(out, text, *digits)?,
    }
    Ok(())
}

/// Appends Debezium's fallback for a required field that has no value at all.
pub fn write_fallback(out: &mut Vec<u8>, column_type: &ColumnType) {
    let ColumnType::Scalar(scalar) = column_type else {
        return write_long(out, 0);
    };
    match scalar {
        Scalar::Bool => out.push(0),
        Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Date | Scalar::Time(_) | Scalar::Timestamp(_) => {
            write_long(out, 0);
        }
        Scalar::Float4 => out.extend_from_slice(&[0; 4]),
        Scalar::Float8 => out.extend_from_slice(&[0; 8]),
        Scalar::Decimal { .. } => write_bytes(out, &[0]),
        Scalar::Numeric => {
            write_long(out, 0);
            write_bytes(out, &[0]);
        }
        Scalar::Timestamptz(_) => write_bytes(out, b"1970-01-01T00:00:00Z"),
        Scalar::Text | Scalar::Uuid | Scalar::Json | Scalar::Enum(_) | Scalar::Other | Scalar::Bytea => {
            write_bytes(out, b"");
        }
    }
}

/// Appends the placeholder of a value that Postgres left out; false, with nothing appended, if this type has none.
pub fn write_placeholder(out: &mut Vec<u8>, column_type: &ColumnType) -> bool {
    match column_type {
        ColumnType::Scalar(
            Scalar::Text | Scalar::Uuid | Scalar::Json | Scalar::Enum(_) | Scalar::Other | Scalar::Bytea,
        ) => write_bytes(out, PLACEHOLDER),
        ColumnType::Array(Scalar::Text | Scalar::Json | Scalar::Bytea | Scalar::Other) => {
            write_items(out, &[PLACEHOLDER], write_bytes);
        }
        ColumnType::Array(Scalar::Uuid) => write_items(out, &[UUID_PLACEHOLDER], write_bytes),
        ColumnType::Array(Scalar::Int4 | Scalar::Int8 | Scalar::Date) => {
            write_items(out, PLACEHOLDER, |out, byte| write_long(out, i64::from(byte)));
        }
        _ => return false,
    }
    true
}

fn write_items<T: Copy>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, T)) {
    write_long(out, items.len() as i64);
    for item in items {
        write_long(out, 1);
        write(out, *item);
    }
    write_long(out, 0);
}

/// Appends the branch of an array's item: each may be null.
pub fn write_item_branch(out: &mut Vec<u8>, is_value: bool) {
    write_long(out, i64::from(is_value));
}

/// Appends an array as one block of all its items, each a union of null and the item type.
fn write_array(out: &mut Vec<u8>, items: &Scalar, text: &[u8]) -> Result<(), Unholdable> {
    let mut encoded = Vec::with_capacity(text.len());
    let mut count = 0i64;
    array::each_element(text, |element| {
        count += 1;
        match element {
            None => write_item_branch(&mut encoded, false),
            Some(element) => {
                write_item_branch(&mut encoded, true);
                write_scalar(&mut encoded, items, element)?;
            }
        }
        Ok(())
    })?;
    if count > 0 {
        write_long(out, count);
        out.extend_from_slice(&encoded);
    }
    write_long(out, 0);
    Ok(())
}

fn integer(text: &[u8]) -> Result<i64, Unholdable> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 19 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NOT_A_NUMBER);
    }
    let magnitude = digits.iter().fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }.ok_or(NOT_A_NUMBER)
}

fn float<F: std::str::FromStr>(text: &[u8]) -> Result<F, Unholdable> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(NOT_A_NUMBER)
}

fn write_text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Unholdable> {
    if std::str::from_utf8(text).is_err() {
        return Err(Unholdable("its text is not UTF-8; is the client encoding of the connection UTF8?"));
    }
    write_bytes(out, text);
    Ok(())
}

/// Appends a `bytea` from Postgres' hex form, `\x0aff`.
fn write_bytea(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Unholdable> {
    const BAD: Unholdable = Unholdable("its text is not bytea in hex form");
    let digits = text.strip_prefix(b"\\x").filter(|digits| digits.len() % 2 == 0).ok_or(BAD)?;
    write_long(out, digits.len() as i64 / 2);
    for pair in digits.chunks_exact(2) {
        let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or(BAD);
        out.push((nibble(pair[0])? << 4 | nibble(pair[1])?) as u8);
    }
    Ok(())
}

fn write_zoned(out: &mut Vec<u8>, text: &[u8], digits: u8) -> Result<(), Unholdable> {
    let micros = temporal::timestamp_micros(text)?;
    let mut zoned = Vec::with_capacity(32);
    temporal::push_zoned(&mut zoned, micros, digits);
    write_bytes(out, &zoned);
    Ok(())
}

/// Converts microseconds to the column's unit: as in Debezium, milliseconds for up to three fraction digits,
/// otherwise microseconds.
fn to_unit(micros: i64, digits: u8) -> i64 {
    if digits <= 3 { micros.div_euclid(1000) } else { micros }
}
