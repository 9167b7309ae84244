//! Writes events and the progress record that covers them in Kafka transactions: all become visible, or none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::message::{OwnedHeaders, OwnedMessage};
use rdkafka::producer::BaseRecord;
use sooner_api::{Code, Error, Result, TablePhase, TableProgress};
use sooner_schemas::TableName;
use sooner_schemas::event::{Event, EventBatch, Op, TableEvents, Watermark};

use crate::cluster::admin::topic_gone;
use crate::cluster::delivery_reports::NO_TABLE;
use crate::cluster::settings::KafkaSettings;
use crate::cluster::transactions::Transactions;
use crate::message::headers::{EventHeaders, unavailable_fields};
use crate::producer::refusals::{changed_shape, compacted, too_large, unfit_for_compaction};
use crate::producer::route::{ShapeChange, TopicRoute};
use crate::progress::record::{Covered, TopicOffsets, TopicProgress};

/// Upper bound of a message's size beside key, value and header values, in bytes.
const OVERHEAD_BYTES: usize = 256;
/// Key of a mark: the message without a value that [`TransactionWriter::end_open`] writes and aborts.
const MARK: &[u8] = b"mark";
/// How often an idle source records its progress.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);

/// Producer of a source's events and progress records, which has fenced its predecessors if it is transactional.
pub struct TransactionWriter {
    transactions: Transactions,
    settings: KafkaSettings,
    routes: Vec<TopicRoute>,
    by_name: HashMap<TableName, usize>,
    progress: TopicProgress,
    /// Part of the stream that was written before this producer started. The stream repeats some of it.
    former: Covered,
    open_bytes: usize,
    recorded: Instant,
    /// Whether the progress record has changed since it was last written.
    dirty: bool,
    /// Whether the changed progress record is to be committed at the next tick, because somebody waits for it.
    urgent: bool,
    /// Last committed progress record, until [`TransactionWriter::committed`] takes it.
    news: Option<TopicProgress>,
    /// Set when a table has to be copied before the stream goes on; the error that reports it.
    needs_copy: Option<Error>,
}

impl TransactionWriter {
    /// Connects to the brokers. A transactional producer fences all others of its id, and waits until their
    /// transactions have ended. `topic_limits` are the largest messages that the topics take, in bytes.
    pub fn open(settings: &KafkaSettings, topic_limits: &[usize]) -> Result<TransactionWriter> {
        Ok(TransactionWriter {
            transactions: Transactions::open(settings, topic_limits)?,
            settings: settings.clone(),
            routes: Vec::new(),
            by_name: HashMap::new(),
            progress: TopicProgress::default(),
            former: Covered::default(),
            open_bytes: 0,
            recorded: Instant::now(),
            dirty: false,
            urgent: false,
            news: None,
            needs_copy: None,
        })
    }

    /// Aborts transactions of this id that hang in partitions: writes a mark to each partition in a new
    /// transaction, and aborts that one.
    pub fn end_open(&mut self, places: &[(String, i32)]) -> Result<()> {
        self.transactions.begin()?;
        for (topic, partition) in places {
            let mark = BaseRecord::with_opaque_to(topic, NO_TABLE).partition(*partition);
            self.transactions.send(mark.key(MARK))?;
        }
        self.transactions.deliver()?;
        self.transactions.abort()
    }

    /// Takes over the progress record and the routes, and commits the record together with `again`, the messages
    /// that are to be written again.
    pub fn start(
        &mut self,
        progress: TopicProgress,
        mut routes: Vec<TopicRoute>,
        again: &[OwnedMessage],
    ) -> Result<()> {
        for route in &mut routes {
            let name = route.table.to_string();
            let phase = progress.record.tables.get(&name).map(|table| table.phase);
            route.closed = phase == Some(TablePhase::Parked);
            if phase == Some(TablePhase::Streaming)
                && let Some(known) = progress.topics.get(&name)
            {
                route.columns.clone_from(&known.columns);
            }
        }
        self.by_name = routes.iter().enumerate().map(|(number, route)| (route.table.clone(), number)).collect();
        self.routes = routes;
        self.former = progress.covered();
        self.progress = progress;
        self.dirty = true;
        for message in again {
            self.write_again(message)?;
        }
        self.commit()
    }

    fn write_again(&mut self, message: &OwnedMessage) -> Result<()> {
        let Some(number) = self.routes.iter().position(|route| *route.topic == *message.topic()) else { return Ok(()) };
        self.transactions.begin()?;
        let headers = message.headers().cloned().unwrap_or_default();
        self.produce(number, message.partition(), message.key(), message.payload(), headers)
    }

    /// Commits a progress record at the slot's first position, before which nothing is written.
    pub fn start_from(&mut self, watermark: Watermark) -> Result<()> {
        self.reach(watermark);
        self.commit()
    }

    /// When the open transaction must be committed; none if none is open.
    pub fn due(&self) -> Option<Instant> {
        let interval = self.settings.producer.transaction_interval;
        self.transactions.open_since().map(|since| since + interval)
    }

    /// Sends a batch's events to Kafka; they become visible with the next commit. If a table has to be copied
    /// first, commits what was sent and returns a retryable error.
    pub fn append(&mut self, batch: EventBatch) -> Result<()> {
        for events in &batch.tables {
            self.append_events(events)?;
        }
        for poisoned in &batch.poisoned {
            self.park(&poisoned.table, poisoned.reason.clone());
        }
        for (table, watermark) in &batch.completed {
            self.complete_copy(table, *watermark);
        }
        if let Some(watermark) = batch.watermark {
            self.reach(watermark);
        }
        if let Some(error) = self.needs_copy.take() {
            self.commit()?;
            return Err(error);
        }
        Ok(())
    }

    /// Commits if the open transaction is large or old enough, if somebody waits for the progress record, or if the
    /// record has changed while the stream was idle.
    pub fn tick(&mut self) -> Result<()> {
        self.transactions.poll();
        let now = Instant::now();
        let full = self.open_bytes >= self.settings.producer.transaction_bytes;
        let aged = self.due().is_some_and(|due| due <= now);
        let idle = self.transactions.open_since().is_none()
            && self.dirty
            && now.duration_since(self.recorded) >= IDLE_INTERVAL;
        if full || aged || idle || self.urgent {
            self.commit()?;
        }
        Ok(())
    }

    /// Commits the sent events together with the progress record; does nothing if there is nothing new to commit.
    pub fn commit(&mut self) -> Result<()> {
        if self.transactions.open_since().is_none() && !self.dirty {
            return Ok(());
        }
        let started = Instant::now();
        self.transactions.begin()?;
        self.take_offsets()?;
        let record = self.progress.to_json()?;
        let topic = self.settings.topics.progress.clone();
        let key = self.progress.record.slot.clone();
        let message = BaseRecord::with_opaque_to(&topic, NO_TABLE).partition(0);
        self.transactions.send(message.key(key.as_bytes()).payload(record.as_slice()))?;
        self.transactions.commit()?;
        tracing::debug!(bytes = self.open_bytes, took = ?started.elapsed(), "committed a Kafka transaction");
        self.open_bytes = 0;
        self.dirty = false;
        self.urgent = false;
        self.recorded = Instant::now();
        self.news = Some(self.progress.clone());
        Ok(())
    }

    fn append_events(&mut self, events: &TableEvents) -> Result<()> {
        let Some(&number) = self.by_name.get(&events.schema.table) else { return Ok(()) };
        let copying = self.phase(number) == Some(TablePhase::Copying);
        let first = match copying {
            true => 0,
            false => events.events.partition_point(|event| self.former.covers(event.position)),
        };
        if self.routes[number].closed || first == events.events.len() {
            return Ok(());
        }
        match self.routes[number].adopt(&events.schema) {
            ShapeChange::NeedsCopy(why) if !copying => return self.copy_anew(number, why),
            ShapeChange::Broken(what) if !copying => {
                let table = self.routes[number].table.clone();
                self.park(&table, changed_shape(&table, &what));
                return Ok(());
            }
            _ => {}
        }
        let missing = self.routes[number].missing_columns(&self.settings.producer.partition_by);
        if !missing.is_empty() {
            let table = self.routes[number].table.clone();
            let why = format!(
                "partition_by names columns that are not in the key of {table}: {}. To do: correct partition_by of \
                 [kafka], then `sooner resume {table}`.",
                missing.join(", ")
            );
            self.park(&table, why);
            return Ok(());
        }
        self.transactions.begin()?;
        for index in first..events.events.len() {
            if self.routes[number].closed {
                break;
            }
            self.append_event(number, events, index)?;
        }
        if !copying && let Some(last) = events.events.last() {
            self.progress.note(last.position);
        }
        self.dirty = true;
        Ok(())
    }

    fn append_event(&mut self, number: usize, events: &TableEvents, index: usize) -> Result<()> {
        let event = &events.events[index];
        let key = &events.bytes[event.key.clone()];
        let value = &events.bytes[event.value.clone()];
        let route = &self.routes[number];
        if route.is_compacted
            && let Some(why) = unfit_for_compaction(event)
        {
            let (table, reason) = (route.table.clone(), compacted(route, why));
            self.park(&table, reason);
            return Ok(());
        }
        if matches!(event.op, Op::Truncate | Op::CopyStart) {
            let headers = headers_of(event, route, events, None).to_owned_headers();
            for partition in 0..route.partitions {
                self.produce(number, partition, None, Some(value), headers.clone())?;
            }
            return Ok(());
        }
        let headers = headers_of(event, route, events, events.events.get(index + 1));
        let size = key.len() + value.len() + headers.size_bytes() + OVERHEAD_BYTES;
        if size > route.limit_bytes {
            let reason = too_large(route, key, size);
            let table = route.table.clone();
            self.park(&table, reason);
            return Ok(());
        }
        let partition = route.partition(&self.settings.producer.partition_by, key).map_err(|why| {
            Error::fatal(
                Code::Internal,
                format!("cannot read the key of an event of {}", route.table),
                why,
                "report this",
            )
        })?;
        let headers = headers.to_owned_headers();
        // Messages of a table without a key carry no key.
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

    /// Takes the offsets of delivered messages into the progress record. Offsets only grow, unless somebody has
    /// re-created a topic, which is an error.
    fn take_offsets(&mut self) -> Result<()> {
        let gathered = self.transactions.deliver()?;
        for ((number, partition), next) in gathered.next_offsets {
            let route = &self.routes[number];
            let topic = self.progress.topics.entry(route.table.to_string()).or_insert_with(|| TopicOffsets {
                topic: route.topic.to_string(),
                generation: 0,
                begun_over: false,
                first_offsets: Vec::new(),
                next_offsets: vec![0; route.partitions.max(1) as usize],
                columns: Vec::new(),
            });
            topic.columns.clone_from(&route.columns);
            let Some(known) = topic.next_offsets.get_mut(partition as usize) else { continue };
            if next <= *known {
                let why =
                    format!("an event got offset {} in partition {partition}, and {known} was used before", next - 1);
                return Err(topic_gone(&route.topic, &why));
            }
            *known = next;
        }
        Ok(())
    }

    fn phase(&self, number: usize) -> Option<TablePhase> {
        self.progress.record.tables.get(&self.routes[number].table.to_string()).map(|table| table.phase)
    }

    fn change_table(&mut self, table: &TableName, change: impl FnOnce(&mut TableProgress)) {
        if let Some(progress) = self.progress.record.tables.get_mut(&table.to_string()) {
            change(progress);
            self.dirty = true;
            self.urgent = true;
        }
    }

    /// Parks a table: its events are dropped until it is resumed.
    fn park(&mut self, table: &TableName, reason: String) {
        let Some(&number) = self.by_name.get(table) else { return };
        tracing::error!(%table, reason, "the table stopped");
        self.routes[number].closed = true;
        self.change_table(table, |progress| {
            progress.phase = TablePhase::Parked;
            progress.reason = Some(reason);
        });
    }

    fn copy_anew(&mut self, number: usize, why: String) -> Result<()> {
        let table = self.routes[number].table.clone();
        self.routes[number].closed = true;
        self.change_table(&table, |progress| {
            progress.phase = TablePhase::Copying;
            // Until the copy has ended, the table's events on the topic are incomplete.
            progress.copied_lsn = None;
        });
        self.needs_copy = Some(Error::retry(Code::CopyNeeded, format!("{table} is copied again"), why, "nothing"));
        Ok(())
    }

    fn complete_copy(&mut self, table: &TableName, watermark: Watermark) {
        // The table was parked during its copy, so some of its rows were dropped.
        if self.by_name.get(table).is_some_and(|&number| self.routes[number].closed) {
            return;
        }
        self.change_table(table, |progress| {
            progress.phase = TablePhase::Streaming;
            progress.reason = None;
            progress.copied_lsn = Some(watermark.commit_lsn);
        });
    }

    /// Advances the progress record to a watermark, up to which all transactions are written whole.
    fn reach(&mut self, watermark: Watermark) {
        let progress = &mut self.progress;
        if watermark.end_lsn < progress.record.confirmed_lsn {
            return;
        }
        self.dirty |= watermark.end_lsn > progress.record.confirmed_lsn;
        // After a restart, the stream may still be before the transaction that was split.
        if progress.split.is_some_and(|split| split.commit_lsn <= watermark.commit_lsn) {
            progress.split = None;
            self.dirty = true;
            // Events of the transaction are on the topics already, and readers wait for its end.
            self.urgent |= self.transactions.open_since().is_none();
        }
        progress.commit_lsn = progress.commit_lsn.max(watermark.commit_lsn);
        progress.commit_micros = watermark.commit_micros;
        progress.record.confirmed_lsn = watermark.end_lsn;
    }

    /// The progress record as it was last committed, or will be with the next commit.
    pub fn progress(&self) -> &TopicProgress {
        &self.progress
    }

    /// The last committed progress record, returned once after each commit.
    pub fn committed(&mut self) -> Option<TopicProgress> {
        self.news.take()
    }
}

fn headers_of<'a>(
    event: &Event,
    route: &TopicRoute,
    events: &'a TableEvents,
    next: Option<&Event>,
) -> EventHeaders<'a> {
    // A change of key is a delete and an event with the next ordinal, which carries the old key.
    let renamed = next.filter(|next| {
        event.op == Op::Delete && next.old_key.is_some() && next.position.ordinal == event.position.ordinal + 1
    });
    let old_key = event.old_key.as_ref().map(|range| &events.bytes[range.clone()]);
    EventHeaders {
        position: event.position,
        unavailable: unavailable_fields(event, route.fields()),
        copy_start: event.op == Op::CopyStart,
        new_key_text: renamed.and_then(|next| route.key_header(&events.bytes[next.key.clone()])),
        old_key_text: old_key.and_then(|key| route.key_header(key)),
        old_key,
    }
}
