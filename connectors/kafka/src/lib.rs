//! Kafka as the event log, and the schema registry beside it.
//!
//! Ten wings on four floors: [`aws`] signs what AWS asks to be signed; [`cluster`] reaches brokers; [`message`],
//! [`registry`] and [`progress`] know what is on the topics; [`producer`] and [`consumer`] are the two ends of the log,
//! [`letters`] sees to what the consumer could not read, [`survey`] measures topics, and [`erasure`] erases subjects
//! from them; these know nothing of each other. [`log`] opens the ends; [`key_search`] looks for a key in a topic.
//! [`topic_range`] reads a table's events of a range again.

pub mod aws;
pub mod cluster;
pub mod consumer;
pub mod erasure;
pub mod key_search;
pub mod letters;
pub mod log;
pub mod message;
pub mod producer;
pub mod progress;
pub mod registry;
pub mod survey;
pub mod topic_range;

pub use log::{KafkaLog, WrittenBy};

/// Version of librdkafka, such as "2.12.1".
pub fn client_version() -> String {
    rdkafka::util::get_rdkafka_version().1
}
