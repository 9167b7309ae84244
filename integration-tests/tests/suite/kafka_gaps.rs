//! The source's position between database and topics: never confirmed too late on an idle server, never skipped over a
//! gap.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use integration_tests::between::{self, LIMIT};
use integration_tests::identity::Identity;
use integration_tests::pipeline::Pipeline;

const ADVANCE: &str = "SELECT pg_replication_slot_advance('sooner_shop', pg_current_wal_lsn())";

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_between_slot_and_topics_is_refused() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();

    // Somebody advances the slot over changes.
    postgres.sql("INSERT INTO a VALUES (101)").await;
    postgres.sql(ADVANCE).await;
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("somebody advanced or re-created the slot") && log.contains("start with --recopy"), "{log}");

    // Started over with the slot that is there, it has a position from the start on: before a table is copied, or
    // after.
    pipeline.start_with(&["--recopy"]);
    pipeline.wait_until_copied("public.a").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a"]);
    pipeline.stop();
    for statement in [ADVANCE, "SELECT pg_drop_replication_slot('sooner_shop')"] {
        postgres.sql("INSERT INTO a SELECT max(id) + 1 FROM a").await;
        postgres.sql(statement).await;
        pipeline.start();
        let log = pipeline.wait_for_end(LIMIT);
        let last = log.lines().last().unwrap();
        assert!(last.contains("advanced or re-created") || last.contains("the slot 'sooner_shop' is gone"), "{last}");
    }

    // Another pipeline's record is not taken for its own.
    let other = format!("brokers = \"{}\"\npartitions = 2", kafka.brokers());
    pipeline.reroute(&postgres, &other, &format!("url = \"{}\"", registry.url()));
    let path = pipeline.folder().join("sooner.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("[lake]", "slot = \"other\"\n[lake]");
    std::fs::write(&path, text).unwrap();
    postgres.sql("SELECT pg_create_logical_replication_slot('other', 'pgoutput')").await;
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("what is stored was read from the slot 'sooner_shop'"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_set_back_is_refused() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    // As a snapshot of the volume has it: the same system, the same timeline, the same slot.
    postgres.stop("fast");
    let saved = format!("{}.saved", postgres.data());
    let copy = |from: &str, to: &str| {
        let copied = std::process::Command::new("cp").args(["-a", from, to]).status().unwrap();
        assert!(copied.success());
    };
    copy(&postgres.data(), &saved);
    postgres.launch();
    pipeline.start();
    postgres.sql("INSERT INTO a SELECT generate_series(2, 20000)").await;
    pipeline.catch_up(&postgres).await;
    let end = postgres.end_lsn().await;
    pipeline.wait_for("it is confirmed", LIMIT, |status| status.confirmed_flush_lsn >= end).await;
    pipeline.stop();
    postgres.stop("fast");
    std::fs::remove_dir_all(postgres.data()).unwrap();
    copy(&saved, &postgres.data());
    postgres.launch();
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("the server was set back to an earlier state"), "{log}");
    std::fs::remove_dir_all(saved).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_never_holds_its_log() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "");
    source.start_command("source", &[]);
    source.wait_for_log("\"streaming\"", LIMIT).await;
    // Another database of the server is busy; of ours there is nothing to send.
    postgres.sql("CREATE DATABASE other").await;
    let mut other = postgres.connect("other").await;
    other.query("CREATE TABLE busy (v text)").await.unwrap();
    for _ in 0..2 {
        other
            .query("INSERT INTO busy SELECT repeat(md5(i::text), 100) FROM generate_series(1, 5000) AS i")
            .await
            .unwrap();
        let end = postgres.value("SELECT pg_current_wal_flush_lsn()").await;
        let passed =
            format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = 'sooner_shop'");
        let asked = Instant::now();
        while postgres.value(&passed).await != "t" {
            assert!(asked.elapsed() < LIMIT, "the slot still holds the log before {end}\n{}", source.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_hangs_or_is_none_stops_nothing_for_good() {
    let (postgres, kafka, registry) = between::start().await;
    // Who does not hear from the reader for so long ends its connection.
    postgres.sql("ALTER SYSTEM SET wal_sender_timeout = '4s'").await;
    postgres.sql("SELECT pg_reload_conf()").await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let walsender = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'sooner_shop'";
    let before = postgres.value(walsender).await;
    registry.signal("STOP");
    postgres.sql("ALTER TABLE a ADD COLUMN v text; INSERT INTO a VALUES (2, 'v')").await;
    pipeline.wait_for_log("the schema registry; trying again", LIMIT).await;
    assert_eq!(postgres.value(walsender).await, before, "the slot's feedback went on");
    registry.signal("CONT");
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a"]);
    assert_eq!(postgres.value(walsender).await, before);
    pipeline.stop();

    // What answers there is something else; nothing is lost by that.
    let identity = Identity::start(&[]);
    let brokers = format!("brokers = \"{}\"", kafka.brokers());
    pipeline.reroute(&postgres, &brokers, &format!("url = \"{}\"", identity.url()));
    postgres.sql("INSERT INTO a VALUES (3, 'w')").await;
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.lines().last().unwrap().contains("check url of [registry], and its path"), "{log}");
    pipeline.reroute(&postgres, &brokers, &format!("url = \"{}\"", registry.url()));
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_turns_from_direct_to_kafka() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100)").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    postgres.sql("DELETE FROM a WHERE id < 50").await;
    let brokers = format!("brokers = \"{}\"\npartitions = 3", kafka.brokers());
    pipeline.reroute(&postgres, &brokers, &format!("url = \"{}\"", registry.url()));
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("cannot tell what is on the topics already") && log.contains("--recopy"), "{log}");
    pipeline.start_with(&["--recopy"]);
    pipeline.wait_until_copied("public.a").await;
    postgres.sql("INSERT INTO a VALUES (1)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a"]);
}
