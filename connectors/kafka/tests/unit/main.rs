//! Tests of the Kafka connector that need no brokers: merging, batches, records, routes, messages and settings.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod assembly;
mod cluster;
mod intake;
mod merge;
mod message;
mod record;
mod record_keeper;
mod registry;
mod route;
mod start_point;
mod support;
mod upkeep;
