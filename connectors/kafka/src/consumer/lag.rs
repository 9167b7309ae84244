//! Lag: how many messages of each partition have not been read yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::Statistics;
use serde::{Deserialize, Serialize};

use crate::consumer::group::{Offsets, TopicPartition};

/// How far one partition has been read, and where it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionOffsets {
    /// The offset after the last message that was read.
    pub next_offset: i64,
    /// The last stable offset: the offset after the last message that may be read, of a transaction that has ended.
    /// None until brokers have reported it.
    pub end_offset: Option<i64>,
}

impl PartitionOffsets {
    /// Number of messages between the two offsets. With `in_transactions` one offset is left out: the end of a
    /// transaction takes one too, after its last message, so that nothing is left where all has been read.
    pub fn unread(&self, in_transactions: bool) -> u64 {
        let offsets = self.end_offset.map_or(0, |end| (end - self.next_offset).max(0));
        u64::try_from(if in_transactions { offsets - 1 } else { offsets }).unwrap_or(0)
    }
}

/// Offsets of the partitions that are read, shared by the reader, the consumer's statistics, and whoever shows the
/// lag.
#[derive(Clone, Debug, Default)]
pub struct LagGauge(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    partitions: HashMap<TopicPartition, PartitionOffsets>,
    reading_micros: Option<i64>,
}

impl LagGauge {
    /// Offsets of a topic's partitions, by partition number.
    pub fn of_topic(&self, topic: &str) -> BTreeMap<i32, PartitionOffsets> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_topic = known.partitions.iter().filter(|((name, _), _)| name == topic);
        of_topic.map(|((_, partition), offsets)| (*partition, *offsets)).collect()
    }

    /// Time of the events that are being read, in microseconds since 1970; none where all has been read that their
    /// writer has reported.
    pub fn reading_micros(&self) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reading_micros
    }

    /// Sets the time of the events that are read from now on. A time of zero or less counts as none.
    pub(crate) fn reading(&self, micros: Option<i64>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reading_micros = micros.filter(|micros| *micros > 0);
    }

    /// Starts measuring: exactly these partitions are read from now on, from these offsets.
    pub(crate) fn start(&self, positions: &Offsets) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.partitions.retain(|place, _| positions.contains_key(place));
        drop(known);
        self.read_to(positions);
    }

    /// Notes that partitions have been read up to these offsets.
    pub(crate) fn read_to(&self, positions: &Offsets) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, offset) in positions {
            known.partitions.entry(place.clone()).or_default().next_offset = *offset;
        }
    }

    /// Takes the last stable offsets from librdkafka's statistics. A negative one means that it is not known; the
    /// former one stays.
    pub(crate) fn hear(&self, statistics: &Statistics) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((topic, partition), offsets) in &mut known.partitions {
            let told = statistics.topics.get(topic).and_then(|topic| topic.partitions.get(partition));
            offsets.end_offset = told.map(|told| told.ls_offset).filter(|end| *end >= 0).or(offsets.end_offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_last_transaction_is_no_message() {
        let at = |next_offset, end_offset| PartitionOffsets { next_offset, end_offset };
        assert_eq!(at(10, None).unread(true), 0);
        assert_eq!(at(10, Some(10)).unread(true), 0);
        assert_eq!(at(10, Some(11)).unread(true), 0);
        assert_eq!(at(10, Some(15)).unread(true), 4);
        assert_eq!(at(10, Some(15)).unread(false), 5);
    }
}
