//! The Postgres source without a server: messages, decoder, encoders, statements and options.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod coverage;
mod decode;
mod encoders;
mod frames;
mod join;
mod messages;
mod options;
mod pgoutput;
mod publication;
mod slot;
mod stops;
mod stream;
mod types;
