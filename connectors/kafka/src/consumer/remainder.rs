//! Inspects what compaction has left of a partition.

use std::ops::{ControlFlow, Range};

use sooner_api::Result;

use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;

/// Whether there is any message at these offsets, including those of aborted and open transactions. May take
/// seconds: call it where blocking is allowed.
pub fn has_messages(settings: &KafkaSettings, topic: &str, partition: i32, offsets: Range<i64>) -> Result<bool> {
    let mut found = false;
    RangeReader::open(settings, Isolation::All)?.read(topic, partition, offsets, |_| {
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}
