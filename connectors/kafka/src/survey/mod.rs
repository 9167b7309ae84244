//! Measures topics as they are: how much is written to each partition, by which keys, and who reads it.
//!
//! Everything here reads and changes nothing: no consumer group is joined, and no offset is committed.

pub mod frequent_keys;
pub mod group;
pub mod key_counters;
pub mod topic_sample;
