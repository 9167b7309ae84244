//! Kafka transactions: events of whole Postgres transactions, and the progress record that covers them, all or none.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::message::{OwnedHeaders, OwnedMessage};
use rdkafka::producer::BaseRecord;
use sooner_api::{
    Code, CopyProgress, Error, EventBatch, Reservation, Result, Rows, Step, TableFact, TableNote, TableState, failpoint,
};
use sooner_schemas::event::{Event, Op, TableEvents, Watermark};
use sooner_schemas::{Position, TableName};

use super::pacing::Pacing;
use super::record_keeper::RecordKeeper;
use super::refusals::{compacted, missing_partition_columns, too_large, unfit_for_compaction};
use super::route::TopicRoute;
use crate::cluster::admin::topic_gone;
use crate::cluster::delivery_reports::NO_TABLE;
use crate::cluster::settings::KafkaSettings;
use crate::cluster::transactions::Transactions;
use crate::progress::record::TopicProgress;

/// Size of a message beside key, value and header values, at most.
const OVERHEAD_BYTES: usize = 256;
/// Key of a message that only makes its partition part of a transaction. It has no value.
pub(super) const MARK: &[u8] = b"mark";

/// Writes events and progress records in Kafka transactions, and has fenced its predecessors.
pub struct TransactionWriter {
    pub(super) transactions: Transactions,
    pub(super) settings: KafkaSettings,
    pub(super) routes: Vec<TopicRoute>,
    pub(super) by_name: HashMap<TableName, usize>,
    pub(super) keeper: RecordKeeper,
    pub(super) pacing: Pacing,
    pub(super) open_bytes: usize,
}

impl TransactionWriter {
    /// Connects. A transactional producer fences all others of its id, and waits until their transactions have ended.
    pub fn open(settings: &KafkaSettings, topic_limits: &[usize]) -> Result<TransactionWriter> {
        Ok(TransactionWriter {
            transactions: Transactions::open(settings, topic_limits)?,
            settings: settings.clone(),
            routes: Vec::new(),
            by_name: HashMap::new(),
            keeper: RecordKeeper::new(TopicProgress::default(), None),
            pacing: Pacing::new(settings.producer.transaction_interval),
            open_bytes: 0,
        })
    }

    /// Ends transactions of this id that hang in partitions, by aborting one that writes a mark to each of them.
    pub fn end_open(&mut self, partitions: &[(String, i32)]) -> Result<()> {
        self.transactions.begin()?;
        for (topic, partition) in partitions {
            let mark = BaseRecord::with_opaque_to(topic, NO_TABLE).partition(*partition);
            self.transactions.send(mark.key(MARK))?;
        }
        self.transactions.deliver()?;
        self.transactions.abort()
    }

    /// Takes over the progress record and the routes, and commits the whole record together with `again`, the messages
    /// that are to be written again. `forgotten` are tables of an earlier record that no longer take part.
    pub fn start(
        &mut self,
        progress: TopicProgress,
        mut routes: Vec<TopicRoute>,
        forgotten: impl IntoIterator<Item = TableName>,
        again: &[OwnedMessage],
    ) -> Result<()> {
        for route in &mut routes {
            let Some(known) = progress.record.tables.get(&route.table) else { continue };
            route.closed = !known.state.takes_events();
            if matches!(known.state, TableState::Streaming { .. }) {
                route.relation.clone_from(&known.relation);
            }
        }
        self.by_name = routes.iter().enumerate().map(|(number, route)| (route.table.clone(), number)).collect();
        self.routes = routes;
        self.keeper = RecordKeeper::new(progress, forgotten);
        for message in again {
            self.write_again(message)?;
        }
        self.commit()
    }

    fn write_again(&mut self, message: &OwnedMessage) -> Result<()> {
        let Some(number) = self.routes.iter().position(|route| *route.topic == *message.topic()) else { return Ok(()) };
        self.begin()?;
        let headers = message.headers().cloned().unwrap_or_default();
        self.produce(number, message.partition(), message.key(), message.payload(), headers)
    }

    /// Records that nothing is written before the slot's first position.
    pub fn start_from(&mut self, watermark: Watermark) -> Result<()> {
        self.keeper.reach(watermark, false);
        self.commit()
    }

    /// Time at which the open transaction is committed if nothing waits to be written; none if there is no open one.
    pub fn due(&self) -> Option<Instant> {
        self.transactions.open_since().map(|since| self.pacing.due(since))
    }

    /// Hands a batch to Kafka; it becomes visible with a commit. An error of code `CopyNeeded` says that a table has to
    /// be copied before the stream goes on; the record says so, too.
    pub fn append(&mut self, batch: EventBatch) -> Result<()> {
        let mut copy_needed = Ok(());
        self.pacing.wrote(batch.coverage().is_some());
        for step in batch.steps {
            let appended = match step {
                Step::Rows(rows) | Step::Truncate(rows) => self.append_rows(&rows),
                Step::CopyStart(rows) => self.begin_copy(rows),
                Step::CopyEnd { table, watermark } => self.end_copy(&table, watermark),
                Step::Stop { table, error } if error.code == Code::CopyNeeded => {
                    self.step(&table, TableFact::CopyNeeded);
                    Err(error)
                }
                Step::Stop { table, error } => {
                    self.park(&table, error);
                    Ok(())
                }
                Step::CopyProgress { table, progress, .. } => {
                    self.note_copy(&table, progress.map(|progress| *progress));
                    Ok(())
                }
                Step::Note(note) => {
                    // What events are written from is noted with them: it may be another one, by policies for values.
                    self.keeper.note_table(TableNote { relation: None, ..*note });
                    Ok(())
                }
                Step::Complete(coverage) => {
                    self.keeper.reach(coverage.watermark, self.transactions.open_since().is_some());
                    Ok(())
                }
            };
            match appended {
                Err(error) if error.code == Code::CopyNeeded => copy_needed = Err(error),
                appended => appended?,
            }
        }
        if copy_needed.is_err() {
            self.commit()?;
        }
        copy_needed
    }

    /// Commits if it is time: the transaction is large or old enough, or the record has changed while nothing came.
    /// `is_idle` says that nothing waits to be written.
    pub fn tick(&mut self, is_idle: bool) -> Result<()> {
        self.transactions.poll();
        let (now, open) = (Instant::now(), self.transactions.open_since());
        let due = |since| if is_idle { self.pacing.due(since) } else { self.pacing.overdue(since) };
        let full = self.open_bytes >= self.settings.producer.transaction_bytes;
        let aged = open.is_some_and(|since| due(since) <= now);
        let waits = open.is_none() && self.keeper.is_due(now);
        if full || aged || waits || self.keeper.is_urgent() {
            self.commit()?;
        }
        Ok(())
    }

    /// Commits what is there: events first, then the record.
    pub fn commit(&mut self) -> Result<()> {
        if self.transactions.open_since().is_none() && !self.keeper.is_dirty() {
            return Ok(());
        }
        self.begin_plain()?;
        let started = Instant::now();
        let since = self.transactions.open_since().unwrap_or(started);
        self.take_offsets()?;
        failpoint("messages_written");
        let topic = self.settings.topics.progress.clone();
        for (key, value) in self.keeper.messages()? {
            let mut message = BaseRecord::with_opaque_to(&topic, NO_TABLE).partition(0).key(key.as_bytes());
            message.payload = value.as_deref();
            self.transactions.send(message)?;
        }
        self.transactions.commit()?;
        self.pacing.committed(started, Instant::now(), self.open_bytes);
        self.pacing.ended(since, Instant::now());
        tracing::debug!(bytes = self.open_bytes, took = ?started.elapsed(), "committed a Kafka transaction");
        self.open_bytes = 0;
        self.keeper.written();
        Ok(())
    }

    fn append_rows(&mut self, rows: &Rows) -> Result<()> {
        let Some(&number) = self.by_name.get(rows.table()) else { return Ok(()) };
        let events = &rows.events;
        // Of a copy that goes on after a break, the stream repeats what was written before.
        let begins = self.keeper.state(rows.table()) == Some(&TableState::Copying) && self.routes[number].begins;
        let first = match begins {
            true => 0,
            // Rows that are copied over others are read again by whoever repeats them.
            false => events
                .events
                .partition_point(|event| !event.position.is_copied() && self.keeper.was_written(event.position)),
        };
        if self.routes[number].closed || (first == events.events.len() && first > 0) {
            return Ok(());
        }
        if events.events.is_empty() {
            // The table has other columns, although nothing is written to it.
            return self.adopt_schema(number, events).map(drop);
        }
        if !self.adopt_schema(number, events)? {
            return Ok(());
        }
        self.begin()?;
        // Rows tell of their copy themselves, and what comes after it replaces them.
        self.routes[number].unwritten_mark = None;
        self.routes[number].replaces = true;
        for index in first..events.events.len() {
            if self.routes[number].closed {
                break;
            }
            self.append_event(number, events, index)?;
        }
        self.keeper.note_events(last_of_stream(&events.events, begins));
        Ok(())
    }

    /// Takes over the schema of events; false if the table was parked for it.
    fn adopt_schema(&mut self, number: usize, events: &TableEvents) -> Result<bool> {
        let table = self.routes[number].table.clone();
        self.routes[number].adopt(&events.schema);
        let missing = self.routes[number].missing_columns(&self.settings.producer.partition_by);
        if !missing.is_empty() {
            self.park(&table, missing_partition_columns(&table, &missing));
            return Ok(false);
        }
        self.keeper.set_relation(&table, self.routes[number].relation.as_ref());
        Ok(true)
    }

    fn append_event(&mut self, number: usize, events: &TableEvents, index: usize) -> Result<()> {
        let event = &events.events[index];
        let key = &events.bytes[event.key.clone()];
        let value = &events.bytes[event.value.clone()];
        let route = &self.routes[number];
        if route.is_compacted
            && let Some(why) = unfit_for_compaction(event)
        {
            let (table, error) = (route.table.clone(), compacted(route, why));
            self.park(&table, error);
            return Ok(());
        }
        if matches!(event.op, Op::Truncate | Op::CopyStart) {
            let headers = route.headers(event, events, None).to_owned_headers();
            for partition in 0..route.partitions {
                self.produce(number, partition, None, Some(value), headers.clone())?;
            }
            return Ok(());
        }
        let headers = route.headers(event, events, events.events.get(index + 1));
        let size = key.len() + value.len() + headers.size_bytes() + OVERHEAD_BYTES;
        if size > route.limit_bytes {
            let (table, error) = (route.table.clone(), too_large(route, key, size));
            self.park(&table, error);
            return Ok(());
        }
        let partition = route
            .partition(&self.settings.producer.partition_by, key)
            .map_err(|why| Error::internal(format!("cannot read the key of an event of {}", route.table), why))?;
        let headers = headers.to_owned_headers();
        // Rows of a table without a key have none.
        let key = Some(key).filter(|key| !key.is_empty());
        if event.op == Op::Delete && key.is_some() {
            self.produce(number, partition, key, Some(value), headers.clone())?;
            return self.produce(number, partition, key, None, headers);
        }
        self.produce(number, partition, key, Some(value), headers)
    }

    fn produce(
        &mut self,
        number: usize,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> Result<()> {
        self.open_bytes += key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + OVERHEAD_BYTES / 2;
        let topic = self.routes[number].topic.clone();
        let mut message = BaseRecord::with_opaque_to(&topic, number).partition(partition).headers(headers);
        message.key = key;
        message.payload = value;
        self.transactions.send(message)
    }

    /// Takes over the offsets of what was delivered. They only grow, unless somebody created a topic again.
    fn take_offsets(&mut self) -> Result<()> {
        let gathered = self.transactions.deliver()?;
        for ((number, partition), next) in gathered.next_offsets {
            let route = &self.routes[number];
            if route.is_successor {
                self.keeper.advance_successor(&route.table, partition, next);
                continue;
            }
            if let Err(known) = self.keeper.advance(&route.table, partition, next) {
                let why =
                    format!("an event got offset {} in partition {partition}, and {known} was used before", next - 1);
                return Err(topic_gone(&route.topic, &why));
            }
        }
        Ok(())
    }

    /// Lets something happen to a table.
    fn step(&mut self, table: &TableName, fact: TableFact) {
        if self.keeper.step(table, fact)
            && let Some(&number) = self.by_name.get(table)
        {
            self.routes[number].closed = true;
        }
    }

    /// Parks a table until it is resumed; its events are dropped meanwhile.
    fn park(&mut self, table: &TableName, error: Error) {
        tracing::error!(%table, code = %error.code, %error, "the table stopped");
        self.step(table, TableFact::Failed(error));
    }

    /// A copy begins. Its mark is written where there may be something that it replaces; otherwise a topic begins with
    /// rows, as Debezium would send them.
    fn begin_copy(&mut self, mut start: Rows) -> Result<()> {
        let Some(&number) = self.by_name.get(start.table()) else { return Ok(()) };
        self.step(start.table(), TableFact::CopyBegun);
        self.routes[number].closed = false;
        self.routes[number].begins = true;
        if self.routes[number].replaces {
            return self.append_rows(&start);
        }
        // A batch that needs all room would wait for what is held for long.
        start.reservation = Reservation::default();
        // One without rows is only told of by its mark, which has no key; a compacted topic takes none.
        self.routes[number].unwritten_mark = Some(start).filter(|_| !self.routes[number].is_compacted);
        Ok(())
    }

    /// Notes how far a copy is, once something of it is written that tells of it.
    fn note_copy(&mut self, table: &TableName, progress: Option<CopyProgress>) {
        let number = self.by_name.get(table);
        if number.is_some_and(|&number| self.routes[number].unwritten_mark.is_none()) {
            self.keeper.note_copy(table, progress);
        }
    }

    fn end_copy(&mut self, table: &TableName, watermark: Watermark) -> Result<()> {
        let Some(&number) = self.by_name.get(table) else { return Ok(()) };
        if let Some(mark) = self.routes[number].unwritten_mark.take() {
            self.append_rows(&mark)?;
        }
        self.step(table, TableFact::CopyEnded(watermark.commit_lsn));
        // What comes of it from here on is written after rows.
        self.routes[number].replaces = true;
        Ok(())
    }

    /// The record as it was or will be written.
    pub fn progress(&self) -> &TopicProgress {
        self.keeper.progress()
    }

    /// How long transactions took, since this was last asked.
    pub fn take_durations(&mut self) -> Vec<Duration> {
        self.pacing.take_ages()
    }

    /// How long brokers made it wait, because of a quota; none if they told nothing since this was last asked.
    pub fn throttled(&self) -> Option<Duration> {
        self.transactions.throttled()
    }

    /// After a commit: tables whose part of the record it has changed.
    pub fn committed(&mut self) -> Option<BTreeSet<TableName>> {
        self.keeper.take_news()
    }
}

/// Position of the last event of the stream among these; none while a table's copy begins, whose events stand for
/// nothing that was written before.
fn last_of_stream(events: &[Event], begins: bool) -> Option<Position> {
    let positions = events.iter().map(|event| event.position);
    positions.filter(|position| !begins && !position.is_copied()).max()
}
