//! Polled messages, copied out of librdkafka's memory. Messages share a buffer only with others of their partition,
//! so that none keeps memory alive for others that are needed sooner or later than it.

use std::ops::Range;
use std::sync::Arc;

use rdkafka::Message;

use crate::message::headers::FoundHeaders;
use crate::message::topic_message::TopicMessage;

/// Messages polled since the last ones were handed on.
#[derive(Default)]
pub struct PolledMessages {
    runs: Vec<Run>,
    bytes: usize,
}

/// Messages of one partition, in offset order.
struct Run {
    topic: Arc<str>,
    partition: i32,
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    offset: i64,
    written_micros: Option<i64>,
    headers: FoundHeaders,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
}

impl PolledMessages {
    /// Total size of all keys and values, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies a message of `topic` from librdkafka's buffer.
    pub fn take<M: Message>(&mut self, topic: &Arc<str>, message: &M) {
        let run = self.run(topic, message.partition());
        let before = run.bytes.len();
        let key = message.key().map(|key| append(&mut run.bytes, key));
        let value = message.payload().map(|value| append(&mut run.bytes, value));
        let written_micros = message.timestamp().to_millis().map(|millis| millis * 1000);
        let headers = FoundHeaders::read(message.headers());
        run.entries.push(Entry { offset: message.offset(), written_micros, headers, key, value });
        let added = run.bytes.len() - before;
        self.bytes += added;
    }

    fn run(&mut self, topic: &Arc<str>, partition: i32) -> &mut Run {
        let found = self.runs.iter().rposition(|run| run.partition == partition && run.topic == *topic);
        let index = found.unwrap_or_else(|| {
            self.runs.push(Run { topic: topic.clone(), partition, bytes: Vec::new(), entries: Vec::new() });
            self.runs.len() - 1
        });
        &mut self.runs[index]
    }

    /// All messages, in order within each partition.
    pub fn finish(self) -> Vec<TopicMessage> {
        self.runs.into_iter().flat_map(Run::records).collect()
    }
}

impl Run {
    fn records(self) -> impl Iterator<Item = TopicMessage> {
        let Run { topic, partition, bytes, entries } = self;
        let bytes = Arc::new(bytes);
        entries.into_iter().map(move |entry| {
            let Entry { offset, written_micros, headers, key, value } = entry;
            TopicMessage::new((topic.clone(), partition, offset), written_micros, headers, bytes.clone(), key, value)
        })
    }
}

fn append(bytes: &mut Vec<u8>, part: &[u8]) -> Range<usize> {
    let start = bytes.len();
    bytes.extend_from_slice(part);
    start..bytes.len()
}
