//! Postgres as a source: takes a connection URL and a list of tables, and yields batches of events.
//!
//! In reading order: [`options`] and [`client`] connect (through `dial`, `tls` and `login`), [`catalog`] reads the
//! tables' definitions, [`slot`] and [`publication`] set up replication, [`snapshot`] copies tables, [`stream`]
//! follows changes. [`pgoutput`] and [`decode`] turn messages into events, with the encoders that [`encoders`]
//! builds.

pub mod catalog;
pub mod client;
mod copy_text;
pub mod decode;
mod dial;
pub mod encoders;
mod errors;
mod incoming;
mod login;
mod low_watermark;
pub mod options;
pub mod pgoutput;
pub mod publication;
pub mod slot;
pub mod snapshot;
pub mod stream;
mod tls;

pub use client::Client;
pub use options::{ConnectOptions, Secret, TlsMode};
