//! Postgres' texts of values, and the Avro bytes that they become.

use proptest::prelude::*;
use sooner_schemas::numeric::decimal_text;
use sooner_schemas::value::{PLACEHOLDER, UUID_PLACEHOLDER, write_fallback, write_placeholder, write_value};
use sooner_schemas::wire::Reader;
use sooner_schemas::{ColumnType, Scalar, Unholdable};

use crate::support::column_types;

fn write(column_type: &ColumnType, text: &[u8]) -> Result<Vec<u8>, Unholdable> {
    let mut out = Vec::new();
    write_value(&mut out, column_type, text)?;
    Ok(out)
}

fn scalar(scalar: Scalar, text: &str) -> Result<Vec<u8>, Unholdable> {
    write(&ColumnType::Scalar(scalar), text.as_bytes())
}

fn array(items: Scalar, text: &str) -> Result<Vec<u8>, Unholdable> {
    write(&ColumnType::Array(items), text.as_bytes())
}

/// The only long in the bytes.
fn long(written: &[u8]) -> i64 {
    let mut reader = Reader::new(written);
    let value = reader.long().unwrap();
    assert!(reader.rest().is_empty(), "bytes are left over");
    value
}

/// The only string in the bytes.
fn text(written: &[u8]) -> &str {
    let mut reader = Reader::new(written);
    let value = reader.string().unwrap();
    assert!(reader.rest().is_empty(), "bytes are left over");
    value
}

fn decimal(precision: u16, scale: u16) -> Scalar {
    Scalar::Decimal { precision, scale }
}

#[test]
fn booleans_are_one_byte() {
    assert_eq!(scalar(Scalar::Bool, "t"), Ok(vec![1]));
    assert_eq!(scalar(Scalar::Bool, "f"), Ok(vec![0]));
}

#[test]
fn integers_reach_the_limits_of_their_types() {
    for (of, text, expected) in [
        (Scalar::Int2, "-32768", -32_768),
        (Scalar::Int2, "32767", 32_767),
        (Scalar::Int4, "-2147483648", i64::from(i32::MIN)),
        (Scalar::Int4, "2147483647", i64::from(i32::MAX)),
        (Scalar::Int8, "-9223372036854775808", i64::MIN),
        (Scalar::Int8, "9223372036854775807", i64::MAX),
        (Scalar::Int8, "0", 0),
    ] {
        assert_eq!(long(&scalar(of, text).unwrap()), expected, "{text}");
    }
}

#[test]
fn what_is_no_integer_of_64_bits_is_refused() {
    let beyond = ["9223372036854775808", "-9223372036854775809", "9999999999999999999", "10000000000000000000"];
    let other = ["", "-", "--1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "NULL", "１"];
    for text in beyond.into_iter().chain(other) {
        assert!(scalar(Scalar::Int8, text).is_err(), "'{text}'");
    }
}

#[test]
fn floats_keep_every_bit_and_their_special_values() {
    for (text, expected) in [
        ("3.4028235e+38", f32::MAX),
        ("1e-45", f32::from_bits(1)),
        ("-0", -0.0),
        ("Infinity", f32::INFINITY),
        ("-Infinity", f32::NEG_INFINITY),
    ] {
        assert_eq!(scalar(Scalar::Float4, text), Ok(expected.to_le_bytes().to_vec()), "{text}");
    }
    for (text, expected) in [
        ("1.7976931348623157e+308", f64::MAX),
        ("5e-324", f64::from_bits(1)),
        ("0.1", 0.1),
        ("-Infinity", f64::NEG_INFINITY),
    ] {
        assert_eq!(scalar(Scalar::Float8, text), Ok(expected.to_le_bytes().to_vec()), "{text}");
    }
    let nan = scalar(Scalar::Float8, "NaN").unwrap();
    assert!(Reader::new(&nan).double().unwrap().is_nan());
    for text in ["", "1,5", "one", "--1", "1e"] {
        assert!(scalar(Scalar::Float4, text).is_err(), "'{text}'");
        assert!(scalar(Scalar::Float8, text).is_err(), "'{text}'");
    }
}

#[test]
fn decimals_are_the_shortest_unscaled_bytes() {
    for (text, expected) in [
        ("0", vec![0u8]),
        ("0.00", vec![0]),
        ("-0.01", vec![0xFF]),
        ("1.27", vec![0x7F]),
        ("1.28", vec![0, 0x80]),
        ("-1.28", vec![0x80]),
        ("-1.29", vec![0xFF, 0x7F]),
        ("2.5", vec![0, 0xFA]),
        ("3", vec![0x01, 0x2C]),
    ] {
        let written = scalar(decimal(10, 2), text).unwrap();
        assert_eq!(Reader::new(&written).bytes(), Ok(&expected[..]), "{text}");
    }
}

#[test]
fn decimals_beyond_128_bits_are_written_whole() {
    for digits in [37, 38, 39, 40, 1000] {
        for sign in ["", "-"] {
            let whole = format!("{sign}{}", "9".repeat(digits));
            let written = scalar(decimal(1000, 0), &whole).unwrap();
            assert_eq!(decimal_text(Reader::new(&written).bytes().unwrap(), 0), whole);
            let padded = scalar(decimal(1000, 5), &format!("{whole}.5")).unwrap();
            assert_eq!(decimal_text(Reader::new(&padded).bytes().unwrap(), 5), format!("{whole}.50000"));
        }
    }
}

#[test]
fn a_numeric_brings_the_scale_of_its_own_text() {
    for (text, scale, unscaled) in
        [("1.500", 3, vec![0x05, 0xDC]), ("100", 0, vec![100]), ("0.00", 2, vec![0]), ("-0.5", 1, vec![0xFB])]
    {
        let written = scalar(Scalar::Numeric, text).unwrap();
        let mut reader = Reader::new(&written);
        assert_eq!((reader.int(), reader.bytes()), (Ok(scale), Ok(&unscaled[..])), "{text}");
        assert!(reader.rest().is_empty());
    }
}

#[test]
fn a_decimal_that_is_no_number_says_why() {
    for of in [decimal(10, 2), Scalar::Numeric] {
        for (text, reason) in
            [("1e5", "not a decimal number"), ("", "not a decimal number"), (".", "not a decimal number")]
        {
            let refused = scalar(of.clone(), text).unwrap_err();
            assert!(refused.to_string().contains(reason), "'{text}': {refused}");
        }
    }
    let refused = scalar(decimal(10, 2), "0.001").unwrap_err();
    assert!(refused.to_string().contains("more fraction digits"), "{refused}");
    assert!(scalar(decimal(10, 0), "7.0").is_err(), "Postgres writes no digits that the column does not declare");
}

#[test]
fn dates_reach_from_the_first_to_the_last_of_postgres() {
    for (text, days) in [
        ("4714-11-24 BC", -2_440_588),
        ("0001-12-31 BC", -719_163),
        ("1900-03-01", -25_508),
        ("2000-02-29", 11_016),
        ("2024-12-31", 20_088),
        ("5874897-12-31", 2_145_042_905),
    ] {
        assert_eq!(long(&scalar(Scalar::Date, text).unwrap()), days, "{text}");
    }
    for text in ["", "2024-00-10", "2024-01-00", "2024-01-32", "24-01-01", "2024/01/01", "2024-01-01 AD", "-2024-01-01"]
    {
        assert!(scalar(Scalar::Date, text).is_err(), "'{text}'");
    }
}

#[test]
fn times_are_milliseconds_up_to_three_digits_and_else_microseconds() {
    for (digits, text, expected) in [
        (0, "12:00:00", 43_200_000),
        (3, "23:59:59.999", 86_399_999),
        (4, "00:00:00.0001", 100),
        (6, "23:59:59.999999", 86_399_999_999),
        (6, "24:00:00", 86_400_000_000),
    ] {
        assert_eq!(long(&scalar(Scalar::Time(digits), text).unwrap()), expected, "{text}");
    }
    for text in ["", "12", "1:00:00", "12:00:00.", "12:00:00+02", "12:00:00.1234567", "12-00-00"] {
        assert!(scalar(Scalar::Time(6), text).is_err(), "'{text}'");
    }
}

#[test]
fn timestamps_are_whole_units_also_before_1970_and_before_christ() {
    for (digits, text, expected) in [
        (0, "1969-12-31 23:59:59", -1000),
        (3, "1969-12-31 23:59:59.999", -1),
        (3, "1970-01-01 00:00:00.001", 1),
        (6, "1969-12-31 23:59:59.999999", -1),
        (6, "4714-11-24 00:00:00 BC", -210_866_803_200_000_000),
        (6, "294247-01-10 04:00:54.775807", i64::MAX),
    ] {
        assert_eq!(long(&scalar(Scalar::Timestamp(digits), text).unwrap()), expected, "{text}");
    }
    for text in ["", "2024-01-01", "2024-01-01T00:00:00", "2024-01-01 00:00:00 AD", "294247-01-10 04:00:54.775808"] {
        assert!(scalar(Scalar::Timestamp(6), text).is_err(), "'{text}'");
    }
}

#[test]
fn instants_are_iso_text_in_utc_with_the_digits_of_the_column() {
    for (digits, postgres, expected) in [
        (0, "2024-02-29 12:34:56+00", "2024-02-29T12:34:56Z"),
        (3, "2024-02-29 12:34:56.789+00", "2024-02-29T12:34:56.789Z"),
        (6, "2024-02-29 12:34:56.7+00", "2024-02-29T12:34:56.700000Z"),
        (0, "10000-01-01 00:00:00+00", "+10000-01-01T00:00:00Z"),
        (0, "0001-12-31 23:59:59+00 BC", "0000-12-31T23:59:59Z"),
        (0, "0002-01-01 00:00:00+00 BC", "-0001-01-01T00:00:00Z"),
    ] {
        let written = scalar(Scalar::Timestamptz(digits), postgres).unwrap();
        assert_eq!(text(&written), expected, "{postgres}");
    }
    for text in ["2024-02-29 12:34:56+02", "2024-02-29 12:34:56-00", "2024-02-29 12:34:56+00:30", "now"] {
        assert!(scalar(Scalar::Timestamptz(6), text).is_err(), "{text}");
    }
}

#[test]
fn infinity_is_no_date_and_no_timestamp() {
    for of in [Scalar::Date, Scalar::Timestamp(6), Scalar::Timestamptz(6)] {
        for text in ["infinity", "-infinity"] {
            let refused = scalar(of.clone(), text).unwrap_err();
            assert!(refused.to_string().contains("infinity"), "{of:?} {text}: {refused}");
        }
    }
}

#[test]
fn texts_of_all_kinds_are_carried_as_they_are() {
    let labels = Scalar::Enum(vec!["ok".to_owned()]);
    for (of, value) in [
        (Scalar::Text, ""),
        (Scalar::Text, "straße\n\u{0}NULL"),
        (Scalar::Uuid, "b68a35a7-17ad-35b3-af2a-ae46edb4545a"),
        (Scalar::Json, r#"{"a": [1, null], "b": 1e400}"#),
        (labels.clone(), "ok"),
        (labels, "added later"),
        (Scalar::Other, "1 day 02:03:04"),
    ] {
        assert_eq!(text(&scalar(of, value).unwrap()), value);
    }
    for of in [Scalar::Text, Scalar::Json, Scalar::Other] {
        let refused = write(&ColumnType::Scalar(of), b"a\xFFb").unwrap_err();
        assert!(refused.to_string().contains("UTF-8"), "{refused}");
    }
}

#[test]
fn bytes_come_in_hex_only() {
    assert_eq!(scalar(Scalar::Bytea, "\\x"), Ok(vec![0]));
    assert_eq!(scalar(Scalar::Bytea, "\\x00fFa0"), Ok(vec![6, 0x00, 0xFF, 0xA0]));
    for text in ["", "00ff", "\\x0", "\\x0g", "\\000\\377", "\\X00", "x00"] {
        assert!(scalar(Scalar::Bytea, text).is_err(), "'{text}'");
    }
}

#[test]
fn arrays_are_one_block_of_nullable_items() {
    assert_eq!(array(Scalar::Int4, "{}"), Ok(vec![0]));
    assert_eq!(array(Scalar::Int4, "{1,NULL,-1}"), Ok(vec![6, 2, 2, 0, 2, 1, 0]));
    assert_eq!(array(Scalar::Bool, "{t,f}"), Ok(vec![4, 2, 1, 2, 0, 0]));
    assert_eq!(array(Scalar::Text, r#"{"",NULL,"NULL"}"#), Ok(vec![6, 2, 0, 0, 2, 8, b'N', b'U', b'L', b'L', 0]));
    assert_eq!(array(Scalar::Bytea, r#"{"\\x00ff","\\x"}"#), Ok(vec![4, 2, 4, 0x00, 0xFF, 2, 0, 0]));
    assert_eq!(array(Scalar::Date, "{1970-01-02}"), Ok(vec![2, 2, 2, 0]));
    assert_eq!(array(Scalar::Timestamp(3), r#"{"1970-01-01 00:00:00.003"}"#), Ok(vec![2, 2, 6, 0]));
}

#[test]
fn an_item_that_is_refused_refuses_the_array_and_writes_nothing_of_it() {
    for (items, text) in [
        (Scalar::Int4, "{1,x}"),
        (Scalar::Int4, "{1,,2}"),
        (Scalar::Int4, "{1,}"),
        (Scalar::Int4, "{{1},{2}}"),
        (Scalar::Int4, "[2:3]={1,2}"),
        (Scalar::Int4, "{1}x"),
        (Scalar::Int4, ""),
        (Scalar::Numeric, "{1.5,NaN}"),
        (decimal(5, 1), "{1.25}"),
        (Scalar::Date, "{1970-01-01,infinity}"),
        (Scalar::Bytea, r#"{"\\x0"}"#),
        (Scalar::Text, r#"{"open}"#),
    ] {
        let mut out = vec![7];
        let refused = write_value(&mut out, &ColumnType::Array(items), text.as_bytes());
        assert!(refused.is_err(), "'{text}'");
        assert_eq!(out, [7], "'{text}'");
    }
}

#[test]
fn a_type_without_a_placeholder_appends_nothing() {
    for column_type in column_types() {
        let mut out = vec![7];
        let has_one = write_placeholder(&mut out, &column_type);
        assert_eq!(has_one, out.len() > 1, "{column_type:?}");
        let textual = |of: &Scalar| matches!(of, Scalar::Text | Scalar::Uuid | Scalar::Json | Scalar::Other);
        let expected = match &column_type {
            ColumnType::Scalar(of) => textual(of) || matches!(of, Scalar::Enum(_) | Scalar::Bytea),
            ColumnType::Array(of) => {
                textual(of) || matches!(of, Scalar::Bytea | Scalar::Int4 | Scalar::Int8 | Scalar::Date)
            }
        };
        assert_eq!(has_one, expected, "{column_type:?}");
    }
}

#[test]
fn placeholders_of_arrays_are_those_of_debezium() {
    let written = |items: Scalar| {
        let mut out = Vec::new();
        assert!(write_placeholder(&mut out, &ColumnType::Array(items)));
        out
    };
    let single = |text: &[u8]| [&[2, 2, text.len() as u8 * 2][..], text, &[0]].concat();
    assert_eq!(written(Scalar::Text), single(PLACEHOLDER));
    // A length of 36 takes one byte too.
    assert_eq!(written(Scalar::Uuid), single(UUID_PLACEHOLDER));
    let numbers = written(Scalar::Int8);
    let mut reader = Reader::new(&numbers);
    assert_eq!(reader.length(), Ok(PLACEHOLDER.len()));
    for byte in PLACEHOLDER {
        assert_eq!((reader.length(), reader.long()), (Ok(1), Ok(i64::from(*byte))));
    }
    assert_eq!(reader.rest(), [0]);
}

#[test]
fn a_fallback_is_the_zero_of_its_type() {
    let written = |of: Scalar| {
        let mut out = Vec::new();
        write_fallback(&mut out, &ColumnType::Scalar(of));
        out
    };
    assert_eq!(written(Scalar::Int8), [0]);
    assert_eq!(written(Scalar::Float4), 0f32.to_le_bytes());
    assert_eq!(written(Scalar::Float8), 0f64.to_le_bytes());
    assert_eq!(written(decimal(5, 2)), scalar(decimal(5, 2), "0").unwrap());
    assert_eq!(written(Scalar::Numeric), scalar(Scalar::Numeric, "0").unwrap());
    assert_eq!(text(&written(Scalar::Timestamptz(6))), "1970-01-01T00:00:00Z");
    assert_eq!(written(Scalar::Bytea), [0]);
}

proptest! {
    #[test]
    fn no_text_makes_a_writer_panic(text in prop::collection::vec(any::<u8>(), 0..24)) {
        for column_type in column_types() {
            let _ = write(&column_type, &text);
        }
    }

    #[test]
    fn what_is_written_is_appended(before in prop::collection::vec(any::<u8>(), 0..4), value in any::<i64>()) {
        let mut out = before.clone();
        write_value(&mut out, &ColumnType::Scalar(Scalar::Int8), value.to_string().as_bytes()).unwrap();
        prop_assert_eq!(&out[..before.len()], &before[..]);
        prop_assert_eq!(long(&out[before.len()..]), value);
    }
}
