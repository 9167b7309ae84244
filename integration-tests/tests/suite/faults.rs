//! Whatever dies, the lake equals Postgres afterwards, row by row.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::time::Duration;

use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, judge};
use integration_tests::s3::{Proxy, S3};
use integration_tests::spark::SparkWriter;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::Code;

async fn pause(random: &mut StdRng, millis: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.random_range(millis))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_kills_in_the_copy_and_in_the_stream() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    // Large enough that the copy is still running when the first kills come.
    postgres.sql("INSERT INTO accounts SELECT i, 'bulk', i, NULL FROM generate_series(100001, 500000) AS i").await;
    let mut pipeline = Pipeline::local(&postgres);
    let load = Load::start(postgres.url(), 2);
    let mut random = StdRng::seed_from_u64(2);
    let mut copies_interrupted = 0;
    for kill in 0..30 {
        pipeline.start();
        pause(&mut random, if kill < 10 { 50..600 } else { 300..1500 }).await;
        assert!(pipeline.is_running(), "it ended by itself:\n{}", pipeline.log());
        pipeline.kill();
        let is_copied = Path::new(&pipeline.lake).join("public/accounts/_delta_log").exists();
        copies_interrupted += usize::from(!is_copied);
    }
    assert!(copies_interrupted > 0, "no kill came during the copy");
    pipeline.start();
    pause(&mut random, 500..1000).await;
    let transactions = load.stop().await;
    pipeline.catch_up(&postgres).await;
    assert!(transactions > 500, "a load of {transactions} transactions proves little");
    for reader in [Reader::DuckDb, Reader::Polars] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &load::TABLES);
    }
    judge(&pipeline.lake, &load::TABLES, Duration::from_secs(3600));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_crashes_of_postgres() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    let load = Load::start(postgres.url(), 3);
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..5 {
        pause(&mut random, 500..2000).await;
        postgres.stop("immediate");
        pause(&mut random, 100..500).await;
        postgres.launch();
    }
    pause(&mut random, 500..1000).await;
    load.stop().await;
    pipeline.catch_up(&postgres).await;
    assert!(pipeline.is_running());
    pipeline.assert_equal(&postgres, &load::TABLES);
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_to_s3_and_lost_commit_answers() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    postgres.sql(load::SCHEMA).await;
    let proxy = Proxy::start(s3.port);
    let mut pipeline = Pipeline::s3(&postgres, &proxy.endpoint());
    pipeline.start();
    let load = Load::start(postgres.url(), 4);
    pipeline.catch_up(&postgres).await;
    let mut random = StdRng::seed_from_u64(4);
    let mut cuts = 0;
    while cuts < 10 {
        pause(&mut random, 50..400).await;
        cuts += usize::from(proxy.cut() > 0);
    }
    proxy.swallow_commit_answers(5);
    for _ in 0..100 {
        pause(&mut random, 80..120).await;
        if proxy.swallowed() >= 5 {
            break;
        }
    }
    assert!(proxy.swallowed() >= 5, "only {} answers were lost", proxy.swallowed());
    load.stop().await;
    pipeline.catch_up(&postgres).await;
    for reader in [Reader::DuckDb, Reader::Polars] {
        assert_equal(reader, &postgres, &pipeline.lake, Some(s3.port), &load::TABLES);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_spark_beside_the_stream_are_followed() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let mut spark = SparkWriter::start(&format!("{}/public/accounts", pipeline.lake));
    let mut random = StdRng::seed_from_u64(5);
    for round in 0..6 {
        for _ in 0..5 {
            postgres.sql(&load::transaction(&mut random)).await;
            pause(&mut random, 0..400).await;
        }
        // While the pipeline stands still, Spark commits the version that is to be ours.
        pipeline.signal("STOP");
        match round {
            2 | 4 => spark.append(&format!("{}, 'foreign', 1.00, NULL", 900_000 + round)),
            _ => spark.optimize(),
        }
        postgres.sql(&load::transaction(&mut random)).await;
        postgres.sql("UPDATE accounts SET note = 'met another writer' WHERE id <= 20").await;
        pipeline.signal("CONT");
        pipeline.wait_for_log_times("another writer committed", round + 1, Duration::from_secs(60)).await;
    }
    drop(spark);
    // What Spark appended is a row like any other: changes of the same keys at the source supersede it.
    postgres.sql("INSERT INTO accounts VALUES (900002, 'ours', 3, NULL), (900004, 'ours', 4, NULL)").await;
    pipeline.catch_up(&postgres).await;
    for reader in [Reader::DuckDb, Reader::Spark] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &load::TABLES);
    }
    // The key index is rebuilt from files that Spark wrote.
    pipeline.kill();
    pipeline.start();
    postgres.sql("UPDATE accounts SET note = 'after a restart' WHERE id > 900000 OR id < 100").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &load::TABLES);
    judge(&pipeline.lake, &load::TABLES, Duration::from_secs(3600));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_of_the_same_name_waits_and_a_zombie_steps_back() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let mut first = Pipeline::local(&postgres);
    first.start();
    first.catch_up(&postgres).await;
    let load = Load::start(postgres.url(), 6);
    let folder = tempfile::tempdir().unwrap();
    let mut second = Pipeline::with(folder, &postgres.url(), first.lake.clone(), "", "");
    second.start();
    let busy =
        |status: &sooner::status::Status| status.trouble.as_ref().is_some_and(|error| error.code == Code::SlotInUse);
    second.wait_for("the slot is in use", Duration::from_secs(20), busy).await;

    first.signal("STOP");
    postgres.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active").await;
    second.catch_up(&postgres).await;
    first.signal("CONT");
    first.wait_for("fenced, and waiting", Duration::from_secs(60), busy).await;

    load.stop().await;
    second.catch_up(&postgres).await;
    assert!(second.is_running(), "{}", second.log());
    second.assert_equal(&postgres, &load::TABLES);

    second.kill();
    postgres.sql("UPDATE accounts SET note = 'the first takes over' WHERE id < 50").await;
    first.catch_up(&postgres).await;
    first.assert_equal(&postgres, &load::TABLES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moved_ahead_or_is_gone_is_a_gap() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();

    postgres.sql("UPDATE accounts SET note = 'skipped' WHERE id = 1").await;
    postgres.sql("SELECT pg_replication_slot_advance('sooner_shop', pg_current_wal_lsn())").await;
    pipeline.start();
    let log = pipeline.wait_for_end(Duration::from_secs(20));
    assert!(log.contains("somebody advanced or re-created the slot"), "{log}");

    postgres.sql("SELECT pg_drop_replication_slot('sooner_shop')").await;
    pipeline.start();
    let log = pipeline.wait_for_end(Duration::from_secs(20));
    assert!(log.contains("the slot 'sooner_shop' is gone") && log.contains("--recopy"), "{log}");

    pipeline.start_with(&["--recopy"]);
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &load::TABLES);
}
