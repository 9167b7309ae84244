//! What becomes of values that their target cannot hold, such as `infinity` in a timestamp, NaN in a decimal, or an
//! array of two dimensions in a list.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::array::each_element;
use crate::column_type::{ColumnType, Scalar};
use crate::value::{write_item_branch, write_value};
use crate::wire::write_long;

/// What becomes of a column's values that their target cannot hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValuePolicy {
    /// The table stops.
    #[default]
    Park,
    /// They become NULL.
    Null,
    /// They become the nearest value that every reader knows, and NULL where there is none.
    Clamp,
    /// All values of the column are texts, as Postgres writes them.
    Text,
}

impl ValuePolicy {
    /// The policy of this name.
    pub fn parse(name: &str) -> Option<ValuePolicy> {
        match name {
            "park" => Some(ValuePolicy::Park),
            "null" => Some(ValuePolicy::Null),
            "clamp" => Some(ValuePolicy::Clamp),
            "text" => Some(ValuePolicy::Text),
            _ => None,
        }
    }

    /// Whether this policy may make NULL of a value of a type.
    pub fn makes_null(self, column_type: &ColumnType) -> bool {
        let has_values_without_order =
            matches!(column_type, ColumnType::Array(_) | ColumnType::Scalar(Scalar::Decimal { .. } | Scalar::Numeric));
        self == ValuePolicy::Null || (self == ValuePolicy::Clamp && has_values_without_order)
    }
}

/// Name of a type by which policies are set; none for one that holds all of its values.
pub fn type_with_odd_values(column_type: &ColumnType) -> Option<&'static str> {
    match column_type {
        ColumnType::Array(_) => Some("array"),
        ColumnType::Scalar(Scalar::Date) => Some("date"),
        ColumnType::Scalar(Scalar::Timestamp(_)) => Some("timestamp"),
        ColumnType::Scalar(Scalar::Timestamptz(_)) => Some("timestamptz"),
        ColumnType::Scalar(Scalar::Decimal { .. } | Scalar::Numeric) => Some("numeric"),
        _ => None,
    }
}

/// Names that [`type_with_odd_values`] returns.
pub const TYPES_WITH_ODD_VALUES: [&str; 5] = ["array", "date", "timestamp", "timestamptz", "numeric"];

/// Appends what a policy makes of a value that its type cannot hold; false, with nothing appended, for NULL.
pub fn write_substitute(out: &mut Vec<u8>, column_type: &ColumnType, text: &[u8], policy: ValuePolicy) -> bool {
    let start = out.len();
    let is_written = match column_type {
        ColumnType::Scalar(scalar) => policy == ValuePolicy::Clamp && write_clamped(out, scalar, text),
        ColumnType::Array(items) => write_items(out, items, text, policy),
    };
    if !is_written {
        out.truncate(start);
    }
    is_written
}

fn write_clamped(out: &mut Vec<u8>, scalar: &Scalar, text: &[u8]) -> bool {
    clamped(scalar, text).is_some_and(|text| write_value(out, &ColumnType::Scalar(scalar.clone()), &text).is_ok())
}

/// Appends an array of which only items are odd.
fn write_items(out: &mut Vec<u8>, items: &Scalar, text: &[u8], policy: ValuePolicy) -> bool {
    let item_type = ColumnType::Scalar(items.clone());
    let (mut encoded, mut count) = (Vec::new(), 0i64);
    let written = each_element(text, |item| {
        count += 1;
        let start = encoded.len();
        let Some(item) = item else {
            write_item_branch(&mut encoded, false);
            return Ok(());
        };
        write_item_branch(&mut encoded, true);
        let value = encoded.len();
        if write_value(&mut encoded, &item_type, item).is_err() {
            encoded.truncate(value);
            if !write_substitute(&mut encoded, &item_type, item, policy) {
                encoded.truncate(start);
                write_item_branch(&mut encoded, false);
            }
        }
        Ok(())
    });
    if count > 0 {
        write_long(out, count);
        out.extend_from_slice(&encoded);
    }
    write_long(out, 0);
    written.is_ok()
}

/// The nearest value that every reader knows, in Postgres' text form; none if there is none.
fn clamped(scalar: &Scalar, text: &[u8]) -> Option<Cow<'static, [u8]>> {
    let is_low = text.first() == Some(&b'-') || text.ends_with(b" BC");
    let pick = |low: &'static str, high: &'static str| Some(Cow::from(if is_low { low } else { high }.as_bytes()));
    match scalar {
        Scalar::Date => pick("0001-01-01", "9999-12-31"),
        Scalar::Timestamp(_) => pick("0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"),
        Scalar::Timestamptz(_) => pick("0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"),
        Scalar::Decimal { precision, scale } if text.ends_with(b"Infinity") => {
            let mut digits = vec![b'9'; usize::from(*precision)];
            if *scale > 0 {
                digits.insert(usize::from(precision - scale), b'.');
            }
            if is_low {
                digits.insert(0, b'-');
            }
            Some(Cow::from(digits))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECIMAL: Scalar = Scalar::Decimal { precision: 4, scale: 2 };

    fn substitute(column_type: ColumnType, text: &str, policy: ValuePolicy) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        write_substitute(&mut out, &column_type, text.as_bytes(), policy).then_some(out)
    }

    fn value(column_type: ColumnType, text: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        write_value(&mut out, &column_type, text.as_bytes()).ok().map(|()| out)
    }

    #[test]
    fn what_is_beyond_a_type_becomes_its_end() {
        for (scalar, odd, expected) in [
            (Scalar::Date, "infinity", "9999-12-31"),
            (Scalar::Date, "-infinity", "0001-01-01"),
            (Scalar::Timestamp(6), "294276-12-31 23:59:59", "9999-12-31 23:59:59.999999"),
            (Scalar::Timestamp(3), "-infinity", "0001-01-01 00:00:00"),
            (Scalar::Timestamptz(6), "infinity", "9999-12-31 23:59:59.999999+00"),
            (DECIMAL, "Infinity", "99.99"),
            (DECIMAL, "-Infinity", "-99.99"),
            (Scalar::Decimal { precision: 2, scale: 2 }, "Infinity", ".99"),
        ] {
            let of = |text| value(ColumnType::Scalar(scalar.clone()), text);
            assert_eq!(of(odd), None, "{odd} is odd");
            let clamped = substitute(ColumnType::Scalar(scalar.clone()), odd, ValuePolicy::Clamp);
            assert_eq!(clamped, of(expected), "{scalar:?} {odd}");
            assert_eq!(substitute(ColumnType::Scalar(scalar.clone()), odd, ValuePolicy::Null), None);
        }
        assert_eq!(substitute(ColumnType::Scalar(DECIMAL), "NaN", ValuePolicy::Clamp), None);
    }

    #[test]
    fn odd_items_of_an_array_are_replaced_and_an_odd_array_is_null() {
        let dates = || ColumnType::Array(Scalar::Date);
        let null = substitute(dates(), "{2020-01-01,infinity,NULL}", ValuePolicy::Null);
        assert_eq!(null, value(dates(), "{2020-01-01,NULL,NULL}"));
        let clamped = substitute(dates(), "{-infinity}", ValuePolicy::Clamp);
        assert_eq!(clamped, value(dates(), "{0001-01-01}"));
        assert_eq!(substitute(dates(), "{{2020-01-01}}", ValuePolicy::Clamp), None);
        assert_eq!(substitute(dates(), "[0:0]={2020-01-01}", ValuePolicy::Null), None);
    }
}
