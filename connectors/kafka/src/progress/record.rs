//! The progress record, kept under one key of one compacted topic, and written in the same Kafka transaction as the
//! events that it covers.
//!
//! It states that every event with `commit_lsn` at or below the watermark lies below the recorded offsets.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use rdkafka::Message;
use serde::{Deserialize, Serialize};
use sooner_api::{Code, Error, ProgressRecord, Result};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, Position, TableName};

use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;

/// Offsets at the topic's end that are read first to find the last record; more are read if it is not among them.
const LOOK_BACK: i64 = 64;

/// Progress record of a source: how far the stream is written, and the offsets that its events reach on each topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicProgress {
    /// The server, its slot and its tables. `confirmed_lsn` is the LSN up to which the slot may be confirmed.
    #[serde(flatten)]
    pub record: ProgressRecord,
    /// Every event with a commit LSN at or below this one is written.
    pub commit_lsn: Lsn,
    /// Commit time of the last transaction at the source, in microseconds since 1970.
    pub commit_micros: i64,
    /// How far a split transaction is written; none while all transactions are written whole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub split: Option<Split>,
    /// Each table's topic and offsets, by `schema.table`.
    pub topics: BTreeMap<String, TopicOffsets>,
}

/// How far a split transaction is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Split {
    /// Commit LSN of the split transaction.
    pub commit_lsn: Lsn,
    /// Ordinal of the transaction's first event that is not written yet.
    pub next_ordinal: u64,
}

/// Part of the stream that is written: whole transactions, and maybe the beginning of one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    commit_lsn: Lsn,
    split: Option<Split>,
}

impl Covered {
    /// Whether the event at a position is written.
    pub fn covers(&self, position: Position) -> bool {
        let Position { commit_lsn, ordinal } = position;
        // Transactions come in commit order: those before the split one are written, too.
        let in_split = |split: Split| (commit_lsn, ordinal) < (split.commit_lsn, split.next_ordinal);
        commit_lsn <= self.commit_lsn || self.split.is_some_and(in_split)
    }
}

/// Topic of a table, with the offsets that the progress record covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicOffsets {
    /// Name of the topic.
    pub topic: String,
    /// Generation: when the topic's offsets began to be recorded, in microseconds since 1970. Offsets of another
    /// generation belong to another topic of this name.
    #[serde(default)]
    pub generation: i64,
    /// Whether the topic was begun over an older one (`--recopy`), or its table was parked. A lake may hold
    /// something of the former state then, so sinks wait for the start of a copy.
    #[serde(default)]
    pub begun_over: bool,
    /// Offset at which the generation begins, for each partition.
    #[serde(default)]
    pub first_offsets: Vec<i64>,
    /// Offset after the last event, for each partition.
    pub next_offsets: Vec<i64>,
    /// Columns of the table's last events.
    #[serde(default)]
    pub columns: Vec<ColumnMark>,
}

/// Name and number by which a column is recognised when its table's shape changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnMark {
    /// Name of the column.
    pub name: String,
    /// Number of the column at the source, where known. It stays when the column is renamed, and is never reused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub number: Option<i16>,
}

impl TopicOffsets {
    /// Offset at which the generation begins in a partition; 0 where none is recorded.
    pub fn first_offset(&self, partition: i32) -> i64 {
        usize::try_from(partition).ok().and_then(|index| self.first_offsets.get(index)).copied().unwrap_or(0)
    }
}

impl TopicProgress {
    /// Watermark of the record; none while a transaction is split.
    pub fn watermark(&self) -> Option<Watermark> {
        let watermark = Watermark {
            commit_lsn: self.commit_lsn,
            end_lsn: self.record.confirmed_lsn,
            commit_micros: self.commit_micros,
        };
        self.split.is_none().then_some(watermark)
    }

    /// Part of the stream that the record covers.
    pub fn covered(&self) -> Covered {
        Covered { commit_lsn: self.commit_lsn, split: self.split }
    }

    /// Notes that the event at a position is written, while its transaction may go on.
    pub fn note(&mut self, position: Position) {
        let Position { commit_lsn, ordinal } = position;
        let noted = Split { commit_lsn, next_ordinal: ordinal + 1 };
        self.split = Some(self.split.map_or(noted, |known| known.max(noted)));
    }

    /// Tables by the name of their topic.
    pub fn tables_by_topic(&self) -> HashMap<String, TableName> {
        let topics = self.topics.iter();
        topics.filter_map(|(name, offsets)| Some((offsets.topic.clone(), TableName::parse(name)?))).collect()
    }

    /// Recorded offsets of a topic; none for a topic that is not in the record.
    pub fn topic(&self, topic: &str) -> Option<&TopicOffsets> {
        self.topics.values().find(|offsets| offsets.topic == topic)
    }

    /// Offset after the last event in each partition of a topic; empty for a topic that is not in the record, or is
    /// of another generation.
    pub fn offsets_of(&self, topic: &str, generation: i64) -> &[i64] {
        let found = self.topic(topic).filter(|offsets| offsets.generation == generation);
        found.map(|offsets| offsets.next_offsets.as_slice()).unwrap_or_default()
    }

    /// The record as JSON, as it is written to the progress topic.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::fatal(Code::Internal, "cannot write the progress record", error, "report this"))
    }

    /// Parses a record from a message of the progress topic; `topic` and `offset` name the message in an error.
    pub fn from_json(topic: &str, offset: i64, json: &[u8]) -> Result<TopicProgress> {
        serde_json::from_slice(json).map_err(|error| {
            Error::operator(
                Code::ProgressUnreadable,
                format!("cannot understand the progress record at {topic}/0 offset {offset}"),
                error,
                "somebody else writes to this topic: name another one with progress_topic of [kafka]",
            )
        })
    }
}

/// Reads the last committed progress record; none if there is none. May take seconds: call it where blocking is
/// allowed.
pub fn load(settings: &KafkaSettings) -> Result<Option<TopicProgress>> {
    load_last(settings, Isolation::Committed)
}

/// Reads the last written progress record, whatever the outcome of its transaction. For a source that has fenced
/// its predecessors: all events that the record covers were written before it. May take seconds: call it where
/// blocking is allowed.
pub fn load_written(settings: &KafkaSettings) -> Result<Option<TopicProgress>> {
    load_last(settings, Isolation::All)
}

fn load_last(settings: &KafkaSettings, isolation: Isolation) -> Result<Option<TopicProgress>> {
    let topic = &settings.topics.progress;
    let reader = RangeReader::open(settings, isolation)?;
    let (first, end) = reader.bounds(topic, 0)?;
    let mut start = end;
    let mut look_back = LOOK_BACK;
    let mut found = None;
    while start > first && found.is_none() {
        start = (end - look_back).max(first);
        reader.read(topic, 0, start..end, |message| {
            if let Some(json) = message.payload() {
                found = Some(TopicProgress::from_json(topic, message.offset(), json)?);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        look_back *= 16;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(split: Option<Split>) -> TopicProgress {
        TopicProgress {
            record: ProgressRecord {
                system_id: "7".into(),
                timeline: 1,
                slot: "s".into(),
                confirmed_lsn: Lsn(120),
                tables: BTreeMap::new(),
            },
            commit_lsn: Lsn(100),
            commit_micros: 5,
            split,
            topics: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_written_is_known_to_the_event() {
        let at = |commit_lsn, ordinal| Position { commit_lsn: Lsn(commit_lsn), ordinal };
        let whole = progress(None);
        assert!(whole.covered().covers(at(100, 9)) && !whole.covered().covers(at(101, 0)));
        let mut split = progress(None);
        for (commit_lsn, ordinal) in [(150, 2), (150, 7), (150, 4), (140, 9)] {
            split.note(at(commit_lsn, ordinal));
        }
        let covered = split.covered();
        assert!(covered.covers(at(150, 7)) && !covered.covers(at(150, 8)) && !covered.covers(at(151, 0)));
        assert!(covered.covers(at(140, 20)), "a whole transaction before the split one");
        assert!(split.watermark().is_none());
    }

    #[test]
    fn the_record_survives_its_topic() {
        let record = progress(Some(Split { commit_lsn: Lsn(150), next_ordinal: 8 }));
        let json = record.to_json().unwrap();
        assert_eq!(TopicProgress::from_json("t", 0, &json).unwrap(), record);
        let error = TopicProgress::from_json("t", 3, b"{}").unwrap_err();
        assert!(error.what.contains("t/0 offset 3") && error.why.contains("missing field"), "{error}");
    }
}
