//! Names of partitions, and offsets by partition.

use std::collections::HashMap;

/// A partition: its topic and its number.
pub type TopicPartition = (String, i32);
/// The offset of the next message to read, by partition.
pub type Offsets = HashMap<TopicPartition, i64>;
