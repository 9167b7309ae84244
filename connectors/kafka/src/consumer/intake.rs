//! From messages as they are polled to batches in order: topics are merged up to what the ordering says, and what
//! cannot be read goes to the dead letters, or stops its table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use sooner_api::{Class, Coverage, Error, EventBatch, Result, TableState, Uncut};
use sooner_schemas::event::EventSchema;
use sooner_schemas::{Lsn, Position, TableName};

use super::assembly::Assembly;
use super::dead_letters::DeadLetters;
use super::format::Format;
use super::merge::Step;
use super::ordering::{Ordering, Reached};
use super::topic::{Topic, schema_of};
use crate::cluster::topic_partition::Offsets;
use crate::message::topic_message::TopicMessage;
use crate::progress::copies::{broken_copies, coverage};
use crate::progress::lineage::FormerTopic;
use crate::progress::record::TopicProgress;
use crate::registry::plain::plain;

/// Topics on their way into batches.
pub struct Intake {
    /// Up to where topics are read.
    pub ordering: Ordering,
    format: Format,
    /// Where messages go that cannot be read; without it, they stop their table.
    dead_letters: Option<DeadLetters>,
    topics: BTreeMap<String, Topic>,
    not_read: NotRead,
    /// Tables that cannot be cut where records end. Once none of them is ahead, this stays so until records name other
    /// topics, or others are read.
    uncut: Option<Arc<Uncut>>,
    /// Which topics the last record named, as a number.
    named: Option<(usize, i64)>,
    assembly: Assembly,
    /// What the last watermark covers has been read: its LSN, until that is asked for.
    completed: Option<Lsn>,
    /// Tables of which partitions of a topic are read to their ends, after which another topic goes on, until that is
    /// asked for.
    ended: Vec<(TableName, BTreeSet<i32>)>,
}

/// Tables that were assigned, and of which nothing is read.
#[derive(Debug, Default)]
pub struct NotRead {
    /// They need another of their topics, and are assigned once more.
    pub unread: Vec<TableName>,
    /// Their lake tables cannot be opened.
    pub failed: Vec<TableName>,
}

/// How far a topic is read.
enum Reach {
    /// Up to where it should be.
    Target,
    /// Something is still to come.
    NotYet,
    /// Beyond that, without having seen all: the next record tells where the rest is.
    Missed,
}

/// Whether more of a table has been read than a record covers, or it is read from another topic, or from one of another
/// generation, or not at all.
fn is_beyond(topics: &BTreeMap<String, Topic>, record: &TopicProgress, table: &TableName) -> bool {
    let Some(offsets) = record.topics.get(table) else { return false };
    let Some(topic) = topics.get(&offsets.topic) else { return true };
    topic.generation != Some(offsets.generation) || topic.merge.is_beyond(&offsets.next_offsets)
}

/// Where a topic that is read ended, if another one has taken its place.
fn former_topic<'r>(record: &'r TopicProgress, topic: &Topic, name: &str) -> Option<&'r FormerTopic> {
    let present = record.topics.get(&topic.table)?;
    record.former(&topic.table, name).filter(|_| Some(present.generation) == topic.generation)
}

impl Intake {
    /// Reads nothing before it is restarted.
    pub fn new(ordering: Ordering, format: Format, dead_letters: Option<DeadLetters>) -> Intake {
        let (topics, assembly) = (BTreeMap::new(), Assembly::default());
        let (not_read, ended) = (NotRead::default(), Vec::new());
        let (uncut, named, completed) = (None, None, None);
        Intake { ordering, format, dead_letters, topics, not_read, uncut, named, assembly, completed, ended }
    }

    /// Counts the messages that went to the dead letters; none where there are none.
    pub fn dead_letters(&self) -> Option<Arc<AtomicU64>> {
        self.dead_letters.as_ref().map(DeadLetters::counter)
    }

    /// Reads these topics from now on, and forgets what it had of others.
    pub fn restart(&mut self, topics: BTreeMap<String, Topic>, not_read: NotRead) {
        (self.topics, self.not_read) = (topics, not_read);
        self.uncut = None;
        drop(self.assembly.take());
        self.ended.clear();
        self.ordering.start_over();
    }

    /// Takes note of the topics that a record names. Returns those that are neither read nor known not to be, if they
    /// are others than before.
    pub fn note_topics<'r>(&mut self, record: &'r TopicProgress) -> Vec<&'r str> {
        // Generations are moments, so another set of topics has another sum.
        let sum = record.topics.values().fold(0_i64, |sum, offsets| sum.wrapping_add(offsets.generation));
        let named = Some((record.topics.len(), sum));
        if std::mem::replace(&mut self.named, named) == named {
            return Vec::new();
        }
        self.uncut = None;
        let aside: BTreeSet<&TableName> = self.not_read.unread.iter().chain(&self.not_read.failed).collect();
        let unread = record.topics.iter().filter(|(table, offsets)| {
            !aside.contains(table) && self.topics.get(&offsets.topic).is_none_or(|topic| topic.table != **table)
        });
        unread.map(|(_, offsets)| offsets.topic.as_str()).collect()
    }

    /// Takes a polled message in. One of a topic that is not read is dropped.
    pub fn push(&mut self, message: TopicMessage) {
        if let Some(topic) = self.topics.get_mut(&*message.topic) {
            topic.merge.push(message);
        }
    }

    /// A topic that is read, by its name.
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// All topics that are read.
    pub fn topics(&self) -> impl Iterator<Item = (&str, &Topic)> {
        self.topics.iter().map(|(name, topic)| (name.as_str(), topic))
    }

    /// Where the next message of each partition is read.
    pub fn next_offsets(&self) -> Offsets {
        let offsets = self.topics.iter().flat_map(|(name, topic)| {
            topic.merge.next_offsets().map(|(partition, offset)| ((name.clone(), partition), offset))
        });
        offsets.collect()
    }

    /// Stops a topic: its events are dropped until a copy starts.
    pub fn close(&mut self, name: &str, error: Error) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.closed = true;
        self.assembly.stop(topic.table.clone(), error);
    }

    /// Moves what can be handed on into the batch. Cancelling loses nothing.
    pub async fn gather(&mut self) -> Result<()> {
        let mut reached = true;
        let names: Vec<String> = self.topics.keys().cloned().collect();
        for name in names {
            match self.gather_topic(&name).await? {
                Reach::Target => {}
                Reach::NotYet => reached = false,
                Reach::Missed => {
                    self.ordering.give_up_target();
                    return Ok(());
                }
            }
            if self.assembly.is_full() {
                return Ok(());
            }
        }
        let topics = &self.topics;
        if reached && let Some(reached) = self.ordering.reach(|record, table| is_beyond(topics, record, table)) {
            self.finish_record(reached);
        }
        Ok(())
    }

    async fn gather_topic(&mut self, name: &str) -> Result<Reach> {
        loop {
            if self.assembly.is_full() {
                return Ok(Reach::NotYet);
            }
            if self.ordering.waits_for_record() {
                return Ok(Reach::Target);
            }
            let Some(topic) = self.topics.get_mut(name) else { return Ok(Reach::Target) };
            let targets = self.ordering.targets(name, topic.generation.unwrap_or_default());
            let Some(head) = topic.merge.peek(targets).cloned() else {
                return Ok(match topic.merge.next(targets) {
                    Step::Reached => Reach::Target,
                    Step::Missed => Reach::Missed,
                    Step::Wait | Step::Message(..) => Reach::NotYet,
                });
            };
            // It stays where it is until it is dealt with: what is cancelled on the way begins again.
            self.deal_with(name, &head).await?;
            let Some(topic) = self.topics.get_mut(name) else { return Ok(Reach::Target) };
            let targets = self.ordering.targets(name, topic.generation.unwrap_or_default());
            if let Step::Message(message, copies) = topic.merge.next(targets) {
                self.assembly.pass(topic, &message, &copies);
            }
        }
    }

    /// Hands a message's event on, or sends what cannot be read to the dead letters, or stops its table.
    async fn deal_with(&mut self, name: &str, message: &TopicMessage) -> Result<()> {
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        if topic.closed && !message.headers.copy_start {
            return Ok(());
        }
        let schema = self.format.schema(&topic.table, message).await;
        let taken = schema.and_then(|schema| self.take_event(name, &*plain(message)?, schema));
        match taken {
            Err(error) if error.class == Class::Operator => self.set_aside(name, message, error).await,
            taken => taken,
        }
    }

    fn take_event(&mut self, name: &str, message: &TopicMessage, schema: Option<Arc<EventSchema>>) -> Result<()> {
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        if message.headers.copy_start {
            topic.begin_copy();
        }
        self.assembly.append(topic, message, schema.clone(), topic.has_seen(message))?;
        topic.schema = schema.or(topic.schema.take());
        topic.note(message);
        Ok(())
    }

    async fn set_aside(&mut self, name: &str, message: &TopicMessage, error: Error) -> Result<()> {
        let Some(letters) = &mut self.dead_letters else {
            self.close(name, error);
            return Ok(());
        };
        match letters.send(message, &error).await {
            Ok(()) => tracing::warn!(place = message.place(), %error, "the message went to the dead letters"),
            Err(error) if error.class == Class::Operator => self.close(name, error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Everything that a record covers is in the batches.
    fn finish_record(&mut self, reached: Reached) {
        let Reached { record, ended_copies, watermark } = reached;
        self.stop_broken_copies(&record);
        self.end_former_topics(&record);
        // The start of a copy has no key, so that a table to which no row was copied learns its key here: before it is
        // seen.
        self.tell_columns(&record);
        for (table, watermark) in ended_copies {
            self.assembly.end_copy(table, watermark);
        }
        if let Some(watermark) = watermark {
            self.completed = Some(watermark.end_lsn);
            if self.uncut.as_ref().is_none_or(|uncut| !uncut.ahead.is_empty()) {
                self.uncut = Some(Arc::new(self.uncut(&record)));
            }
            let (elsewhere, uncut) = (self.elsewhere(&record), self.uncut.clone().unwrap_or_default());
            self.assembly.complete(Coverage { elsewhere, uncut, ..coverage(&record, watermark) });
        }
    }

    /// Tables of which a record covers events that are in a topic that is not read here yet.
    pub fn elsewhere(&self, record: &TopicProgress) -> Vec<TableName> {
        let former = self.topics.iter().filter(|(name, topic)| former_topic(record, topic, name).is_some());
        let mut tables: Vec<_> = former.map(|(_, topic)| &topic.table).chain(&self.not_read.unread).cloned().collect();
        tables.sort();
        tables
    }

    /// Tables that cannot be cut where a record ends. Those that cannot be opened here are told by whoever opens them.
    pub fn uncut(&self, record: &TopicProgress) -> Uncut {
        let mut uncut = Uncut::default();
        let failed: BTreeSet<&TableName> = self.not_read.failed.iter().collect();
        let elsewhere: BTreeSet<&TableName> =
            self.topics.values().map(|topic| &topic.table).chain(&self.not_read.unread).collect();
        for (table, offsets) in record.topics.iter().filter(|(table, _)| !failed.contains(table)) {
            match self.topics.get(&offsets.topic) {
                None if elsewhere.contains(table) => &mut uncut.ahead,
                None => &mut uncut.shared,
                Some(topic) if topic.merge.partitions() < offsets.next_offsets.len() => &mut uncut.shared,
                Some(topic) if topic.generation != Some(offsets.generation) => &mut uncut.ahead,
                Some(topic) if topic.merge.is_beyond(&offsets.next_offsets) => &mut uncut.ahead,
                Some(_) => continue,
            }
            .insert(table.clone());
        }
        uncut
    }

    /// Ends what is read of topics that others have taken the place of.
    fn end_former_topics(&mut self, record: &TopicProgress) {
        for (name, topic) in &mut self.topics {
            let Some(former) = former_topic(record, topic, name) else { continue };
            if std::mem::replace(&mut topic.has_ended, true) {
                continue;
            }
            let partitions = topic.merge.next_offsets().map(|(partition, _)| partition).collect();
            self.ended.push((topic.table.clone(), partitions));
            if !topic.closed {
                let known = record.record.tables.get(&topic.table).and_then(|table| table.relation.as_ref());
                let of_relation = || schema_of(&topic.table, known?);
                let schema = topic.schema.clone().or_else(of_relation);
                let ends = topic.untold_ends(&former.end_offsets);
                self.assembly.end_topic(topic, ends, schema, former.watermark());
            }
        }
    }

    /// Tables of which a topic has been read to its end since this was asked last, and another one goes on; with the
    /// partitions of it that are read here.
    pub fn take_ended(&mut self) -> Vec<(TableName, BTreeSet<i32>)> {
        std::mem::take(&mut self.ended)
    }

    /// Says which columns tables have with a record, those too that nothing was written to.
    fn tell_columns(&mut self, record: &TopicProgress) {
        // Of a transaction that is split, rows may follow that are older than its last columns.
        if record.split.is_some() {
            return;
        }
        let since = Position { commit_lsn: record.commit_lsn, ordinal: u64::MAX };
        for (name, topic) in &mut self.topics {
            let Some(offsets) = record.topics.get(&topic.table).filter(|offsets| offsets.topic == *name) else {
                continue;
            };
            let Some(known) = record.record.tables.get(&topic.table) else { continue };
            let is_followed = matches!(known.state, TableState::Streaming { .. });
            // What is read beyond the record may have other columns by now.
            let is_reached =
                topic.generation == Some(offsets.generation) && !topic.merge.is_beyond(&offsets.next_offsets);
            if is_followed
                && is_reached
                && let Some(schema) = topic.tell(known.relation.as_ref())
            {
                self.assembly.tell(topic.generation, schema, since);
            }
        }
    }

    /// Stops tables that their source has stopped in the middle of a copy: what came of them is not all, and is never
    /// to be seen.
    fn stop_broken_copies(&mut self, record: &TopicProgress) {
        for (topic, error) in broken_copies(record) {
            let Some(state) = self.topics.get(topic).filter(|state| !state.closed) else { continue };
            let generation = state.generation.unwrap_or_default();
            let of_this_one = record.topic(topic).is_some_and(|offsets| offsets.generation == generation);
            // What is read beyond the record has been copied since.
            if of_this_one && !state.merge.is_beyond(record.offsets_of(topic, generation)) {
                self.close(topic, error.clone());
            }
        }
    }

    /// The batch, if there is something in it.
    pub fn take_batch(&mut self) -> Option<EventBatch> {
        if !self.ordering.has_records() && self.assembly.has_events() {
            let watermark = self.assembly.arrival_watermark();
            self.completed = Some(watermark.end_lsn);
            self.assembly.complete(Coverage::all(watermark));
        }
        self.assembly.take()
    }

    /// Once after each watermark: the LSN up to which everything has been handed on.
    pub fn take_completed(&mut self) -> Option<Lsn> {
        self.completed.take()
    }
}
