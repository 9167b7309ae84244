//! Reads the last progress record off its topic.

use std::ops::ControlFlow;

use rdkafka::Message;
use sooner_api::Result;

use super::record::{RecordReplay, TopicProgress};
use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;

/// Reads the last committed record; none if there never was one. May take seconds: call it where blocking is allowed.
pub fn load(settings: &KafkaSettings) -> Result<Option<TopicProgress>> {
    load_last(settings, Isolation::Committed)
}

/// Reads the last record that was written, whatever became of its transaction. For a source that has fenced its
/// predecessors: all events that the record covers had been written before it.
pub fn load_written(settings: &KafkaSettings) -> Result<Option<TopicProgress>> {
    load_last(settings, Isolation::All)
}

fn load_last(settings: &KafkaSettings, isolation: Isolation) -> Result<Option<TopicProgress>> {
    let topic = &settings.topics.progress;
    let reader = RangeReader::open(settings, isolation)?;
    let (first, end) = reader.bounds(topic, 0)?;
    let mut replay = RecordReplay::default();
    let mut found = None;
    reader.read(topic, 0, first..end, |message| {
        let place = format!("{topic}/0 offset {}", message.offset());
        let record = replay.take(&place, message.key().unwrap_or_default(), message.payload())?;
        found = record.or(found.take());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}
