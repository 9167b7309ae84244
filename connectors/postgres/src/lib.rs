//! Postgres as a source: takes a connection URL and a list of tables, and yields batches of events.
//!
//! In reading order: [`options`] and [`client`] connect (through `dial`, `tls` and `login`), [`catalog`] reads the
//! tables' definitions and their [`types`], [`eligibility`] says which of them can take part, [`slot`] and
//! [`publication`] set up replication, [`stream`] follows changes, and `copies` reads tables beside it: in chunks
//! ([`chunk`], read by `copy_workers`) that [`schedule`] plans, and whose rows join the stream by what [`touched`],
//! [`unseen`] and [`visibility`] know. [`pgoutput`] and [`decode`] turn messages into events, with the encoders that
//! [`encoders`] builds. [`database`] and [`source`] are what the loops see of all that; [`teardown`] removes it.

mod announced;
mod asked;
mod batch_builder;
pub mod catalog;
pub mod catalog_table;
pub mod chunk;
mod chunk_statement;
pub mod client;
pub mod clock;
mod copies;
mod copy_text;
mod copy_workers;
pub mod database;
pub mod decode;
mod dial;
mod digest;
pub mod eligibility;
pub mod encoders;
pub mod errors;
mod feedback;
pub mod followed_rows;
pub mod guard;
mod incoming;
pub mod inspection;
mod joining;
pub mod kept_names;
pub mod key_condition;
pub mod log_end;
mod login;
mod low_watermark;
pub mod memory;
mod missing;
mod nulls;
mod numbering;
mod open_transaction;
pub mod options;
mod pace;
mod partitions;
pub mod pgoutput;
mod postponed;
pub mod preview;
pub mod publication;
mod row;
pub mod row_lookup;
pub mod schedule;
pub mod settings;
mod side_connection;
pub mod slot;
pub mod source;
pub mod stream;
mod table_schedule;
pub mod teardown;
mod tls;
pub mod touched;
pub mod tracked;
pub mod types;
pub mod unseen;
mod verdict;
pub mod visibility;
mod watch;

pub use client::Client;
pub use database::{DatabaseSettings, PostgresDatabase};
pub use options::{ConnectOptions, Secret, TlsMode};
