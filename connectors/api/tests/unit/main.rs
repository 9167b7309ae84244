//! Unit tests of positions, progress, batches, memory and errors, through what the crate shows to others.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod batch;
mod errors;
mod memory;
mod positions;
mod progress;
