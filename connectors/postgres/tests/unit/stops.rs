//! What ends a table, and what merely changes its shape, while the others go on.

use sooner_api::{Class, Code, Error, Positions, Step};
use sooner_postgres::errors::unholdable;
use sooner_postgres::tracked::Next;
use sooner_schemas::encode::ValueError;
use sooner_schemas::{Lsn, Relation, Scalar, Unholdable};

use crate::messages::Cell::{Null, Text, Unchanged};
use crate::messages::{delete, insert, truncate, update, update_from};
use crate::stream::{LINES, ORDERS, OTHER, Stream, described, encoder, scalar, table, table_name};

fn order(id: &str, body: &str) -> Vec<u8> {
    insert(ORDERS, &[Text(id), Text(body)])
}

fn line(id: &str) -> Vec<u8> {
    insert(LINES, &[Text(id), Null])
}

/// `public.orders` with a NOT NULL number instead of its text.
fn amounts() -> Relation {
    let columns = vec![scalar("id", Scalar::Int8), scalar("amount", Scalar::Int4)];
    Relation { oid: ORDERS, ..Relation::new(table_name("public.orders"), columns, vec![0]) }
}

/// Takes the batch, and finds the error in it that stops a table.
fn stop_in(stream: &mut Stream) -> Error {
    let batch = stream.decoder.take().expect("there is a batch");
    let mut stops = batch.steps.into_iter().filter_map(|step| match step {
        Step::Stop { error, .. } => Some(error),
        _ => None,
    });
    stops.next().expect("a table was stopped")
}

#[test]
fn a_value_without_a_place_stops_its_table_alone() {
    let mut stream = Stream::of_three();
    let changes = [order("1", "a"), order("x", "b"), line("7"), order("3", "c"), truncate(&[ORDERS, LINES], 0)];
    stream.transaction(500, &changes);
    assert_eq!(
        stream.steps(),
        [
            "public.orders [500#0 c 1: - > 1|a]",
            "public.lines [500#4 c 7: - > 7|-]",
            "truncate public.lines [500#10 t -: - > -]",
            "stop public.orders: value_unholdable",
            "complete 500..510",
        ]
    );
    assert!(stream.decoder.selected(ORDERS).is_none() && stream.decoder.selected(LINES).is_some());
    stream.announce(&table(LINES, "public.lines"));
    stream.send(&described(&table(ORDERS, "public.orders")));
    stream.transaction(600, &[order("4", "d"), line("8")]);
    assert_eq!(stream.steps(), ["public.lines [600#2 c 8: - > 8|-]", "complete 600..610"]);
}

#[test]
fn the_error_names_row_and_column_but_not_the_value() {
    for (change, key, column) in [
        (insert(ORDERS, &[Text("7"), Text("lots")]), "id=7", "'amount'"),
        (update(ORDERS, &[Text("8"), Text("lots")]), "id=8", "'amount'"),
        (update_from(ORDERS, b'O', &[Text("9"), Text("lots")], &[Text("9"), Text("1")]), "id=9", "'amount'"),
        (update(ORDERS, &[Unchanged, Text("1")]), "id=?", "'id'"),
        (delete(ORDERS, b'K', &[Text("one"), Null]), "id=one", "'id'"),
    ] {
        let mut stream = Stream::of(&["public.orders"]);
        stream.announce(&amounts());
        stream.transaction(500, &[change]);
        let error = stop_in(&mut stream);
        assert_eq!((error.code, error.class), (Code::ValueUnholdable, Class::Operator));
        assert!(error.why.contains(key) && error.why.contains(column), "{error}");
        assert!(!error.to_string().contains("lots"), "{error}");
        assert!(error.remedy.contains("sooner resume public.orders"), "{error}");
    }
}

#[test]
fn a_changed_key_that_fails_leaves_no_half() {
    let mut stream = Stream::of(&["public.orders"]);
    stream.announce(&amounts());
    let inserted = insert(ORDERS, &[Text("1"), Text("5")]);
    let changed = update_from(ORDERS, b'K', &[Text("1"), Null], &[Text("2"), Text("lots")]);
    stream.transaction(500, &[inserted, changed]);
    let kept = "public.orders [500#0 c 1: - > 1|5]";
    assert_eq!(stream.steps(), [kept, "stop public.orders: value_unholdable", "complete 500..510"]);
}

#[test]
fn a_null_older_than_its_constraint_relaxes_the_column() {
    let mut stream = Stream::of(&["public.orders"]);
    stream.announce(&amounts());
    stream.begin(500);
    stream.send(&insert(ORDERS, &[Text("1"), Text("5")]));
    let older = insert(ORDERS, &[Text("2"), Null]);
    let Next::Relax { oid, relation } = stream.try_send(&older).unwrap() else { panic!("the column is NOT NULL") };
    assert_eq!(oid, ORDERS);
    let nullable: Vec<_> = relation.columns.iter().map(|column| column.nullable).collect();
    assert_eq!(nullable, [false, true], "nothing else is relaxed");
    let relaxed = encoder(&relation);
    stream.decoder.set_relation(oid, relation, relaxed);
    stream.send(&older);
    stream.send(&insert(ORDERS, &[Text("3"), Text("6")]));
    stream.commit(500);
    assert_eq!(
        stream.steps(),
        [
            "public.orders [500#0 c 1: - > 1|5]",
            "public.orders [500#2 c 2: - > 2|-; 500#4 c 3: - > 3|6]",
            "complete 500..510",
        ],
        "the message that was applied twice is numbered once"
    );
}

#[test]
fn a_column_that_is_added_begins_a_step_under_the_new_schema() {
    let mut stream = Stream::of_three();
    let mut wider = table(ORDERS, "public.orders");
    wider.columns.push(scalar("extra", Scalar::Int4).nullable());
    stream.begin(500);
    stream.send(&order("1", "a"));
    stream.send(&line("7"));
    stream.announce(&wider);
    stream.send(&line("8"));
    stream.send(&insert(ORDERS, &[Text("2"), Null, Text("3")]));
    stream.commit(500);
    assert_eq!(
        stream.steps(),
        [
            "public.orders [500#0 c 1: - > 1|a]",
            "public.lines [500#2 c 7: - > 7|-; 500#4 c 8: - > 8|-]",
            "public.orders [500#6 c 2: - > 2|-|3]",
            "complete 500..510",
        ]
    );
}

#[test]
fn a_table_is_known_by_its_object_id_and_a_new_name_is_looked_at() {
    let mut stream = Stream::of_three();
    assert!(!stream.decoder.take_look_wanted());
    stream.begin(500);
    stream.send(&order("1", "a"));
    stream.announce(&table(ORDERS, "public.archive"));
    stream.send(&order("2", "b"));
    stream.commit(500);
    assert!(stream.decoder.take_look_wanted() && !stream.decoder.take_look_wanted(), "once");
    assert_eq!(stream.decoder.take().unwrap().event_count(), 2);
}

#[test]
fn another_table_of_the_same_name_is_not_followed_and_is_looked_at() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[order("1", "a")]);
    stream.announce(&table(77, "public.orders"));
    assert!(stream.decoder.take_look_wanted());
    stream.transaction(600, &[insert(77, &[Text("2"), Null]), order("3", "c"), line("7")]);
    assert_eq!(
        stream.steps(),
        [
            "public.orders [500#0 c 1: - > 1|a; 600#2 c 3: - > 3|c]",
            "public.lines [600#4 c 7: - > 7|-]",
            "complete 600..610",
        ]
    );
}

#[test]
fn what_is_covered_is_not_looked_up_whatever_it_was() {
    let mut stream = Stream::after(vec![("public.orders", Positions::whole(Lsn(500)))]);
    stream.send(&described(&amounts()));
    stream.transaction(500, &[insert(ORDERS, &[Text("1"), Text("5")]), truncate(&[ORDERS], 0)]);
    assert_eq!(stream.steps(), ["complete 500..510"]);
    stream.announce(&table(ORDERS, "public.orders"));
    stream.transaction(600, &[truncate(&[ORDERS], 0), order("1", "a")]);
    let expected =
        ["truncate public.orders [600#0 t -: - > -]", "public.orders [600#2 c 1: - > 1|a]", "complete 600..610"];
    assert_eq!(stream.steps(), expected);
}

#[test]
fn a_table_is_stopped_once_and_from_outside_too() {
    let why = |text: &str| Error::operator(Code::TableUnpublished, "cannot follow it", text, "publish it");
    let mut stream = Stream::of_three();
    stream.decoder.stop(&table_name("public.orders"), why("first"));
    stream.decoder.stop(&table_name("public.orders"), why("second"));
    stream.decoder.stop(&table_name("public.other"), why("never selected"));
    stream.transaction(500, &[order("1", "a")]);
    let batch = stream.decoder.take().unwrap();
    assert_eq!((batch.steps.len(), batch.event_count()), (2, 0), "a stop and the end of the transaction");
    stream.decoder.stop(&table_name("public.lines"), why("third"));
    assert_eq!(stop_in(&mut stream), why("third"));
    assert!([ORDERS, LINES, OTHER].iter().all(|oid| stream.decoder.selected(*oid).is_none()));
}

#[test]
fn an_ignored_relation_and_one_of_no_selected_table_are_left_out() {
    let mut stream = Stream::of_three();
    stream.decoder.ignore(ORDERS);
    let other = table(OTHER, "public.other");
    let encoder = encoder(&other);
    stream.decoder.set_relation(OTHER, other, encoder);
    stream.transaction(500, &[order("1", "a"), insert(OTHER, &[Text("1"), Null]), line("7")]);
    assert_eq!(stream.steps(), ["public.lines [500#4 c 7: - > 7|-]", "complete 500..510"]);
}

#[test]
fn the_error_of_an_unholdable_value_says_what_failed_and_what_to_do() {
    let value = ValueError { column: "due".to_owned(), reason: Unholdable("it is too far away") };
    let error = unholdable("cannot copy", &table_name("public.orders"), "id=7", &value);
    assert_eq!((error.code, error.class), (Code::ValueUnholdable, Class::Operator));
    assert_eq!(error.what, "cannot copy public.orders");
    for part in ["id=7", "'due'", "it is too far away"] {
        assert!(error.why.contains(part), "{error}");
    }
}

#[test]
fn a_null_in_a_key_column_stops_the_table() {
    let mut stream = Stream::of(&["public.orders"]);
    stream.announce(&table(ORDERS, "public.orders"));
    stream.begin(500);
    let row = insert(ORDERS, &[Null, Null]);
    stream.send(&row);
    stream.commit(500);
    assert_eq!(stop_in(&mut stream).code, Code::ValueUnholdable);
}

#[test]
fn an_old_row_with_missing_columns_violates_the_protocol() {
    let mut stream = Stream::of_three();
    stream.begin(500);
    let change = update_from(ORDERS, b'K', &[], &[Text("2"), Text("b")]);
    assert_eq!(stream.try_send(&change).unwrap_err().code, Code::PostgresProtocolViolated);
}

#[test]
fn a_first_change_that_fails_leaves_no_empty_step() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[order("x", "a")]);
    assert_eq!(stream.steps(), ["stop public.orders: value_unholdable", "complete 500..510"]);
}
