//! State of one topic that is read: its partitions, and which of its events have been handed on.

use std::collections::HashMap;

use sooner_schemas::{Lsn, Position, TableName};

use crate::consumer::merge::TopicMerge;
use crate::message::topic_message::TopicMessage;

/// State of one topic that is read.
pub struct Topic {
    /// Table whose events are on the topic.
    pub table: TableName,
    /// Merge of the topic's partitions.
    pub merge: TopicMerge,
    /// Generation: tells the topic from its predecessor of the same name.
    pub generation: i64,
    /// Whether events are dropped, until a copy starts.
    pub closed: bool,
    /// Position, by partition, at or below which events have been handed on. A writer without transactions repeats
    /// some.
    seen: HashMap<i32, Position>,
}

impl Topic {
    /// A topic that is read from these offsets on, each with its partition. `applied` is the LSN up to which its
    /// table is complete, where that is known.
    pub fn new(table: TableName, generation: i64, positions: Vec<(i32, i64)>, applied: Option<Lsn>) -> Topic {
        // A table is complete between transactions, so all events of the last one are in it.
        let complete = applied.map(|commit_lsn| Position { commit_lsn, ordinal: u64::MAX });
        let seen = positions.iter().filter_map(|(partition, _)| Some((*partition, complete?))).collect();
        Topic { table, merge: TopicMerge::new(positions), generation, closed: false, seen }
    }

    /// Starts a copy: from here on, all events are taken again.
    pub fn begin_copy(&mut self) {
        self.closed = false;
        self.seen.clear();
    }

    /// Whether a record's event was handed on before. A tombstone has the position of its delete, and is no event
    /// of its own.
    pub fn has_seen(&self, record: &TopicMessage) -> bool {
        let last = self.seen.get(&record.partition);
        record.position().is_some_and(|position| last.is_some_and(|last| position <= *last))
    }

    /// Notes that a record's event was handed on.
    pub fn note(&mut self, record: &TopicMessage) {
        if let Some(position) = record.position() {
            let last = self.seen.entry(record.partition).or_insert(position);
            *last = position.max(*last);
        }
    }
}
