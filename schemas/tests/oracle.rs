//! Events of random relations and rows, read back and written again by an independent Avro implementation.

#![allow(clippy::expect_used, reason = "a test may panic")]

use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::collection::vec;
use proptest::prelude::*;
use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::wire::{Reader, split_header};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

/// A column's type, with Postgres' text of a value and what Avro should say.
type Sample = (ColumnType, String, Value);

fn scalar() -> impl Strategy<Value = (Scalar, String, Value)> {
    prop_oneof![
        any::<bool>().prop_map(|v| (Scalar::Bool, if v { "t" } else { "f" }.to_owned(), Value::Boolean(v))),
        any::<i16>().prop_map(|v| (Scalar::Int2, v.to_string(), Value::Int(v.into()))),
        any::<i32>().prop_map(|v| (Scalar::Int4, v.to_string(), Value::Int(v))),
        any::<i64>().prop_map(|v| (Scalar::Int8, v.to_string(), Value::Long(v))),
        any::<f32>().prop_filter("comparable", |v| !v.is_nan()).prop_map(|v| (
            Scalar::Float4,
            v.to_string(),
            Value::Float(v)
        )),
        any::<f64>().prop_filter("comparable", |v| !v.is_nan()).prop_map(|v| (
            Scalar::Float8,
            v.to_string(),
            Value::Double(v)
        )),
        (any::<i64>(), 0u16..10).prop_map(|(unscaled, scale)| {
            let text = sooner_schemas::numeric::decimal_text(&unscaled.to_be_bytes(), scale.into());
            let bytes = num_bigint_bytes(unscaled);
            (Scalar::Decimal { precision: 30, scale }, text, Value::Decimal(bytes.into()))
        }),
        (any::<i64>(), 0u16..10).prop_map(|(unscaled, scale)| {
            let text = sooner_schemas::numeric::decimal_text(&unscaled.to_be_bytes(), scale.into());
            let fields = vec![
                ("scale".to_owned(), Value::Int(scale.into())),
                ("value".to_owned(), Value::Bytes(num_bigint_bytes(unscaled))),
            ];
            (Scalar::Numeric, text, Value::Record(fields))
        }),
        ".{0,20}".prop_map(|v| (Scalar::Text, v.clone(), Value::String(v))),
        vec(any::<u8>(), 0..20).prop_map(|v| {
            let hex: String = v.iter().map(|byte| format!("{byte:02x}")).collect();
            (Scalar::Bytea, format!("\\x{hex}"), Value::Bytes(v))
        }),
        (0..86_400_000_000i64).prop_map(|v| (Scalar::Time(6), sooner_schemas::temporal::time_text(v), Value::Long(v))),
        (0u8..4, 0u8..29, 1u8..13).prop_map(|(y, d, m)| {
            let text = format!("200{y}-{m:02}-{:02} 01:02:03.004+00", d.max(1));
            let zoned = format!("200{y}-{m:02}-{:02}T01:02:03.004Z", d.max(1));
            (Scalar::Timestamptz(3), text, Value::String(zoned))
        }),
    ]
}

/// The shortest two's complement form, as Java's `BigInteger.toByteArray`.
fn num_bigint_bytes(value: i64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let redundant =
        |i: usize| (bytes[i] == 0 && bytes[i + 1] & 0x80 == 0) || (bytes[i] == 0xFF && bytes[i + 1] & 0x80 != 0);
    let skipped = (0..7).take_while(|&i| redundant(i)).count();
    bytes[skipped..].to_vec()
}

fn sample() -> impl Strategy<Value = Sample> {
    prop_oneof![
        4 => scalar().prop_map(|(scalar, text, value)| (ColumnType::Scalar(scalar), text, value)),
        1 => vec(any::<Option<i32>>(), 0..5).prop_map(|items| {
            let texts: Vec<_> = items.iter().map(|i| i.map_or("NULL".to_owned(), |i| i.to_string())).collect();
            let values = items.iter().map(|item| match item {
                None => Value::Union(0, Box::new(Value::Null)),
                Some(item) => Value::Union(1, Box::new(Value::Int(*item))),
            });
            (ColumnType::Array(Scalar::Int4), format!("{{{}}}", texts.join(",")), Value::Array(values.collect()))
        }),
    ]
}

/// Whether the column is nullable, and whether it is null.
fn nullability() -> impl Strategy<Value = (bool, bool)> {
    (any::<bool>(), any::<bool>()).prop_map(|(nullable, null)| (nullable, nullable && null))
}

fn field<'a>(record: &'a Value, name: &str) -> &'a Value {
    match record {
        Value::Record(fields) => &fields.iter().find(|(field, _)| field == name).expect("field exists").1,
        Value::Union(_, inner) => field(inner, name),
        other => panic!("{other:?} is no record"),
    }
}

proptest! {
    #[test]
    fn an_independent_reader_sees_the_row(columns in vec((sample(), nullability()), 1..12)) {
        let relation = Relation {
            columns: columns.iter().enumerate().map(|(i, ((column_type, _, _), (nullable, _)))| Column {
                nullable: *nullable,
                ..Column::new(format!("c{i}"), column_type.clone())
            }).collect(),
            ..Relation::new(TableName::new("public", "any"), vec![], vec![])
        };
        let row: Vec<_> = columns.iter().map(|((_, text, _), (_, null))| {
            if *null { TupleValue::Null } else { TupleValue::Text(text.as_bytes()) }
        }).collect();
        let json = value_schema("shop.public.any", &relation).to_string();
        let decoded = decode_and_reencode(&relation, &json, &row);
        for (i, ((_, _, expected), (nullable, null))) in columns.iter().enumerate() {
            let expected = match (nullable, null) {
                (true, true) => Value::Union(0, Box::new(Value::Null)),
                (true, false) => Value::Union(1, Box::new(expected.clone())),
                _ => expected.clone(),
            };
            prop_assert_eq!(field(field(&decoded, "after"), &format!("c{i}")), &expected);
        }
        prop_assert_eq!(field(&decoded, "op"), &Value::String("c".to_owned()));
        let sequence = Value::String(r#"["7","3"]"#.to_owned());
        prop_assert_eq!(field(field(&decoded, "source"), "sequence"), &Value::Union(1, Box::new(sequence)));
    }
}

/// Reads the event with apache-avro, checks that it writes the same bytes again and that the own reader skips it all.
fn decode_and_reencode(relation: &Relation, json: &str, row: &[TupleValue<'_>]) -> Value {
    let schema = Arc::new(EventSchema::parse(relation.name.clone(), None, json).expect("own schema parses"));
    let encoder = Encoder::new(relation, schema.clone(), SchemaIds { key: None, value: 42 }, "shop", "db");
    let mut out = TableEvents::new(schema.clone());
    encoder.insert(&mut out, &origin(), row).expect("sample values are holdable");
    let (id, datum) = split_header(&out.bytes[out.events[0].value.clone()]).expect("header");
    assert_eq!(id, 42);

    let oracle = apache_avro::Schema::parse_str(json).expect("valid Avro");
    let decoded = oracle_read(&oracle, datum);
    assert_eq!(oracle_write(&oracle, decoded.clone()), datum);

    let mut reader = Reader::new(datum);
    schema.value.skip(&mut reader).expect("skippable");
    assert!(reader.rest().is_empty());
    decoded
}

fn oracle_read(schema: &apache_avro::Schema, mut datum: &[u8]) -> Value {
    let reader = GenericDatumReader::builder(schema).build().expect("a reader");
    reader.read_value(&mut datum).expect("readable")
}

fn oracle_write(schema: &apache_avro::Schema, value: Value) -> Vec<u8> {
    let writer = GenericDatumWriter::builder(schema).build().expect("a writer");
    writer.write_value_to_vec(value).expect("writable")
}

fn origin() -> Origin {
    Origin {
        position: Position { commit_lsn: Lsn(7), ordinal: 3 },
        lsn: Lsn(6),
        xid: 5,
        source_micros: 1_700_000_000_000_001,
        now_micros: 1_700_000_000_500_000,
        snapshot: Snapshot::No,
    }
}

fn shop_products() -> Relation {
    let column = |name: &str, scalar, nullable| Column { nullable, ..Column::new(name, ColumnType::Scalar(scalar)) };
    Relation {
        columns: vec![
            column("id", Scalar::Int4, false),
            column("name", Scalar::Text, false),
            column("price", Scalar::Decimal { precision: 10, scale: 2 }, true),
            column("created", Scalar::Timestamptz(6), true),
        ],
        ..Relation::new(TableName::new("public", "products"), vec![], vec![0])
    }
}

#[test]
fn schemas_are_those_that_are_published() {
    let relation = shop_products();
    let key = key_schema("shop.public.products", &relation).expect("has a key");
    let value = value_schema("shop.public.products", &relation);
    for (name, generated) in [("products-key.avsc", key), ("products-value.avsc", value)] {
        let path = format!("{}/avsc/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect("published example exists");
        let published: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        // As text, because the order of attributes counts.
        assert_eq!(generated.to_string(), published.to_string(), "{name}");
    }
}

#[test]
fn a_deleted_row_of_which_only_the_key_is_known() {
    let relation = shop_products();
    let value_json = value_schema("shop.public.products", &relation).to_string();
    let key_json = key_schema("shop.public.products", &relation).expect("has a key").to_string();
    let schema = EventSchema::parse(relation.name.clone(), Some(&key_json), &value_json).expect("parses");
    let schema = Arc::new(schema);
    let encoder = Encoder::new(&relation, schema.clone(), SchemaIds { key: Some(1), value: 2 }, "shop", "db");
    let mut out = TableEvents::new(schema);
    let old = [TupleValue::Text(b"9"), TupleValue::Null, TupleValue::Null, TupleValue::Null];
    encoder.delete(&mut out, &origin(), &old, false).expect("deletable");

    let (_, key) = split_header(&out.bytes[out.events[0].key.clone()]).expect("header");
    assert_eq!(key, [18]);
    let (_, datum) = split_header(&out.bytes[out.events[0].value.clone()]).expect("header");
    let oracle = apache_avro::Schema::parse_str(&value_json).expect("valid Avro");
    let decoded = oracle_read(&oracle, datum);
    assert_eq!(field(&decoded, "after"), &Value::Union(0, Box::new(Value::Null)));
    let before = field(&decoded, "before");
    assert_eq!(field(before, "id"), &Value::Int(9));
    assert_eq!(field(before, "name"), &Value::String(String::new()));
}

#[test]
fn a_value_that_cannot_be_held_names_its_column_and_leaves_no_trace() {
    let relation = shop_products();
    let json = value_schema("shop.public.products", &relation).to_string();
    let schema = Arc::new(EventSchema::parse(relation.name.clone(), None, &json).expect("parses"));
    let encoder = Encoder::new(&relation, schema.clone(), SchemaIds { key: None, value: 2 }, "shop", "db");
    let mut out = TableEvents::new(schema);
    let row = [TupleValue::Text(b"9"), TupleValue::Text(b"n"), TupleValue::Text(b"NaN"), TupleValue::Null];
    let error = encoder.insert(&mut out, &origin(), &row).expect_err("NaN is no decimal");
    assert_eq!(error.column, "price");
    assert!(out.bytes.is_empty() && out.events.is_empty());
}
