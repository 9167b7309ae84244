//! Messages of pgoutput are understood whole, and refused when they are cut or unknown.

use sooner_postgres::pgoutput::{
    Malformed, Message, OldRow, RelationShape, ShapeColumn, parse, postgres_micros, unix_micros,
};
use sooner_schemas::Lsn;
use sooner_schemas::encode::TupleValue;

use crate::messages::Cell::{Null, Text, Unchanged};
use crate::messages::{POSTGRES_EPOCH, begin, commit, delete, insert, relation, truncate, update, update_from};

/// A message of each kind, with and without its optional parts.
fn samples() -> Vec<(Vec<u8>, Message<'static>)> {
    let one = || vec![TupleValue::Text(b"1"), TupleValue::Null];
    let two = || vec![TupleValue::Text(b"2"), TupleValue::Unavailable];
    let (old, new) = ([Text("1"), Null], [Text("2"), Unchanged]);
    let (key, whole) = (|| OldRow::Key(one()), || OldRow::Whole(one()));
    vec![
        (begin(1 << 40, 5, 7), Message::Begin { commit_lsn: Lsn(1 << 40), commit_micros: 5, xid: 7 }),
        (begin(0, POSTGRES_EPOCH, 0), Message::Begin { commit_lsn: Lsn(0), commit_micros: POSTGRES_EPOCH, xid: 0 }),
        (commit(500, 510, -5), Message::Commit { commit_lsn: Lsn(500), end_lsn: Lsn(510), commit_micros: -5 }),
        (insert(9, &old), Message::Insert { oid: 9, new: one() }),
        (insert(u32::MAX, &[]), Message::Insert { oid: u32::MAX, new: Vec::new() }),
        (insert(9, &[Text("")]), Message::Insert { oid: 9, new: vec![TupleValue::Text(b"")] }),
        (update(9, &new), Message::Update { oid: 9, old: None, new: two() }),
        (update_from(9, b'K', &old, &new), Message::Update { oid: 9, old: Some(key()), new: two() }),
        (update_from(9, b'O', &old, &new), Message::Update { oid: 9, old: Some(whole()), new: two() }),
        (delete(9, b'K', &old), Message::Delete { oid: 9, old: key() }),
        (delete(9, b'O', &old), Message::Delete { oid: 9, old: whole() }),
        (truncate(&[], 0), Message::Truncate { oids: Vec::new() }),
        (truncate(&[1, 2, u32::MAX], 3), Message::Truncate { oids: vec![1, 2, u32::MAX] }),
        (relation(9, "public", "t", b'n', &[]), Message::Relation(shape("public", b'n', Vec::new()))),
        (
            relation(9, "ü.x", "t", b'f', &[(1, "Id", 23, -1), (0, "a b", 1700, 655_366)]),
            Message::Relation(shape(
                "ü.x",
                b'f',
                vec![column(true, "Id", 23, -1), column(false, "a b", 1700, 655_366)],
            )),
        ),
    ]
}

fn shape(schema: &str, identity: u8, columns: Vec<ShapeColumn>) -> RelationShape {
    RelationShape { oid: 9, schema: schema.to_owned(), table: "t".to_owned(), identity, columns }
}

fn column(in_identity: bool, name: &str, type_oid: u32, modifier: i32) -> ShapeColumn {
    ShapeColumn { in_identity, name: name.to_owned(), type_oid, modifier }
}

#[test]
fn each_message_is_understood() {
    for (bytes, expected) in samples() {
        assert_eq!(parse(&bytes), Ok(expected));
    }
}

#[test]
fn each_message_that_is_cut_is_refused() {
    for (bytes, message) in samples() {
        for end in 0..bytes.len() {
            assert!(parse(&bytes[..end]).is_err(), "{message:?} cut after {end} bytes");
        }
    }
}

#[test]
fn messages_that_say_nothing_of_rows_are_skipped() {
    for tag in *b"YOM" {
        assert_eq!(parse(&[tag]), Ok(Message::Other));
        assert_eq!(parse(&[tag, 0, 0, 0, 1, b'x']), Ok(Message::Other));
    }
}

#[test]
fn unknown_parts_are_named() {
    let row = [Text("1")];
    let replaced = |mut bytes: Vec<u8>, index: usize, byte: u8| {
        bytes[index] = byte;
        bytes
    };
    let after_old = update(9, &row).len();
    for (bytes, why) in [
        (b"S\0\0\0\x01\x01".to_vec(), "unknown message type"),
        (vec![0], "unknown message type"),
        (b"i\0\0\0\x09N\0\0".to_vec(), "unknown message type"),
        (replaced(insert(9, &row), 5, b'K'), "a new row does not follow where it should"),
        (replaced(insert(9, &row), 8, b'b'), "unknown kind of value"),
        (replaced(insert(9, &row), 9, 0xFF), "a value ends early"),
        (replaced(update(9, &row), 5, b'X'), "unknown kind of old row"),
        (replaced(update_from(9, b'K', &row, &row), after_old, b'O'), "a new row does not follow where it should"),
        (delete(9, b'N', &row), "unknown kind of old row"),
        (relation(9, "s", "t", b'd', &[])[..8].to_vec(), "a name ends early"),
        (b"T\xff\xff\xff\xff\0\0\0\0\x01".to_vec(), "the message ends early"),
        (Vec::new(), "the message ends early"),
    ] {
        assert_eq!(parse(&bytes), Err(Malformed(why)), "{bytes:?}");
    }
}

#[test]
fn an_empty_schema_is_the_catalogs() {
    let Ok(Message::Relation(found)) = parse(&relation(9, "", "t", b'd', &[])) else { panic!("a relation") };
    assert_eq!(found, shape("pg_catalog", b'd', Vec::new()));
}

#[test]
fn only_the_lowest_flag_marks_the_identity() {
    let columns = [(0, "a", 23, -1), (1, "b", 23, -1), (2, "c", 23, -1), (3, "d", 23, -1)];
    let Ok(Message::Relation(found)) = parse(&relation(9, "s", "t", b'd', &columns)) else { panic!("a relation") };
    let marked: Vec<_> = found.columns.iter().map(|column| column.in_identity).collect();
    assert_eq!(marked, [false, true, false, true]);
}

#[test]
fn values_are_bytes_and_names_are_text() {
    let bytes = [b"I\0\0\0\x09N\0\x01t\0\0\0\x03".as_slice(), b"\xff\0\xfe".as_slice()].concat();
    let expected = Message::Insert { oid: 9, new: vec![TupleValue::Text(b"\xff\0\xfe")] };
    assert_eq!(parse(&bytes), Ok(expected));
    let Ok(Message::Relation(found)) = parse(b"R\0\0\0\x09s\0\xff\0d\0\0") else { panic!("a relation") };
    assert_eq!(found.table, "\u{FFFD}");
}

#[test]
fn times_are_moved_between_the_epochs_and_stay_in_range() {
    assert_eq!((unix_micros(0), postgres_micros(POSTGRES_EPOCH)), (POSTGRES_EPOCH, 0));
    assert_eq!((unix_micros(-POSTGRES_EPOCH), postgres_micros(0)), (0, -POSTGRES_EPOCH));
    assert_eq!((unix_micros(i64::MAX), postgres_micros(i64::MIN)), (i64::MAX, i64::MIN), "infinity stays");
}
