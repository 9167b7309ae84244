//! Following one row: from Postgres by stream and topic to its file in the lake, and what is said where it waits.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;
use std::time::Duration;

use integration_tests::pipeline::{Pipeline, find, of};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::topics::{Seen, read_topic};
use integration_tests::{between, python};
use serde_json::Value;
use sooner::status::Status;
use sooner_schemas::Lsn;
use sooner_schemas::wire::{split_header, write_long};

const LIMIT: Duration = Duration::from_secs(30);

/// Follows a row; returns what was found, and whether the command says that it is up to date.
fn trace(pipeline: &Pipeline, key: &str) -> (Value, bool) {
    let output = pipeline.output("trace", &["public.t", key, "--json"]);
    let code = output.status.code().unwrap();
    assert!(code == 0 || code == 3, "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["verdict"]["outcome"] == "up_to_date", code == 0, "{found:#}");
    (found, code == 0)
}

fn up_to_date(pipeline: &Pipeline, key: &str) -> Value {
    let (found, is_up_to_date) = trace(pipeline, key);
    assert!(is_up_to_date, "{found:#}\n{}", pipeline.log());
    found
}

fn waiting(pipeline: &Pipeline, key: &str, hop: &str) -> Value {
    let (found, _) = trace(pipeline, key);
    assert_eq!((&found["verdict"]["outcome"], &found["verdict"]["hop"]), (&"waiting".into(), &hop.into()), "{found:#}");
    found
}

fn lsn(value: &Value) -> Lsn {
    value.as_str().expect("an LSN").parse().expect("an LSN")
}

/// The row of a file at a position, as DuckDB reads it.
fn row_of_file(pipeline: &Pipeline, file: &str, row: &Value) -> String {
    let path = format!("{}/public/t/{file}", pipeline.lake);
    let sql =
        format!("SELECT tenant, id, v FROM read_parquet('{path}', file_row_number=true) WHERE file_row_number={row}");
    let script = format!("import duckdb; print(duckdb.sql(\"\"\"{sql}\"\"\").fetchall())");
    let output = Command::new(python()).args(["-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The entry of a version in the table's log.
fn log_entry(pipeline: &Pipeline, version: &Value) -> String {
    let version = version.as_u64().unwrap();
    std::fs::read_to_string(format!("{}/public/t/_delta_log/{version:020}.json", pipeline.lake)).unwrap()
}

async fn start() -> (Postgres, Pipeline) {
    let postgres = Postgres::start_with(Version::V15, &["wal_level=logical", "track_commit_timestamp=on"]).await;
    postgres.sql("CREATE TABLE t (tenant int, id int, v text, d date, PRIMARY KEY (id, tenant))").await;
    postgres.sql("INSERT INTO t SELECT i % 7, i, 'v' || i, '2020-01-01' FROM generate_series(1, 1000) AS i").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    (postgres, pipeline)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_followed_to_its_file_and_back_to_the_commit_that_brought_it_or_took_it_away() {
    let (postgres, pipeline) = start().await;
    postgres.sql("UPDATE t SET v = 'a secret', d = NULL WHERE id = 30").await;
    pipeline.catch_up(&postgres).await;
    let found = up_to_date(&pipeline, "tenant=2,id=30");
    let written = postgres.sql(
        "SELECT xmin, (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM t WHERE id = 30",
    );
    let written = written.await.remove(0);
    assert_eq!(found["postgres"]["xmin"].to_string(), written[0].clone().unwrap());
    assert_eq!(found["postgres"]["committed_micros"].to_string(), written[1].clone().unwrap());
    let lake = &found["lake"];
    let status = pipeline.status().unwrap();
    assert_eq!(lake["version"].as_u64(), of(&status, "public.t").table_version);
    let file = lake["file"].as_str().unwrap();
    assert_eq!(row_of_file(&pipeline, file, &lake["row"]), "[(2, 30, 'a secret')]");
    let entry = log_entry(&pipeline, &lake["commit"]["version"]);
    assert!(entry.lines().any(|line| line.starts_with("{\"add\"") && line.contains(file)), "{entry}");
    assert_eq!(lake["commit"]["operation"], "MERGE");
    assert_eq!(lake["differences"], Value::Array(Vec::new()));
    assert!(!found.to_string().contains("a secret"), "values are not shown unless they are asked for");
    let output = pipeline.output("trace", &["public.t", "30,2", "--values"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("v = a secret").count(), 2, "in Postgres and in the lake: {text}");
    assert!(text.starts_with("public.t id=30, tenant=2: the lake has the row as Postgres has it"), "{text}");
    // One that was copied came with the copy; the others of its file went one by one.
    let copied = up_to_date(&pipeline, "tenant=3,id=31");
    assert_eq!(copied["lake"]["commit"]["version"], 0);

    postgres.sql("DELETE FROM t WHERE id = 30").await;
    pipeline.catch_up(&postgres).await;
    let gone_with = of(&pipeline.status().unwrap(), "public.t").table_version;
    postgres.sql("INSERT INTO t VALUES (1, 5000, 'x', NULL); UPDATE t SET v = 'y' WHERE id < 10").await;
    pipeline.catch_up(&postgres).await;
    let gone = up_to_date(&pipeline, "tenant=2,id=30");
    assert_eq!((&gone["postgres"]["exists"], &gone["lake"]["exists"]), (&false.into(), &false.into()));
    assert_eq!(gone["lake"]["commit"]["version"].as_u64(), gone_with, "{gone:#}");
    let never = up_to_date(&pipeline, "tenant=9,id=30");
    assert!(never["lake"]["commit"].is_null() && never["lake"]["looked_back_to_version"] == 0, "{never:#}");

    for (key, why) in [("30", "has 1 value(s)"), ("a=1,id=30", "no value for tenant"), ("tenant=x,id=1", "\"x\"")] {
        let output = pipeline.output("trace", &["public.t", key]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(why) && said.contains("To do"), "{key}: {said}");
    }
    let output = pipeline.output("trace", &["public.none", "1"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Postgres has no table public.none"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_said_where_a_row_waits_and_what_lets_it_go_on() {
    let (postgres, mut pipeline) = start().await;
    assert!(pipeline.output("pause", &[]).status.success());
    pipeline.wait_for("a pause", LIMIT, |status| !status.paused.is_empty()).await;
    postgres.sql("UPDATE t SET v = 'new', d = NULL WHERE id = 30; DELETE FROM t WHERE id = 31").await;
    postgres.sql("INSERT INTO t VALUES (1, 5000, 'x', NULL)").await;
    let paused = waiting(&pipeline, "30,2", "stream");
    assert_eq!(paused["verdict"]["remedy"], "`sooner resume`");
    let mut differences: Vec<_> = paused["lake"]["differences"].as_array().unwrap().iter().collect();
    differences.sort_by_key(|name| name.to_string());
    assert_eq!(differences, ["d", "v"]);
    assert!(
        waiting(&pipeline, "31,3", "stream")["verdict"]["sentence"].as_str().unwrap().contains("gone from Postgres")
    );
    assert_eq!(waiting(&pipeline, "5000,1", "stream")["lake"]["exists"], false);
    // A row that nobody changed is what it was, but later changes will wait.
    let unchanged = up_to_date(&pipeline, "32,4");
    assert!(unchanged["verdict"]["sentence"].as_str().unwrap().contains("paused"), "{unchanged:#}");
    assert!(pipeline.output("resume", &[]).status.success());
    pipeline.catch_up(&postgres).await;
    for key in ["30,2", "31,3", "5000,1"] {
        up_to_date(&pipeline, key);
    }

    postgres.sql("INSERT INTO t VALUES (1, 6000, 'x', 'infinity')").await;
    let parks = |status: &Status| find(status, "public.t").is_some_and(|table| table.reason().is_some());
    pipeline.wait_for("a parked table", LIMIT, parks).await;
    postgres.sql("UPDATE t SET v = 'newer' WHERE id = 30").await;
    for key in ["30,2", "6000,1"] {
        let parked = waiting(&pipeline, key, "stream");
        assert!(parked["verdict"]["sentence"].as_str().unwrap().contains("parked"), "{parked:#}");
        assert!(parked["verdict"]["remedy"].as_str().unwrap().contains("sooner resume public.t"), "{parked:#}");
    }
    let odd = trace(&pipeline, "6000,1").0;
    assert!(odd["postgres"]["problem"]["reason"].as_str().unwrap().contains("'d'"), "{odd:#}");
    postgres.sql("DELETE FROM t WHERE id = 6000").await;
    pipeline.resume("public.t");
    pipeline.wait_until_streaming(&["public.t"]).await;
    pipeline.catch_up(&postgres).await;
    up_to_date(&pipeline, "30,2");

    pipeline.stop();
    postgres.sql("UPDATE t SET v = 'newest' WHERE id = 30").await;
    let stopped = waiting(&pipeline, "30,2", "stream");
    assert!(stopped["verdict"]["remedy"].as_str().unwrap().contains("sooner run"), "{stopped:#}");
    postgres.stop("fast");
    let (silent, _) = trace(&pipeline, "30,2");
    assert_eq!((&silent["verdict"]["outcome"], &silent["verdict"]["hop"]), (&"unknown".into(), &"postgres".into()));
    assert_eq!(silent["lake"]["exists"], true, "the lake is looked at all the same: {silent:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_changed_without_an_event_differs_and_is_put_right_by_what_is_said() {
    let (postgres, pipeline) = start().await;
    postgres.sql("CREATE EXTENSION pg_surgery").await;
    let place = postgres.value("SELECT ctid FROM t WHERE id = 30").await;
    // Takes the row away without a word in the log that a slot would hear of.
    postgres.sql(&format!("SELECT heap_force_kill('t'::regclass, ARRAY['{place}'::tid])")).await;
    let (found, _) = trace(&pipeline, "30,2");
    assert_eq!(
        (&found["verdict"]["outcome"], &found["verdict"]["hop"]),
        (&"differs".into(), &"lake".into()),
        "{found:#}"
    );
    assert!(lsn(&found["stream"]["complete_to_lsn"]) >= lsn(&found["postgres"]["server_lsn"]));
    assert!(found["verdict"]["remedy"].as_str().unwrap().starts_with("`sooner copy public.t`"), "{found:#}");
    let version = of(&pipeline.status().unwrap(), "public.t").table_version;
    assert!(pipeline.output("copy", &["public.t"]).status.success());
    let is_copied = |status: &Status| find(status, "public.t").is_some_and(|table| table.table_version > version);
    pipeline.wait_for("a copy", LIMIT, is_copied).await;
    pipeline.wait_until_streaming(&["public.t"]).await;
    pipeline.catch_up(&postgres).await;
    assert_eq!(up_to_date(&pipeline, "30,2")["lake"]["exists"], false);
}

/// The last event of a row, and the tombstone after it, as a plain consumer sees them.
fn last_of(seen: &[Seen], id: i64) -> (&Seen, Option<i64>) {
    let mut datum = Vec::new();
    write_long(&mut datum, id);
    let is_of_row = |message: &&Seen| split_header(&message.key).is_ok_and(|(_, key)| key == datum);
    let of_row: Vec<_> = seen.iter().filter(is_of_row).collect();
    let last = of_row.iter().rfind(|message| message.value.is_some()).expect("an event");
    (last, of_row.last().filter(|message| message.value.is_none()).map(|message| message.offset))
}

#[tokio::test(flavor = "multi_thread")]
async fn through_kafka_a_row_is_found_where_a_plain_consumer_sees_it() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, v text)").await;
    postgres.sql("INSERT INTO t SELECT i, 'v' FROM generate_series(1, 5000) AS i").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3");
    pipeline.start();
    pipeline.wait_until_copied("public.t").await;
    postgres.sql("UPDATE t SET v = 'w' WHERE id % 100 = 0; DELETE FROM t WHERE id = 7").await;
    pipeline.catch_up(&postgres).await;
    let seen = read_topic(&kafka, "shop.public.t");
    for (id, op) in [(1, "r"), (100, "u"), (4900, "u"), (4321, "r"), (7, "d")] {
        let found = up_to_date(&pipeline, &id.to_string());
        let (last, tombstone) = last_of(&seen, id);
        let of_topic = &found["kafka"];
        assert_eq!(of_topic["topic"], "shop.public.t");
        assert_eq!(
            (&of_topic["partition"], &of_topic["offset"]),
            (&last.partition.into(), &last.offset.into()),
            "{id}"
        );
        assert_eq!(of_topic["tombstone_offset"].as_i64(), tombstone);
        assert_eq!((lsn(&of_topic["commit_lsn"]).0, of_topic["ordinal"].as_u64().unwrap()), last.position());
        assert_eq!(of_topic["op"], op);
        assert!(
            of_topic["sink_next_offset"].as_i64() > Some(last.offset) && of_topic["problem"].is_null(),
            "{found:#}"
        );
        assert!(of_topic["event_micros"].as_i64().unwrap() > 0);
        assert_eq!(found["lake"]["exists"], id != 7);
    }

    assert!(pipeline.output("pause", &["--side", "sink"]).status.success());
    pipeline.wait_for("a pause", LIMIT, |status| !status.paused.is_empty()).await;
    postgres.sql("UPDATE t SET v = 'z' WHERE id = 100").await;
    let end = postgres.end_lsn().await;
    pipeline.wait_for("it is on the topics", LIMIT, |status| status.confirmed_flush_lsn >= end).await;
    let paused = waiting(&pipeline, "100", "stream");
    assert_eq!(paused["verdict"]["remedy"], "`sooner resume --side sink`");
    let seen = read_topic(&kafka, "shop.public.t");
    assert_eq!(paused["kafka"]["offset"], last_of(&seen, 100).0.offset);
    assert!(paused["kafka"]["problem"]["reason"].as_str().unwrap().contains("has not brought offset"), "{paused:#}");
    assert!(pipeline.output("resume", &["--side", "sink"]).status.success());
    pipeline.catch_up(&postgres).await;
    up_to_date(&pipeline, "100");

    kafka_is_not_needed(&postgres, pipeline, kafka);
}

/// A broker that does not answer is said to be silent, and the rest is told.
fn kafka_is_not_needed(_postgres: &Postgres, mut pipeline: Pipeline, mut kafka: integration_tests::kafka::Kafka) {
    pipeline.stop();
    kafka.kill();
    let found = up_to_date(&pipeline, "100");
    assert!(!found["kafka"]["problem"].is_null(), "{found:#}");
}
