//! Kafka as the event log, and the schema registry beside it.
//!
//! In reading order: [`settings`] configures the clients, [`admin`] inspects and creates topics, and [`registry`]
//! registers schemas. [`writer`] accepts batches; its thread owns a [`producer`] that gathers them into Kafka
//! [`transactions`], each with a [`progress`] record. On the other side [`group`] polls the brokers, [`follow`]
//! reads progress records, [`merge`] puts partitions into commit order, and [`reader`] makes batches of them (with
//! `assembly`). Messages that cannot be read are sent to [`dead_letters`], if so configured.

pub mod admin;
mod assembly;
mod context;
mod copies;
pub mod dead_letters;
mod delivered;
mod deliveries;
mod errors;
mod events;
mod flow;
pub mod follow;
pub mod group;
mod headers;
mod key_text;
pub mod lag;
pub mod lanes;
pub mod merge;
pub mod partition;
mod piece;
mod pieces;
pub mod producer;
pub mod progress;
pub mod properties;
pub mod reader;
pub mod record;
mod refusals;
pub mod registry;
pub mod remainder;
mod schema_difference;
pub mod schemas;
pub mod settings;
pub mod tails;
mod topic;
pub mod topic_state;
pub mod transactions;
pub mod writer;
