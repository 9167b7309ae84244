//! Names that a database allows and a path does not take as they are: every table is found, by sooner and by readers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;
use std::time::Duration;

use integration_tests::between;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal};
use sooner::status::{Status, TableStatus};
use sooner_postgres::client::quote_name;

const NAMES: [&str; 18] = [
    "a#b",
    "p%41",
    "t~",
    "q?",
    "s*r",
    "[x]",
    "c^d",
    "e\"f",
    "g\\h",
    "sl/ash",
    "MiXed",
    "mixed",
    "ünï €",
    "dot.ted",
    "-dash",
    "a-b",
    "_under",
    "plain",
];

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_any_name_are_read_by_everybody_and_found_again_after_a_restart() {
    let postgres = Postgres::start(Version::V15).await;
    let each = |statement: &dyn Fn(String) -> String| {
        NAMES.iter().fold(String::new(), |mut sql, name| {
            let _ = write!(sql, "{};", statement(quote_name(name)));
            sql
        })
    };
    postgres.sql(&each(&|name| format!("CREATE TABLE {name} (id int PRIMARY KEY, v text)"))).await;
    postgres
        .sql(&each(&|name| format!("INSERT INTO {name} SELECT i, 'row ' || i FROM generate_series(1, 20) i")))
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql(&each(&|name| format!("UPDATE {name} SET v = 'changed' WHERE id < 5"))).await;
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let copied = pipeline.log().matches("\"message\":\"copying\"").count();
    postgres.sql(&each(&|name| format!("DELETE FROM {name} WHERE id > 15"))).await;
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert_eq!(pipeline.log().matches("\"message\":\"copying\"").count(), copied, "no table is copied again");
    let optimized = pipeline.output("optimize", &[]);
    let said = String::from_utf8_lossy(&optimized.stdout).into_owned();
    assert!(optimized.status.success() && NAMES.iter().all(|name| said.contains(name)), "{optimized:?}");
    let tables: Vec<String> = NAMES.iter().map(|name| format!("public.{name}")).collect();
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    for reader in [Reader::DuckDb, Reader::Polars, Reader::Spark] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &tables);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_tables_that_would_share_a_topic_or_a_subject_one_waits_and_says_how_they_are_parted() {
    let (postgres, kafka, registry) = between::start().await;
    let tables = ["a.b", "a_b", "x-y", "x_y", "taken.1", "plain"];
    for table in tables {
        let name = quote_name(table);
        postgres.sql(&format!("CREATE TABLE {name} (id int PRIMARY KEY); INSERT INTO {name} VALUES (1), (2)")).await;
    }
    postgres.sql("CREATE SCHEMA \"s.1\"; CREATE TABLE \"s.1\".t (id int PRIMARY KEY)").await;
    kafka.topics(&["--create", "--topic", "shop.public.taken_1"]);
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.configure("[registry]", "subjects = \"record\"");
    pipeline.start();
    let waiting = ["public.a_b", "public.x_y", "public.taken.1", "\"s.1\".t"];
    let remedies = |status: &Status| {
        let waits = |table: &&str| find(status, table).and_then(TableStatus::reason);
        waiting.iter().filter_map(waits).filter(|why| why.contains("[[table]]")).count()
    };
    let limit = Duration::from_secs(60);
    pipeline.wait_for("tables that wait", limit, |status| remedies(status) == waiting.len()).await;
    postgres.sql("INSERT INTO \"x-y\" VALUES (3); INSERT INTO plain VALUES (3)").await;
    let others = ["public.a.b", "public.x-y", "public.plain"];
    eventually_equal(&postgres, &pipeline.lake, &others, || pipeline.log()).await;

    pipeline.stop();
    for (number, table) in waiting.iter().enumerate() {
        pipeline.append_settings(&format!("[[table]]\nmatch = '{table}'\ntopic = \"shop.own.{number}\"\n"));
    }
    postgres.sql("INSERT INTO a_b VALUES (3); INSERT INTO \"a.b\" VALUES (4)").await;
    pipeline.start();
    let all: Vec<_> = others.iter().chain(&waiting[..3]).copied().collect();
    eventually_equal(&postgres, &pipeline.lake, &all, || pipeline.log()).await;
    pipeline.assert_all_stream();
}
