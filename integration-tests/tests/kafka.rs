//! The same path through a real broker and a real schema registry.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::kafka::Kafka;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal};
use integration_tests::registry::Registry;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_flows_through_topics_into_the_lake() {
    let (postgres, kafka, registry) = (Postgres::start(Version::V15).await, Kafka::start(), Registry::start());
    postgres.sql(load::SCHEMA).await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3");
    pipeline.start();
    let load = Load::start(postgres.url(), 11);
    pipeline.catch_up(&postgres).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.stop().await;
    pipeline.catch_up(&postgres).await;
    for reader in [Reader::DuckDb, Reader::Polars] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &load::TABLES);
    }
    assert!(pipeline.stop() < Duration::from_secs(10));
}
