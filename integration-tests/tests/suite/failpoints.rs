//! The process dies right after each thing that it makes durable, the first time and later ones; the next process goes
//! on, and the lake equals the database.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::between;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::judge;
use sooner_api::{FAILPOINTS, KAFKA_FAILPOINTS};

/// How soon a process must have reached its failpoint.
const LIMIT: Duration = Duration::from_secs(60);
/// Which times a failpoint is reached; what happens once in a database's life is reached once.
const TIMES: [u32; 2] = [1, 3];
const ONLY_ONCE: [&str; 2] = ["publication_created", "slot_created"];

/// Lets a process die at each of these failpoints; returns how many it was.
async fn die_at_all(pipeline: &mut Pipeline, failpoints: &[&str]) -> u32 {
    let mut deaths = 0;
    for failpoint in failpoints {
        for time in TIMES {
            if ONLY_ONCE.contains(failpoint) && time > 1 {
                continue;
            }
            pipeline.set("SOONER_FAILPOINT", &format!("{failpoint}@{time}"));
            // Everything that is made once is made by a copy of all tables.
            pipeline.start_with(if *failpoint == "topic_created" { &["--recopy"] } else { &[] });
            let log = pipeline.wait_for_end(LIMIT);
            assert!(!log.contains("panicked"), "{failpoint}: {log}");
            deaths += 1;
        }
    }
    pipeline.set("SOONER_FAILPOINT", "");
    deaths
}

/// A process that is left alone goes on from where the others died.
async fn go_on(pipeline: &mut Pipeline, postgres: &Postgres, load: Load) {
    pipeline.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.stop().await;
    pipeline.catch_up(postgres).await;
    pipeline.assert_all_stream();
    pipeline.assert_equal(postgres, &load::TABLES);
    judge(&pipeline.lake, &load::TABLES, Duration::from_secs(24 * 3600));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_at_any_durable_edge_is_followed_by_one_that_goes_on() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let load = Load::start(postgres.url(), 31);
    let mut pipeline = Pipeline::local(&postgres);
    let deaths = die_at_all(&mut pipeline, &FAILPOINTS).await;
    assert_eq!(deaths as usize, FAILPOINTS.len() * TIMES.len() - ONLY_ONCE.len());
    go_on(&mut pipeline, &postgres, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_one_that_dies_at_any_durable_edge_of_kafka() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(load::SCHEMA).await;
    let load = Load::start(postgres.url(), 32);
    // A static member has its partitions back at once; another one would share them with the dead one for a while.
    let settings = "partitions = 3\ngroup_instance = \"one\"";
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    let once = [KAFKA_FAILPOINTS[0]];
    die_at_all(&mut pipeline, &once).await;
    die_at_all(&mut pipeline, &KAFKA_FAILPOINTS[1..]).await;
    // What sinks store beside their tables' logs.
    die_at_all(&mut pipeline, &["progress_put", "log_entry_put"]).await;
    go_on(&mut pipeline, &postgres, load).await;
}
