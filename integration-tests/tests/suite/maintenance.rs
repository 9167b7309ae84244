//! Tables are kept in few files while they are merged into, and every reader finds the same rows.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, judge};
use integration_tests::s3::{Proxy, S3};
use integration_tests::{python, root};
use sooner::status::Status;
use sooner_api::UPKEEP_FAILPOINTS;
use sooner_delta::log::replay::replay;
use sooner_delta::log::table_version::TableVersion;
use sooner_delta::store::location::TableLocation;
use sooner_delta::{LakeStore, S3Settings};
use sooner_postgres::client::Mode;
use sooner_postgres::{Client, ConnectOptions};

/// Files of former versions are kept for longer than any test takes.
const DAY: Duration = Duration::from_secs(24 * 3600);
const READERS: [Reader; 3] = [Reader::DuckDb, Reader::Polars, Reader::Spark];

async fn table_version(pipeline: &Pipeline, table: &str) -> TableVersion {
    let store = LakeStore::open(&pipeline.lake, &S3Settings::default()).unwrap();
    let folder = store.prefix().clone().join("public").join(table);
    let location = TableLocation::new(store.root(), folder, store.folder_url(&["public", table]));
    replay(&location, &[]).await.unwrap()
}

async fn files(pipeline: &Pipeline, table: &str) -> usize {
    table_version(pipeline, table).await.files().iter().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_table_that_changes_all_the_time_is_one_or_two_files() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 20) i")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let mut most = 0;
    for round in 0..50 {
        postgres.sql(&format!("UPDATE t SET v = v + 1 WHERE (id + {round}) % 2 = 0")).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
        most = most.max(files(&pipeline, "t").await);
    }
    pipeline.catch_up(&postgres).await;
    let version = table_version(&pipeline, "t").await.number().unwrap();
    assert!(version > 40, "{version} commits prove little");
    // One more while files are being written again.
    assert!(most <= 3, "{most} files at a time");
    pipeline.assert_equal(&postgres, &["public.t"]);
    judge(&pipeline.lake, &["public.t"], DAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_under_random_changes_has_few_files_and_loses_nothing() {
    let postgres = Postgres::start(Version::V15).await;
    let rows = "SELECT i, md5(i::text), now() FROM generate_series(1, 100000) i";
    postgres.sql(&format!("CREATE TABLE t (id int PRIMARY KEY, v text, at timestamptz); INSERT INTO t {rows}")).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    for round in 0..80 {
        let some = format!("id % 200 = (hashint4({round}) & 127)");
        postgres.sql(&format!("UPDATE t SET v = 'round {round}', at = now() WHERE {some}")).await;
        if round % 10 == 0 {
            postgres
                .sql(&format!("DELETE FROM t WHERE id % 1000 = {round}; ALTER TABLE t ADD COLUMN c{round} int"))
                .await;
        }
        if round == 40 {
            pipeline.kill();
            pipeline.start();
        }
        tokio::time::sleep(Duration::from_millis(210)).await;
    }
    pipeline.catch_up(&postgres).await;
    let version = table_version(&pipeline, "t").await;
    let (number, files) = (version.number().unwrap(), version.files().iter().count());
    assert!(number > 60 && files <= number as usize / 2, "{files} files after {number} commits");
    for reader in READERS {
        assert_equal(reader, &postgres, &pipeline.lake, None, &["public.t"]);
    }
    judge(&pipeline.lake, &["public.t"], DAY);
}

fn data_files(pipeline: &Pipeline) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("{}/public/t", pipeline.lake)).unwrap().flatten().map(|entry| entry.path());
    entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "parquet" || extension == "bin"))
        .collect()
}

/// Changes some rows five times a second, until it is dropped.
fn change_all_the_time(postgres: &Postgres) -> tokio::task::JoinHandle<()> {
    let options = ConnectOptions::parse(&postgres.url()).unwrap();
    tokio::spawn(async move {
        let mut client = Client::connect(&options, Mode::Sql).await.unwrap();
        for round in 0i64.. {
            client.query(&format!("UPDATE t SET v = {round} WHERE id % 500 = {round} % 500")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_no_version_needs_go_whatever_dies_and_readers_find_every_row() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    postgres.sql("INSERT INTO t SELECT i, 0 FROM generate_series(1, 1000) i").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure("[lake]", "deleted_file_retention = \"1s\"");
    let load = change_all_the_time(&postgres);
    for failpoint in UPKEEP_FAILPOINTS {
        pipeline.set("SOONER_FAILPOINT", &format!("{failpoint}@1"));
        pipeline.start();
        let log = pipeline.wait_for_end(Duration::from_secs(60));
        assert!(!log.contains("panicked"), "{failpoint}: {log}");
    }
    pipeline.set("SOONER_FAILPOINT", "");
    pipeline.start();
    tokio::time::sleep(Duration::from_secs(20)).await;
    load.abort();
    pipeline.catch_up(&postgres).await;
    let version = table_version(&pipeline, "t").await.number().unwrap();
    let kept = data_files(&pipeline).len() as u64;
    assert!(version > 120 && kept < version * 2 / 3, "{kept} files after {version} commits");
    let size = pipeline.status().unwrap().tables.values().next().unwrap().files.unwrap();
    assert_eq!(size as usize, files(&pipeline, "t").await, "the status says so, too");
    // A person may do so, too, while the pipeline runs.
    for arguments in [&["vacuum", "--dry-run"][..], &["optimize"], &["vacuum", "public.t"]] {
        let done = pipeline.output(arguments[0], &arguments[1..]);
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        assert!(String::from_utf8_lossy(&done.stdout).contains("public.t: "), "{done:?}");
    }
    assert!(data_files(&pipeline).len() as u64 <= kept + 1);
    postgres.sql("UPDATE t SET v = -1 WHERE id < 10").await;
    pipeline.catch_up(&postgres).await;
    for reader in READERS {
        assert_equal(reader, &postgres, &pipeline.lake, None, &["public.t"]);
    }
    judge(&pipeline.lake, &["public.t"], Duration::ZERO);
}

/// What a script of the readers prints.
fn printed(script: &str, arguments: &[&str]) -> String {
    let script = root().join("integration-tests/readers").join(script);
    let output = Command::new(python()).arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// How many files DuckDB and Polars read of the table `t` for a condition.
fn files_read(pipeline: &Pipeline, condition: &str) -> String {
    printed("files_read.py", &[&format!("{}/public/t", pipeline.lake), condition])
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_leave_files_out_by_key_and_by_time() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, placed timestamp, day date, v text)").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure("name = \"shop\"", "memory = \"16MiB\"");
    pipeline.start();
    // Each is large enough, where memory has no room for larger ones, not to be written again with the others.
    for year in 2021..2024 {
        let rows = format!(
            "SELECT {year} * 100000 + i, '{year}-03-01'::timestamp + i * interval '1 minute', '{year}-03-01'::date, md5(i::text)"
        );
        postgres.sql(&format!("INSERT INTO t {rows} FROM generate_series(1, 40000) i")).await;
        pipeline.catch_up(&postgres).await;
    }
    assert_eq!(files_read(&pipeline, "id > 0"), "3 3");
    assert_eq!(files_read(&pipeline, "id = 202200007"), "1 1");
    assert_eq!(files_read(&pipeline, "day < DATE '2021-12-31'"), "1 1");
    // DuckDB leaves no file out by instants, whoever wrote it.
    assert_eq!(files_read(&pipeline, "placed < TIMESTAMP '2021-12-31'"), "3 1");
    assert_eq!(files_read(&pipeline, "v >= ''"), "3 3");
}

/// Number and sums of all rows of the table `t` at a version, as a reader sees them.
fn rows_at(reader: &str, pipeline: &Pipeline, version: u64) -> String {
    printed("rows_at.py", &[reader, &format!("{}/public/t", pipeline.lake), &version.to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_former_version_read_on_through_compaction_and_vacuum_within_retention() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    postgres.sql("INSERT INTO t SELECT i, 0 FROM generate_series(1, 20000) i").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let load = change_all_the_time(&postgres);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let version = table_version(&pipeline, "t").await.number().unwrap();
    let readers = ["duckdb", "polars", "spark"];
    let before = readers.map(|reader| rows_at(reader, &pipeline, version));
    assert!(before.iter().all(|rows| *rows == before[0]), "{before:?}");
    for arguments in [&["optimize"][..], &["vacuum"], &["optimize", "public.t"], &["vacuum", "public.t"]] {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let done = pipeline.output(arguments[0], &arguments[1..]);
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    }
    load.abort();
    assert_eq!(readers.map(|reader| rows_at(reader, &pipeline, version)), before);
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t"]);
    let last = table_version(&pipeline, "t").await.number().unwrap();
    assert!(last > version + 20, "{} commits prove little", last - version);
    assert_ne!(rows_at("polars", &pipeline, last), before[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_goes_on_while_s3_throttles_cuts_connections_and_loses_answers() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, v int)").await;
    postgres.sql("INSERT INTO t SELECT i, 0 FROM generate_series(1, 2000) i").await;
    let proxy = Proxy::start(s3.port);
    let mut pipeline = Pipeline::s3(&postgres, &proxy.endpoint());
    pipeline.configure("[lake]", "deleted_file_retention = \"1s\"");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let load = change_all_the_time(&postgres);
    for round in 0..24 {
        match round % 3 {
            0 => proxy.throttle(8),
            1 => drop(proxy.cut()),
            _ => proxy.swallow_commit_answers(1),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    load.abort();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_all_stream();
    for reader in [Reader::DuckDb, Reader::Polars] {
        assert_equal(reader, &postgres, &pipeline.lake, Some(s3.port), &["public.t"]);
    }
    let status = pipeline.status().unwrap();
    let table = status.tables.values().next().unwrap();
    let (files, version) = (table.files.unwrap(), table.table_version.unwrap());
    assert!(version > 40 && files <= 4, "{files} files after {version} commits");
    assert!(proxy.swallowed() > 0 && proxy.throttles() == 0, "all faults have struck");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_commit_costs_few_requests() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    postgres
        .sql("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 100) i")
        .await;
    let proxy = Proxy::start(s3.port);
    let mut pipeline = Pipeline::s3(&postgres, &proxy.endpoint());
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (before, first) = (proxy.requests(), pipeline.status().unwrap());
    for round in 0..40 {
        postgres.sql(&format!("UPDATE t SET v = {round} WHERE id <= 10")).await;
        pipeline.catch_up(&postgres).await;
    }
    let version = |status: &Status| status.tables.values().next().unwrap().table_version.unwrap();
    let commits = version(&pipeline.status().unwrap()) - version(&first);
    let each = (proxy.requests() - before) as f64 / commits as f64;
    eprintln!("{each:.1} requests a commit, with all upkeep, inspections and progress records");
    assert!(commits >= 40 && each <= 12.0, "{each} requests each of {commits} commits");
}
