//! Unit tests of the table model, the encoder and the readers, through what the crate shows to others.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod evolution;
mod images;
mod masks;
mod model;
mod naming;
mod reading;
mod support;
mod values;
