//! The slot: how much log it keeps, what becomes of it when it is lost, and servers that take each other's place.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::between;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal};
use integration_tests::s3::S3;
use sooner_schemas::Lsn;

const LIMIT: Duration = Duration::from_secs(60);
const TABLE: &str =
    "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 9) i";

const BACKLOG: &str = "INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1000, 201000) i";

/// Writes so many MiB of log that is none of the pipeline's.
async fn write_log(postgres: &Postgres, mebibytes: u32) {
    postgres.sql("CREATE TABLE IF NOT EXISTS other.filler (v text)").await;
    for _ in 0..mebibytes {
        postgres.sql("INSERT INTO other.filler SELECT repeat('x', 1000) FROM generate_series(1, 1000)").await;
    }
}

/// A server with a table for the pipeline, and a schema that is none of its.
async fn server(version: Version, settings: &[&str]) -> Postgres {
    let postgres = Postgres::start_with(version, &[&["wal_level=logical"], settings].concat()).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE SCHEMA other").await;
    postgres
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_keeps_too_much_log_is_given_up_where_configured_and_all_is_copied_again() {
    let (postgres, s3) = (server(Version::V15, &[]).await, S3::start());
    let mut pipeline = Pipeline::s3(&postgres, &s3.endpoint());
    pipeline.configure_source("tables = [\"public.*\"]\nmax_retained_wal = \"32MiB\"\nwhen_slot_is_lost = \"copy\"");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    s3.signal("STOP");
    postgres.sql("UPDATE t SET a = 'y'").await;
    write_log(&postgres, 20).await;
    pipeline.wait_for_log("more than half of the log", LIMIT).await;
    let is_shown = |status: &sooner::status::Status| status.slot.as_ref().is_some_and(|s| s.retained_bytes > 16 << 20);
    pipeline.wait_for("the log that is kept is shown", LIMIT, is_shown).await;
    write_log(&postgres, 20).await;
    pipeline.wait_for_log("gave the slot up", LIMIT).await;
    assert_eq!(postgres.value("SELECT count(*) FROM pg_replication_slots").await, "0", "the database is safe");
    s3.signal("CONT");
    pipeline.wait_for_log("all tables are copied again", Duration::from_secs(120)).await;
    pipeline.wait_until_copied("public.t").await;
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, Some(s3.port), &["public.t"]);
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_replaced_where_configured() {
    let sizes = ["max_slot_wal_keep_size=1MB", "max_wal_size=32MB", "min_wal_size=32MB"];
    let postgres = server(Version::V15, &sizes).await;
    let settings = "tables = [\"public.*\"]\nwhen_slot_is_lost = \"copy\"";
    let mut pipeline = Pipeline::local_with(&postgres, settings);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    postgres.sql("UPDATE t SET a = 'unread'; DELETE FROM t WHERE id = 3").await;
    for _ in 0..6 {
        write_log(&postgres, 2).await;
        postgres.sql("SELECT pg_switch_wal()").await;
        postgres.sql("CHECKPOINT").await;
    }
    assert_eq!(postgres.value("SELECT wal_status FROM pg_replication_slots").await, "lost");
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &["public.t"], || pipeline.log()).await;
    // And one that somebody has dropped.
    pipeline.stop();
    postgres.sql("UPDATE t SET a = 'unread, too'").await;
    postgres.sql("SELECT pg_drop_replication_slot('sooner_shop')").await;
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &["public.t"], || pipeline.log()).await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_ends_while_the_lake_is_away() {
    // A server that never gives up a reader by itself, and a backlog that fills all buffers on the way.
    let (postgres, s3) = (server(Version::V15, &["wal_sender_timeout=0"]).await, S3::start());
    let mut pipeline = Pipeline::s3(&postgres, &s3.endpoint());
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    for (backlog, id) in [("UPDATE t SET a = 'y'", 10), (BACKLOG, 11)] {
        s3.signal("STOP");
        postgres.sql(backlog).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        // It fails if the server has not ended within a minute.
        postgres.stop("fast");
        postgres.launch();
        s3.signal("CONT");
        postgres.sql(&format!("INSERT INTO t VALUES ({id}, 'z')")).await;
        pipeline.catch_up(&postgres).await;
    }
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, Some(s3.port), &["public.t"]);
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_leaves_the_slot_at_what_is_in_the_lake() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(TABLE).await;
    for mut pipeline in [Pipeline::local(&postgres), Pipeline::kafka(&postgres, &kafka, &registry, "")] {
        pipeline.start();
        pipeline.catch_up(&postgres).await;
        postgres.sql("UPDATE t SET a = a || 'y'").await;
        let written = postgres.end_lsn().await;
        pipeline.catch_up(&postgres).await;
        pipeline.stop();
        let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE NOT active";
        let confirmed: Lsn = postgres.value(slot).await.parse().unwrap();
        pipeline.assert_equal(&postgres, &["public.t"]);
        assert!(confirmed >= written, "confirmed to {confirmed}, written to {written}");
        assert!(pipeline.output("teardown", &[]).status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_with_the_slot_goes_on() {
    let mut primary = server(Version::V18, &[]).await;
    primary.sql("SELECT pg_create_physical_replication_slot('standby', true)").await;
    let mut pipeline = Pipeline::local_with(&primary, "tables = [\"public.*\"]\nfailover = true");
    pipeline.start();
    pipeline.catch_up(&primary).await;
    let settings = ["wal_level=logical", "hot_standby_feedback=on", "sync_replication_slots=on"];
    let mut standby = primary.standby(&settings).await;
    primary.sql("ALTER SYSTEM SET synchronized_standby_slots = 'standby'").await;
    primary.sql("SELECT pg_reload_conf()").await;
    let ready =
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'sooner_shop' AND synced AND NOT temporary";
    while standby.value(ready).await != "1" {
        primary.sql("UPDATE t SET a = a || 'z'").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    primary.sql("UPDATE t SET a = 'before'").await;
    pipeline.catch_up(&primary).await;
    pipeline.stop();
    primary.sql("UPDATE t SET a = 'meanwhile' WHERE id < 5").await;
    let written = primary.end_lsn().await;
    let replayed = "SELECT pg_last_wal_replay_lsn()";
    while standby.value(replayed).await.parse::<Lsn>().unwrap() < written {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    standby.take_over(&primary);
    std::mem::swap(&mut primary, &mut standby);
    primary.sql("ALTER SYSTEM RESET synchronized_standby_slots").await;
    primary.sql("SELECT pg_reload_conf()").await;
    primary.sql("INSERT INTO t VALUES (10, 'after')").await;
    pipeline.start();
    pipeline.catch_up(&primary).await;
    pipeline.assert_equal(&primary, &["public.t"]);
    assert!(!pipeline.log().contains("copied again"), "{}", pipeline.log());
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_made_by_pg_upgrade_goes_on() {
    let postgres = server(Version::V18, &[]).await;
    let mut pipeline = Pipeline::local_with(&postgres, "tables = [\"public.*\"]");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("UPDATE t SET a = 'before'").await;
    pipeline.catch_up(&postgres).await;
    // What it writes while it ends is confirmed, too, which pg_upgrade asks for.
    postgres.stop("fast");
    pipeline.stop();
    postgres.upgrade();
    postgres.sql("INSERT INTO t VALUES (10, 'after'); DELETE FROM t WHERE id = 2").await;
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t"]);
    assert!(!pipeline.log().contains("copied again"), "{}", pipeline.log());
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_end_slots_are_warned_of_and_named_when_they_did() {
    let limits = ["max_slot_wal_keep_size=640MB", "idle_replication_slot_timeout=1s"];
    let postgres = server(Version::V18, &limits).await;
    let mut pipeline = Pipeline::local_with(&postgres, "tables = [\"public.*\"]");
    let checked = pipeline.output("check", &[]);
    let said = String::from_utf8_lossy(&checked.stdout);
    for expected in ["beyond 640MB (max_slot_wal_keep_size) the slot is lost", "stopped for 1s (idle_replication"] {
        assert!(said.contains(expected), "{said}");
    }
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    // In use, it is not idle, however quiet the tables are.
    tokio::time::sleep(Duration::from_secs(3)).await;
    postgres.sql("CHECKPOINT").await;
    assert!(pipeline.is_running());
    pipeline.stop();
    tokio::time::sleep(Duration::from_secs(2)).await;
    postgres.sql("CHECKPOINT").await;
    postgres.sql("UPDATE t SET a = 'unread'").await;
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("longer than idle_replication_slot_timeout") && log.contains("--recopy"), "{log}");
    pipeline.configure_source("when_slot_is_lost = \"copy\"");
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &["public.t"], || pipeline.log()).await;
    pipeline.stop();
}
