//! What a read-committed consumer sees on topics, and a judge that knows what it should have seen.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Headers;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sooner_schemas::Position;
use sooner_schemas::avro::{RecordSchema, Schema};
use sooner_schemas::wire::{Reader, split_header};

use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::registry::Registry;

/// A Kafka message as the consumer sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Partition that the message is in.
    pub partition: i32,
    /// Offset of the message in its partition.
    pub offset: i64,
    /// Encoded key of the message; empty if it has none.
    pub key: Vec<u8>,
    /// Encoded value of the message; none for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Values of the message's headers by name, as bytes.
    pub headers: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    /// Value of a header as text; empty if the message lacks it.
    pub fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }

    /// Commit LSN and ordinal of the message's event, from its headers; panics if they are missing.
    pub fn position(&self) -> (u64, u64) {
        let lsn: sooner_schemas::Lsn = self.header("sooner.commit_lsn").parse().expect("a position");
        (lsn.0, self.header("sooner.ordinal").parse().expect("an ordinal"))
    }
}

/// Reads all committed messages of a topic, one partition after the other; panics if the topic does not exist.
pub fn read_topic(kafka: &Kafka, topic: &str) -> Vec<Seen> {
    find_topic(kafka, topic).unwrap_or_else(|| panic!("topic {topic} does not exist"))
}

/// Reads all committed messages of a topic, one partition after the other; none if the topic does not exist.
pub fn find_topic(kafka: &Kafka, topic: &str) -> Option<Vec<Seen>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("group.id", "judge")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20)).expect("the broker answers");
    let partitions = metadata.topics()[0].partitions().len();
    if partitions == 0 {
        return None;
    }
    let mut seen = Vec::new();
    for partition in 0..partitions as i32 {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition");
        consumer.assign(&list).expect("assigned");
        loop {
            match consumer.poll(Duration::from_secs(20)) {
                Some(Ok(message)) => seen.push(Seen {
                    partition,
                    offset: message.offset(),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: headers(&message),
                }),
                Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => panic!("{error}"),
                None => panic!("{topic}/{partition} does not end"),
            }
        }
    }
    Some(seen)
}

fn headers<M: Message>(message: &M) -> BTreeMap<String, Vec<u8>> {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    headers.map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec())).collect()
}

/// Fails unless each partition is in commit order and no event is there twice. A tombstone has the position of the
/// delete that it follows; a message without a key may be in each partition once.
pub fn assert_once_and_in_order(topic: &str, seen: &[Seen]) {
    let place = |message: &Seen| (message.partition, message.offset);
    assert!(seen.is_sorted_by(|one, next| place(one) < place(next)), "{topic}: the consumer went back");
    let mut last: BTreeMap<i32, ((u64, u64), bool)> = BTreeMap::new();
    let mut positions = std::collections::BTreeSet::new();
    for message in seen {
        let (position, tombstone) = (message.position(), message.value.is_none());
        if let Some((former, former_tombstone)) = last.insert(message.partition, (position, tombstone)) {
            let follows = position > former || (position == former && tombstone && !former_tombstone);
            let place = place(message);
            let same = || seen.iter().filter(|other| other.position() == position).map(|other| other.offset);
            assert!(follows, "{topic} {place:?}: {position:?}, at {:?}, after {former:?}", same().collect::<Vec<_>>());
        }
        let whole_table = message.key.is_empty();
        let new = positions.insert((position, tombstone, whole_table.then_some(message.partition)));
        assert!(new, "{topic}: {position:?} is there twice");
    }
}

/// The judge: reads from a second slot each table's transactions in commit order, with their numbers of changes.
pub struct Judge;

impl Judge {
    /// Creates the judge's slot; call it before the first change.
    pub async fn start(postgres: &Postgres) -> Judge {
        postgres.sql("SELECT pg_create_logical_replication_slot('judge', 'test_decoding')").await;
        Judge
    }

    /// Fails unless each table's topic holds, since the table's last copy, exactly the transactions that the slot
    /// reports, up to the last one.
    pub async fn assert_complete(&self, postgres: &Postgres, kafka: &Kafka, registry: &Registry, tables: &[&str]) {
        for table in tables {
            self.assert_topic_complete(postgres, kafka, registry, (table, &format!("shop.{table}"))).await;
        }
    }

    /// Fails unless a table's topic, whatever its name is, holds exactly that.
    pub async fn assert_topic_complete(
        &self,
        postgres: &Postgres,
        kafka: &Kafka,
        registry: &Registry,
        (table, topic): (&str, &str),
    ) {
        let rows = postgres.sql("SELECT xid, data FROM pg_logical_slot_peek_changes('judge', NULL, NULL)").await;
        let prefix = format!("table {table}: ");
        let mut expected: Vec<(i64, usize)> = Vec::new();
        for row in &rows {
            let data = row[1].as_deref().unwrap_or_default();
            let Some(change) = data.strip_prefix(&prefix) else { continue };
            let xid = row[0].as_deref().and_then(|xid| xid.parse().ok()).expect("a transaction id");
            let events = if change.starts_with("UPDATE: old-key:") { 2 } else { 1 };
            match expected.last_mut() {
                Some((last, count)) if *last == xid => *count += events,
                _ => expected.push((xid, events)),
            }
        }
        let seen = read_topic(kafka, topic);
        assert_once_and_in_order(topic, &seen);
        let streamed = streamed(registry, &seen);
        let since = expected.len().checked_sub(streamed.len());
        let since = since.unwrap_or_else(|| panic!("{topic} has transactions that never were"));
        assert_eq!(&expected[since..], &streamed[..], "{topic}: what it has is not what happened, to the end");
        assert!(!streamed.is_empty(), "nothing was streamed to {topic}");
    }
}

/// Ids of the transactions whose events were streamed since the last copy began, in commit order, with their numbers of
/// events; events without a transaction id are left out. A copy that was broken off has events of the stream beside it.
fn streamed(registry: &Registry, seen: &[Seen]) -> Vec<(i64, usize)> {
    let mut schemas: BTreeMap<u32, Schema> = BTreeMap::new();
    let mut transactions: BTreeMap<u64, (i64, usize)> = BTreeMap::new();
    let is_copy_start = |message: &&Seen| message.key.is_empty() && message.position().1 >= Position::FIRST_COPIED;
    let last_start = seen.iter().filter(is_copy_start).map(Seen::position).max().unwrap_or_default();
    for message in seen.iter().filter(|message| message.position() > last_start) {
        let Some(value) = &message.value else { continue };
        let (id, datum) = split_header(value).expect("a schema id");
        let schema = schemas.entry(id).or_insert_with(|| registry.schema(id));
        let xid = transaction_id(schema.as_record().expect("an envelope"), &mut Reader::new(datum));
        if xid != 0 {
            transactions.entry(message.position().0).or_insert((xid, 0)).1 += 1;
        }
    }
    transactions.into_values().collect()
}

fn transaction_id(envelope: &RecordSchema, reader: &mut Reader<'_>) -> i64 {
    for field in &envelope.fields {
        if field.name != "source" {
            field.schema.skip(reader).expect("readable");
            continue;
        }
        for field in &field.schema.as_record().expect("a record").fields {
            if field.name == "txId" {
                reader.long().expect("a union");
                return reader.long().expect("a number");
            }
            field.schema.skip(reader).expect("readable");
        }
    }
    panic!("no transaction id")
}
