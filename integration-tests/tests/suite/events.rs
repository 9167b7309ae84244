//! `sooner events`: each change of a schema, each copy and each table that needs a person is told, with what was done.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::eventually_equal;
use sooner::journal::{Entry, Kind};
use sooner::status::Status;

/// What `sooner events --json` prints.
fn events(pipeline: &Pipeline, arguments: &[&str]) -> Vec<Entry> {
    let output = pipeline.output("events", &[&["--json"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Kinds of all entries, with those of a table, but for its copies.
fn told(pipeline: &Pipeline, table: &str) -> Vec<(Kind, String, String)> {
    let entries = events(pipeline, &["--table", table]).into_iter();
    entries.map(|entry| (entry.kind, entry.what, entry.action)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happened_is_told_even_by_a_process_that_was_killed() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, a text, b text); INSERT INTO t VALUES (1, 'a', 'b')").await;
    postgres.sql("CREATE TABLE d (id int PRIMARY KEY, v date); INSERT INTO d VALUES (1, '2020-02-02')").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let all = ["public.t", "public.d"];
    for statement in [
        "ALTER TABLE t ADD COLUMN c int",
        "ALTER TABLE t DROP COLUMN b",
        "ALTER TABLE t RENAME a TO z",
        "INSERT INTO t VALUES (2, 'a', 7)",
    ] {
        postgres.sql(statement).await;
        eventually_equal(&postgres, &pipeline.lake, &all, || pipeline.log()).await;
    }
    postgres.sql("ALTER TABLE t ALTER c TYPE bigint; INSERT INTO t VALUES (3, 'b', 8)").await;
    eventually_equal(&postgres, &pipeline.lake, &all, || pipeline.log()).await;
    postgres.sql("INSERT INTO d VALUES (2, 'infinity')").await;
    let parks = |status: &Status| find(status, "public.d").is_some_and(|table| table.reason().is_some());
    pipeline.wait_for("a parked table", Duration::from_secs(30), parks).await;
    pipeline.kill();

    let changed = |what: &str, action: &str| (Kind::TableChanged, what.to_owned(), action.to_owned());
    let follows = "the lake table follows, without a copy";
    let of_t = told(&pipeline, "public.t");
    for expected in [
        changed("column 'c' (integer) was added", follows),
        changed("column 'b' was dropped", follows),
        changed("column 'a' was renamed to 'z'", follows),
    ] {
        assert_eq!(of_t.iter().filter(|told| **told == expected).count(), 1, "{expected:?} in {of_t:?}");
    }
    let copied = of_t
        .iter()
        .position(|(kind, _, action)| (*kind, action.as_str()) == (Kind::TableChanged, "its rows are copied"));
    let kinds: Vec<_> = of_t.iter().skip(copied.unwrap()).map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [Kind::TableChanged, Kind::CopyStarted, Kind::CopyEnded], "{of_t:?}");
    let parked = events(&pipeline, &["--table", "public.d", "--since", "1h"]).pop().unwrap();
    assert_eq!(parked.kind, Kind::Parked);
    assert!(parked.action.contains("unholdable"), "{parked:?}");

    // What happens while nobody reads is told when it is found, and what is as it was is not told again.
    postgres.sql("CREATE TABLE late (id int PRIMARY KEY); ALTER TABLE t ADD COLUMN n int NOT NULL DEFAULT 5").await;
    let before = events(&pipeline, &[]).len();
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &["public.t", "public.late"], || pipeline.log()).await;
    pipeline.stop();
    let later: Vec<_> = events(&pipeline, &[]).split_off(before);
    let of = |kind: Kind, table: &str| {
        let is_told =
            |entry: &&Entry| entry.kind == kind && entry.table.as_ref().is_some_and(|of| of.to_string() == table);
        later.iter().filter(is_told).count()
    };
    assert_eq!((later[0].kind, later.last().unwrap().kind), (Kind::Started, Kind::Stopped));
    assert_eq!((of(Kind::TableChanged, "public.t"), of(Kind::TableChanged, "public.late")), (1, 1), "{later:?}");
    assert_eq!(of(Kind::Parked, "public.d"), 0, "{later:?}");
    let text = String::from_utf8(pipeline.output("events", &["--table", "public.d"]).stdout).unwrap();
    assert!(text.contains("PARKED") && text.contains("To do: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_table_is_told_when_it_is_complete_and_when_it_cannot_be() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, v date); INSERT INTO t VALUES (1, '2020-01-01')").await;
    let mut pipeline = Pipeline::local(&postgres);
    let wait = |pipeline: &Pipeline, arguments: &[&str]| {
        pipeline.output("wait", &[&["public.t", "--timeout", "20s"], arguments].concat()).status.code()
    };
    assert_eq!(pipeline.output("wait", &["public.t", "--timeout", "1s"]).status.code(), Some(3), "nothing runs yet");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    for id in 2..5 {
        postgres.sql(&format!("INSERT INTO t VALUES ({id}, '2020-01-01')")).await;
        assert_eq!(wait(&pipeline, &[]), Some(0));
        pipeline.assert_equal(&postgres, &["public.t"]);
    }
    let end = postgres.end_lsn().await.to_string();
    assert_eq!(wait(&pipeline, &["--until", &end]), Some(0));
    assert_eq!(pipeline.output("wait", &["public.t", "--until", "FF/0", "--timeout", "1s"]).status.code(), Some(3));
    assert_eq!(pipeline.output("wait", &["public.none", "--timeout", "9s"]).status.code(), Some(1));
    postgres.sql("INSERT INTO t VALUES (100, 'infinity')").await;
    assert_eq!(wait(&pipeline, &[]), Some(3), "it is parked");
}
