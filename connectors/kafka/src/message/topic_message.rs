//! A message of a data topic, copied out of librdkafka's memory.

use std::ops::Range;
use std::sync::Arc;

use sooner_schemas::Position;

use crate::message::headers::FoundHeaders;

/// One message of a data topic. Clones share the bytes of its key and value.
#[derive(Clone, Debug)]
pub struct TopicMessage {
    /// Name of the message's topic.
    pub topic: Arc<str>,
    /// Number of the message's partition.
    pub partition: i32,
    /// Offset of the message in its partition.
    pub offset: i64,
    /// When the message was written, in microseconds since 1970; none where brokers do not report it.
    pub written_micros: Option<i64>,
    /// Headers of the message that are of interest here.
    pub headers: FoundHeaders,
    bytes: Arc<Vec<u8>>,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
}

impl TopicMessage {
    /// A message whose key and value are ranges of shared `bytes`; `place` is its topic, partition and offset.
    pub fn new(
        place: (Arc<str>, i32, i64),
        written_micros: Option<i64>,
        headers: FoundHeaders,
        bytes: Arc<Vec<u8>>,
        key: Option<Range<usize>>,
        value: Option<Range<usize>>,
    ) -> TopicMessage {
        let (topic, partition, offset) = place;
        TopicMessage { topic, partition, offset, written_micros, headers, bytes, key, value }
    }

    /// Memory that the record accounts for, in bytes: itself, its key and its value.
    pub fn size_bytes(&self) -> usize {
        size_of::<TopicMessage>() + self.key().map_or(0, <[u8]>::len) + self.value().map_or(0, <[u8]>::len)
    }

    /// Key message; none for an event without a key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.clone().map(|range| &self.bytes[range])
    }

    /// Value message; none for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.clone().map(|range| &self.bytes[range])
    }

    /// Position of the event in commit order; none if its writer gave none.
    pub fn position(&self) -> Option<Position> {
        self.headers.position
    }

    /// Whether its event concerns the whole table, and stands in each of the topic's partitions.
    pub fn is_of_whole_table(&self) -> bool {
        self.key().is_none() && self.position().is_some()
    }

    /// Place of the message, for error texts: `topic/partition offset 7`.
    pub fn place(&self) -> String {
        format!("{}/{} offset {}", self.topic, self.partition, self.offset)
    }
}
