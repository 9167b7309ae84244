//! The same path through a real broker and a real schema registry.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use integration_tests::between;
use integration_tests::free_port;
use integration_tests::kafka::Kafka;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::readers::{Reader, assert_equal, eventually_equal, wait_until_equal};
use sooner::status::Status;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_flows_through_topics_into_the_lake() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(load::SCHEMA).await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3");
    pipeline.start();
    let load = Load::start(postgres.url(), 11);
    pipeline.catch_up(&postgres).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.stop().await;
    pipeline.catch_up(&postgres).await;
    for reader in [Reader::DuckDb, Reader::Polars] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &load::TABLES);
    }
    no_lag_is_left(&kafka);
    assert!(pipeline.stop() < Duration::from_secs(10));
    no_lag_is_left(&kafka);
}

/// Tools that subtract offsets come to zero where all has been read, although the ends of transactions take offsets.
fn no_lag_is_left(kafka: &Kafka) {
    let asked = Instant::now();
    loop {
        let lags = kafka.group_lags("sooner-shop");
        let is_read = |lag: &Option<i64>| lag.is_none_or(|lag| lag == 0);
        let written = lags.values().flatten().count();
        if written >= load::TABLES.len() && lags.values().all(is_read) {
            return;
        }
        assert!(asked.elapsed() < Duration::from_secs(30), "{lags:?}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truncates_and_changes_of_shape_pass_through_topics() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE TABLE other (id integer PRIMARY KEY)").await;
    postgres.sql("INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 500) AS i").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let equal = |tables: &[&str]| pipeline.assert_equal(&postgres, tables);
    equal(&["public.t", "public.other"]);

    // Rows from before and after a truncate lie in all partitions.
    postgres.sql("INSERT INTO t SELECT i, 'gone' FROM generate_series(501, 900) AS i").await;
    postgres.sql("TRUNCATE t").await;
    postgres.sql("INSERT INTO t SELECT i, 'kept' FROM generate_series(700, 800) AS i").await;
    postgres
        .sql("BEGIN; INSERT INTO t VALUES (1, 'x'); TRUNCATE t, other; INSERT INTO t VALUES (2, 'y'), (3, 'z'); COMMIT")
        .await;
    pipeline.catch_up(&postgres).await;
    equal(&["public.t", "public.other"]);

    // A column that older rows have no value in flows through; one that they have a value in brings all rows again.
    postgres.sql("ALTER TABLE t ADD COLUMN a integer; UPDATE t SET a = id WHERE id = 2").await;
    pipeline.catch_up(&postgres).await;
    equal(&["public.t"]);
    postgres.sql("ALTER TABLE t ADD COLUMN b float DEFAULT random(); INSERT INTO t VALUES (4, 'w', 1, 2)").await;
    pipeline.wait_for_log("is copied again", Duration::from_secs(60)).await;
    pipeline.wait_until_streaming(&["public.t"]).await;
    postgres.sql("INSERT INTO other VALUES (100)").await;
    pipeline.catch_up(&postgres).await;
    equal(&["public.t", "public.other"]);

    // The default makes a required column one that the registry, which asks for backward compatibility, lets in.
    postgres.sql("ALTER TABLE t ADD COLUMN c jsonb NOT NULL DEFAULT '{}'; INSERT INTO t VALUES (6, 'w', 1, 2)").await;
    pipeline.catch_up(&postgres).await;
    postgres.sql("ALTER TABLE t ALTER c SET DEFAULT '[]', ALTER b DROP DEFAULT").await;
    postgres.sql("INSERT INTO t VALUES (7, 'w', NULL, NULL); UPDATE t SET id = 8 WHERE id = 6").await;
    pipeline.catch_up(&postgres).await;
    equal(&["public.t", "public.other"]);

    // A dropped column goes by its number.
    postgres.sql("ALTER TABLE t DROP COLUMN v; INSERT INTO t VALUES (5, 5, 5); INSERT INTO other VALUES (1)").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.t", "public.other"], || pipeline.log()).await;
    pipeline.wait_until_streaming(&["public.t"]).await;
    postgres.sql("DELETE FROM t WHERE id = 2").await;
    pipeline.catch_up(&postgres).await;
    equal(&["public.t", "public.other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_least_once_is_applied_once() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(load::SCHEMA).await;
    let settings = "partitions = 3\ndelivery = \"at-least-once\"\ngroup_protocol = \"consumer\"";
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    let mut sink = source.beside();
    sink.start_command("sink", &[]);
    source.start_command("source", &[]);
    source.wait_for_log("\"streaming\"", Duration::from_secs(60)).await;
    let load = Load::start(postgres.url(), 22);
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        source.kill();
        source.start_command("source", &[]);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.stop().await;
    sink.catch_up(&postgres).await;
    // A member that was missed for a while may not hold all partitions at this moment.
    wait_until_equal(&postgres, &sink.lake, || sink.log()).await;
    sink.assert_all_stream();
    sink.assert_equal(&postgres, &load::TABLES);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_a_whole_table_is_applied_once() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id integer PRIMARY KEY)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3");
    let mut sink = source.beside();
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    sink.catch_up(&postgres).await;
    // The start of the copy, and then a truncate, stand in all partitions; a row only in its own.
    for (statement, row) in [("SELECT 1", 1), ("TRUNCATE t", 2), ("DELETE FROM t", 3)] {
        postgres.sql(statement).await;
        postgres.sql(&format!("INSERT INTO t VALUES ({row})")).await;
        sink.catch_up(&postgres).await;
        sink.kill();
        sink.start_command("sink", &[]);
        postgres.sql(&format!("INSERT INTO t SELECT generate_series({row}00, {row}99)")).await;
        sink.catch_up(&postgres).await;
        sink.assert_equal(&postgres, &["public.t"]);
        postgres.sql(&format!("DELETE FROM t WHERE id > {row}")).await;
        sink.catch_up(&postgres).await;
    }
    sink.assert_all_stream();
    sink.assert_equal(&postgres, &["public.t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_large_tables_pass_while_others_have_begun_and_have_no_row_yet() {
    let (postgres, kafka, registry) = between::start().await;
    for (table, rows, letters) in [(0, 3, 1), (1, 0, 1), (2, 200_000, 1), (3, 300_000, 1), (4, 0, 1), (5, 20_000, 9)] {
        postgres.sql(&format!("CREATE TABLE t{table} (id integer PRIMARY KEY, v text)")).await;
        let filled =
            format!("INSERT INTO t{table} SELECT i, repeat('v', {letters}) FROM generate_series(1, {rows}) AS i");
        postgres.sql(&filled).await;
    }
    postgres.sql("ANALYZE").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let tables: Vec<_> = (0..6).map(|table| format!("public.t{table}")).collect();
    pipeline.assert_equal(&postgres, &tables.iter().map(String::as_str).collect::<Vec<_>>());
}

/// A sink of the pipeline, with a listener of its own.
fn sink(source: &Pipeline, protocol: &str) -> (Pipeline, String) {
    let mut sink = source.beside();
    let address = format!("127.0.0.1:{}", free_port());
    sink.configure("[kafka]", &format!("group = \"{protocol}\"\ngroup_protocol = \"{protocol}\""));
    sink.append_settings(&format!("[http]\nlisten = \"{address}\""));
    sink.start_command("sink", &[]);
    (sink, format!("http://{address}/readyz"))
}

/// What a readiness probe is answered; empty while nobody is ready.
async fn readiness(url: &str) -> String {
    let Ok(answer) = reqwest::get(url).await else { return String::new() };
    let is_ready = answer.status().is_success();
    answer.text().await.ok().filter(|_| is_ready).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_without_partitions_is_ready_and_takes_over() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 1");
    source.start_command("source", &[]);
    for (number, protocol) in ["consumer", "classic"].into_iter().enumerate() {
        let (first, second) = (sink(&source, protocol), sink(&source, protocol));
        let asked = Instant::now();
        let (mut reads, waits) = loop {
            match (readiness(&first.1).await.as_str(), readiness(&second.1).await.as_str()) {
                ("ok\n", "standby: waits for partitions\n") => break (first.0, second.0),
                ("standby: waits for partitions\n", "ok\n") => break (second.0, first.0),
                told if asked.elapsed() > between::LIMIT => {
                    panic!("{protocol}: {told:?}\n{}\n{}", first.0.log(), second.0.log())
                }
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        };
        let stands_by = |status: &Status| status.standby && status.trouble.is_none();
        waits.wait_for("its status", between::LIMIT, stands_by).await;
        reads.kill();
        postgres.sql(&format!("INSERT INTO t VALUES ({})", number + 2)).await;
        waits.wait_for("the other's partition", Duration::from_secs(90), |status| !status.standby).await;
        eventually_equal(&postgres, &waits.lake, &["public.t"], || waits.log()).await;
    }
}
