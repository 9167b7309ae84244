//! What others do to a lake table of ours, and what becomes of it: what they rearrange stays, what they remove or
//! change is copied again by itself, and whatever they made of the table, its log stays one that every reader reads.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration_tests::pipeline::{Pipeline, find, of};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal};
use integration_tests::{python, root};

const TABLES: [&str; 3] = ["public.a", "public.b", "public.c"];

async fn started() -> (Postgres, Pipeline) {
    let postgres = Postgres::start(Version::V15).await;
    for table in ["a", "b", "c"] {
        postgres.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, v text)")).await;
        postgres.sql(&format!("INSERT INTO {table} SELECT i, 'v' || i FROM generate_series(1, 50) i")).await;
    }
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    (postgres, pipeline)
}

fn folder(pipeline: &Pipeline, table: &str) -> PathBuf {
    Path::new(&pipeline.lake).join("public").join(table)
}

/// Runs a program of another writer's on a table.
fn alter(pipeline: &Pipeline, table: &str, what: &str) {
    let script = root().join("integration-tests/readers/other_writer.py");
    let output = Command::new(python()).arg(script).arg(folder(pipeline, table)).arg(what).output().unwrap();
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_set_back_is_copied_again() {
    let (postgres, mut pipeline) = started().await;
    let kept = tempfile::tempdir().unwrap();
    copy_folder(&folder(&pipeline, "a"), kept.path());
    postgres.sql("UPDATE a SET v = 'later'; DELETE FROM a WHERE id < 10; UPDATE b SET v = 'later'").await;
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    // An earlier copy of the folder is put back; of another table only the last entry of the log is lost.
    std::fs::remove_dir_all(folder(&pipeline, "a")).unwrap();
    copy_folder(kept.path(), &folder(&pipeline, "a"));
    let log = folder(&pipeline, "b").join("_delta_log");
    let last = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    std::fs::remove_file(last).unwrap();
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &TABLES, || pipeline.log()).await;
    assert_eq!(pipeline.log().matches("the lake table was set back").count(), 2, "{}", pipeline.log());
    pipeline.assert_all_stream();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_others_removed_or_changed_are_copied_again() {
    let (postgres, mut pipeline) = started().await;
    alter(&pipeline, "a", "delete");
    alter(&pipeline, "b", "overwrite");
    alter(&pipeline, "c", "optimize");
    for table in ["a", "b", "c"] {
        postgres.sql(&format!("UPDATE {table} SET v = 'later' WHERE id = 1")).await;
    }
    eventually_equal(&postgres, &pipeline.lake, &TABLES, || pipeline.log()).await;
    let rearranged =
        |log: &str| !log.contains("public.c is copied again") && !log.contains("\"table\":\"public.c\",\"why\"");
    assert!(rearranged(&pipeline.log()), "{}", pipeline.log());
    // While nobody looks.
    pipeline.stop();
    alter(&pipeline, "a", "restore");
    alter(&pipeline, "c", "optimize");
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &TABLES, || pipeline.log()).await;
    assert!(rearranged(&pipeline.log()), "{}", pipeline.log());
    pipeline.assert_all_stream();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_tables_that_nothing_happens_to_is_noticed_too() {
    let (postgres, mut pipeline) = started().await;
    alter(&pipeline, "a", "delete");
    alter(&pipeline, "c", "optimize");
    // A log store that overwrites puts its own entry over our newest one, before that is confirmed.
    postgres.sql("UPDATE b SET v = 'lost' WHERE id < 20").await;
    let log = folder(&pipeline, "b").join("_delta_log");
    let entries = || std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let first = entries();
    while entries() == first {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    std::fs::write(entries(), r#"{"commitInfo":{"operation":"WRITE"}}"#).unwrap();
    eventually_equal(&postgres, &pipeline.lake, &TABLES, || pipeline.log()).await;
    assert!(pipeline.log().contains("has replaced or removed version"), "{}", pipeline.log());
    assert!(!pipeline.log().contains("\"table\":\"public.c\",\"why\""), "{}", pipeline.log());
    pipeline.assert_all_stream();
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_others_made_of_a_table_resuming_it_makes_it_ours_again() {
    let (postgres, mut pipeline) = started().await;
    pipeline.stop();
    alter(&pipeline, "a", "odd-column");
    alter(&pipeline, "b", "constraint");
    alter(&pipeline, "c", "append-only");
    pipeline.start();
    for table in TABLES {
        let short = table.trim_start_matches("public.");
        postgres.sql(&format!("UPDATE {short} SET v = 'later' WHERE id = 1")).await;
        let stopped =
            |status: &sooner::status::Status| find(status, table).is_some_and(|table| table.reason().is_some());
        let status = pipeline.wait_for(&format!("{table} stops"), Duration::from_secs(60), stopped).await;
        let reason = of(&status, table).reason().unwrap();
        assert!(reason.contains(&format!("sooner resume {table}")), "{reason}");
        assert!(pipeline.output("resume", &[table]).status.success());
    }
    eventually_equal(&postgres, &pipeline.lake, &TABLES, || pipeline.log()).await;
    for reader in [Reader::Polars, Reader::Spark] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &TABLES);
    }
    pipeline
        .wait_for("all stream", Duration::from_secs(30), |status| {
            status.tables.values().all(|table| table.reason().is_none())
        })
        .await;
    postgres.sql("UPDATE a SET v = 'last'; UPDATE b SET v = 'last'; UPDATE c SET v = 'last'").await;
    eventually_equal(&postgres, &pipeline.lake, &TABLES, || pipeline.log()).await;
    pipeline.stop();
}
