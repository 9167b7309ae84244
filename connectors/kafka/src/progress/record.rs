//! The progress record: how far a source has written. It says: every event with `commit_lsn` at or below the watermark
//! lies below these offsets.
//!
//! It is kept on a compacted topic of one partition, in messages that are written in the same Kafka transaction as the
//! events that they cover: one of each table that has changed, under the key `<slot>/<table>`, and after them the head,
//! under the key `<slot>`, which makes them count. So a record costs what has changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use sooner_api::{Code, Error, Positions, ProgressRecord, Result, TableProgress};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, Position, TableName};

use super::lineage::Lineage;

/// What a source has written, and how far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicProgress {
    /// The pipeline, its slot and its tables. `confirmed_lsn` is where the slot may be confirmed to.
    pub record: ProgressRecord,
    /// Every event with `commit_lsn` at or below it is written.
    pub commit_lsn: Lsn,
    /// Commit time of the last transaction at the source, in microseconds since 1970.
    pub commit_micros: i64,
    /// Set while a Postgres transaction is written in parts: how far it is.
    pub split: Option<Split>,
    /// Topic and offsets of each table.
    pub topics: BTreeMap<TableName, TopicOffsets>,
    /// How tables have moved from topic to topic; of those that have, or will.
    pub lineages: BTreeMap<TableName, Lineage>,
}

/// How far a transaction that is split over several Kafka transactions is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Split {
    /// Its commit LSN.
    pub commit_lsn: Lsn,
    /// Ordinal of the first event that is not written yet.
    pub next_ordinal: u64,
}

/// A table's topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicOffsets {
    /// Name of the topic.
    pub topic: String,
    /// When its offsets began to be recorded, in microseconds since 1970: those of another generation belong to another
    /// topic of this name.
    #[serde(default)]
    pub generation: i64,
    /// It was begun over an older one (`--recopy`), or its table was parked: a lake may have something of that, and
    /// sinks wait for the mark of a copy.
    #[serde(default)]
    pub begun_over: bool,
    /// For each partition, the offset at which the generation begins.
    #[serde(default)]
    pub first_offsets: Vec<i64>,
    /// For each partition, the offset after its last event.
    pub next_offsets: Vec<i64>,
}

/// The head of a record as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    system_id: String,
    timeline: u32,
    #[serde(default)]
    version: u32,
    slot: String,
    confirmed_lsn: Lsn,
    commit_lsn: Lsn,
    commit_micros: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    split: Option<Split>,
    tables: Tables,
    /// Only in records of earlier versions, which held all tables.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    topics: BTreeMap<TableName, TopicOffsets>,
}

/// Tables in a head.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Tables {
    /// Number of tables that the record consists of, each with a message of its own.
    Count(usize),
    /// All of them, as earlier versions wrote it.
    Whole(BTreeMap<TableName, TableProgress>),
}

/// A table's part of a record as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct TablePart {
    table: TableName,
    progress: TableProgress,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    topic: Option<TopicOffsets>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    lineage: Option<Lineage>,
}

/// A message of the progress topic: key, and value as JSON; a table that no longer takes part has none.
pub type RecordMessage = (String, Option<Vec<u8>>);

impl TopicOffsets {
    /// Offset at which a partition's generation begins.
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

    /// What of the stream is written: whole transactions, and the beginning of one more. Transactions come in commit
    /// order, so those before a split one are written, too.
    pub fn covered(&self) -> Positions {
        let mut covered = Positions::whole(self.commit_lsn);
        if let Some(Split { commit_lsn, next_ordinal }) = self.split
            && let Some(ordinal) = next_ordinal.checked_sub(1)
        {
            covered.advance(&Positions::Stream(Position { commit_lsn, ordinal }));
        }
        covered
    }

    /// Commit LSN of the last event that is written, whether or not its transaction is written whole.
    pub fn reached(&self) -> Lsn {
        self.split.map_or(self.commit_lsn, |split| split.commit_lsn.max(self.commit_lsn))
    }

    /// Notes an event that is written while its transaction may go on.
    pub fn note(&mut self, position: Position) {
        let Position { commit_lsn, ordinal } = position;
        let noted = Split { commit_lsn, next_ordinal: ordinal + 1 };
        self.split = Some(self.split.map_or(noted, |known| known.max(noted)));
    }

    /// The table of each topic.
    pub fn tables_by_topic(&self) -> HashMap<String, TableName> {
        self.topics.iter().map(|(name, offsets)| (offsets.topic.clone(), name.clone())).collect()
    }

    /// What is recorded of a topic; nothing of one that was not written to.
    pub fn topic(&self, topic: &str) -> Option<&TopicOffsets> {
        self.topics.values().find(|offsets| offsets.topic == topic)
    }

    /// Next offsets of a topic, or of one that another has taken the place of; none of a topic that was not written to,
    /// or that is of another generation.
    pub fn offsets_of(&self, topic: &str, generation: i64) -> &[i64] {
        if let Some(found) = self.topic(topic) {
            return if found.generation == generation { &found.next_offsets } else { &[] };
        }
        let of_table = |table: &TableName| self.topics.get(table).is_some_and(|it| it.generation == generation);
        let tables = self.lineages.keys().filter(|table| of_table(table));
        let mut found = tables.filter_map(|table| Some(self.former(table, topic)?.end_offsets.as_slice()));
        found.next().unwrap_or_default()
    }

    /// The messages that store the record, given which tables have changed since it was last written; the head is last.
    pub fn messages(&self, changed: &BTreeSet<TableName>) -> Result<Vec<RecordMessage>> {
        let slot = &self.record.slot;
        let mut messages = Vec::with_capacity(changed.len() + 1);
        for table in changed {
            let part = self.record.tables.get(table).map(|progress| TablePart {
                table: table.clone(),
                progress: progress.clone(),
                topic: self.topics.get(table).cloned(),
                lineage: self.lineages.get(table).cloned(),
            });
            let value = part.map(|part| to_json(&part)).transpose()?;
            messages.push((format!("{slot}/{table}"), value));
        }
        messages.push((slot.clone(), Some(to_json(&self.head())?)));
        Ok(messages)
    }

    fn head(&self) -> Head {
        Head {
            system_id: self.record.system_id.clone(),
            timeline: self.record.timeline,
            version: self.record.version,
            slot: self.record.slot.clone(),
            confirmed_lsn: self.record.confirmed_lsn,
            commit_lsn: self.commit_lsn,
            commit_micros: self.commit_micros,
            split: self.split,
            tables: Tables::Count(self.record.tables.len()),
            topics: BTreeMap::new(),
        }
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::internal("cannot write the progress record", error))
}

/// Puts records together again from the messages of the topic, in order.
#[derive(Debug, Default)]
pub struct RecordReplay {
    /// Tables and their topics, by slot.
    slots: HashMap<String, Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    tables: BTreeMap<TableName, TableProgress>,
    topics: BTreeMap<TableName, TopicOffsets>,
    lineages: BTreeMap<TableName, Lineage>,
}

impl RecordReplay {
    /// Takes a message; returns the record that it completes, if it is a head. Where compaction has removed a table's
    /// part, because a later one follows, the record is not whole and is left out.
    pub fn take(&mut self, place: &str, key: &[u8], value: Option<&[u8]>) -> Result<Option<TopicProgress>> {
        let key = String::from_utf8_lossy(key);
        match (key.split_once('/'), value) {
            (Some((slot, table)), None) => {
                if let (Some(parts), Ok(table)) = (self.slots.get_mut(slot), table.parse::<TableName>()) {
                    parts.tables.remove(&table);
                    parts.topics.remove(&table);
                    parts.lineages.remove(&table);
                }
                Ok(None)
            }
            (Some((slot, _)), Some(json)) => {
                let TablePart { table, progress, topic, lineage } = parse(place, json)?;
                let parts = self.slots.entry(slot.to_owned()).or_default();
                parts.topics.extend(topic.map(|topic| (table.clone(), topic)));
                parts.lineages.remove(&table);
                parts.lineages.extend(lineage.map(|lineage| (table.clone(), lineage)));
                parts.tables.insert(table, progress);
                Ok(None)
            }
            (None, Some(json)) => Ok(self.complete(parse(place, json)?)),
            (None, None) => Ok(None),
        }
    }

    fn complete(&mut self, head: Head) -> Option<TopicProgress> {
        let Head { system_id, timeline, version, slot, confirmed_lsn, .. } = head;
        let Head { commit_lsn, commit_micros, split, tables, topics, .. } = head;
        let parts = self.slots.entry(slot.clone()).or_default();
        match tables {
            Tables::Whole(tables) => *parts = Parts { tables, topics, ..Parts::default() },
            Tables::Count(count) if count != parts.tables.len() => return None,
            Tables::Count(_) => {}
        }
        let record = ProgressRecord { system_id, timeline, version, slot, confirmed_lsn, ..ProgressRecord::default() };
        let record = ProgressRecord { tables: parts.tables.clone(), ..record };
        let (topics, lineages) = (parts.topics.clone(), parts.lineages.clone());
        Some(TopicProgress { record, commit_lsn, commit_micros, split, topics, lineages })
    }
}

fn parse<T: for<'de> Deserialize<'de>>(place: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        Error::operator(
            Code::ProgressUnreadable,
            format!("cannot understand the progress record at {place}"),
            error,
            "somebody else writes to this topic: name another one with progress_topic of [kafka]",
        )
    })
}

#[cfg(test)]
mod tests {
    use sooner_api::TableState;

    use super::*;

    fn name(table: &str) -> TableName {
        TableName::new("public", table)
    }

    fn offsets(topic: &str, next: i64) -> TopicOffsets {
        TopicOffsets {
            topic: topic.into(),
            generation: 5,
            begun_over: false,
            first_offsets: vec![0],
            next_offsets: vec![next],
        }
    }

    fn progress(split: Option<Split>) -> TopicProgress {
        let streaming = TableProgress::new(TableState::Streaming { copied_lsn: Some(Lsn(9)) }, Some(7));
        let tables = ["a", "b"].map(|table| (name(table), streaming.clone()));
        TopicProgress {
            record: ProgressRecord {
                system_id: "7".into(),
                timeline: 1,
                slot: "s".into(),
                confirmed_lsn: Lsn(120),
                tables: tables.into(),
                ..ProgressRecord::default()
            },
            commit_lsn: Lsn(100),
            commit_micros: 5,
            split,
            topics: ["a", "b"].map(|table| (name(table), offsets(table, 3))).into(),
            lineages: [(name("a"), Lineage { base: "a".into(), ..Lineage::default() })].into(),
        }
    }

    fn all(progress: &TopicProgress) -> BTreeSet<TableName> {
        progress.record.tables.keys().cloned().collect()
    }

    fn replay(replay: &mut RecordReplay, messages: &[RecordMessage]) -> Vec<TopicProgress> {
        let taken = messages.iter().map(|(key, value)| replay.take("t/0", key.as_bytes(), value.as_deref()).unwrap());
        taken.flatten().collect()
    }

    #[test]
    fn what_is_written_is_known_to_the_event() {
        let at = |commit_lsn, ordinal| Position { commit_lsn: Lsn(commit_lsn), ordinal };
        let whole = progress(None).covered();
        assert!(whole.covers_event(at(100, 9)) && !whole.covers_event(at(101, 0)));
        let mut split = progress(None);
        for (commit_lsn, ordinal) in [(150, 2), (150, 7), (150, 4), (140, 9)] {
            split.note(at(commit_lsn, ordinal));
        }
        let covered = split.covered();
        assert!(covered.covers_event(at(150, 7)) && !covered.covers_event(at(150, 8)));
        assert!(!covered.covers_event(at(151, 0)));
        assert!(covered.covers_event(at(140, 20)), "a whole transaction before the split one");
        assert!(split.watermark().is_none());
    }

    #[test]
    fn the_record_survives_its_topic() {
        let record = progress(Some(Split { commit_lsn: Lsn(150), next_ordinal: 8 }));
        let messages = record.messages(&all(&record)).unwrap();
        assert_eq!(messages.len(), 3, "two tables and the head");
        assert_eq!(replay(&mut RecordReplay::default(), &messages), [record]);
    }

    #[test]
    fn a_record_costs_what_has_changed() {
        let mut record = progress(None);
        let mut replayed = RecordReplay::default();
        replay(&mut replayed, &record.messages(&all(&record)).unwrap());
        record.topics.insert(name("b"), offsets("b", 9));
        record.commit_lsn = Lsn(110);
        let messages = record.messages(&BTreeSet::from([name("b")])).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(replay(&mut replayed, &messages), [record.clone()]);
        record.record.tables.remove(&name("a"));
        record.topics.remove(&name("a"));
        record.lineages.remove(&name("a"));
        let messages = record.messages(&BTreeSet::from([name("a")])).unwrap();
        assert_eq!(replay(&mut replayed, &messages), [record], "a table that no longer takes part is forgotten");
    }

    #[test]
    fn a_record_that_compaction_has_taken_a_part_of_is_left_out() {
        let mut record = progress(None);
        let first = record.messages(&all(&record)).unwrap();
        record.topics.insert(name("a"), offsets("a", 9));
        let second = record.messages(&BTreeSet::from([name("a")])).unwrap();
        // The first part of table a is gone; the first head still is there.
        let left = [&first[1..], &second].concat();
        assert_eq!(replay(&mut RecordReplay::default(), &left), [record]);
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let json = r#"{"system_id":"7","timeline":1,"slot":"s","confirmed_lsn":"0/78",
            "tables":{"public.a":{"phase":"parked","reason":"its key changed"}},
            "commit_lsn":"0/64","commit_micros":5,
            "topics":{"public.a":{"topic":"a","next_offsets":[3],"columns":[]}}}"#;
        let record = RecordReplay::default().take("t/0", b"s", Some(json.as_bytes())).unwrap().unwrap();
        assert_eq!(record.topics[&name("a")].next_offsets, [3]);
        assert!(matches!(&record.record.tables[&name("a")].state, TableState::Parked { .. }));
    }

    #[test]
    fn what_is_no_record_is_told_with_its_place() {
        let error = RecordReplay::default().take("t/0 offset 3", b"s", Some(b"{}")).unwrap_err();
        assert_eq!(error.code, Code::ProgressUnreadable);
        assert!(error.what.contains("t/0 offset 3"), "{error}");
    }
}
