//! State of one topic that is read: its partitions, and which of its events have been handed on.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{NextOffsets, Positions};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::EventSchema;
use sooner_schemas::{Lsn, Relation, TableName};

use crate::consumer::merge::TopicMerge;
use crate::message::topic_message::TopicMessage;

/// State of one topic that is read.
pub struct Topic {
    /// Table whose events are on the topic.
    pub table: TableName,
    /// Merge of the topic's partitions.
    pub merge: TopicMerge,
    /// Incarnation of the topic, where its writer reports it: tells it from its predecessor of the same name.
    pub generation: Option<i64>,
    /// Whether events are dropped, until a copy starts.
    pub closed: bool,
    /// Number of the topic's first partition among those of all topics that the table's events have been on.
    pub shift: i32,
    /// For each partition, the offset of the copy's start that the topic begins with; empty if it begins with rows.
    pub opening: Vec<i64>,
    /// Whether it was reported that the topic is read to its end, after which another one goes on.
    pub has_ended: bool,
    /// Schemas of the last event that was handed on.
    pub schema: Option<Arc<EventSchema>>,
    /// For each partition, the offset up to which the lake table has been told of what was read.
    told_offsets: HashMap<i32, i64>,
    /// What the table's columns were last told to be.
    told: Option<Arc<Relation>>,
    /// What has been handed on of each partition. A writer without transactions repeats
    /// some.
    seen: HashMap<i32, Positions>,
}

impl Topic {
    /// A topic that is read from these offsets on, each with its partition. `applied` is the LSN up to which its
    /// table is complete, where that is known.
    pub fn new(table: TableName, generation: Option<i64>, positions: Vec<(i32, i64)>, applied: Option<Lsn>) -> Topic {
        // A table is complete between transactions, so all events of the last one are in it.
        let complete = applied.map(Positions::whole);
        let seen = positions.iter().filter_map(|(partition, _)| Some((*partition, complete.clone()?))).collect();
        Topic {
            table,
            told_offsets: positions.iter().copied().collect(),
            merge: TopicMerge::new(positions),
            generation,
            closed: false,
            shift: 0,
            opening: Vec::new(),
            has_ended: false,
            schema: None,
            told: None,
            seen,
        }
    }

    /// Offset at which a partition begins with the start of a copy, as all others do; none if the topic begins with
    /// rows.
    pub fn opens_at(&self, partition: i32) -> Option<i64> {
        self.opening.get(usize::try_from(partition).ok()?).copied()
    }

    /// Starts a copy: from here on, all events are taken again.
    pub fn begin_copy(&mut self) {
        self.closed = false;
        self.seen.clear();
    }

    /// Whether a record's event was handed on before. A tombstone has the position of its delete, and is no event
    /// of its own.
    pub fn has_seen(&self, record: &TopicMessage) -> bool {
        let seen = self.seen.get(&record.partition);
        let Some((position, seen)) = record.position().zip(seen) else { return false };
        // Rows that were copied after the last transaction may not have been handed on with it.
        let may_follow = position.is_copied() && *seen == Positions::whole(position.commit_lsn);
        seen.covers_event(position) && !may_follow
    }

    /// Schemas of a table as a record knows it that was reached, if it was not told before: a table may have other
    /// columns although nothing is written to it. None also where such schemas cannot be read.
    pub fn tell(&mut self, relation: Option<&Arc<Relation>>) -> Option<Arc<EventSchema>> {
        let relation = relation.filter(|_| !self.closed)?;
        if self.told.as_ref().is_some_and(|told| Arc::ptr_eq(told, relation) || told == relation) {
            return None;
        }
        self.told = Some(relation.clone());
        schema_of(&self.table, relation)
    }

    /// Notes that a lake table is told that a partition was read up to an offset; returns the partition's number among
    /// those of all topics of the table.
    pub fn tell_offset(&mut self, partition: i32, next: i64) -> i32 {
        self.told_offsets.insert(partition, next);
        self.shift + partition
    }

    /// What the lake table has not been told although it was read, given the offsets at which the topic ends: messages
    /// without an event stand there. By the numbers that sinks give partitions.
    pub fn untold_ends(&self, end_offsets: &[i64]) -> NextOffsets {
        let ends = (0..)
            .zip(end_offsets)
            .filter(|(partition, end)| self.told_offsets.get(partition).is_some_and(|told| told < *end));
        ends.map(|(partition, end)| (self.shift + partition, *end)).collect()
    }

    /// Notes that a record's event was handed on.
    pub fn note(&mut self, record: &TopicMessage) {
        if let Some(position) = record.position() {
            let noted = Positions::Stream(position);
            self.seen.entry(record.partition).or_insert_with(|| noted.clone()).advance(&noted);
        }
    }
}

/// Schemas of events of a relation, without their ids; none where they cannot be read.
pub fn schema_of(table: &TableName, relation: &Relation) -> Option<Arc<EventSchema>> {
    let name = relation.name.to_string();
    let key = key_schema(&name, relation).map(|schema| schema.to_string());
    let value = value_schema(&name, relation).to_string();
    EventSchema::parse(table.clone(), key.as_deref(), &value).ok().map(Arc::new)
}
