//! The progress record: one compacted topic, one key, written in the same Kafka transaction as the events it covers.
//!
//! It says: every event with `commit_lsn` at or below the watermark lies below these offsets.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use rdkafka::Message;
use serde::{Deserialize, Serialize};
use sooner_api::{Error, ProgressRecord, Result};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, Position, TableName};

use crate::pieces::{PieceReader, Sees};
use crate::settings::KafkaSettings;

/// Records that are read at the topic's end, at first, to find the last one.
const LOOK_BACK: i64 = 64;

/// What a source has written, and how far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicProgress {
    /// The pipeline, its slot and its tables. `confirmed_lsn` is where the slot may be confirmed to.
    #[serde(flatten)]
    pub record: ProgressRecord,
    /// Every event with `commit_lsn` at or below it is written.
    pub commit_lsn: Lsn,
    /// Commit time of the last transaction at the source, in microseconds since 1970.
    pub commit_micros: i64,
    /// A transaction was split: of the one at this `commit_lsn`, events below `ordinal` are written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub split: Option<Split>,
    /// Each table's topic and offsets, by `schema.table`.
    pub topics: BTreeMap<String, TopicOffsets>,
}

/// How far a split transaction is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Split {
    /// Its commit LSN.
    pub commit_lsn: Lsn,
    /// The first event that is not written yet.
    pub next_ordinal: u64,
}

/// What of the stream is written: whole transactions, and the beginning of one more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    commit_lsn: Lsn,
    split: Option<Split>,
}

impl Covered {
    /// Whether an event is written.
    pub fn covers(&self, position: Position) -> bool {
        let Position { commit_lsn, ordinal } = position;
        // Transactions come in commit order: those before the split one are written, too.
        let in_split = |split: Split| (commit_lsn, ordinal) < (split.commit_lsn, split.next_ordinal);
        commit_lsn <= self.commit_lsn || self.split.is_some_and(in_split)
    }
}

/// A table's topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicOffsets {
    /// Name.
    pub topic: String,
    /// When its offsets began to be recorded, in microseconds since 1970: those of another generation are of another topic
    /// of this name.
    #[serde(default)]
    pub generation: i64,
    /// It was begun over an older one (`--recopy`), or its table was parked: a lake may have something of that, and sinks wait for the
    /// mark of a copy.
    #[serde(default)]
    pub begun_over: bool,
    /// For each partition, where the generation begins.
    #[serde(default)]
    pub first_offsets: Vec<i64>,
    /// For each partition, the offset after its last event.
    pub next_offsets: Vec<i64>,
    /// The columns of the last events.
    #[serde(default)]
    pub columns: Vec<ColumnMark>,
}

/// What a column is recognised by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnMark {
    /// Name.
    pub name: String,
    /// Its number at the source, where that is known: stays when the column is renamed, and is never used again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub number: Option<i16>,
}

impl TopicOffsets {
    /// Where a partition's generation begins.
    pub fn first_offset(&self, partition: i32) -> i64 {
        usize::try_from(partition).ok().and_then(|index| self.first_offsets.get(index)).copied().unwrap_or(0)
    }
}

impl TopicProgress {
    /// The watermark; none while a transaction is split.
    pub fn watermark(&self) -> Option<Watermark> {
        let watermark = Watermark {
            commit_lsn: self.commit_lsn,
            end_lsn: self.record.confirmed_lsn,
            commit_micros: self.commit_micros,
        };
        self.split.is_none().then_some(watermark)
    }

    /// What of the stream is written.
    pub fn covered(&self) -> Covered {
        Covered { commit_lsn: self.commit_lsn, split: self.split }
    }

    /// Notes an event that is written while its transaction may go on.
    pub fn note(&mut self, position: Position) {
        let Position { commit_lsn, ordinal } = position;
        let noted = Split { commit_lsn, next_ordinal: ordinal + 1 };
        self.split = Some(self.split.map_or(noted, |known| known.max(noted)));
    }

    /// Each topic's table.
    pub fn tables_by_topic(&self) -> HashMap<String, TableName> {
        let topics = self.topics.iter();
        topics.filter_map(|(name, offsets)| Some((offsets.topic.clone(), TableName::parse(name)?))).collect()
    }

    /// What is recorded of a topic; nothing of one that was not written to.
    pub fn topic(&self, topic: &str) -> Option<&TopicOffsets> {
        self.topics.values().find(|offsets| offsets.topic == topic)
    }

    /// The offsets of a topic; none of a topic that was not written to, or that is of another generation.
    pub fn offsets_of(&self, topic: &str, generation: i64) -> &[i64] {
        let found = self.topic(topic).filter(|offsets| offsets.generation == generation);
        found.map(|offsets| offsets.next_offsets.as_slice()).unwrap_or_default()
    }

    /// As it stands on the topic.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::fatal("cannot write the progress record", error, "report this"))
    }

    /// From a message of the topic.
    pub fn from_json(topic: &str, offset: i64, json: &[u8]) -> Result<TopicProgress> {
        serde_json::from_slice(json).map_err(|error| {
            Error::operator(
                format!("cannot understand the progress record at {topic}/0 offset {offset}"),
                error,
                "somebody else writes to this topic: name another one with progress_topic of [kafka]",
            )
        })
    }
}

/// Reads the last committed record; none if there never was one. May take seconds: call it where blocking is allowed.
pub fn load(settings: &KafkaSettings) -> Result<Option<TopicProgress>> {
    load_last(settings, Sees::Committed)
}

/// The last record that was written, whatever became of its transaction. For a source that has fenced its predecessors: all
/// events that the record covers had been written before it.
pub fn load_written(settings: &KafkaSettings) -> Result<Option<TopicProgress>> {
    load_last(settings, Sees::All)
}

fn load_last(settings: &KafkaSettings, sees: Sees) -> Result<Option<TopicProgress>> {
    let topic = &settings.topics.progress;
    let reader = PieceReader::open(settings, sees)?;
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
