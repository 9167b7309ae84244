//! What compaction has left of a partition.

use std::ops::ControlFlow;

use sooner_api::Result;

use crate::pieces::{PieceReader, Sees};
use crate::settings::KafkaSettings;

/// Whether there is a committed message at an offset or behind it. May take seconds: call it where blocking is allowed.
pub fn has_messages_from(settings: &KafkaSettings, topic: &str, partition: i32, offset: i64) -> Result<bool> {
    let mut found = false;
    PieceReader::open(settings, Sees::Committed)?.read(topic, partition, offset..i64::MAX, |_| {
        found = true;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}
