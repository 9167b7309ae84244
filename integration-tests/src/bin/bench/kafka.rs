//! Measures Postgres to Kafka, beside Debezium on Kafka Connect with Avro, with the same WAL and the same broker, one
//! after the other; and Kafka to Delta. Apart from that, the latency to a read-committed consumer.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration_tests::debezium::Debezium;
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::registry::Registry;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sooner_schemas::avro::Schema;
use sooner_schemas::wire::{Reader, split_header};

use crate::Line;
use crate::usage::{cpu_seconds, peak_memory_mib, percentile};

const EVENTS: i64 = 600_000;
const LATENCY_SECONDS: u64 = 8;
const TRANSACTIONS_PER_SECOND: u64 = 50;

/// Measures throughput to Kafka, and from Kafka to Delta.
pub async fn run() -> Vec<Line> {
    let settings = ["wal_level=logical", "max_wal_size=4GB", "shared_buffers=512MB"];
    let postgres = Postgres::start_with(Version::V15, &settings).await;
    let (kafka, registry) = (Kafka::start(), Registry::start());
    postgres.sql("CREATE TABLE rows (id bigint PRIMARY KEY, a integer, b text, c timestamptz)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "prefix = \"ours\"");
    // Both create their slots before the rows are written, so that both read the same WAL.
    source.start_command("source", &[]);
    source.wait_for_log("\"streaming\"", Duration::from_secs(60)).await;
    source.stop();
    let peer_settings =
        ["table.include.list=public.*", "snapshot.mode=no_data", "max.batch.size=8192", "max.queue.size=65536"];
    let folder = tempfile::tempdir().unwrap();
    let debezium = || Debezium::start_in(&postgres, &kafka, &registry, "theirs", &peer_settings, folder.path());
    let first = debezium();
    first.wait_until_streaming(&postgres, "theirs").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(first);
    for part in 0..EVENTS / 1000 {
        let (low, high) = (part * 1000 + 1, (part + 1) * 1000);
        let rows = format!("SELECT i, i % 1000, 'row number ' || i, now() FROM generate_series({low}, {high}) AS i");
        postgres.sql(&format!("INSERT INTO rows {rows}")).await;
    }
    source.start_command("source", &[]);
    let ours = drain(&kafka, "ours.public.rows", source.pid());
    source.stop();
    let peer = debezium();
    let theirs = drain(&kafka, "theirs.public.rows", peer.pid());
    drop(peer);
    let mut lines = vec![Line {
        what: "(f) Postgres to Kafka, exactly once".to_owned(),
        ours: format!("{:.0} k events/s", ours.rate / 1e3),
        peer: format!("Debezium {:.0} k events/s", theirs.rate / 1e3),
        ratio: Some(ours.rate / theirs.rate),
        wanted: "≥ 3×",
        notes: format!(
            "CPU per event {:.1} µs, Debezium {:.1} µs ({:.0}×, wanted 10×); peak memory {} MiB (wanted 128), Debezium {} MiB",
            ours.cpu_micros,
            theirs.cpu_micros,
            theirs.cpu_micros / ours.cpu_micros,
            ours.memory_mib,
            theirs.memory_mib
        ),
    }];
    lines.push(to_delta(&source).await);
    lines
}

/// Measures the latency to a consumer at two rates.
pub async fn consumer_latency() -> Vec<Line> {
    let postgres = Postgres::start_with(Version::V15, &["wal_level=logical"]).await;
    let (kafka, registry) = (Kafka::start(), Registry::start());
    postgres.sql("CREATE TABLE rows (id bigint PRIMARY KEY, a integer, b text, c timestamptz)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "prefix = \"ours\"");
    source.start_command("source", &[]);
    source.wait_for_log("\"streaming\"", Duration::from_secs(60)).await;
    postgres.sql("INSERT INTO rows SELECT i, 1, 'first', now() FROM generate_series(1, 1000) i").await;
    // A broker that has just been started is slow at first.
    latency(&postgres, &kafka, &registry, 1_000).await;
    vec![latency(&postgres, &kafka, &registry, 100).await, latency(&postgres, &kafka, &registry, 10_000).await]
}

struct Drained {
    rate: f64,
    cpu_micros: f64,
    memory_mib: u64,
}

/// Watches a topic from its first new event to its last, and measures the process with this id meanwhile.
fn drain(kafka: &Kafka, topic: &str, pid: u32) -> Drained {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    let pid = pid.to_string();
    let end = || consumer.fetch_watermarks(topic, 0, Duration::from_secs(10)).map_or(0, |(_, end)| end);
    let before = end();
    let asked = Instant::now();
    while end() == before {
        assert!(asked.elapsed() < Duration::from_secs(120), "nothing comes to {topic}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let (started, at_start, cpu) = (Instant::now(), end(), cpu_seconds(&pid).unwrap());
    while end() - before < EVENTS {
        assert!(started.elapsed() < Duration::from_secs(180), "only {} events came to {topic}", end() - before);
        std::thread::sleep(Duration::from_millis(5));
    }
    let events = (end() - at_start) as f64;
    Drained {
        rate: events / started.elapsed().as_secs_f64(),
        cpu_micros: (cpu_seconds(&pid).unwrap() - cpu) * 1e6 / events,
        memory_mib: peak_memory_mib(&pid).unwrap_or_default(),
    }
}

async fn to_delta(source: &Pipeline) -> Line {
    let mut sink = source.beside();
    sink.start_command("sink", &[]);
    sink.wait_for_log("reading", Duration::from_secs(60)).await;
    let (started, pid) = (Instant::now(), sink.pid().to_string());
    let cpu = cpu_seconds(&pid).unwrap();
    let done = |status: &sooner::status::Status| {
        find(status, "public.rows").is_some_and(|table| table.events >= EVENTS as u64)
    };
    sink.wait_for("all events are in the lake", Duration::from_secs(120), done).await;
    let seconds = started.elapsed().as_secs_f64();
    Line {
        what: "(h) Kafka to Delta".to_owned(),
        ours: format!("{:.0} k events/s", EVENTS as f64 / seconds / 1e3),
        peer: "-".to_owned(),
        ratio: None,
        wanted: "-",
        notes: format!(
            "CPU per event {:.1} µs, peak memory {} MiB; to the nearest half second",
            (cpu_seconds(&pid).unwrap() - cpu) * 1e6 / EVENTS as f64,
            peak_memory_mib(&pid).unwrap_or_default()
        ),
    }
}

/// Measures the latency from the commit, by the event's `source.ts_us`, to a read-committed consumer on the same
/// machine.
async fn latency(postgres: &Postgres, kafka: &Kafka, registry: &Registry, rate: u64) -> Line {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("group.id", format!("bench-{rate}"))
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "latest")
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap();
    consumer.subscribe(&["ours.public.rows"]).unwrap();
    let joined = Instant::now();
    while consumer.assignment().unwrap().count() == 0 || joined.elapsed() < Duration::from_secs(5) {
        consumer.poll(Duration::from_millis(50));
    }
    let expected = (rate * LATENCY_SECONDS) as usize;
    let schema = |id: u32| registry.schema(id);
    let reading = std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&consumer, expected, schema));
        let handle = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| handle.block_on(load(postgres, rate)));
        reader.join().unwrap()
    });
    let mut waits = reading;
    waits.sort_by(f64::total_cmp);
    Line {
        what: format!("(g) commit to consumer at {rate} events/s"),
        ours: format!("p50 {:.0} ms, p99 {:.0} ms", percentile(&waits, 0.5), percentile(&waits, 0.99)),
        peer: "transaction_interval 20 ms".to_owned(),
        ratio: None,
        wanted: "p50 < 10 ms, p99 < 30 ms",
        notes: "to a read-committed consumer, by the commit's time".to_owned(),
    }
}

async fn load(postgres: &Postgres, rate: u64) {
    let mut client = postgres.connect("shop").await;
    let each = (rate / TRANSACTIONS_PER_SECOND).max(1);
    let started = Instant::now();
    for transaction in 0..LATENCY_SECONDS * TRANSACTIONS_PER_SECOND {
        let due = Duration::from_micros(transaction * 1_000_000 / TRANSACTIONS_PER_SECOND);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        let low = 10_000_000 + rate * 1_000_000 + transaction * each;
        let rows = format!("SELECT i, 1, 'row', now() FROM generate_series({low}, {}) AS i", low + each - 1);
        client.query(&format!("INSERT INTO rows {rows}")).await.unwrap();
    }
}

fn read(consumer: &BaseConsumer, expected: usize, schema: impl Fn(u32) -> Schema) -> Vec<f64> {
    let mut waits = Vec::with_capacity(expected);
    let mut known: Option<(u32, Schema)> = None;
    let started = Instant::now();
    while waits.len() < expected && started.elapsed() < Duration::from_secs(60) {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
        let (id, datum) = split_header(message.payload().unwrap()).unwrap();
        if known.as_ref().is_none_or(|(known, _)| *known != id) {
            known = Some((id, schema(id)));
        }
        let (_, schema) = known.as_ref().unwrap();
        waits.push((now - commit_micros(schema, datum)) as f64 / 1e3);
    }
    waits
}

fn commit_micros(envelope: &Schema, datum: &[u8]) -> i64 {
    let mut reader = Reader::new(datum);
    for field in &envelope.as_record().unwrap().fields {
        if field.name != "source" {
            field.schema.skip(&mut reader).unwrap();
            continue;
        }
        for field in &field.schema.as_record().unwrap().fields {
            if field.name == "ts_us" {
                reader.long().unwrap();
                return reader.long().unwrap();
            }
            field.schema.skip(&mut reader).unwrap();
        }
    }
    panic!("no commit time")
}
