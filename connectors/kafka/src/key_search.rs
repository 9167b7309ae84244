//! Where the last message of a key lies, for whoever asks why a row is old. Enters: a key message as the source would
//! write it; leaves: topic, partition and offset, as a consumer sees them that reads committed messages. Reads
//! backwards from the end in windows, without a group's offsets, and writes nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Instant;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use sooner_api::{Code, Error, Result};
use sooner_schemas::Position;
use sooner_schemas::avro::{RecordSchema, Schema, Shape};
use sooner_schemas::wire::{Malformed, Reader, split_header};

use crate::cluster::admin::Admin;
use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;
use crate::message::headers::FoundHeaders;
use crate::producer::route::partition_of_key;
use crate::registry::reader::SchemaReader;
use crate::registry::schema_id::SchemaId;

/// Offsets that are read first, from the end; each further window is twice as large.
const FIRST_WINDOW: i64 = 1 << 10;
/// Offsets of a window at most.
const LARGEST_WINDOW: i64 = 1 << 20;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct KeySearch {
    /// Topic.
    pub topic: String,
    /// Key message; the id of its schema does not count.
    pub key: Vec<u8>,
    /// Whether the topic's writer chooses partitions as this program does; otherwise all of them are searched.
    pub knows_partition: bool,
    /// When the search gives up.
    pub deadline: Instant,
}

/// What was found of a key in its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// Number of the topic's partitions.
    pub partitions: i32,
    /// Partition that the key hashes to; or, where nobody knows that, the one with its last message.
    pub partition: Option<i32>,
    /// Partitions that were searched.
    pub searched: BTreeMap<i32, SearchedRange>,
    /// The last event of the key.
    pub last: Option<KeyMessage>,
    /// The last event of the whole table, such as a truncate, if it comes after that in the same partition.
    pub whole_table_offset: Option<i64>,
}

/// Offsets of a partition that were searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchedRange {
    /// First offset that the partition still has.
    pub first_offset: i64,
    /// The last stable offset: the end for a consumer that reads committed messages.
    pub end_offset: i64,
    /// Offset from which on everything was read.
    pub from_offset: i64,
}

impl SearchedRange {
    /// Whether nothing of the partition was left out.
    pub fn is_whole(&self) -> bool {
        self.from_offset <= self.first_offset
    }
}

/// An event of a key on a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyMessage {
    /// Offset of its message.
    pub offset: i64,
    /// Offset of the tombstone that follows it, if one does.
    pub tombstone_offset: Option<i64>,
    /// Position in commit order; none if its writer gave none.
    pub position: Option<Position>,
    /// When the message was written, in microseconds since 1970.
    pub written_micros: Option<i64>,
    /// Debezium's letter for the operation; none if the schema cannot be had.
    pub op: Option<String>,
    /// Commit time at the source, in microseconds since 1970; none if the schema cannot be had.
    pub event_micros: Option<i64>,
}

/// A message whose value is not taken apart yet.
#[derive(Default)]
struct Found {
    message: KeyMessage,
    value: Vec<u8>,
}

/// Finds the last event of a key. `key_schema` is the schema of its key message. May take as long as the deadline
/// leaves, and as brokers and registry take to answer.
pub async fn find_key(
    settings: &KafkaSettings,
    registry: &SchemaReader,
    key_schema: Option<Schema>,
    search: KeySearch,
) -> Result<KeyPlace> {
    let settings = settings.clone();
    let searching = tokio::task::spawn_blocking(move || search_topic(&settings, key_schema.as_ref(), &search));
    let searched = searching.await;
    let (mut place, found) = searched.map_err(|panic| Error::internal("cannot search a topic", panic))??;
    if let Some(Found { mut message, value }) = found {
        // Without its schema the place of the message is still worth something.
        if let Ok((op, micros)) = facts_of(registry, &value).await {
            (message.op, message.event_micros) = (op, micros);
        }
        place.last = Some(message);
    }
    Ok(place)
}

fn search_topic(
    settings: &KafkaSettings,
    schema: Option<&Schema>,
    search: &KeySearch,
) -> Result<(KeyPlace, Option<Found>)> {
    let partitions = Admin::new(settings)?.list()?.get(&search.topic).copied();
    let partitions = partitions.ok_or_else(|| {
        let what = format!("cannot search the topic {}", search.topic);
        Error::operator(Code::TopicMissing, what, "it does not exist", "start the source, which makes it")
    })?;
    let own = partition_of_key(&settings.producer.partition_by, schema, &search.key, partitions);
    let own = own.map_err(|why| Error::internal("cannot find the partition of a key", why))?;
    let candidates = if search.knows_partition { own..own + 1 } else { 0..partitions };
    let reader = RangeReader::open(settings, Isolation::Committed)?;
    let mut place = KeyPlace {
        partitions,
        partition: search.knows_partition.then_some(own),
        searched: BTreeMap::new(),
        last: None,
        whole_table_offset: None,
    };
    let mut last: Option<Found> = None;
    for partition in candidates {
        let mut scan = Scan::default();
        let range = scan_backwards(&reader, partition, search, &mut scan)?;
        place.searched.insert(partition, range);
        let is_later = |found: &Found| {
            last.as_ref().is_none_or(|last| last.message.written_micros <= found.message.written_micros)
        };
        if let Some(found) = scan.found.filter(is_later) {
            (place.partition, place.whole_table_offset) = (Some(partition), scan.whole_table_offset);
            last = Some(found);
        } else if search.knows_partition {
            place.whole_table_offset = scan.whole_table_offset;
        }
    }
    Ok((place, last))
}

/// What a window, and those after it, have.
#[derive(Default)]
struct Scan {
    found: Option<Found>,
    whole_table_offset: Option<i64>,
}

/// Reads a partition from its end, window by window, until the key is met, the begin is reached, or time is up.
fn scan_backwards(reader: &RangeReader, partition: i32, search: &KeySearch, scan: &mut Scan) -> Result<SearchedRange> {
    let (_, datum) = split_header(&search.key).map_err(|why| Error::internal("cannot search for a key", why))?;
    let (first_offset, end_offset) = reader.bounds(&search.topic, partition)?;
    let mut range = SearchedRange { first_offset, end_offset, from_offset: end_offset };
    let mut window = FIRST_WINDOW;
    while scan.found.is_none() && !range.is_whole() && Instant::now() < search.deadline {
        let start = range.from_offset.saturating_sub(window).max(first_offset);
        let mut of_window = Scan::default();
        let mut is_in_time = true;
        reader.read(&search.topic, partition, start..range.from_offset, |message| {
            of_window.take(message, datum);
            is_in_time = Instant::now() < search.deadline;
            Ok(if is_in_time { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if !is_in_time {
            // What was met may not be the last one of the window.
            break;
        }
        range.from_offset = start;
        scan.found = of_window.found;
        scan.whole_table_offset = scan.whole_table_offset.or(of_window.whole_table_offset);
        window = (window * 2).min(LARGEST_WINDOW);
    }
    if let Some(found) = &scan.found {
        scan.whole_table_offset = scan.whole_table_offset.filter(|offset| *offset > found.message.offset);
    }
    Ok(range)
}

impl Scan {
    fn take(&mut self, message: &BorrowedMessage<'_>, datum: &[u8]) {
        let Some(key) = message.key() else {
            self.whole_table_offset = Some(message.offset());
            return;
        };
        if split_header(key).is_ok_and(|(_, found)| found == datum) {
            self.take_event(message);
        }
    }

    fn take_event(&mut self, message: &BorrowedMessage<'_>) {
        match (message.payload(), &mut self.found) {
            (None, Some(found)) => found.message.tombstone_offset = Some(message.offset()),
            // A tombstone whose event is gone is what is left of the key.
            (value, _) => {
                self.found = Some(Found {
                    message: KeyMessage {
                        offset: message.offset(),
                        position: FoundHeaders::read(message.headers()).position,
                        written_micros: message.timestamp().to_millis().map(|millis| millis * 1000),
                        ..KeyMessage::default()
                    },
                    value: value.unwrap_or_default().to_vec(),
                });
            }
        }
    }
}

/// Operation and commit time of a value message, by its schema in the registry.
async fn facts_of(registry: &SchemaReader, value: &[u8]) -> Result<(Option<String>, Option<i64>)> {
    let unreadable = |why: String| {
        Error::operator(Code::MessageUnreadable, "cannot read the last message of a key", why, "see the table's status")
    };
    let (id, datum) = split_header(value).map_err(|why| unreadable(why.to_string()))?;
    let schema =
        Schema::parse(&registry.schema(SchemaId::Number(id)).await?).map_err(|why| unreadable(why.to_string()))?;
    let Some(envelope) = schema.as_record() else { return Ok((None, None)) };
    let mut facts = EventFacts::default();
    facts.read(envelope, &mut Reader::new(datum)).map_err(|why| unreadable(why.to_string()))?;
    Ok((facts.op, facts.micros.or(facts.millis.map(|millis| millis * 1000))))
}

/// What an envelope says of its event, apart from the row.
#[derive(Default)]
struct EventFacts {
    op: Option<String>,
    micros: Option<i64>,
    millis: Option<i64>,
}

impl EventFacts {
    fn read(&mut self, envelope: &RecordSchema, reader: &mut Reader<'_>) -> std::result::Result<(), Malformed> {
        for field in &envelope.fields {
            match (field.name.as_str(), &field.schema.shape) {
                ("op", Shape::String) => self.op = Some(reader.string()?.to_owned()),
                ("source", Shape::Record(source)) => self.read_source(source, reader)?,
                _ => field.schema.skip(reader)?,
            }
        }
        Ok(())
    }

    fn read_source(&mut self, source: &RecordSchema, reader: &mut Reader<'_>) -> std::result::Result<(), Malformed> {
        for field in &source.fields {
            let (schema, null) = field.schema.without_null();
            let is_time = matches!(schema.shape, Shape::Long) && matches!(field.name.as_str(), "ts_us" | "ts_ms");
            if !is_time {
                field.schema.skip(reader)?;
                continue;
            }
            if let Some(null) = null
                && reader.length()? == null
            {
                continue;
            }
            let time = Some(reader.long()?);
            match field.name.as_str() {
                "ts_us" => self.micros = time,
                _ => self.millis = time,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::wire::{write_bytes, write_long};

    use super::*;

    #[test]
    fn an_envelope_tells_its_operation_and_time_whatever_else_it_has() {
        let schema = r#"{"type":"record","name":"E","fields":[
            {"name":"after","type":["null",{"type":"record","name":"V","fields":[{"name":"id","type":"long"}]}]},
            {"name":"source","type":{"type":"record","name":"S","fields":[{"name":"ts_ms","type":"long"},
                {"name":"db","type":"string"},{"name":"ts_us","type":["null","long"]}]}},
            {"name":"op","type":"string"},{"name":"ts_ms","type":["null","long"]}]}"#;
        let schema = Schema::parse(schema).unwrap();
        let mut datum = Vec::new();
        for number in [1, 42, 7] {
            write_long(&mut datum, number);
        }
        write_bytes(&mut datum, b"shop");
        for number in [1, 7_123] {
            write_long(&mut datum, number);
        }
        write_bytes(&mut datum, b"u");
        write_long(&mut datum, 0);
        let mut facts = EventFacts::default();
        facts.read(schema.as_record().unwrap(), &mut Reader::new(&datum)).unwrap();
        assert_eq!((facts.op.as_deref(), facts.micros, facts.millis), (Some("u"), Some(7_123), Some(7)));
        assert!(EventFacts::default().read(schema.as_record().unwrap(), &mut Reader::new(&datum[..5])).is_err());
    }

    #[test]
    fn a_partition_is_searched_whole_once_its_begin_is_reached() {
        let range = |from_offset| SearchedRange { first_offset: 10, end_offset: 50, from_offset };
        assert!(range(10).is_whole() && !range(11).is_whole());
    }
}
