//! A decoder that is fed messages, and its batches as short texts.
//!
//! An event reads `<commit_lsn>#<ordinal> <op> <key>: <before> > <after>`; `-` is what is not there, and `?` the
//! placeholder of a value that Postgres left out.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use sooner_api::{EventBatch, Positions, Result, Rows, Step};
use sooner_postgres::decode::Decoder;
use sooner_postgres::pgoutput::parse;
use sooner_postgres::tracked::Next;
use sooner_postgres::tracked::Selected;
use sooner_schemas::avro::{Schema, Shape};
use sooner_schemas::encode::{Encoder, SchemaIds};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{Event, EventSchema, TableEvents};
use sooner_schemas::wire::{Reader, split_header};
use sooner_schemas::{Column, ColumnType, Lsn, Relation, ReplicaIdentity, Scalar, TableName};

use crate::messages::{begin, commit, relation};

/// Where the stream starts.
pub const START: u64 = 100;
/// WAL position of every message.
pub const ROW_LSN: u64 = 90;
/// Commit time of every transaction.
pub const COMMIT_MICROS: i64 = 1_700_000_000_123_456;
/// Time at which every message is read.
pub const NOW: i64 = 1_700_000_001_000_000;
/// Id of every transaction.
pub const XID: u32 = 7;
/// Bytes of log that a commit record takes.
pub const COMMIT_BYTES: u64 = 10;
/// Object id of `public.orders`.
pub const ORDERS: u32 = 1;
/// Object id of `public.lines`.
pub const LINES: u32 = 2;
/// Object id of a table that is not selected.
pub const OTHER: u32 = 3;

const KEY_ID: u32 = 11;
const VALUE_ID: u32 = 12;

/// A decoder, and how it is fed.
pub struct Stream {
    /// The decoder.
    pub decoder: Decoder,
    /// What the catalog says of the relations that are announced.
    catalog: HashMap<u32, Relation>,
}

impl Stream {
    /// Carries these tables from the beginning.
    pub fn of(tables: &[&str]) -> Stream {
        Stream::after(tables.iter().map(|table| (*table, Positions::whole(Lsn::ZERO))).collect())
    }

    /// Carries these tables; each has been taken up to its positions.
    pub fn after(tables: Vec<(&str, Positions)>) -> Stream {
        let selected =
            tables.into_iter().map(|(name, covered)| (oid_of(name), Selected { name: table_name(name), covered }));
        Stream { decoder: Decoder::new(selected.collect(), Lsn(START)), catalog: HashMap::new() }
    }

    /// `public.orders` and `public.lines` are carried and announced, `public.other` is announced only.
    pub fn of_three() -> Stream {
        let mut stream = Stream::of(&["public.orders", "public.lines"]);
        stream.announce_three();
        stream
    }

    /// Announces the three tables.
    pub fn announce_three(&mut self) {
        self.announce(&table(ORDERS, "public.orders"));
        self.announce(&table(LINES, "public.lines"));
        self.send(&described(&table(OTHER, "public.other")));
    }

    /// Sends a message; the relation that it needs is looked up.
    pub fn try_send(&mut self, message: &[u8]) -> Result<Next> {
        loop {
            let next = self.decoder.apply(Lsn(ROW_LSN), parse(message).expect("a whole message"), NOW)?;
            let Next::RelationNeeded(shape) = next else { return Ok(next) };
            let relation = self.catalog[&shape.oid].clone();
            assert_eq!(shape.columns.len(), relation.columns.len());
            let encoder = encoder(&relation);
            self.decoder.set_relation(shape.oid, relation, encoder);
        }
    }

    /// Sends a message that needs nothing else.
    pub fn send(&mut self, message: &[u8]) {
        let next = self.try_send(message).expect("the message fits the stream");
        assert!(matches!(next, Next::Continue), "{next:?}");
    }

    /// Describes a relation, which is looked up when a change needs it.
    pub fn announce(&mut self, relation: &Relation) {
        self.catalog.insert(relation.oid, relation.clone());
        self.send(&described(relation));
    }

    /// Begins a transaction.
    pub fn begin(&mut self, commit_lsn: u64) {
        self.send(&begin(commit_lsn, COMMIT_MICROS, XID));
    }

    /// Commits it.
    pub fn commit(&mut self, commit_lsn: u64) {
        self.send(&commit(commit_lsn, commit_lsn + COMMIT_BYTES, COMMIT_MICROS));
    }

    /// Sends a whole transaction.
    pub fn transaction(&mut self, commit_lsn: u64, changes: &[Vec<u8>]) {
        self.begin(commit_lsn);
        for change in changes {
            self.send(change);
        }
        self.commit(commit_lsn);
    }

    /// Takes the batch, and shows its steps.
    pub fn steps(&mut self) -> Vec<String> {
        self.decoder.take().expect("there is a batch").steps.iter().map(show_step).collect()
    }
}

/// Object id of a table of these tests.
fn oid_of(table: &str) -> u32 {
    match table {
        "public.orders" => ORDERS,
        "public.lines" => LINES,
        _ => OTHER,
    }
}

/// A table's name from its text.
pub fn table_name(text: &str) -> TableName {
    text.parse().expect("a schema and a table")
}

/// A table with the key `id` and a nullable text `body`.
pub fn table(oid: u32, name: &str) -> Relation {
    let columns = vec![scalar("id", Scalar::Int8), scalar("body", Scalar::Text).nullable()];
    Relation { oid, ..Relation::new(table_name(name), columns, vec![0]) }
}

/// A NOT NULL column.
pub fn scalar(name: &str, scalar: Scalar) -> Column {
    Column::new(name, ColumnType::Scalar(scalar))
}

/// The message that describes a relation.
pub fn described(of: &Relation) -> Vec<u8> {
    let identity = if of.identity == ReplicaIdentity::Full { b'f' } else { b'd' };
    let columns = of.columns.iter().enumerate();
    let columns: Vec<_> = columns
        .map(|(index, column)| (u8::from(of.is_key(index)), column.name.as_str(), column.type_oid, column.modifier))
        .collect();
    relation(of.oid, &of.name.schema, &of.name.table, identity, &columns)
}

/// The encoder of a relation, under fixed schema ids.
pub fn encoder(relation: &Relation) -> Encoder {
    let topic = relation.name.to_string();
    let key = key_schema(&topic, relation).map(|schema| schema.to_string());
    let value = value_schema(&topic, relation).to_string();
    let schema = EventSchema::parse(relation.name.clone(), key.as_deref(), &value).expect("schemas of our own");
    let ids = SchemaIds { key: key.as_ref().map(|_| KEY_ID), value: VALUE_ID };
    Encoder::new(relation, Arc::new(schema), ids, "shop", "db")
}

/// Commit LSN and ordinal of each event.
pub fn positions(batch: &EventBatch) -> Vec<(u64, u64)> {
    let events = batch.rows().flat_map(|rows| rows.events.events.iter());
    events.map(|event| (event.position.commit_lsn.0, event.position.ordinal)).collect()
}

/// All fields of an event's envelope; those of a record inside have bars between.
pub fn envelope(events: &TableEvents, event: &Event) -> Vec<String> {
    let mut reader = datum(events, &event.value, VALUE_ID);
    let record = events.schema.value.as_record().expect("an envelope is a record");
    let fields: Vec<String> = record.fields.iter().map(|field| show(&field.schema, &mut reader)).collect();
    assert!(reader.rest().is_empty(), "nothing follows the envelope");
    fields
}

fn show_step(step: &Step) -> String {
    match step {
        Step::Rows(rows) => show_rows(rows),
        Step::Truncate(rows) => format!("truncate {}", show_rows(rows)),
        Step::Stop { table, error } => format!("stop {table}: {}", error.code),
        Step::Note(note) => format!("note {}", note.table),
        Step::Complete(coverage) => {
            assert!(coverage.except.is_empty(), "a stream completes all tables");
            format!("complete {}..{}", coverage.watermark.commit_lsn.0, coverage.watermark.end_lsn.0)
        }
        other => panic!("no step of a stream: {other:?}"),
    }
}

fn show_rows(rows: &Rows) -> String {
    let events: Vec<_> = rows.events.events.iter().map(|event| show_event(&rows.events, event)).collect();
    format!("{} [{}]", rows.table(), events.join("; "))
}

fn show_event(events: &TableEvents, event: &Event) -> String {
    let fields = envelope(events, event);
    assert_eq!(fields[4], event.op.code(), "the envelope names the operation");
    let position = event.position;
    let key = show_key(events, &event.key);
    let was = event.old_key.as_ref().map(|old| format!(" was {}", show_key(events, old))).unwrap_or_default();
    let shown = format!(
        "{}#{} {} {key}{was}: {} > {}",
        position.commit_lsn.0, position.ordinal, fields[4], fields[0], fields[1]
    );
    assert_eq!(event.unavailable.len(), shown.matches('?').count(), "placeholders are marked: {shown}");
    shown
}

fn show_key(events: &TableEvents, range: &Range<usize>) -> String {
    match &events.schema.key {
        Some(schema) if !range.is_empty() => show(schema, &mut datum(events, range, KEY_ID)),
        _ => "-".to_owned(),
    }
}

fn datum<'a>(events: &'a TableEvents, range: &Range<usize>, id: u32) -> Reader<'a> {
    let (found, datum) = split_header(&events.bytes[range.clone()]).expect("a message has a header");
    assert_eq!(found, id, "the header names the schema");
    Reader::new(datum)
}

fn show(schema: &Schema, reader: &mut Reader<'_>) -> String {
    let (schema, null) = schema.without_null();
    if null.is_some() && Some(reader.length().expect("a union's branch")) == null {
        return "-".to_owned();
    }
    match &schema.shape {
        Shape::Record(record) => {
            record.fields.iter().map(|field| show(&field.schema, reader)).collect::<Vec<_>>().join("|")
        }
        Shape::Int | Shape::Long => reader.long().expect("a number").to_string(),
        Shape::String => reader.string().expect("a text").replace("__debezium_unavailable_value", "?"),
        other => panic!("no test has such a column: {other:?}"),
    }
}
