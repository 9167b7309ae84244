//! Avro schemas and bytes that others wrote: whole, cut off and malformed.

use std::sync::Arc;

use proptest::prelude::*;
use sooner_schemas::avro::{BadSchema, RecordSchema, Schema, Shape, read_blocks};
use sooner_schemas::wire::{HEADER_BYTES, Malformed, Reader, split_header, write_header, write_long};

use crate::support::{Table, column, scalars};

fn schema(json: &str) -> Schema {
    Schema::parse(json).unwrap()
}

fn record(json: &str) -> Arc<RecordSchema> {
    schema(json).as_record().unwrap().clone()
}

/// What follows after one value was skipped.
fn skip<'a>(json: &str, bytes: &'a [u8]) -> Result<&'a [u8], Malformed> {
    let mut reader = Reader::new(bytes);
    schema(json).skip(&mut reader)?;
    Ok(reader.rest())
}

/// A number in so many bytes that promise another, and a last one.
fn stretched(count: usize, byte: u8, last: u8) -> Vec<u8> {
    let mut bytes = vec![byte; count];
    bytes.push(last);
    bytes
}

#[test]
fn a_long_is_read_up_to_its_64_bits() {
    for (bytes, expected) in [
        (vec![], Err(Malformed::Truncated)),
        (vec![0x80], Err(Malformed::Truncated)),
        (vec![0x80; 9], Err(Malformed::Truncated)),
        (vec![0xFF; 10], Err(Malformed::OutOfRange)),
        (stretched(9, 0xFF, 0x02), Err(Malformed::OutOfRange)),
        (stretched(9, 0xFF, 0x01), Ok(i64::MIN)),
        (stretched(1, 0xFE, 0x01), Ok(127)),
        (stretched(1, 0x80, 0x00), Ok(0)),
    ] {
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.long(), expected, "{bytes:?}");
        let left = if expected.is_ok() { 0 } else { bytes.len() };
        assert_eq!(reader.rest().len(), left, "{bytes:?}: what failed is not read");
    }
}

#[test]
fn an_int_and_a_length_have_narrower_ranges() {
    let encoded = |value: i64| {
        let mut out = Vec::new();
        write_long(&mut out, value);
        out
    };
    for value in [i32::MIN, i32::MAX] {
        assert_eq!(Reader::new(&encoded(value.into())).int(), Ok(value));
    }
    for value in [i64::from(i32::MIN) - 1, i64::from(i32::MAX) + 1] {
        assert_eq!(Reader::new(&encoded(value)).int(), Err(Malformed::OutOfRange));
    }
    assert_eq!(Reader::new(&encoded(-1)).length(), Err(Malformed::OutOfRange));
    assert_eq!(Reader::new(&encoded(-1)).bytes(), Err(Malformed::OutOfRange));
    assert_eq!(Reader::new(&encoded(i64::MAX)).bytes(), Err(Malformed::Truncated));
}

#[test]
fn values_of_fixed_size_do_not_run_past_the_end() {
    assert_eq!(Reader::new(&[]).boolean(), Err(Malformed::Truncated));
    assert_eq!(Reader::new(&[0; 3]).float(), Err(Malformed::Truncated));
    assert_eq!(Reader::new(&[0; 7]).double(), Err(Malformed::Truncated));
    assert_eq!(Reader::new(&[6, b'a', b'b']).string(), Err(Malformed::Truncated));
    assert_eq!(Reader::new(&[4, 0xC3, 0x28]).string(), Err(Malformed::NotUtf8));
    let mut reader = Reader::new(&[1, 2, 3]);
    assert_eq!(reader.take(4), Err(Malformed::Truncated));
    assert_eq!(reader.take(2), Ok(&[1, 2][..]));
    assert_eq!((reader.take(0), reader.rest()), (Ok(NOTHING), &[3][..]));
}

#[test]
fn a_header_may_be_all_of_a_message() {
    let mut message = Vec::new();
    write_header(&mut message, u32::MAX);
    assert_eq!(message.len(), HEADER_BYTES);
    assert_eq!(split_header(&message), Ok((u32::MAX, NOTHING)));
    for cut in 0..HEADER_BYTES {
        assert_eq!(split_header(&message[..cut]), Err(Malformed::Truncated), "{cut}");
    }
}

/// No bytes.
const NOTHING: &[u8] = &[];
const ARRAY: &str = r#"{"type": "array", "items": "string"}"#;
const MAP: &str = r#"{"type": "map", "values": "int"}"#;
const RECORD: &str = r#"{"type": "record", "name": "R", "fields": [
    {"name": "a", "type": ["null", "long"]}, {"name": "b", "type": {"type": "fixed", "name": "F", "size": 3}},
    {"name": "c", "type": {"type": "enum", "name": "E", "symbols": ["x", "y"]}}, {"name": "d", "type": "F"}]}"#;

#[test]
fn a_value_is_skipped_whole_and_no_part_of_it_is_enough() {
    let whole: [(&str, &[u8]); 15] = [
        (r#""boolean""#, &[1]),
        (r#""int""#, &[0x80, 0x01]),
        (r#""float""#, &[0; 4]),
        (r#""double""#, &[0; 8]),
        (r#""bytes""#, &[6, 1, 2, 3]),
        (r#""string""#, &[2, b'a']),
        (r#"{"type": "fixed", "name": "F", "size": 2}"#, &[1, 2]),
        (r#"["null", "string"]"#, &[2, 2, b'a']),
        (r#"["null", "string"]"#, &[0]),
        (ARRAY, &[0]),
        (ARRAY, &[4, 2, b'a', 0, 2, 2, b'b', 0]),
        (ARRAY, &[3, 6, 2, b'a', 0, 0]),
        (MAP, &[2, 2, b'k', 8, 0]),
        (MAP, &[1, 6, 2, b'k', 8, 0]),
        (RECORD, &[2, 8, 1, 2, 3, 2, 4, 5, 6]),
    ];
    for (json, bytes) in whole {
        let followed = [bytes, &[0xAA]].concat();
        assert_eq!(skip(json, &followed), Ok(&[0xAA][..]), "{json} {bytes:?}");
        for cut in 0..bytes.len() {
            assert_eq!(skip(json, &bytes[..cut]), Err(Malformed::Truncated), "{json} {bytes:?} cut at {cut}");
        }
    }
    assert_eq!(skip(r#""null""#, &[7]), Ok(&[7][..]));
}

#[test]
fn a_union_has_no_other_branches_than_its_schema() {
    let union = r#"["null", "long", "string"]"#;
    assert_eq!(skip(union, &[6]), Err(Malformed::NoSuchBranch));
    assert_eq!(skip(union, &[1]), Err(Malformed::OutOfRange));
    assert_eq!(skip(union, &[4, 2, b'a']), Ok(NOTHING));
    assert_eq!(skip(r#"{"type": "array", "items": ["null"]}"#, &[2, 2, 0]), Err(Malformed::NoSuchBranch));
}

#[test]
fn blocks_with_a_size_hold_the_same_items() {
    let items = |bytes: &[u8]| {
        let mut found = Vec::new();
        let mut reader = Reader::new(bytes);
        read_blocks(&mut reader, |reader| {
            found.push(reader.long()?);
            Ok(())
        })?;
        Ok::<_, Malformed>((found, reader.rest().to_vec()))
    };
    assert_eq!(items(&[6, 2, 4, 6, 0, 9]), Ok((vec![1, 2, 3], vec![9])));
    assert_eq!(items(&[3, 4, 2, 4, 2, 6, 0, 9]), Ok((vec![1, 2, 3], vec![9])));
    assert_eq!(items(&[3]), Err(Malformed::Truncated));
}

#[test]
fn a_count_of_items_without_bytes_is_bounded() {
    let nulls = r#"{"type": "array", "items": "null"}"#;
    let block = |count: i64| {
        let mut out = Vec::new();
        write_long(&mut out, count);
        if count < 0 {
            write_long(&mut out, 0);
        }
        out.push(0);
        out
    };
    assert_eq!(skip(nulls, &block(1 << 20)), Ok(NOTHING));
    for count in [(1 << 20) + 1, i64::MAX, i64::MIN] {
        assert_eq!(skip(nulls, &block(count)), Err(Malformed::OutOfRange), "{count}");
    }
    // A block that promises more items than there are bytes ends with the bytes.
    assert_eq!(skip(ARRAY, &[&block(i64::MAX)[..10], &[2, b'a']].concat()), Err(Malformed::Truncated));
}

#[test]
fn a_schema_that_is_none_says_what_is_wrong() {
    assert!(matches!(Schema::parse("{"), Err(BadSchema::Json(_))));
    for (json, reason) in [
        ("5", "5 is no schema"),
        ("null", "null is no schema"),
        ("{}", "no 'type'"),
        (r#""Unknown""#, "type 'Unknown' is not defined"),
        (r#"["null", "Unknown"]"#, "type 'Unknown' is not defined"),
        (r#"{"type": "array"}"#, "array without 'items'"),
        (r#"{"type": "map"}"#, "map without 'values'"),
        (r#"{"type": "fixed", "name": "F"}"#, "fixed without 'size'"),
        (r#"{"type": "fixed", "name": "F", "size": -1}"#, "bad 'size'"),
        (r#"{"type": "record", "fields": []}"#, "record without 'name'"),
        (r#"{"type": "record", "name": "n.R"}"#, "record 'n.R' without 'fields'"),
        (r#"{"type": "record", "name": "R", "fields": [{"type": "int"}]}"#, "no 'name'"),
        (r#"{"type": "record", "name": "R", "fields": [{"name": "a"}]}"#, "field 'a' has no 'type'"),
        (r#"{"type": "record", "name": "R", "fields": [{"name": "a", "type": "R"}]}"#, "type 'R' is not defined"),
    ] {
        let error = Schema::parse(json).unwrap_err();
        assert!(matches!(error, BadSchema::Avro(_)), "{json}");
        assert!(error.to_string().contains(reason), "{json}: {error}");
    }
}

#[test]
fn names_are_found_by_the_namespace_that_they_stand_in() {
    let outer = record(
        r#"{"type": "record", "name": "Outer", "namespace": "a.b", "fields": [
        {"name": "first", "type": {"type": "record", "name": "Inner", "fields": []}},
        {"name": "short", "type": "Inner"},
        {"name": "full", "type": ["null", "a.b.Inner"]},
        {"name": "other", "type": {"type": "enum", "name": "c.E", "namespace": "ignored", "symbols": []}},
        {"name": "again", "type": "c.E"}]}"#,
    );
    assert_eq!(outer.name, "a.b.Outer");
    for field in ["first", "short", "full"] {
        let inner = outer.fields[outer.field_index(field).unwrap()].schema.as_record().unwrap();
        assert_eq!(inner.name, "a.b.Inner", "{field}");
    }
    assert!(matches!(outer.fields[4].schema.shape, Shape::Enum));
    assert_eq!(outer.field_index("Inner"), None);
}

#[test]
fn meanings_are_kept() {
    let date = schema(r#"{"type": "int", "connect.name": "io.debezium.time.Date"}"#);
    assert!(matches!(date.shape, Shape::Int));
    assert_eq!(date.semantic.as_deref(), Some("io.debezium.time.Date"));
    let narrow = schema(r#"{"type": "int", "connect.type": "int16"}"#);
    assert_eq!((narrow.narrow.as_deref(), narrow.semantic), (Some("int16"), None));
    for (attributes, expected) in [
        (r#""logicalType": "decimal", "precision": 10, "scale": 2"#, Some((10, 2))),
        (r#""logicalType": "decimal", "precision": 10"#, Some((10, 0))),
        (r#""logicalType": "decimal", "scale": 2"#, None),
        (r#""logicalType": "decimal", "precision": 70000"#, None),
        (r#""logicalType": "other", "precision": 10, "scale": 2"#, None),
        (r#""precision": 10, "scale": 2"#, None),
    ] {
        let parsed = schema(&format!(r#"{{"type": "bytes", {attributes}}}"#));
        assert_eq!(parsed.decimal, expected, "{attributes}");
    }
    let renamed = record(
        r#"{"type": "record", "name": "R", "fields": [
        {"name": "a_b", "type": "int", "sooner.name": "a b"}, {"name": "c", "type": "int"}]}"#,
    );
    assert_eq!((renamed.fields[0].column.as_str(), renamed.fields[1].column.as_str()), ("a b", "c"));
}

#[test]
fn only_a_union_of_null_and_one_other_is_nullable() {
    for (json, expected) in [
        (r#"["null", "long"]"#, Some(0)),
        (r#"["long", "null"]"#, Some(1)),
        (r#"["long", "string"]"#, None),
        (r#"["null"]"#, None),
        (r#"["null", "long", "string"]"#, None),
        (r#""long""#, None),
    ] {
        let parsed = schema(json);
        let (value, null) = parsed.without_null();
        assert_eq!(null, expected, "{json}");
        assert_eq!(matches!(value.shape, Shape::Long), expected.is_some() || json == r#""long""#, "{json}");
    }
    assert!(schema(r#"["null", "long"]"#).as_record().is_none());
}

proptest! {
    #[test]
    fn garbage_is_an_error_or_is_skipped_up_to_some_place(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let columns = scalars().into_iter().enumerate().map(|(n, scalar)| column(&format!("c{n}"), scalar).nullable());
        let table = Table::new(columns.collect(), vec![]);
        let mut reader = Reader::new(&bytes);
        if table.encoder.schema().value.skip(&mut reader).is_ok() {
            prop_assert!(bytes.ends_with(reader.rest()) && reader.rest().len() < bytes.len());
        }
    }

    #[test]
    fn a_long_ends_where_it_ends(value in any::<i64>(), after in prop::collection::vec(any::<u8>(), 0..12)) {
        let mut bytes = Vec::new();
        write_long(&mut bytes, value);
        prop_assert!(bytes.len() <= 10);
        bytes.extend_from_slice(&after);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(reader.long(), Ok(value));
        prop_assert_eq!(reader.rest(), &after[..]);
    }
}
