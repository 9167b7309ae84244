//! A message of a data topic, out of librdkafka's hands.

use std::ops::Range;
use std::sync::Arc;

use sooner_schemas::Position;

use crate::headers::FoundHeaders;

/// One message.
#[derive(Clone, Debug)]
pub struct Record {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// When it was written, in microseconds since 1970; none where brokers do not tell.
    pub written_micros: Option<i64>,
    /// What stands beside key and value.
    pub headers: FoundHeaders,
    bytes: Arc<Vec<u8>>,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
}

impl Record {
    /// A message whose key and value lie in shared bytes.
    pub fn new(
        place: (Arc<str>, i32, i64),
        written_micros: Option<i64>,
        headers: FoundHeaders,
        bytes: Arc<Vec<u8>>,
        key: Option<Range<usize>>,
        value: Option<Range<usize>>,
    ) -> Record {
        let (topic, partition, offset) = place;
        Record { topic, partition, offset, written_micros, headers, bytes, key, value }
    }

    /// Memory that it holds, in bytes.
    pub fn size_bytes(&self) -> usize {
        size_of::<Record>() + self.key().map_or(0, <[u8]>::len) + self.value().map_or(0, <[u8]>::len)
    }

    /// Key message.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.clone().map(|range| &self.bytes[range])
    }

    /// Value message; none for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        self.value.clone().map(|range| &self.bytes[range])
    }

    /// Where the event stands in commit order, if its writer said so.
    pub fn position(&self) -> Option<Position> {
        self.headers.position
    }

    /// `topic/partition offset 7`, for messages.
    pub fn place(&self) -> String {
        format!("{}/{} offset {}", self.topic, self.partition, self.offset)
    }
}
