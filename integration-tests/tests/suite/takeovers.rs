//! A sink reads a share of a topic before anybody has read the rest: for as long as a member that has died is not
//! missed yet, or while others join.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use integration_tests::between;
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::readers::eventually_equal;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sooner::status::Status;

const LIMIT: Duration = Duration::from_secs(60);

/// A member of the sinks' group that keeps half of a topic's partitions to itself, and never gets on with them.
struct IdleMember {
    leaves: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl IdleMember {
    fn join(kafka: &Kafka, topic: &str) -> IdleMember {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka.brokers())
            .set("group.id", "sooner-shop")
            .set("group.protocol", "consumer")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        consumer.subscribe(&[topic]).unwrap();
        let assigned = || consumer.assignment().map_or(0, |held| held.count());
        let asked = Instant::now();
        while assigned() < 2 {
            assert!(asked.elapsed() < LIMIT, "{} partitions were assigned", assigned());
            consumer.poll(Duration::from_millis(100));
        }
        let leaves = Arc::new(AtomicBool::new(false));
        let told = leaves.clone();
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                consumer.poll(Duration::from_millis(100));
            }
        });
        IdleMember { leaves, thread }
    }

    fn leave(self) {
        self.leaves.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// A table `t` of 400 rows is copied; then this happens to it, after which the source has written so many copies; only
/// then do sinks begin, one of which dies.
async fn take_over(statements: &str, copies: usize) {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    postgres.sql("INSERT INTO t SELECT i, i FROM generate_series(1, 400) i").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    let mut sink = source.beside();
    source.start_command("source", &[]);
    source.wait_for_log("\"copied\"", LIMIT).await;
    postgres.sql(statements).await;
    source.wait_for_log_times("\"copied\"", copies, LIMIT).await;

    let other = IdleMember::join(&kafka, "shop.public.t");
    sink.start_command("sink", &[]);
    sink.wait_for_log("partitions_unordered", LIMIT).await;
    other.leave();
    let tables = ["public.t"];
    eventually_equal(&postgres, &sink.lake, &tables, || sink.log()).await;
    let goes_on = |status: &Status| status.tables.values().all(|table| table.reason().is_none());
    sink.wait_for("no table waits for a person", LIMIT, goes_on).await;
    postgres.sql("TRUNCATE t; INSERT INTO t VALUES (1, 1)").await;
    eventually_equal(&postgres, &sink.lake, &tables, || sink.log()).await;
    source.stop();
    sink.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_is_lost_of_a_table_that_was_copied_again_before_its_topic_was_read() {
    take_over("ALTER TABLE t ALTER n TYPE bigint", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_of_one_that_was_truncated() {
    take_over("TRUNCATE t; INSERT INTO t SELECT i, i FROM generate_series(301, 700) i", 1).await;
}
