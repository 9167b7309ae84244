//! Cuts: all tables as one transaction saw them, whatever dies on the way, and as long as they are kept.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration_tests::between;
use integration_tests::cut_sums::cut_sums;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::eventually_equal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sooner_postgres::client::Mode;
use sooner_postgres::{Client, ConnectOptions};

/// Money that is moved between three tables; nothing happens to the fourth.
const SOURCE: &str = "
    CREATE TABLE cash (id int PRIMARY KEY, amount bigint);
    CREATE TABLE bank (id int PRIMARY KEY, amount bigint);
    CREATE TABLE safe (id int PRIMARY KEY, amount bigint);
    CREATE TABLE idle (id int PRIMARY KEY, amount bigint);
    INSERT INTO cash SELECT i, 100 FROM generate_series(1, 1000) i;
    INSERT INTO bank SELECT i, 100 FROM generate_series(1, 1000) i;
    INSERT INTO safe SELECT i, 100 FROM generate_series(1, 1000) i;
    INSERT INTO idle SELECT i, 100 FROM generate_series(1, 1000) i";
const TABLES: [&str; 4] = ["bank", "cash", "idle", "safe"];
const SUM: i64 = 400_000;

/// Transfers until it is told to stop; returns how many.
fn transfers(url: String, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    tokio::spawn(async move {
        let options = ConnectOptions::parse(&url).unwrap();
        let mut client = Client::connect(&options, Mode::Sql).await.unwrap();
        let (mut random, mut done) = (StdRng::seed_from_u64(61), 0);
        while !stop.load(Ordering::Relaxed) {
            let (from, to) = (["cash", "bank", "safe"][done % 3], ["bank", "safe", "cash"][done % 3]);
            let (a, b, amount) =
                (random.random_range(1..1000), random.random_range(1..1000), random.random_range(1..50));
            let sql = format!(
                "BEGIN; UPDATE {from} SET amount = amount - {amount} WHERE id = {a}; \
                 UPDATE {to} SET amount = amount + {amount} WHERE id = {b}; COMMIT"
            );
            client.query(&sql).await.unwrap();
            done += 1;
        }
        done as u32
    })
}

fn create(pipeline: &Pipeline, name: &str, more: &[&str]) -> Value {
    let arguments = [&["create", name, "--json", "--timeout", "120s"], more].concat();
    let output = pipeline.output("cut", &arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let log = || format!("{text}{}\n{}", String::from_utf8_lossy(&output.stderr), pipeline.log());
    assert!(output.status.success(), "{}", log());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}", log()))
}

fn assert_consistent(pipeline: &Pipeline, cut: &Value, engine: &str) -> Vec<(i64, i64)> {
    let sums = cut_sums(pipeline, cut["name"].as_str().unwrap(), engine, &TABLES);
    assert_eq!(sums.iter().map(|(sum, _)| sum).sum::<i64>(), SUM, "{cut}: {sums:?}");
    assert!(sums.iter().all(|(_, rows)| *rows == 1000), "{cut}: {sums:?}");
    sums
}

async fn every_cut_has_the_whole_sum(postgres: &Postgres, mut pipeline: Pipeline, cuts: u32) {
    postgres.sql(SOURCE).await;
    // The sum is right only for tables that are cut together.
    pipeline.append_settings("[[table]]\nmatch = \"public.bank\"\nfreshness = \"3s\"");
    pipeline.start();
    pipeline.wait_until_copied("public.cash").await;
    pipeline.catch_up(postgres).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = transfers(postgres.url(), stop.clone());
    let mut made = Vec::new();
    for number in 0..cuts {
        // Killed while the cut is made; the next process makes it.
        let killed = number % 2 == 1;
        let asking = killed.then(|| {
            let mut command = pipeline.command("cut");
            command.args(["create", &format!("cut-{number}"), "--timeout", "60s"]).stdout(std::process::Stdio::null());
            command.spawn().unwrap()
        });
        if let Some(mut asking) = asking {
            tokio::time::sleep(Duration::from_millis(150 * u64::from(number))).await;
            pipeline.kill();
            pipeline.start();
            assert!(asking.wait().unwrap().success(), "\n{}", pipeline.log());
            let shown = pipeline.output("cut", &["show", &format!("cut-{number}"), "--json"]);
            made.push(serde_json::from_slice(&shown.stdout).unwrap());
        } else {
            made.push(create(&pipeline, &format!("cut-{number}"), &[]));
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let done = load.await.unwrap();
    assert!(done > 100, "{done} transfers prove little");
    for cut in &made {
        assert_consistent(&pipeline, cut, "polars");
    }
    let lsns: Vec<_> = made.iter().map(|cut| cut["lsn"].as_str().unwrap().to_owned()).collect();
    assert!(lsns.windows(2).all(|pair| pair[0] != pair[1]), "{lsns:?}");
    // What was committed before a cut is asked for is in it, though nothing happens afterwards.
    postgres
        .sql("UPDATE cash SET amount = amount + 7 WHERE id = 5; UPDATE idle SET amount = amount - 7 WHERE id = 5")
        .await;
    let last = create(&pipeline, "last", &[]);
    for engine in ["polars", "duckdb", "spark", "trino"] {
        assert_eq!(assert_consistent(&pipeline, &last, engine)[2].0, 99_993, "read by {engine}");
    }
    exported(&pipeline, "last");
}

/// An export is what its manifest says: pyarrow reads the same sum, and the hashes are those of the files.
fn exported(pipeline: &Pipeline, cut: &str) {
    let to = pipeline.folder().join("export").display().to_string();
    let output = pipeline.output("cut", &["export", cut, "--to", &to, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let script = "import sys, json, hashlib, pathlib, pyarrow.parquet as p\n\
                  folder = pathlib.Path(sys.argv[1]); manifest = json.loads((folder / 'manifest.json').read_text())\n\
                  files = [file for table in manifest['tables'].values() for file in table['files']]\n\
                  assert all(hashlib.sha256((folder / f['path']).read_bytes()).hexdigest() == f['sha256'] for f in files)\n\
                  print(sum(sum(p.read_table(folder / f['path'])['amount'].to_pylist()) for f in files))";
    let read = std::process::Command::new(integration_tests::python()).args(["-c", script, &to]).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    assert_eq!(String::from_utf8_lossy(&read.stdout).trim(), SUM.to_string());
    let again = pipeline.output("cut", &["export", cut, "--to", &to]);
    assert!(!again.status.success(), "an export is never written over");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_cut_between_two_transactions_through_kills() {
    let postgres = Postgres::start(Version::V15).await;
    every_cut_has_the_whole_sum(&postgres, Pipeline::local(&postgres), 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_are_through_kafka() {
    let (postgres, kafka, registry) = between::start().await;
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2\ngroup_instance = \"one\"");
    every_cut_has_the_whole_sum(&postgres, pipeline, 4).await;
}

/// Nobody reads all of them, so each time the others have to rest; the one that was asked may die meanwhile, and so may
/// those that rest.
#[tokio::test(flavor = "multi_thread")]
async fn so_they_are_where_sinks_share_partitions_and_come_and_go() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(SOURCE).await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3");
    source.start_command("source", &[]);
    let mut sinks: Vec<_> = (0..2).map(|_| source.beside()).collect();
    sinks.iter_mut().for_each(|sink| sink.start_command("sink", &[]));
    let stop = Arc::new(AtomicBool::new(false));
    let load = transfers(postgres.url(), stop.clone());
    for sink in &sinks {
        sink.wait_for_log("\"reading\"", Duration::from_secs(90)).await;
    }
    let mut made = Vec::new();
    for number in 0..5_usize {
        let (asked, name) = (number % 2, format!("cut-{number}"));
        if number < 2 {
            made.push(create(&sinks[asked], &name, &[]));
            continue;
        }
        let mut command = sinks[asked].command("cut");
        command.args(["create", &name, "--timeout", "120s"]).stdout(std::process::Stdio::null());
        let mut asking = command.spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(900 * number as u64)).await;
        let dies = number / 2 % 2;
        sinks[dies].kill();
        sinks[dies].start_command("sink", &[]);
        let logs = || sinks.iter().map(Pipeline::log).collect::<Vec<_>>().join("\n\n");
        assert!(asking.wait().unwrap().success(), "{}", logs());
        let shown = source.output("cut", &["show", &name, "--json"]);
        made.push(serde_json::from_slice(&shown.stdout).unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 300, "that proves little");
    for cut in &made {
        assert_consistent(&source, cut, "polars");
    }
    let rested = sinks.iter().filter(|sink| sink.log().contains("resting while another sink reads all partitions"));
    assert_eq!(rested.count(), 2, "each of them made way for the other");
    let tables = TABLES.map(|table| format!("public.{table}"));
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    eventually_equal(&postgres, &source.lake, &tables, || sinks.iter().map(Pipeline::log).collect()).await;
}
