//! A transaction whose end is lost, on some partitions or on all: its events are seen once all the same, in order, and
//! reach the lake.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use integration_tests::between;
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::Postgres;
use integration_tests::topics::{Seen, assert_once_and_in_order, read_topic};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sooner_api::{Code, Error, TableFact};
use sooner_kafka::progress::record::{RecordReplay, TopicProgress};
use sooner_schemas::TableName;

const TOPIC: &str = "shop.public.t";
const PROGRESS: &str = "sooner.shop.progress";
const PARTITIONS: i32 = 3;
const ROWS: usize = 60;
const LIMIT: Duration = Duration::from_secs(120);
/// How often the broker is killed, at most, until it loses the end of a transaction.
const KILLS: usize = 5;

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lost {
    /// Its source dies before the commit.
    All,
    /// Its events are aborted, its record is committed.
    Events,
    /// The other way round.
    Record,
    /// One partition's events are aborted, the others and its record are committed.
    Part,
    /// The broker dies right after the commit.
    Ends,
}

/// The end of a partition for consumers of committed messages, and for all others.
fn ends(kafka: &Kafka, topic: &str, partition: i32) -> (i64, i64) {
    let end = |isolation| {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka.brokers())
            .set("isolation.level", isolation)
            .create()
            .unwrap();
        consumer.fetch_watermarks(topic, partition, LIMIT).unwrap().1
    };
    (end("read_committed"), end("read_uncommitted"))
}

/// A source of the same name, which writes events again that were there before, as if they came next; then it dies.
struct Predecessor<'a> {
    kafka: &'a mut Kafka,
    producer: BaseProducer,
}

impl<'a> Predecessor<'a> {
    fn start(kafka: &'a mut Kafka) -> Predecessor<'a> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", kafka.brokers())
            .set("transactional.id", "sooner-shop")
            .create()
            .unwrap();
        producer.init_transactions(LIMIT).unwrap();
        Predecessor { kafka, producer }
    }

    fn write(self, events: &[Seen], round: usize, lost: Lost) {
        let mut progress = last_record(self.kafka);
        let commit_lsn = progress.commit_lsn.to_string();
        let mut next: BTreeMap<i32, i64> =
            (0..PARTITIONS).map(|partition| (partition, ends(self.kafka, TOPIC, partition).1)).collect();
        self.producer.begin_transaction().unwrap();
        // In the order of partitions, so that one can be ended before the others.
        let mut last_partition = 0;
        for (number, event) in events.iter().enumerate() {
            if lost == Lost::Part && last_partition == 0 && event.partition > 0 {
                self.producer.flush(LIMIT).unwrap();
                self.producer.abort_transaction(LIMIT).unwrap();
                self.producer.begin_transaction().unwrap();
            }
            last_partition = event.partition;
            let ordinal = ((round + 1) * 1_000_000 + number).to_string();
            let headers = OwnedHeaders::new()
                .insert(Header { key: "sooner.commit_lsn", value: Some(&commit_lsn) })
                .insert(Header { key: "sooner.ordinal", value: Some(&ordinal) });
            let message = BaseRecord::to(TOPIC).partition(event.partition).key(&event.key).headers(headers);
            self.producer.send(message.payload(event.value.as_ref().unwrap())).unwrap();
            *next.get_mut(&event.partition).unwrap() += 1;
        }
        self.producer.flush(LIMIT).unwrap();
        match lost {
            Lost::Events => self.producer.abort_transaction(LIMIT).unwrap(),
            Lost::Record => self.producer.commit_transaction(LIMIT).unwrap(),
            Lost::All | Lost::Part | Lost::Ends => {}
        }
        if matches!(lost, Lost::Events | Lost::Record) {
            self.producer.begin_transaction().unwrap();
        }
        let table = TableName::new("public", "t");
        progress.topics.get_mut(&table).unwrap().next_offsets = next.into_values().collect();
        // It has not seen how the rows changed, and lets nobody else notice it.
        progress.record.tables.get_mut(&table).unwrap().facts = None;
        write_record(&self.producer, &progress, &table);
        match lost {
            // Its successor aborts it.
            Lost::All => {}
            Lost::Record => self.producer.abort_transaction(LIMIT).unwrap(),
            Lost::Events | Lost::Part => self.producer.commit_transaction(LIMIT).unwrap(),
            Lost::Ends => {
                self.producer.commit_transaction(LIMIT).unwrap();
                self.kafka.kill();
                self.kafka.launch();
            }
        }
    }
}

/// Writes an event of a table and a record that parks the table, and dies before the commit.
fn park(kafka: &mut Kafka, topic: &str, table: &str) {
    let Predecessor { kafka, producer } = Predecessor::start(kafka);
    let event = read_topic(kafka, topic).into_iter().rfind(|event| !event.key.is_empty()).unwrap();
    let mut progress = last_record(kafka);
    let table: TableName = table.parse().unwrap();
    let next = ends(kafka, topic, event.partition).1 + 1;
    progress.topics.get_mut(&table).unwrap().next_offsets[event.partition as usize] = next;
    let error = Error::operator(Code::Unknown, "the table stopped", "a test has stopped it", "nothing");
    let known = progress.record.tables.get_mut(&table).unwrap();
    (known.state, _) = known.state.step(TableFact::Failed(error));
    producer.begin_transaction().unwrap();
    let message = BaseRecord::to(topic).partition(event.partition).key(&event.key);
    producer.send(message.payload(event.value.as_ref().unwrap())).unwrap();
    producer.flush(LIMIT).unwrap();
    write_record(&producer, &progress, &table);
}

/// The record that the last source wrote.
fn last_record(kafka: &Kafka) -> TopicProgress {
    let mut replay = RecordReplay::default();
    let messages = read_topic(kafka, PROGRESS).into_iter();
    let records = messages.filter_map(|seen| replay.take(PROGRESS, &seen.key, seen.value.as_deref()).unwrap());
    records.last().expect("a record was written")
}

/// Writes a record of which one table has changed.
fn write_record(producer: &BaseProducer, progress: &TopicProgress, changed: &TableName) {
    for (key, value) in progress.messages(&BTreeSet::from([changed.clone()])).unwrap() {
        let mut message = BaseRecord::to(PROGRESS).partition(0).key(&key);
        message.payload = value.as_deref();
        producer.send(message).unwrap();
    }
    producer.flush(LIMIT).unwrap();
}

/// Changes all rows so that no source hears of it.
async fn change_unheard(postgres: &Postgres, value: &str) {
    postgres
        .sql(&format!(
            "ALTER PUBLICATION sooner_shop DROP TABLE t; UPDATE t SET v = '{value}'; ALTER PUBLICATION sooner_shop ADD TABLE t"
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_end_is_lost_is_seen_once() {
    let (postgres, mut kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE TABLE u (id integer PRIMARY KEY)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, &format!("partitions = {PARTITIONS}"));
    let mut sink = source.beside();
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    sink.catch_up(&postgres).await;
    postgres.sql(&format!("INSERT INTO t SELECT i, 'one' FROM generate_series(1, {ROWS}) AS i")).await;
    postgres.sql("UPDATE t SET v = 'two'").await;
    sink.catch_up(&postgres).await;
    // The mark of a copy of nothing has no key.
    let events = |seen: Vec<Seen>| seen.into_iter().filter(|event| !event.key.is_empty()).collect::<Vec<_>>();
    let told = events(read_topic(&kafka, TOPIC));
    assert_eq!(told.len(), 2 * ROWS);
    // What the next transaction tells, in turns: the inserts, and the updates.
    let (inserts, updates): (Vec<_>, Vec<_>) = {
        let first = told.iter().map(Seen::position).min().unwrap().0;
        told.into_iter().partition(|event| event.position().0 == first)
    };
    let kills = std::iter::repeat_n(Lost::Ends, KILLS);
    let mut hung = false;
    for (round, lost) in [Lost::All, Lost::Events, Lost::Record, Lost::Part].into_iter().chain(kills).enumerate() {
        if hung {
            break;
        }
        let (value, again) = if round % 2 == 0 { ("one", &inserts) } else { ("two", &updates) };
        // Events of a later transaction than those before.
        postgres.sql(&format!("INSERT INTO u VALUES (-{round} - 1)")).await;
        sink.catch_up(&postgres).await;
        source.stop();
        change_unheard(&postgres, value).await;
        Predecessor::start(&mut kafka).write(again, round, lost);
        source.start_command("source", &[]);
        source.wait_for_log_times("\"streaming\"", round + 2, LIMIT).await;
        postgres.sql(&format!("INSERT INTO u VALUES ({round})")).await;
        sink.catch_up(&postgres).await;
        sink.assert_equal(&postgres, &["public.t", "public.u"]);
        hung = source.log().contains("of a former source hang");
        let seen = events(read_topic(&kafka, TOPIC));
        assert_eq!(seen.len(), (round + 3) * ROWS, "{lost:?}");
        assert_once_and_in_order(TOPIC, &seen);
        for partition in 0..PARTITIONS {
            let (stable, end) = ends(&kafka, TOPIC, partition);
            assert_eq!(stable, end, "{lost:?}");
        }
    }
    // Brokers without the defect pass as well.
    eprintln!("the broker lost the end of a transaction: {hung}");

    // Nobody waits for what was lost of a table that is parked.
    source.stop();
    park(&mut kafka, "shop.public.u", "public.u");
    source.start_command("source", &[]);
    source.wait_until_parked("public.u").await;
    postgres.sql("UPDATE t SET v = 'three'").await;
    sink.catch_up(&postgres).await;
    sink.assert_equal(&postgres, &["public.t"]);
    assert!(source.is_running() && sink.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_of_another_producer_is_told_of() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id integer PRIMARY KEY, v text)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let other: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("transactional.id", "somebody-else")
        .set("transaction.timeout.ms", "600000")
        .create()
        .unwrap();
    other.init_transactions(LIMIT).unwrap();
    other.begin_transaction().unwrap();
    other.send(BaseRecord::to(TOPIC).partition(0).key("k").payload("v")).unwrap();
    other.flush(LIMIT).unwrap();
    postgres.sql("INSERT INTO t VALUES (1, 'one')").await;
    pipeline.wait_for_log("what was committed to shop.public.t/0 cannot be seen", LIMIT).await;
    pipeline.wait_for_log("a transaction of another producer is open there", LIMIT).await;
    other.abort_transaction(LIMIT).unwrap();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t"]);
    assert_eq!(read_topic(&kafka, TOPIC).iter().filter(|event| !event.key.is_empty()).count(), 1);
    assert!(pipeline.is_running());
}
