//! Changes of rows become events: what they hold, how they are numbered, and in which steps they stand.

use sooner_api::{Class, Code};
use sooner_schemas::{Relation, ReplicaIdentity, Scalar};

use crate::messages::Cell::{Null, Text, Unchanged};
use crate::messages::{Cell, delete, insert, truncate, update, update_from};
use crate::stream::{
    COMMIT_MICROS, LINES, NOW, ORDERS, OTHER, ROW_LSN, Stream, XID, envelope, scalar, table, table_name,
};

/// The steps of a transaction at 500 with these changes.
fn steps_of(changes: &[Vec<u8>]) -> Vec<String> {
    let mut stream = Stream::of_three();
    stream.transaction(500, changes);
    stream.steps()
}

/// The events of one change of `public.orders`.
fn events_of(change: Vec<u8>) -> String {
    let steps = steps_of(&[change]);
    assert_eq!(steps[1..], ["complete 500..510"]);
    let events = steps[0].strip_prefix("public.orders [").and_then(|rest| rest.strip_suffix(']'));
    events.expect("a step of the table").to_owned()
}

fn row<'a>(id: &'a str, body: &'a str) -> [Cell<'a>; 2] {
    [Text(id), Text(body)]
}

#[test]
fn a_transaction_is_its_rows_and_then_its_end() {
    let steps = steps_of(&[insert(ORDERS, &row("1", "a")), insert(ORDERS, &[Text("2"), Null])]);
    assert_eq!(steps, ["public.orders [500#0 c 1: - > 1|a; 500#2 c 2: - > 2|-]", "complete 500..510"]);
}

#[test]
fn each_change_of_a_row_is_its_event() {
    let key = [Text("1"), Null];
    for (change, event) in [
        (insert(ORDERS, &row("1", "")), "500#0 c 1: - > 1|"),
        (update(ORDERS, &row("1", "b")), "500#0 u 1: - > 1|b"),
        (update(ORDERS, &[Text("1"), Null]), "500#0 u 1: - > 1|-"),
        (update_from(ORDERS, b'O', &row("1", "a"), &row("1", "b")), "500#0 u 1: 1|a > 1|b"),
        (update_from(ORDERS, b'O', &key, &row("1", "b")), "500#0 u 1: 1|- > 1|b"),
        (update_from(ORDERS, b'K', &key, &row("1", "b")), "500#0 u 1: - > 1|b"),
        (delete(ORDERS, b'K', &key), "500#0 d 1: 1|- > -"),
        (delete(ORDERS, b'O', &row("1", "a")), "500#0 d 1: 1|a > -"),
    ] {
        assert_eq!(events_of(change), event);
    }
}

#[test]
fn a_changed_key_is_a_delete_and_an_insert() {
    for (change, events) in [
        (update_from(ORDERS, b'K', &[Text("1"), Null], &row("2", "b")), "500#0 d 1: 1|- > -; 500#1 c 2 was 1: - > 2|b"),
        (update_from(ORDERS, b'O', &row("1", "a"), &row("2", "b")), "500#0 d 1: 1|a > -; 500#1 c 2 was 1: - > 2|b"),
        (
            update_from(ORDERS, b'K', &[Text("1"), Null], &[Text("2"), Unchanged]),
            "500#0 d 1: 1|- > -; 500#1 c 2 was 1: - > 2|?",
        ),
        (
            update_from(ORDERS, b'O', &row("1", "a"), &[Text("2"), Unchanged]),
            "500#0 d 1: 1|a > -; 500#1 c 2 was 1: - > 2|a",
        ),
    ] {
        assert_eq!(events_of(change), events);
    }
}

#[test]
fn the_change_after_a_changed_key_has_a_number_of_its_own() {
    let changed = update_from(ORDERS, b'K', &[Text("1"), Null], &row("2", "b"));
    let steps = steps_of(&[changed, insert(ORDERS, &row("1", "c"))]);
    let events = "500#0 d 1: 1|- > -; 500#1 c 2 was 1: - > 2|b; 500#2 c 1: - > 1|c";
    assert_eq!(steps[0], format!("public.orders [{events}]"));
}

#[test]
fn a_value_that_was_left_out_is_taken_from_the_old_row_or_marked() {
    for (change, event) in [
        (update(ORDERS, &[Text("1"), Unchanged]), "500#0 u 1: - > 1|?"),
        (update_from(ORDERS, b'O', &row("1", "long"), &[Text("1"), Unchanged]), "500#0 u 1: 1|long > 1|long"),
        (update_from(ORDERS, b'O', &[Text("1"), Null], &[Text("1"), Unchanged]), "500#0 u 1: 1|- > 1|-"),
        (update_from(ORDERS, b'K', &[Text("1"), Null], &[Text("1"), Unchanged]), "500#0 u 1: - > 1|?"),
        (update_from(ORDERS, b'K', &[Text("1"), Null], &[Unchanged, Text("b")]), "500#0 u 1: - > 1|b"),
    ] {
        assert_eq!(events_of(change), event);
    }
}

#[test]
fn a_marked_value_is_named_by_its_column() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[update(ORDERS, &[Text("1"), Unchanged]), update(ORDERS, &row("1", "b"))]);
    let batch = stream.decoder.take().unwrap();
    let unavailable: Vec<_> =
        batch.rows().flat_map(|rows| &rows.events.events).map(|event| event.unavailable.to_vec()).collect();
    assert_eq!(unavailable, [vec![1_u16], Vec::new()]);
}

#[test]
fn any_column_of_a_key_changes_it() {
    let columns = vec![scalar("a", Scalar::Text), scalar("b", Scalar::Text), scalar("c", Scalar::Text)];
    let pairs = Relation { oid: ORDERS, ..Relation::new(table_name("public.orders"), columns, vec![2, 0]) };
    for (new, events) in [
        (["1", "y", "3"], "500#0 u 3|1: - > 1|y|3"),
        (["9", "2", "3"], "500#0 d 3|1: 1||3 > -; 500#1 c 3|9 was 3|1: - > 9|2|3"),
        (["1", "2", "9"], "500#0 d 3|1: 1||3 > -; 500#1 c 9|1 was 3|1: - > 1|2|9"),
    ] {
        let mut stream = Stream::of(&["public.orders"]);
        stream.announce(&pairs);
        stream.transaction(500, &[update_from(ORDERS, b'K', &[Text("1"), Null, Text("3")], &new.map(Text))]);
        assert_eq!(stream.steps()[0], format!("public.orders [{events}]"));
    }
}

#[test]
fn a_table_without_a_key_has_whole_rows_and_no_changed_keys() {
    let keyless = Relation { key: Vec::new(), identity: ReplicaIdentity::Full, ..table(ORDERS, "public.orders") };
    let mut stream = Stream::of(&["public.orders"]);
    stream.announce(&keyless);
    let updated = update_from(ORDERS, b'O', &row("1", "a"), &row("2", "b"));
    stream.transaction(500, &[insert(ORDERS, &row("1", "a")), updated, delete(ORDERS, b'O', &row("2", "b"))]);
    let events = "500#0 c -: - > 1|a; 500#2 u -: 1|a > 2|b; 500#4 d -: 2|b > -";
    assert_eq!(stream.steps()[0], format!("public.orders [{events}]"));
}

#[test]
fn interleaved_tables_have_a_step_each() {
    let steps = steps_of(&[
        insert(ORDERS, &row("1", "a")),
        insert(LINES, &row("7", "x")),
        update(ORDERS, &row("1", "b")),
        delete(LINES, b'K', &[Text("7"), Null]),
    ]);
    let orders = "public.orders [500#0 c 1: - > 1|a; 500#4 u 1: - > 1|b]";
    let lines = "public.lines [500#2 c 7: - > 7|x; 500#6 d 7: 7|- > -]";
    assert_eq!(steps, [orders, lines, "complete 500..510"]);
}

#[test]
fn changes_of_other_tables_are_counted_and_left_out() {
    let steps = steps_of(&[
        insert(OTHER, &row("1", "a")),
        insert(ORDERS, &row("1", "a")),
        truncate(&[OTHER], 0),
        delete(OTHER, b'K', &[Text("1"), Null]),
        update(ORDERS, &row("1", "b")),
    ]);
    assert_eq!(steps[0], "public.orders [500#2 c 1: - > 1|a; 500#8 u 1: - > 1|b]");
}

#[test]
fn each_transaction_numbers_from_zero() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[insert(ORDERS, &row("1", "a")), insert(ORDERS, &row("2", "b"))]);
    stream.transaction(600, &[insert(ORDERS, &row("3", "c"))]);
    let events = "500#0 c 1: - > 1|a; 500#2 c 2: - > 2|b; 600#0 c 3: - > 3|c";
    assert_eq!(stream.steps(), [format!("public.orders [{events}]"), "complete 600..610".to_owned()]);
}

#[test]
fn a_truncate_of_several_tables_is_a_step_for_each() {
    let steps = steps_of(&[truncate(&[ORDERS, OTHER, LINES], 1)]);
    let (orders, lines) = ("truncate public.orders [500#0 t -: - > -]", "truncate public.lines [500#4 t -: - > -]");
    assert_eq!(steps, [orders, lines, "complete 500..510"]);
}

#[test]
fn rows_after_a_truncate_stand_after_it() {
    let steps = steps_of(&[
        insert(ORDERS, &row("1", "a")),
        insert(LINES, &row("7", "x")),
        truncate(&[ORDERS], 2),
        insert(LINES, &row("8", "y")),
        insert(ORDERS, &row("2", "b")),
    ]);
    assert_eq!(
        steps,
        [
            "public.orders [500#0 c 1: - > 1|a]",
            "public.lines [500#2 c 7: - > 7|x; 500#6 c 8: - > 8|y]",
            "truncate public.orders [500#4 t -: - > -]",
            "public.orders [500#8 c 2: - > 2|b]",
            "complete 500..510",
        ]
    );
}

#[test]
fn an_event_names_its_origin() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[insert(OTHER, &row("1", "a")), insert(LINES, &row("1", "a"))]);
    let batch = stream.decoder.take().unwrap();
    let events = &batch.rows().next().unwrap().events;
    let fields = envelope(events, &events.events[0]);
    let (_, source) = fields[2].split_once('|').expect("a version, then the rest");
    let millis = COMMIT_MICROS / 1000;
    let times = format!("{COMMIT_MICROS}|{COMMIT_MICROS}000");
    let expected =
        format!("postgresql|shop|{millis}|false|db|[\"500\",\"2\"]|{times}|public|lines|{XID}|{ROW_LSN}|-|-|-");
    assert_eq!(source, expected);
    assert_eq!(fields[5..], [format!("{}", NOW / 1000), format!("{NOW}"), format!("{NOW}000")]);
}

#[test]
fn a_change_that_does_not_fit_the_stream_is_fatal() {
    for (begun, change, why) in [
        (false, insert(ORDERS, &row("1", "a")), "outside a transaction"),
        (false, insert(OTHER, &row("1", "a")), "outside a transaction"),
        (false, truncate(&[ORDERS], 0), "outside a transaction"),
        (true, insert(77, &row("1", "a")), "relation 77"),
        (true, truncate(&[ORDERS, 77], 0), "relation 77"),
        (true, delete(77, b'K', &row("1", "a")), "relation 77"),
        (true, insert(ORDERS, &[Text("1")]), "1 columns instead of 2"),
        (true, delete(ORDERS, b'K', &[Text("1")]), "1 columns instead of 2"),
    ] {
        let mut stream = Stream::of_three();
        if begun {
            stream.begin(500);
        }
        let error = stream.try_send(&change).unwrap_err();
        assert_eq!((error.code, error.class), (Code::PostgresProtocolViolated, Class::Fatal), "{error}");
        assert!(error.why.contains(why), "{error}");
    }
}
