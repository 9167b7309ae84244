//! The lake's tables from the outside: only through what the library exports, on a disk or in memory.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod append;
mod audit;
mod checkpoints;
mod compaction;
mod conflicts;
mod cut_lease;
mod events;
mod history_chain;
mod holds;
mod key_index;
mod log;
mod model;
mod parts;
mod past_cuts;
mod progress;
mod soft_deletes;
mod staged_keys;
mod statistics;
mod support;
mod trimming;
mod vectors;
