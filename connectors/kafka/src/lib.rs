//! Kafka as the event log, and the schema registry beside it.
//!
//! Seven wings on three floors: [`cluster`] reaches brokers; [`message`], [`registry`] and [`progress`] know what is on
//! the topics; [`producer`] and [`consumer`] are the two ends of the log, which know nothing of each other. [`log`]
//! opens them. [`survey`] measures topics for whoever asks, beside both.

pub mod cluster;
pub mod consumer;
pub mod log;
pub mod message;
pub mod producer;
pub mod progress;
pub mod registry;
pub mod survey;

pub use log::{KafkaLog, WrittenBy};

/// Version of librdkafka, such as "2.12.1".
pub fn client_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}
