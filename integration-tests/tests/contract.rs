//! What every event log promises, run over each implementation.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use integration_tests::kafka::Kafka;
use integration_tests::registry::Registry;
use integration_tests::simulation::log;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sooner::budget::MemoryBudget;
use sooner::config::{Config, KafkaConfig};
use sooner::direct::{self, LocalSchemas};
use sooner_api::{EventReader, EventWriter, ProgressRecord, Result, SchemaRegistry, TablePhase, TableProgress};
use sooner_kafka::cluster::admin::Admin;
use sooner_kafka::consumer::group::GroupMember;
use sooner_kafka::consumer::reader::{KafkaReader, Settlement, Writer};
use sooner_kafka::producer::route::TopicRoute;
use sooner_kafka::producer::transaction_writer::TransactionWriter;
use sooner_kafka::producer::writer::KafkaWriter;
use sooner_kafka::progress::follower::ProgressFollower;
use sooner_kafka::progress::record::{TopicOffsets, TopicProgress};
use sooner_kafka::registry::client::Registry as RegistryClient;
use sooner_kafka::registry::schema_cache::SchemaCache;
use sooner_postgres::encoders::EncoderFactory;
use sooner_schemas::encode::{Encoder, Origin, Snapshot, TupleValue};
use sooner_schemas::event::{EventBatch, TableEvents, Watermark};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

/// Where each log starts.
const START: u64 = 10;
/// The last event's commit LSN.
const END: u64 = 110;

/// Makes batches of one event each.
struct Batches(Encoder);

impl Batches {
    async fn new<R: SchemaRegistry>(registry: R) -> Batches {
        let column = Column {
            name: "id".into(),
            column_type: ColumnType::Scalar(Scalar::Int8),
            nullable: false,
            has_default: false,
            default: None,
            number: Some(1),
        };
        let relation = Relation { name: table(), columns: vec![column], key: vec![0] };
        Batches(EncoderFactory::new(registry, "contract", "db").build(&relation).await.unwrap())
    }

    /// A batch whose event and watermark stand at this LSN.
    fn at(&self, lsn: u64) -> EventBatch {
        let origin = Origin {
            position: Position { commit_lsn: Lsn(lsn), ordinal: 0 },
            lsn: Lsn(lsn),
            xid: 1,
            source_micros: 0,
            now_micros: 0,
            snapshot: Snapshot::No,
        };
        let mut events = TableEvents::new(self.0.schema().clone());
        self.0.insert(&mut events, &origin, &[TupleValue::Text(lsn.to_string().as_bytes())]).unwrap();
        let watermark = Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn), commit_micros: 0 };
        EventBatch { tables: vec![events], watermark: Some(watermark), ..EventBatch::default() }
    }
}

fn table() -> TableName {
    TableName::new("public", "t")
}

/// Events as they were read, and the watermarks that came with them.
#[derive(Default)]
struct Read {
    events: Vec<u64>,
    watermark: u64,
}

impl Read {
    /// A watermark says that every event at or below it has been delivered, and none above.
    fn take(&mut self, batch: &EventBatch) {
        let events = batch.tables.iter().flat_map(|table| &table.events);
        self.events.extend(events.map(|event| event.position.commit_lsn.0));
        if let Some(watermark) = batch.watermark {
            assert!(watermark.commit_lsn.0 >= self.watermark, "a watermark moved back");
            self.watermark = watermark.commit_lsn.0;
            assert_eq!(self.events.last().copied().unwrap_or(START), self.watermark.max(START));
        }
    }

    fn assert_complete(&self) {
        assert_eq!(self.events, (START + 1..=END).collect::<Vec<_>>());
    }
}

async fn append_all<W: EventWriter>(writer: &mut W, batches: &Batches) {
    for lsn in START + 1..=END {
        writer.append(batches.at(lsn)).await.unwrap();
        if lsn % 10 == 0 {
            // The reader has nothing to read for a moment.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Events come once, in order; what was applied becomes durable, and nothing before it was appended.
async fn keeps_order_and_becomes_durable<W, R>(mut writer: W, mut reader: R, batches: &Batches)
where
    W: EventWriter,
    R: EventReader,
{
    assert_eq!(writer.durable_lsn(), Lsn(START), "it starts where everything was durable before");
    let write = async {
        append_all(&mut writer, batches).await;
        writer
    };
    let read = async {
        let mut read = Read::default();
        while read.watermark < END {
            read.take(&reader.next().await.unwrap().expect("the writer is there"));
        }
        read
    };
    let (writer, read) = tokio::join!(write, read);
    read.assert_complete();
    reader.applied(Lsn(END));
    while writer.durable_lsn() < Lsn(END) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(writer.durable_lsn(), Lsn(END));
    reader.applied(Lsn(START));
    assert_eq!(writer.durable_lsn(), Lsn(END), "it never moves back");
}

/// A reader that is asked again and again, for a moment each, misses nothing.
async fn a_cancelled_read_loses_nothing<W, R>(mut writer: W, mut reader: R, batches: &Batches)
where
    W: EventWriter,
    R: EventReader,
{
    let mut read = Read::default();
    let mut cancelled = 0;
    let write = append_all(&mut writer, batches);
    let reading = async {
        while read.watermark < END {
            tokio::select! {
                biased;
                batch = reader.next() => read.take(&batch.unwrap().expect("the writer is there")),
                () = tokio::time::sleep(Duration::from_micros(300)) => cancelled += 1,
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(write, reading);
    read.assert_complete();
    assert!(cancelled > 0, "no read was cancelled");
}

/// Of logs inside the process: the reader hears of the writer's end, and the writer of the reader's.
async fn either_end_is_told<W: EventWriter, R: EventReader>(open: impl Fn() -> (W, R), batches: &Batches) {
    let (mut writer, mut reader) = open();
    writer.append(batches.at(START + 1)).await.unwrap();
    drop(writer);
    assert!(reader.next().await.unwrap().is_some());
    assert!(reader.next().await.unwrap().is_none());
    let (mut writer, reader) = open();
    drop(reader);
    assert!(writer.append(batches.at(START + 1)).await.is_err());
}

async fn log_in_process_keeps_the_contract<W: EventWriter, R: EventReader>(open: impl Fn() -> (W, R)) {
    let batches = Batches::new(LocalSchemas::default()).await;
    let (writer, reader) = open();
    keeps_order_and_becomes_durable(writer, reader, &batches).await;
    let (writer, reader) = open();
    a_cancelled_read_loses_nothing(writer, reader, &batches).await;
    either_end_is_told(open, &batches).await;
}

#[tokio::test]
async fn the_direct_log_keeps_the_contract() {
    log_in_process_keeps_the_contract(|| direct::open(MemoryBudget::new(1 << 20), Lsn(START))).await;
}

#[tokio::test(start_paused = true)]
async fn the_simulated_log_keeps_the_contract() {
    let random = || Arc::new(Mutex::new(StdRng::seed_from_u64(1)));
    log_in_process_keeps_the_contract(|| log::open(random(), Lsn(START), true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_log_keeps_the_contract() {
    let (kafka, registry) = (Kafka::start(), Registry::start());
    for (number, delivery) in ["exactly-once", "at-least-once"].into_iter().enumerate() {
        let config = kafka_config(&kafka, &registry, &format!("c{number}"), delivery);
        let batches = Batches::new(RegistryClient::new(config.registry.clone()).unwrap()).await;
        let (writer, reader) = open_kafka(&config).await;
        keeps_order_and_becomes_durable(writer, reader, &batches).await;
        let config = kafka_config(&kafka, &registry, &format!("d{number}"), delivery);
        let (writer, reader) = open_kafka(&config).await;
        a_cancelled_read_loses_nothing(writer, reader, &batches).await;
    }
}

fn kafka_config(kafka: &Kafka, registry: &Registry, name: &str, delivery: &str) -> KafkaConfig {
    let text = format!(
        "name = '{name}'\n[lake]\nurl = '/unused'\n[kafka]\nbrokers = '{}'\npartitions = 3\ndelivery = '{delivery}'\n\
         [registry]\nurl = '{}'\n",
        kafka.brokers(),
        registry.url()
    );
    Config::parse(&text, Path::new(".")).unwrap().kafka.unwrap()
}

/// A topic that nothing was written to, with a writer at its entrance and the only member of a group at its exit.
async fn open_kafka(config: &KafkaConfig) -> (KafkaWriter, SettledReader) {
    let settings = &config.settings;
    let topic = config.topics.topic(&table());
    let admin = Admin::new(settings).unwrap();
    let existing = admin.list().unwrap();
    admin.ensure_progress_topic(&existing).await.unwrap();
    let state = admin.ensure_data_topic(&topic, &existing, None).await.unwrap();
    let mut producer = TransactionWriter::open(settings, &[state.max_message_bytes]).unwrap();
    let route = TopicRoute::new(table(), topic.clone(), &state);
    let offsets = TopicOffsets {
        topic: topic.clone(),
        generation: 1,
        begun_over: false,
        first_offsets: Vec::new(),
        next_offsets: vec![0; state.partitions as usize],
        columns: Vec::new(),
    };
    let streaming =
        TableProgress { phase: TablePhase::Streaming, reason: None, oid: None, copied_lsn: Some(Lsn(START)) };
    let progress = TopicProgress {
        record: ProgressRecord {
            slot: "slot".into(),
            confirmed_lsn: Lsn(START),
            tables: BTreeMap::from([(table().to_string(), streaming)]),
            ..ProgressRecord::default()
        },
        commit_lsn: Lsn(START),
        topics: BTreeMap::from([(table().to_string(), offsets)]),
        ..TopicProgress::default()
    };
    producer.start(progress, vec![route], &[]).unwrap();
    let follower = ProgressFollower::start(settings).unwrap();
    let schemas = SchemaCache::new(RegistryClient::new(config.registry.clone()).unwrap());
    let mut member_settings = settings.clone();
    member_settings.consumer.protocol = admin.group_protocol().await.unwrap();
    let member = GroupMember::join(&member_settings).unwrap();
    let mut reader = KafkaReader::new(member, Writer::Sooner(follower), schemas, None, 1 << 20);
    reader.subscribe(vec![topic.clone()]);
    let mut reader = SettledReader { reader, topic };
    reader.settle().await.unwrap();
    (KafkaWriter::start(producer), reader)
}

/// A reader that starts at the first event whenever partitions have changed.
struct SettledReader {
    reader: KafkaReader,
    topic: String,
}

impl SettledReader {
    async fn settle(&mut self) -> Result<()> {
        let places = self.reader.changed().await?;
        self.reader.settle(Settlement {
            tables: HashMap::from([(self.topic.clone(), table())]),
            positions: places.into_iter().map(|place| (place, 0)).collect(),
            generations: HashMap::from([(self.topic.clone(), 1)]),
            ..Settlement::default()
        })
    }
}

impl EventReader for SettledReader {
    async fn next(&mut self) -> Result<Option<EventBatch>> {
        self.reader.next().await
    }

    fn applied(&mut self, durable_lsn: Lsn) {
        self.reader.applied(durable_lsn);
    }
}
