//! The program's parts by themselves, between neighbours that are made up.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod attempts;
mod config;
mod config_kafka;
mod config_schema;
mod cutting;
mod direct;
mod fake_database;
mod fake_lake;
mod fake_log;
mod lane;
mod reports;
mod sink;
mod sink_record;
mod sink_side;
mod source;
mod source_side;
mod support;
mod worker;
