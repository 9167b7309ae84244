//! What every port promises, run over each implementation of it, simulated ones included.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod event_log;
mod lake_table;
mod progress_store;
mod rows;
mod schema_registry;
mod source;
