//! Lag: how many messages of each partition have not been read yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::Statistics;
use sooner_api::PartitionOffsets;

use crate::cluster::topic_partition::{Offsets, TopicPartition};

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
    /// Where each partition that is read stands, by topic.
    pub fn by_topic(&self) -> BTreeMap<String, BTreeMap<i32, PartitionOffsets>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut topics: BTreeMap<String, BTreeMap<i32, PartitionOffsets>> = BTreeMap::new();
        for ((topic, partition), offsets) in &known.partitions {
            topics.entry(topic.clone()).or_default().insert(*partition, *offsets);
        }
        topics
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
