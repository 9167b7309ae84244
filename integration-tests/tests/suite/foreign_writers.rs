//! Spark and deltalake write tables under load, whatever they like: in the end these equal their source again.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use integration_tests::load;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal, judge};
use integration_tests::{python, root};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sooner_postgres::client::Mode;
use sooner_postgres::{Client, ConnectOptions};
use tokio::task::JoinHandle;

/// How long the others write, or longer, until each of them has done everything; `make soak` lets them for ten minutes.
fn seconds() -> String {
    std::env::var("SOONER_FOREIGN_SECONDS").unwrap_or_else(|_| "1".to_owned())
}

/// Changes rows every few seconds, so that the others get to theirs.
fn change_all_the_time(postgres: &Postgres) -> JoinHandle<()> {
    let options = ConnectOptions::parse(&postgres.url()).unwrap();
    tokio::spawn(async move {
        let mut client = Client::connect(&options, Mode::Sql).await.unwrap();
        let mut random = StdRng::seed_from_u64(12);
        loop {
            client.query(&load::transaction(&mut random)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(random.random_range(500..8000))).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_spark_and_deltalake_do_to_tables_under_load_they_equal_their_source_again() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let load = change_all_the_time(&postgres);
    let script = root().join("integration-tests/readers/foreign_storm.py");
    let mut storm = Command::new(python());
    storm.arg(script).args([&pipeline.lake, &seconds(), "1"]);
    let output = tokio::task::spawn_blocking(move || storm.output().expect("Spark is installed")).await.unwrap();
    load.abort();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Spark prints what a VACUUM has done, too.
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let done: BTreeMap<String, Value> = serde_json::from_str(printed.trim_end().lines().last().unwrap()).unwrap();
    assert!(done["spark: vacuum"]["done"].as_u64() > Some(0), "{done:#?}");
    eprintln!("{done:#?}");
    assert!(done.values().filter(|count| count["done"].as_u64() > Some(0)).count() > 5, "{done:#?}");
    // What others append stays, until the source has such a row.
    postgres.sql("INSERT INTO accounts SELECT i, 'ours', 2, NULL FROM generate_series(10000000, 10000999) i").await;
    eventually_equal(&postgres, &pipeline.lake, &load::TABLES, || pipeline.log()).await;
    pipeline.assert_all_stream();
    postgres.sql("UPDATE accounts SET note = 'last'; UPDATE documents SET title = 'last'").await;
    pipeline.catch_up(&postgres).await;
    for reader in [Reader::DuckDb, Reader::Polars, Reader::Spark] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &load::TABLES);
    }
    judge(&pipeline.lake, &load::TABLES, Duration::from_secs(24 * 3600));
}
