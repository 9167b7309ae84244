//! Whatever dies between Postgres and the lake, the lake equals Postgres afterwards, and the topics have every event once.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::kafka::Kafka;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal};
use integration_tests::registry::Registry;
use integration_tests::topics::Judge;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Small transactions, so that the copy and large changes take several; and a member that comes back as itself.
const SETTINGS: &str = "partitions = 3\ntransaction_bytes = \"256KiB\"\ngroup_instance = \"one\"";

async fn pause(random: &mut StdRng, millis: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.random_range(millis))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_dies_again_and_again() {
    let (postgres, mut kafka, mut registry) = (Postgres::start(Version::V15).await, Kafka::start(), Registry::start());
    let judge = Judge::start(&postgres).await;
    postgres.sql(load::SCHEMA).await;
    // Large enough that the first kills come during the copy.
    postgres.sql("INSERT INTO accounts SELECT i, 'bulk', i, NULL FROM generate_series(100001, 130000) AS i").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, SETTINGS);
    let mut sink = source.beside();
    let load = Load::start(postgres.url(), 12);
    let mut random = StdRng::seed_from_u64(12);
    for round in 0..20 {
        source.start_command("source", &[]);
        sink.start_command("sink", &[]);
        pause(&mut random, if round < 6 { 600..2500 } else { 1500..4000 }).await;
        assert!(source.is_running(), "it ended by itself:\n{}", source.log());
        assert!(sink.is_running(), "it ended by itself:\n{}", sink.log());
        match round % 4 {
            0 => {
                kafka.kill();
                pause(&mut random, 0..1000).await;
                kafka.launch();
                pause(&mut random, 1000..3000).await;
            }
            1 => {
                postgres.stop("immediate");
                pause(&mut random, 100..500).await;
                postgres.launch();
                pause(&mut random, 500..2000).await;
            }
            2 if round < 12 => {
                registry.kill();
                source.kill();
                source.start_command("source", &[]);
                pause(&mut random, 100..500).await;
                registry.launch();
                pause(&mut random, 500..2000).await;
            }
            _ => {}
        }
        source.kill();
        sink.kill();
    }
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    pause(&mut random, 2000..3000).await;
    let transactions = load.stop().await;
    sink.catch_up(&postgres).await;
    assert!(transactions > 500, "a load of {transactions} transactions proves little");
    assert!(source.is_running() && sink.is_running());
    judge.assert_complete(&postgres, &kafka, &registry, &load::TABLES).await;
    assert_equal(Reader::DuckDb, &postgres, &sink.lake, None, &load::TABLES);
}
