//! Progress records: how far the source has written, in the same Kafka transactions as the events.

pub mod copies;
pub mod follower;
pub mod lineage;
pub mod load;
pub mod record;
pub mod stages;
