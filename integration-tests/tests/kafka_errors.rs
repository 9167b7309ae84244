//! What goes wrong between source and lake, and what the user is told; nothing is lost by it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal};
use integration_tests::registry::Registry;
use sooner::status::Status;
use sooner_api::TablePhase;

const LIMIT: Duration = Duration::from_secs(60);

async fn stack() -> (Postgres, Kafka, Registry) {
    (Postgres::start(Version::V15).await, Kafka::start(), Registry::start())
}

fn reason(status: &Status, table: &str) -> Option<String> {
    let table = status.tables.get(table)?;
    (table.phase == TablePhase::Parked).then(|| table.reason.clone()).flatten()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_large_and_an_incompatible_schema_park_their_tables_only() {
    let (postgres, kafka, registry) = stack().await;
    postgres.sql("CREATE TABLE large (id integer PRIMARY KEY, body text)").await;
    postgres.sql("CREATE TABLE changed (id integer PRIMARY KEY, n integer)").await;
    postgres.sql("CREATE TABLE fine (id integer PRIMARY KEY, v text)").await;
    postgres.sql("INSERT INTO large VALUES (1, 'small'); INSERT INTO changed VALUES (1, 1); INSERT INTO fine VALUES (1, 'a')").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    pipeline.start();
    pipeline.catch_up(&postgres).await;

    postgres.sql("INSERT INTO large SELECT 7, string_agg(md5(i::text), '') FROM generate_series(1, 50000) AS i").await;
    postgres.sql("ALTER TABLE changed ALTER n TYPE text USING n::text; INSERT INTO changed VALUES (2, 'two')").await;
    postgres.sql("INSERT INTO fine VALUES (2, 'b')").await;
    let parked =
        |status: &Status| reason(status, "public.large").is_some() && reason(status, "public.changed").is_some();
    let status = pipeline.wait_for("both are parked", LIMIT, parked).await;
    let large = reason(&status, "public.large").unwrap();
    assert!(large.contains("id=7") && large.contains("max.message.bytes"), "{large}");
    let changed = reason(&status, "public.changed").unwrap();
    assert!(changed.contains("'n' was int") && changed.contains("shop.public.changed-value"), "{changed}");
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.fine"]);

    // Both are mended as the messages say, and resumed.
    kafka.alter_topic("shop.public.large", "max.message.bytes=4194304");
    // This registry asks its global rule where a subject has none.
    let relaxed = registry.ask("PUT", "/config", r#"{"compatibility":"NONE"}"#);
    assert!(relaxed.contains("NONE"), "{relaxed}");
    for table in ["public.large", "public.changed"] {
        assert!(pipeline.output("resume", &[table]).status.success());
    }
    let streaming = |status: &Status| {
        ["public.large", "public.changed"].iter().all(|table| {
            status.tables[*table].phase == TablePhase::Streaming
                && status.tables[*table].source_phase == Some(TablePhase::Streaming)
        })
    };
    pipeline.wait_for("both stream again", LIMIT, streaming).await;
    postgres.sql("INSERT INTO changed VALUES (3, 'three'); UPDATE large SET body = 'short' WHERE id = 1").await;
    pipeline.catch_up(&postgres).await;
    let tables = ["public.fine", "public.large", "public.changed"];
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &tables);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_a_topic_parks_its_table_with_the_place_named() {
    let (postgres, kafka, registry) = stack().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); CREATE TABLE b (id integer PRIMARY KEY)").await;
    postgres.sql("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    kafka.produce("shop.public.a", "this is no Avro");
    postgres.sql("INSERT INTO a VALUES (2); INSERT INTO b VALUES (2)").await;
    let parked = |status: &Status| reason(status, "public.a").is_some();
    let status = pipeline.wait_for("it is parked", LIMIT, parked).await;
    let why = reason(&status, "public.a").unwrap();
    assert!(why.contains("shop.public.a/0 offset ") && why.contains("Confluent header"), "{why}");
    postgres.sql("INSERT INTO b VALUES (3)").await;
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.b"]);
    // The topic's rows come anew, behind the garbage.
    assert!(pipeline.output("resume", &["public.a"]).status.success());
    let streaming = |status: &Status| status.tables["public.a"].phase == TablePhase::Streaming;
    pipeline.wait_for("it goes on", LIMIT, streaming).await;
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.a", "public.b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_not_what_they_were_are_refused() {
    let (postgres, kafka, registry) = stack().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();

    kafka.topics(&["--alter", "--topic", "shop.public.a", "--partitions", "3"]);
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(
        log.contains("another number of partitions") && log.contains("it has 3, and events were written to 2"),
        "{log}"
    );

    kafka.topics(&["--delete", "--topic", "shop.public.a"]);
    kafka.topics(&["--create", "--topic", "shop.public.a", "--partitions", "2"]);
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("deleted and created again") && log.contains("ends at offset 0"), "{log}");

    kafka.alter_topic("sooner.shop.progress", "cleanup.policy=delete");
    pipeline.start_command("source", &[]);
    let log = pipeline.wait_for_end(LIMIT);
    assert!(
        log.contains("its cleanup.policy is 'delete'") && log.contains("--add-config cleanup.policy=compact"),
        "{log}"
    );

    kafka.topics(&["--delete", "--topic", "sooner.shop.progress"]);
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("the progress topic sooner.shop.progress is missing, and the slot"), "{log}");

    // What all of these messages say: start over, from the source.
    pipeline.start_with(&["--recopy"]);
    pipeline.catch_up(&postgres).await;
    postgres.sql("DELETE FROM a WHERE id < 10").await;
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_retention_removed_before_they_were_read_are_missed_aloud() {
    let (postgres, kafka, registry) = stack().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "");
    let mut sink = source.beside();
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    sink.catch_up(&postgres).await;
    sink.stop();
    postgres.sql("INSERT INTO a SELECT generate_series(101, 200)").await;
    let end = postgres.end_lsn().await;
    source.wait_for("written", LIMIT, |status| status.confirmed_flush_lsn >= end).await;
    kafka.delete_records("shop.public.a", 150);
    sink.start_command("sink", &[]);
    let parked = |status: &Status| reason(status, "public.a").is_some();
    let status = sink.wait_for("it is parked", LIMIT, parked).await;
    let why = reason(&status, "public.a").unwrap();
    assert!(why.contains("shop.public.a/0 starts at offset 150") && why.contains("retention removed"), "{why}");
    assert!(source.output("resume", &["public.a"]).status.success());
    let streaming = |status: &Status| status.tables["public.a"].phase == TablePhase::Streaming;
    sink.wait_for("it goes on", LIMIT, streaming).await;
    sink.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &sink.lake, None, &["public.a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_is_between_source_and_lake() {
    let (postgres, mut kafka, registry) = stack().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    let before = pipeline.output("check", &[]);
    let text = String::from_utf8_lossy(&before.stdout).into_owned();
    assert!(before.status.success(), "{text}");
    for expected in ["1 broker(s)", "does not exist yet; the source creates it", "compatibility is BACKWARD"] {
        assert!(text.contains(expected), "'{expected}' is not in:\n{text}");
    }
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let text = String::from_utf8_lossy(&pipeline.output("check", &[]).stdout).into_owned();
    for expected in ["shop.public.a", "2 partition(s)", "the topics are complete to"] {
        assert!(text.contains(expected), "'{expected}' is not in:\n{text}");
    }
    pipeline.stop();
    kafka.kill();
    let after = pipeline.output("check", &[]);
    let text = String::from_utf8_lossy(&after.stdout).into_owned();
    assert!(!after.status.success());
    assert!(text.contains("cannot reach Kafka at") && text.contains("check brokers of [kafka]"), "{text}");
}

#[test]
fn properties_that_would_break_a_guarantee_are_refused_by_name() {
    let text = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[lake]\nurl = '/l'\n[registry]\nurl = 'http://r'\n\
                [kafka]\nbrokers = 'b'\n[kafka.properties]\n'enable.idempotence' = false\n'fetch.min.bytes' = 1\n\
                'isolation.level' = 'read_uncommitted'\n'sasl.password' = 'hunter2'\n";
    let problems = sooner::config::Config::parse(text, std::path::Path::new(".")).unwrap_err();
    let all = problems.join("\n");
    assert_eq!(problems.len(), 3, "{all}");
    for expected in
        ["kafka.properties.enable.idempotence: is refused: events would be lost", "kafka.properties.isolation.level"]
    {
        assert!(all.contains(expected), "{all}");
    }
    assert!(!all.contains("hunter2"), "{all}");
}
