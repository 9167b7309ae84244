//! What the tests share: a table, its events, and the messages that they travel in.

use std::ops::Range;
use std::sync::Arc;

use rdkafka::Timestamp;
use rdkafka::message::OwnedMessage;
use sooner_kafka::cluster::topic_state::TopicState;
use sooner_kafka::message::headers::{EventHeaders, FoundHeaders, unavailable_fields};
use sooner_kafka::message::polled::PolledMessages;
use sooner_kafka::message::topic_message::TopicMessage;
use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventSchema, Op, TableEvents};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

/// The fields of a row of the table.
pub const FIELDS: [&str; 3] = ["id", "region", "body"];

/// The table.
pub fn table() -> TableName {
    TableName::new("public", "t")
}

/// A position in the stream.
pub fn at(commit_lsn: u64, ordinal: u64) -> Position {
    Position { commit_lsn: Lsn(commit_lsn), ordinal }
}

/// A column of texts.
pub fn text(name: &str) -> Column {
    Column::new(name, ColumnType::Scalar(Scalar::Text))
}

/// A column of integers.
pub fn integer(name: &str) -> Column {
    Column::new(name, ColumnType::Scalar(Scalar::Int8))
}

/// The table with a key of two columns, and one more column.
pub fn relation() -> Relation {
    Relation::new(table(), vec![integer("id"), text("region"), text("body").nullable()], vec![0, 1])
}

/// Schemas of a table's events.
pub fn schema_of(relation: &Relation) -> Arc<EventSchema> {
    let key = key_schema("t", relation).map(|key| key.to_string());
    let value = value_schema("t", relation).to_string();
    Arc::new(EventSchema::parse(relation.name.clone(), key.as_deref(), &value).unwrap())
}

/// Writes the table's events.
pub fn encoder() -> Encoder {
    let relation = relation();
    Encoder::new(&relation, schema_of(&relation), SchemaIds { key: Some(1), value: 2 }, "t", "db")
}

/// Where an event comes from.
pub fn origin(position: Position) -> Origin {
    Origin { position, lsn: position.commit_lsn, xid: 1, source_micros: 3, now_micros: 4, snapshot: Snapshot::No }
}

/// A row with an id and a body.
pub fn row<'a>(id: &'a str, body: &'a str) -> [TupleValue<'a>; 3] {
    [id, "eu", body].map(|text| TupleValue::Text(text.as_bytes()))
}

/// One event, as `write` appends it.
pub fn event(write: impl FnOnce(&Encoder, &mut TableEvents)) -> TableEvents {
    let encoder = encoder();
    let mut out = TableEvents::new(encoder.schema().clone());
    write(&encoder, &mut out);
    assert_eq!(out.events.len(), 1);
    out
}

/// An inserted row.
pub fn inserted(position: Position, id: &str, body: &str) -> TableEvents {
    event(|encoder, out| encoder.insert(out, &origin(position), &row(id, body)).unwrap())
}

/// A message as the brokers would give it back.
pub fn polled(key: Option<&[u8]>, value: Option<&[u8]>, place: (i32, i64), headers: &FoundHeaders) -> TopicMessage {
    let bytes = [key.unwrap_or_default(), value.unwrap_or_default()].concat();
    let split = key.map_or(0, <[u8]>::len);
    let (key, value) = (key.map(|_| 0..split), value.map(|_| split..bytes.len()));
    TopicMessage::new(("t".into(), place.0, place.1), None, headers.clone(), Arc::new(bytes), key, value)
}

/// The message that the first event is written as, read back at a place.
pub fn message(events: &TableEvents, place: (i32, i64)) -> TopicMessage {
    let event = &events.events[0];
    let part = |range: &Range<usize>| events.bytes[range.clone()].to_vec();
    let headers = EventHeaders {
        position: event.position,
        unavailable: unavailable_fields(event, &FIELDS.map(str::to_owned)),
        copy_start: event.op == Op::CopyStart,
        new_key_text: None,
        old_key_text: None,
        old_key: event.old_key.as_ref().map(|range| &events.bytes[range.clone()]),
    };
    let key = Some(part(&event.key)).filter(|key| !key.is_empty());
    let (value, headers) = (Some(part(&event.value)), Some(headers.to_owned_headers()));
    let written = OwnedMessage::new(value, key, "t".to_owned(), Timestamp::CreateTime(5), place.0, place.1, headers);
    let mut polled = PolledMessages::default();
    polled.take(&Arc::from("t"), &written);
    polled.finish().remove(0)
}

/// A message of which only place and position matter.
pub fn bare(place: (i32, i64), position: Option<Position>, keyed: bool) -> TopicMessage {
    let headers = FoundHeaders { position, ..FoundHeaders::default() };
    polled(keyed.then_some(b"k".as_slice()), None, place, &headers)
}

/// A topic as brokers describe it.
pub fn topic_state() -> TopicState {
    TopicState {
        partitions: 6,
        replication: Some(3),
        cleanup_policy: "delete".to_owned(),
        compression: "producer".to_owned(),
        max_message_bytes: 1000,
        retention_ms: -1,
    }
}
