//! One topic that is read: its partitions, and what of it was handed on before.

use std::collections::HashMap;

use sooner_schemas::{Lsn, Position, TableName};

use crate::merge::TopicMerge;
use crate::record::Record;

/// One topic that is read.
pub struct Topic {
    /// Its table.
    pub table: TableName,
    /// Its partitions.
    pub merge: TopicMerge,
    /// Which topic of its name it is.
    pub generation: i64,
    /// Its events are dropped, until a copy starts.
    pub closed: bool,
    /// By partition: events at or below it have been handed on. A writer without transactions repeats some.
    seen: HashMap<i32, Position>,
}

impl Topic {
    /// Read from these offsets on. `applied` is the LSN up to which its table is complete, where that is known.
    pub fn new(table: TableName, generation: i64, positions: Vec<(i32, i64)>, applied: Option<Lsn>) -> Topic {
        // A table is complete between transactions, so all events of the last one are in it.
        let complete = applied.map(|commit_lsn| Position { commit_lsn, ordinal: u64::MAX });
        let seen = positions.iter().filter_map(|(partition, _)| Some((*partition, complete?))).collect();
        Topic { table, merge: TopicMerge::new(positions), generation, closed: false, seen }
    }

    /// From the mark of a copy on all is taken again.
    pub fn begin_copy(&mut self) {
        self.closed = false;
        self.seen.clear();
    }

    /// Whether an event was handed on before. A tombstone stands where its delete does, and is no event of its own.
    pub fn has_seen(&self, record: &Record) -> bool {
        let last = self.seen.get(&record.partition);
        record.position().is_some_and(|position| last.is_some_and(|last| position <= *last))
    }

    /// Notes an event that was handed on.
    pub fn note(&mut self, record: &Record) {
        if let Some(position) = record.position() {
            let last = self.seen.entry(record.partition).or_insert(position);
            *last = position.max(*last);
        }
    }
}
