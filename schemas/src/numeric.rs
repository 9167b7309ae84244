//! Decimals: from Postgres' text to Avro's unscaled big-endian bytes, and back.
//!
//! Decimal logical type: <https://avro.apache.org/docs/1.12.0/specification/#decimal>

use num_bigint::BigInt;

use crate::unholdable::Unholdable;
use crate::wire::{write_bytes, write_long};

/// Number of decimal digits that always fits an `i128`.
const SMALL_DIGITS: usize = 38;

/// A decimal's text, split into sign, digits before and digits after the point.
struct Digits<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
}

/// Appends `text` as an Avro decimal of this scale; refuses NaN, infinity, and more fraction digits than that.
pub fn write_decimal(out: &mut Vec<u8>, text: &[u8], scale: u16) -> Result<(), Unholdable> {
    let digits = parse(text)?;
    let scale = usize::from(scale);
    if digits.fraction.len() > scale {
        return Err(Unholdable("it has more fraction digits than the column declares"));
    }
    write_unscaled(out, &digits, scale - digits.fraction.len())
}

/// Appends `text` as Debezium's `VariableScaleDecimal`: the value's own scale, then its unscaled bytes.
pub fn write_variable_scale(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Unholdable> {
    let digits = parse(text)?;
    write_long(out, digits.fraction.len() as i64);
    write_unscaled(out, &digits, 0)
}

/// Converts unscaled big-endian bytes to an integer; none if they are empty or more than 16.
pub fn small_unscaled(bytes: &[u8]) -> Option<i128> {
    let negative = *bytes.first()? & 0x80 != 0;
    if bytes.len() > 16 {
        return None;
    }
    let mut wide = [if negative { 0xFF } else { 0 }; 16];
    wide[16 - bytes.len()..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(wide))
}

/// Formats unscaled big-endian bytes as Postgres' text, with `scale` fraction digits.
pub fn decimal_text(unscaled: &[u8], scale: usize) -> String {
    let digits = match small_unscaled(unscaled) {
        Some(small) => small.to_string(),
        None => BigInt::from_signed_bytes_be(unscaled).to_string(),
    };
    if scale == 0 {
        return digits;
    }
    let (sign, magnitude) = match digits.strip_prefix('-') {
        Some(magnitude) => ("-", magnitude),
        None => ("", digits.as_str()),
    };
    let padded = format!("{magnitude:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    format!("{sign}{whole}.{fraction}")
}

fn parse(text: &[u8]) -> Result<Digits<'_>, Unholdable> {
    let (negative, magnitude) = match text {
        [b'-', magnitude @ ..] => (true, magnitude),
        magnitude => (false, magnitude),
    };
    if magnitude == b"NaN" {
        return Err(Unholdable("NaN has no place in a decimal"));
    }
    if magnitude == b"Infinity" {
        return Err(Unholdable("infinity has no place in a decimal"));
    }
    let point = magnitude.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&magnitude[..point], &magnitude[point + 1..]),
        None => (magnitude, &[][..]),
    };
    let all_digits = whole.iter().chain(fraction).all(u8::is_ascii_digit);
    if !all_digits || whole.len() + fraction.len() == 0 {
        return Err(Unholdable("it is not a decimal number"));
    }
    Ok(Digits { negative, whole, fraction })
}

fn write_unscaled(out: &mut Vec<u8>, digits: &Digits<'_>, zeros: usize) -> Result<(), Unholdable> {
    if digits.whole.len() + digits.fraction.len() + zeros > SMALL_DIGITS {
        return write_big(out, digits, zeros);
    }
    let all = digits.whole.iter().chain(digits.fraction);
    let mut value = all.fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
    value *= 10i128.pow(zeros as u32);
    write_minimal(out, if digits.negative { -value } else { value });
    Ok(())
}

fn write_minimal(out: &mut Vec<u8>, value: i128) {
    let sign_bits = if value < 0 { value.leading_ones() } else { value.leading_zeros() };
    let bytes = 16 - (sign_bits as usize - 1) / 8;
    write_bytes(out, &value.to_be_bytes()[16 - bytes..]);
}

fn write_big(out: &mut Vec<u8>, digits: &Digits<'_>, zeros: usize) -> Result<(), Unholdable> {
    let mut all = Vec::with_capacity(digits.whole.len() + digits.fraction.len() + zeros);
    all.extend_from_slice(digits.whole);
    all.extend_from_slice(digits.fraction);
    all.resize(all.len() + zeros, b'0');
    let value = BigInt::parse_bytes(&all, 10).ok_or(Unholdable("it is not a decimal number"))?;
    let value = if digits.negative { -value } else { value };
    write_bytes(out, &value.to_signed_bytes_be());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reader;
    use proptest::prelude::*;

    fn round_trip(text: &str) -> String {
        let mut out = Vec::new();
        write_variable_scale(&mut out, text.as_bytes()).expect("a number");
        let mut reader = Reader::new(&out);
        let scale = reader.length().expect("scale");
        decimal_text(reader.bytes().expect("unscaled"), scale)
    }

    proptest! {
        #[test]
        fn text_survives(text in "-?(0|[1-9][0-9]{0,60})(\\.[0-9]{1,60})?") {
            let zero = text.bytes().all(|byte| matches!(byte, b'-' | b'0' | b'.'));
            prop_assume!(!(zero && text.starts_with('-')));
            prop_assert_eq!(round_trip(&text), text);
        }

        #[test]
        fn bytes_are_minimal_as_in_java(value: i128) {
            let value = value / 10;
            let mut out = Vec::new();
            write_decimal(&mut out, value.to_string().as_bytes(), 0).expect("a number");
            let unscaled = Reader::new(&out).bytes().expect("bytes");
            prop_assert_eq!(unscaled, BigInt::from(value).to_signed_bytes_be());
            prop_assert_eq!(small_unscaled(unscaled), Some(value));
        }
    }

    #[test]
    fn missing_fraction_digits_are_zeros() {
        let mut out = Vec::new();
        write_decimal(&mut out, b"-1.5", 3).expect("a number");
        assert_eq!(decimal_text(Reader::new(&out).bytes().expect("bytes"), 3), "-1.500");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["NaN", "Infinity", "-Infinity", "", "-", "1e5", "1.2.3"] {
            assert!(write_decimal(&mut Vec::new(), text.as_bytes(), 2).is_err(), "{text}");
        }
        assert!(write_decimal(&mut Vec::new(), b"1.234", 2).is_err());
    }
}
