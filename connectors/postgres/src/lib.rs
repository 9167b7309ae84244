//! Postgres as a source. Enters: a connection URL and a list of tables; leaves: batches of events.
//!
//! In reading order: [`options`] and [`client`] connect (by `dial` and `login`), [`catalog`] looks at tables, [`slot`] and [`publication`] set
//! up replication, [`snapshot`] copies, [`stream`] follows. [`pgoutput`] and [`decode`]
//! turn messages into events, which [`encoders`] know how to write.

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
