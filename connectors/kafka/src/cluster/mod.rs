//! Reaching a Kafka cluster: settings become clients; brokers are asked about topics, offsets and ranges of messages.

pub mod acls;
pub mod admin;
pub mod context;
pub mod delivery_reports;
pub mod errors;
pub mod msk_iam;
pub mod properties;
pub mod range_reader;
pub mod settings;
pub mod throttle;
pub mod topic_partition;
pub mod topic_plan;
pub mod topic_state;
pub mod transactions;
