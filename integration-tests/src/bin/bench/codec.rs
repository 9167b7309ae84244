//! Measures encoding rows as Avro and decoding them again, on one core, beside apache-avro.

use std::sync::Arc;
use std::time::Instant;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use sooner_delta::rows::reader::{RowReader, finish};
use sooner_schemas::encode::{Encoder, Masking, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::value_schema;
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::mask::MaskKey;
use sooner_schemas::masking::{ColumnRule, TableRules};
use sooner_schemas::wire::HEADER_BYTES;
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

use crate::Line;

const ROWS: usize = 200_000;

fn relation() -> Relation {
    let column = |name, scalar| Column::new(name, ColumnType::Scalar(scalar)).nullable();
    let columns = vec![
        column("id", Scalar::Int8),
        column("customer", Scalar::Int8),
        column("state", Scalar::Text),
        column("amount", Scalar::Decimal { precision: 12, scale: 2 }),
        column("placed", Scalar::Timestamp(6)),
        column("note", Scalar::Text),
    ];
    Relation::new(TableName::new("public", "orders"), columns, vec![])
}

/// Measures encoding and decoding of the same rows, by this project and by apache-avro.
pub fn run() -> Vec<Line> {
    let relation = relation();
    let json = value_schema("bench.public.orders", &relation).to_string();
    let schema = Arc::new(EventSchema::parse(relation.name.clone(), None, &json).unwrap());
    let oracle = apache_avro::Schema::parse_str(&json).unwrap();
    let texts = ["123456789", "4711", "shipped", "1234.56", "2026-02-03 04:05:06.789", "left at the neighbour's door"];
    let row: Vec<_> = texts.iter().map(|text| TupleValue::Text(text.as_bytes())).collect();

    let encoder = Encoder::new(&relation, schema.clone(), SchemaIds { key: None, value: 1 }, "bench", "bench");
    let mut events = TableEvents::new(schema.clone());
    let started = Instant::now();
    for ordinal in 0..ROWS {
        encoder.insert(&mut events, &origin(ordinal as u64), &row).unwrap();
    }
    let encoded = started.elapsed().as_secs_f64();

    let hashed = encoded_with_hash(&relation, &schema, &row);

    let reader = RowReader::new(&schema).unwrap();
    let mut builders = reader.builders().unwrap();
    let started = Instant::now();
    for event in &events.events {
        reader.append(&events.bytes[event.value.clone()], &[], &mut builders).unwrap();
    }
    let arrays = finish(&mut builders);
    let decoded = started.elapsed().as_secs_f64();
    assert_eq!(arrays[0].len(), ROWS);

    let oracle_reader = GenericDatumReader::builder(&oracle).build().unwrap();
    let started = Instant::now();
    let values: Vec<Value> = events
        .events
        .iter()
        .map(|event| {
            let mut datum = &events.bytes[event.value.clone()][HEADER_BYTES..];
            oracle_reader.read_value(&mut datum).unwrap()
        })
        .collect();
    let oracle_decoded = started.elapsed().as_secs_f64();

    let oracle_writer = GenericDatumWriter::builder(&oracle).build().unwrap();
    let started = Instant::now();
    let written: usize = values.into_iter().map(|value| oracle_writer.write_value_to_vec(value).unwrap().len()).sum();
    let oracle_encoded = started.elapsed().as_secs_f64();
    assert!(written > ROWS);

    let line = |what: &str, ours: f64, peer: f64, notes: &str| Line {
        what: format!("(e) Avro {what}, one core"),
        ours: format!("{:.2} M events/s", ROWS as f64 / ours / 1e6),
        peer: format!("apache-avro {:.2} M events/s", ROWS as f64 / peer / 1e6),
        ratio: Some(peer / ours),
        wanted: "-",
        notes: notes.to_owned(),
    };
    vec![
        line("encode", encoded, oracle_encoded, "ours from Postgres' text; the peer from ready values"),
        Line {
            what: "(e) Avro encode with a hashed column".to_owned(),
            ours: format!("{:.2} M events/s", ROWS as f64 / hashed / 1e6),
            peer: format!("without {:.2} M events/s", ROWS as f64 / encoded / 1e6),
            ratio: Some(encoded / hashed),
            wanted: "-",
            notes: "HMAC-SHA-256 of a text of 28 bytes".to_owned(),
        },
        line("decode", decoded, oracle_decoded, "ours into Arrow; the peer into values"),
    ]
}

/// Seconds that the same rows take whose last column is hashed.
fn encoded_with_hash(relation: &Relation, schema: &Arc<EventSchema>, row: &[TupleValue<'_>]) -> f64 {
    let rules = TableRules {
        columns: [("note".to_owned(), ColumnRule::Hash)].into(),
        key: MaskKey::new(b"0123456789abcdef").map(Arc::new),
        ..TableRules::default()
    };
    let mut masked = relation.clone();
    rules.mark(&mut masked);
    let (masking, ids) = (Masking::of(&masked).unwrap(), SchemaIds { key: None, value: 1 });
    let encoder = Encoder::masked(&masked, masking, schema.clone(), ids, ("bench", "bench"));
    let mut events = TableEvents::new(schema.clone());
    let started = Instant::now();
    for ordinal in 0..ROWS {
        encoder.insert(&mut events, &origin(ordinal as u64), row).unwrap();
    }
    started.elapsed().as_secs_f64()
}

fn origin(ordinal: u64) -> Origin {
    Origin {
        position: Position { commit_lsn: Lsn(0x1_0000_0000), ordinal },
        lsn: Lsn(0x1_0000_0000),
        xid: 7,
        source_micros: 1_770_000_000_000_000,
        now_micros: 1_770_000_000_100_000,
        snapshot: Snapshot::No,
    }
}
