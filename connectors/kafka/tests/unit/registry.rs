//! Differences between schemas are told by column.

use sooner_kafka::registry::difference::difference;
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::{Column, ColumnType, Relation, Scalar};

use crate::support::{integer, relation, table, text};

fn value(columns: Vec<Column>) -> String {
    value_schema("t", &Relation::new(table(), columns, vec![0])).to_string()
}

fn decimal(precision: u16, scale: u16) -> Column {
    Column::new("price", ColumnType::Scalar(Scalar::Decimal { precision, scale }))
}

#[test]
fn columns_of_the_row_inside_an_envelope_are_compared() {
    let former = value(vec![integer("id"), text("body"), text("old")]);
    let now = value(vec![integer("id"), integer("body"), integer("new").nullable()]);
    assert_eq!(
        difference(&former, &now),
        "column 'body' was string and is long, column 'old' is gone, column 'new' is new (long, nullable)"
    );
}

#[test]
fn null_and_digits_are_part_of_a_type() {
    let (may, must) = (value(vec![integer("id"), text("body").nullable()]), value(vec![integer("id"), text("body")]));
    assert_eq!(difference(&may, &must), "column 'body' was string, nullable and is string");
    let (former, now) = (value(vec![decimal(5, 2)]), value(vec![decimal(7, 2)]));
    assert_eq!(difference(&former, &now), "column 'price' was Decimal(5,2) and is Decimal(7,2)");
}

#[test]
fn a_meaning_counts_as_a_type() {
    let timed = |scalar| value(vec![integer("id"), Column::new("at", ColumnType::Scalar(scalar))]);
    let (former, now) = (timed(Scalar::Timestamp(6)), timed(Scalar::Timestamp(3)));
    assert_eq!(difference(&former, &now), "column 'at' was MicroTimestamp and is Timestamp");
}

#[test]
fn columns_are_called_as_at_the_source() {
    let (former, now) = (value(vec![integer("id")]), value(vec![integer("id"), text("two words")]));
    assert_eq!(difference(&former, &now), "column 'two words' is new (string)");
}

#[test]
fn order_alone_is_no_difference_of_a_column() {
    let key = key_schema("t", &relation()).unwrap().to_string();
    let swapped = Relation { key: vec![1, 0], ..relation() };
    let swapped = key_schema("t", &swapped).unwrap().to_string();
    assert_ne!(key, swapped);
    assert_eq!(difference(&key, &swapped), "no column differs, but something else does");
}

#[test]
fn what_is_no_schema_is_said_to_be_none() {
    let key = key_schema("t", &relation()).unwrap().to_string();
    for other in ["", "{", "{\"type\":\"unheard-of\"}"] {
        assert!(difference(&key, other).contains("not an Avro schema"), "{other}");
        assert!(difference(other, &key).contains("not an Avro schema"), "{other}");
    }
}
