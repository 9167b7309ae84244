//! Values of rows as JSON: decimals, dates and times are texts, bytes are hexadecimal digits.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_cast::display::array_value_to_string;
use arrow_schema::DataType;
use serde_json::{Number, Value, json};

use super::range::instant;
use crate::export::hexadecimal;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// A value as JSON.
pub fn value_json(values: &dyn Array, row: usize) -> Value {
    if values.is_null(row) {
        return Value::Null;
    }
    match values.data_type() {
        DataType::Boolean => json!(values.as_boolean().value(row)),
        DataType::Int16 => json!(values.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => json!(values.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => json!(values.as_primitive::<Int64Type>().value(row)),
        DataType::Float32 => {
            // The shortest number that is this one in 32 bits.
            let text = values.as_primitive::<Float32Type>().value(row).to_string();
            text.parse().map_or_else(|_| json!(text), |number| float(number, &text))
        }
        DataType::Float64 => {
            let number = values.as_primitive::<Float64Type>().value(row);
            float(number, &number.to_string())
        }
        DataType::Utf8 => json!(values.as_string::<i32>().value(row)),
        DataType::Binary => json!(hexadecimal(values.as_binary::<i32>().value(row))),
        DataType::Date32 => {
            let days = i64::from(values.as_primitive::<Date32Type>().value(row));
            let text = instant(days.saturating_mul(DAY_MICROS));
            json!(text.split_once('T').map_or(text.as_str(), |(date, _)| date))
        }
        DataType::Timestamp(_, zone) => {
            let text = instant(values.as_primitive::<TimestampMicrosecondType>().value(row));
            json!(if zone.is_some() { &text } else { text.trim_end_matches('Z') })
        }
        DataType::List(_) => {
            let items = values.as_list::<i32>().value(row);
            Value::Array((0..items.len()).map(|item| value_json(items.as_ref(), item)).collect())
        }
        // Decimals; columns have no other types.
        _ => array_value_to_string(values, row).map_or(Value::Null, Value::String),
    }
}

/// JSON has neither infinity nor NaN: these are texts.
fn float(number: f64, text: &str) -> Value {
    Number::from_f64(number).map_or_else(|| json!(text), Value::Number)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, BinaryArray, Date32Array, Decimal128Array, Float32Array, Float64Array, TimestampMicrosecondArray,
    };

    use super::*;

    #[test]
    fn values_are_written_as_the_database_shows_them() {
        let decimal = Decimal128Array::from(vec![-1205]).with_precision_and_scale(10, 2).unwrap();
        let zoned = TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone("UTC");
        let arrays: [(ArrayRef, Value); 8] = [
            (Arc::new(decimal), json!("-12.05")),
            (Arc::new(Date32Array::from(vec![-1])), json!("1969-12-31")),
            (Arc::new(zoned), json!("1970-01-01T00:00:01.500000Z")),
            (Arc::new(TimestampMicrosecondArray::from(vec![0])), json!("1970-01-01T00:00:00.000000")),
            (Arc::new(BinaryArray::from(vec![&b"\xff\x00"[..]])), json!("ff00")),
            (Arc::new(Float32Array::from(vec![1.1])), json!(1.1)),
            (Arc::new(Float64Array::from(vec![f64::NAN])), json!("NaN")),
            (Arc::new(Float64Array::from(vec![None])), Value::Null),
        ];
        for (array, expected) in arrays {
            assert_eq!(value_json(array.as_ref(), 0), expected);
        }
    }
}
