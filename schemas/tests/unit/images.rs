//! Changes of rows, and the events that they become.

use apache_avro::types::Value;
use sooner_schemas::encode::{Images, Origin, RowChange, Snapshot, TupleValue, UNEXPECTED_NULL, ValueError};
use sooner_schemas::event::{Op, TableEvents};
use sooner_schemas::value::PLACEHOLDER;
use sooner_schemas::{Column, ColumnType, DefaultValue, Lsn, Position, Scalar};

use crate::support::{Table, column, field, origin, row, string, union};

fn defaulted(name: &str, expression: &str) -> Column {
    let column_type = ColumnType::Scalar(Scalar::Int4);
    let default = DefaultValue::of_expression(&column_type, expression);
    assert!(default.is_some(), "{expression} is a default");
    Column { default, has_default: true, ..Column::new(name, column_type) }
}

/// A key, a nullable text, a number and a nullable number with defaults, and a flag.
fn table() -> Table {
    let columns = vec![
        column("id", Scalar::Int8),
        column("body", Scalar::Text).nullable(),
        defaulted("count", "5"),
        defaulted("rank", "6").nullable(),
        column("flag", Scalar::Bool),
    ];
    Table::new(columns, vec![0])
}

fn full<'a>(id: &'a str, body: &'a str) -> Vec<TupleValue<'a>> {
    row(&[Some(id), Some(body), Some("1"), Some("2"), Some("t")])
}

fn null_before(envelope: &Value) -> bool {
    field(envelope, "before") == &union(0, Value::Null)
}

fn null_after(envelope: &Value) -> bool {
    field(envelope, "after") == &union(0, Value::Null)
}

#[test]
fn a_row_that_is_new_has_only_an_image_after() {
    let table = table();
    let mut batch = table.batch();
    table.encoder.read(&mut batch, &origin(), &full("1", "a")).unwrap();
    table.encoder.insert(&mut batch, &origin(), &full("2", "b")).unwrap();
    for (event, (op, code)) in [(Op::Read, "r"), (Op::Create, "c")].into_iter().enumerate() {
        let envelope = table.envelope(&batch, event);
        assert!(null_before(&envelope));
        assert_eq!(field(&envelope, "op"), &string(code));
        assert_eq!(batch.events[event].op, op);
        assert_eq!(field(field(&envelope, "after"), "id"), &Value::Long(event as i64 + 1));
        let key = table.key(&batch.bytes[batch.events[event].key.clone()]);
        assert_eq!(field(&key, "id"), &Value::Long(event as i64 + 1));
    }
}

#[test]
fn an_update_shows_the_row_before_if_it_is_known() {
    let table = table();
    let mut batch = table.batch();
    table.encoder.update(&mut batch, &origin(), None, &full("1", "new")).unwrap();
    table.encoder.update(&mut batch, &origin(), Some(&full("1", "old")), &full("1", "new")).unwrap();
    assert!(null_before(&table.envelope(&batch, 0)));
    let envelope = table.envelope(&batch, 1);
    assert_eq!(field(field(&envelope, "before"), "body"), &union(1, string("old")));
    assert_eq!(field(field(&envelope, "after"), "body"), &union(1, string("new")));
    assert_eq!(field(&envelope, "op"), &string("u"));
    assert_eq!(batch.events[1].old_key, None, "the key stayed");
}

#[test]
fn a_changed_key_brings_the_old_one_along() {
    let table = table();
    let mut batch = table.batch();
    let old = row(&[Some("1"), None, None, None, None]);
    table.encoder.insert_renamed(&mut batch, &origin(), &old, &full("2", "a")).unwrap();
    let event = &batch.events[0];
    let old_key = event.old_key.clone().unwrap();
    assert_eq!(field(&table.key(&batch.bytes[old_key.clone()]), "id"), &Value::Long(1));
    assert_eq!(field(&table.key(&batch.bytes[event.key.clone()]), "id"), &Value::Long(2));
    assert_eq!((old_key.start, old_key.end, event.key.end), (0, event.key.start, event.value.start));
    assert_eq!(field(&table.envelope(&batch, 0), "op"), &string("c"), "consumers see the new row appear");
}

#[test]
fn a_deleted_row_of_which_all_is_known_shows_all_of_it() {
    let table = table();
    let mut batch = table.batch();
    table.encoder.delete(&mut batch, &origin(), &full("1", "gone"), true).unwrap();
    let envelope = table.envelope(&batch, 0);
    assert!(null_after(&envelope));
    assert_eq!(field(field(&envelope, "before"), "body"), &union(1, string("gone")));
    assert_eq!(field(field(&envelope, "before"), "flag"), &Value::Boolean(true));
}

#[test]
fn a_deleted_key_fills_the_other_columns_with_null_default_or_zero() {
    let table = table();
    let mut batch = table.batch();
    table.encoder.delete(&mut batch, &origin(), &full("9", "not part of the key"), false).unwrap();
    let envelope = table.envelope(&batch, 0);
    assert!(null_after(&envelope));
    let before = field(&envelope, "before");
    assert_eq!(field(before, "id"), &Value::Long(9));
    assert_eq!(field(before, "body"), &union(0, Value::Null));
    assert_eq!(field(before, "count"), &Value::Int(5));
    assert_eq!(field(before, "rank"), &union(1, Value::Null));
    assert_eq!(field(before, "flag"), &Value::Boolean(false));
}

#[test]
fn null_is_the_second_branch_where_a_column_has_a_default() {
    let table = table();
    let mut batch = table.batch();
    table.encoder.insert(&mut batch, &origin(), &full("1", "a")).unwrap();
    table.encoder.insert(&mut batch, &origin(), &row(&[Some("2"), None, Some("1"), None, Some("f")])).unwrap();
    let (first, second) = (table.envelope(&batch, 0), table.envelope(&batch, 1));
    assert_eq!(field(field(&first, "after"), "rank"), &union(0, Value::Int(2)));
    assert_eq!(field(field(&second, "after"), "rank"), &union(1, Value::Null));
    assert_eq!(field(field(&second, "after"), "body"), &union(0, Value::Null));
}

#[test]
fn what_postgres_left_out_is_listed_and_stands_as_placeholder_null_or_default() {
    let table = table();
    let mut batch = table.batch();
    let mut sent = full("1", "a");
    sent[1..4].fill(TupleValue::Unavailable);
    table.encoder.update(&mut batch, &origin(), None, &sent).unwrap();
    assert_eq!(*batch.events[0].unavailable, [1u16, 2, 3]);
    let envelope = table.envelope(&batch, 0);
    let after = field(&envelope, "after");
    let placeholder = std::str::from_utf8(PLACEHOLDER).unwrap();
    assert_eq!(field(after, "body"), &union(1, string(placeholder)));
    assert_eq!(field(after, "count"), &Value::Int(5));
    assert_eq!(field(after, "rank"), &union(1, Value::Null));
}

#[test]
fn what_is_left_out_of_the_row_before_is_not_listed() {
    let table = table();
    let mut batch = table.batch();
    let mut before = full("1", "a");
    before[1] = TupleValue::Unavailable;
    table.encoder.update(&mut batch, &origin(), Some(&before), &full("1", "b")).unwrap();
    table.encoder.delete(&mut batch, &origin(), &before, true).unwrap();
    assert!(batch.events.iter().all(|event| event.unavailable.is_empty()));
}

type Attempt = fn(&Table, &mut TableEvents) -> Result<(), ValueError>;

#[test]
fn a_change_that_fails_leaves_the_batch_as_it_was_and_names_the_column() {
    let attempts: [(&str, Attempt); 8] = [
        ("flag", |t, b| t.encoder.insert(b, &origin(), &row(&[Some("1"), None, Some("1"), None, None]))),
        ("count", |t, b| t.encoder.insert(b, &origin(), &row(&[Some("1"), None, Some("x"), None, Some("t")]))),
        ("id", |t, b| t.encoder.read(b, &origin(), &row(&[None, None, Some("1"), None, Some("t")]))),
        ("id", |t, b| t.encoder.update(b, &origin(), Some(&full("x", "a")), &full("1", "a"))),
        ("id", |t, b| t.encoder.insert_renamed(b, &origin(), &full("x", "a"), &full("1", "a"))),
        ("id", |t, b| t.encoder.insert_renamed(b, &origin(), &full("1", "a"), &full("x", "a"))),
        ("count", |t, b| t.encoder.delete(b, &origin(), &row(&[Some("1"), None, None, None, Some("t")]), true)),
        ("id", |t, b| t.encoder.delete(b, &origin(), &row(&[None; 5]), false)),
    ];
    let table = table();
    let mut batch = table.batch();
    table.encoder.insert(&mut batch, &origin(), &full("7", "stays")).unwrap();
    let bytes = batch.bytes.clone();
    for (index, (column, attempt)) in attempts.into_iter().enumerate() {
        let error = attempt(&table, &mut batch).unwrap_err();
        assert_eq!(error.column, column, "attempt {index}: {error}");
        assert!(error.to_string().contains(&format!("'{column}'")), "{error}");
        assert_eq!((batch.bytes == bytes, batch.events.len()), (true, 1), "attempt {index}");
    }
    table.encoder.insert(&mut batch, &origin(), &full("8", "follows")).unwrap();
    assert_eq!(batch.events[1].key.start, bytes.len());
}

#[test]
fn a_null_older_than_its_constraint_is_told_from_other_refusals() {
    let table = table();
    let mut batch = table.batch();
    let sent = row(&[Some("1"), None, None, None, Some("t")]);
    let error = table.encoder.insert(&mut batch, &origin(), &sent).unwrap_err();
    assert_eq!(error, ValueError { column: "count".to_owned(), reason: UNEXPECTED_NULL });
    let error = table.encoder.insert(&mut batch, &origin(), &full("x", "a")).unwrap_err();
    assert_ne!(error.reason, UNEXPECTED_NULL);
}

#[test]
fn a_key_that_postgres_left_out_is_refused() {
    let table = table();
    let mut batch = table.batch();
    let mut sent = full("1", "a");
    sent[0] = TupleValue::Unavailable;
    let error = table.encoder.update(&mut batch, &origin(), None, &sent).unwrap_err();
    assert_eq!(error.column, "id");
    assert!(error.reason.to_string().contains("part of the key"), "{error}");
    assert!(batch.bytes.is_empty() && batch.events.is_empty());
}

#[test]
fn events_of_the_whole_table_have_neither_key_nor_rows() {
    let table = table();
    let mut batch = table.batch();
    table.encoder.truncate(&mut batch, &origin());
    table.encoder.copy_start(&mut batch, &origin());
    assert_eq!((batch.events[0].op, batch.events[1].op), (Op::Truncate, Op::CopyStart));
    for event in 0..2 {
        let envelope = table.envelope(&batch, event);
        assert!(null_before(&envelope) && null_after(&envelope));
        assert_eq!(field(&envelope, "op"), &string("t"));
        assert!(batch.events[event].key.is_empty() && batch.events[event].old_key.is_none());
    }
}

#[test]
fn a_key_is_written_and_described_in_its_own_order() {
    let columns = vec![column("a", Scalar::Int4), column("b", Scalar::Text), column("c", Scalar::Int4)];
    let table = Table::new(columns, vec![2, 0]);
    let mut batch = table.batch();
    let sent = row(&[Some("1"), Some("x"), Some("3")]);
    table.encoder.insert(&mut batch, &origin(), &sent).unwrap();
    let key = table.key(&batch.bytes[batch.events[0].key.clone()]);
    let expected = vec![("c".to_owned(), Value::Int(3)), ("a".to_owned(), Value::Int(1))];
    assert_eq!(key, Value::Record(expected));
    assert_eq!(table.encoder.describe_key(&table.relation, &sent), "c=3, a=1");
    assert_eq!(table.encoder.describe_key(&table.relation, &sent[..1]), "c=?, a=1");
    assert_eq!(table.encoder.width(), 3);
}

#[test]
fn a_table_without_a_key_has_events_without_keys() {
    let table = Table::new(vec![column("a", Scalar::Int4)], vec![]);
    let mut batch = table.batch();
    table.encoder.insert(&mut batch, &origin(), &row(&[Some("1")])).unwrap();
    table.encoder.delete(&mut batch, &origin(), &row(&[Some("1")]), true).unwrap();
    assert!(batch.events.iter().all(|event| event.key.is_empty()));
    assert_eq!(field(field(&table.envelope(&batch, 1), "before"), "a"), &Value::Int(1));
}

#[test]
fn the_source_block_says_where_an_event_comes_from() {
    let table = table();
    let mut batch = table.batch();
    let copied = Origin {
        position: Position { commit_lsn: Lsn(u64::MAX), ordinal: u64::MAX },
        xid: 0,
        source_micros: -1,
        snapshot: Snapshot::Yes,
        ..origin()
    };
    table.encoder.read(&mut batch, &copied, &full("1", "a")).unwrap();
    table.encoder.insert(&mut batch, &origin(), &full("2", "b")).unwrap();
    let (first, second) = (table.envelope(&batch, 0), table.envelope(&batch, 1));
    let source = field(&first, "source");
    assert_eq!(field(source, "snapshot"), &union(0, string("true")));
    assert_eq!(field(source, "ts_ms"), &Value::Long(-1), "a millisecond begins before its microseconds");
    let sequence = r#"["18446744073709551615","18446744073709551615"]"#;
    assert_eq!(field(source, "sequence"), &union(1, string(sequence)));
    let source = field(&second, "source");
    assert_eq!(field(source, "snapshot"), &union(0, string("false")));
    for (name, expected) in [("ts_us", 5_001_234), ("ts_ns", 5_001_234_000), ("txId", 7), ("lsn", 90)] {
        assert_eq!(field(source, name), &union(1, Value::Long(expected)), "{name}");
    }
    for (name, expected) in [("connector", "postgresql"), ("name", "shop"), ("db", "db"), ("table", "t")] {
        assert_eq!(field(source, name), &string(expected), "{name}");
    }
    assert_eq!(field(&second, "ts_ms"), &union(1, Value::Long(6_007)));
    assert_eq!(batch.events[0].position, copied.position);
}

#[test]
fn images_are_moved_with_all_their_parts() {
    let images =
        Images { op: Op::Create, key: 15..20, old_key: Some(10..15), value: 20..30, unavailable: Box::from([1u16]) };
    assert_eq!(images.start(), 10);
    let moved = images.clone().moved(3);
    assert_eq!((moved.old_key.clone(), moved.key.clone(), moved.value.clone()), (Some(3..8), 8..13, 13..23));
    assert_eq!(moved.moved(10), images);
    let without = Images { old_key: None, ..images };
    assert_eq!(without.start(), 15);
    assert_eq!(without.moved(0).value, 5..15);
}

#[test]
#[should_panic(expected = "an envelope is finished where its images end")]
fn an_envelope_is_not_finished_behind_other_bytes() {
    let table = table();
    let mut batch = table.batch();
    let images = table.encoder.images().write(&mut batch.bytes, Op::Create, RowChange::New(&full("1", "a"))).unwrap();
    batch.bytes.push(0);
    table.encoder.finish(&mut batch, images, &origin());
}
