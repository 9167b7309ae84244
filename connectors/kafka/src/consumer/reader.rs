//! Reading side of the event log: merges topics into batches, each topic in commit order, up to what a progress
//! record covers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sooner_api::{Class, Code, Error, EventReader, Result, TablePhase};
use sooner_schemas::event::{EventBatch, EventSchema, Watermark};
use sooner_schemas::{Lsn, TableName};

use crate::consumer::assembly::Assembly;
use crate::consumer::dead_letters::DeadLetters;
use crate::consumer::flow::{Flow, FlowChange};
use crate::consumer::group::{Change, GroupMember, Incoming, Offsets, TopicPartition};
use crate::consumer::lag::LagGauge;
use crate::consumer::merge::Step;
use crate::consumer::offsets_in_flight::OffsetsInFlight;
use crate::consumer::topic::Topic;
use crate::message::topic_message::TopicMessage;
use crate::progress::copies::{Copies, broken_copies};
use crate::progress::follower::ProgressFollower;
use crate::progress::record::TopicProgress;
use crate::registry::schema_cache::SchemaCache;

/// Producer that writes the topics.
pub enum Writer {
    /// A source of this project, which records its progress in a progress topic.
    Sooner(ProgressFollower),
    /// Another producer of events in Debezium's envelope, without a progress topic.
    Debezium,
}

/// What to read after a rebalance: the answer to a change of the assigned partitions.
#[derive(Default)]
pub struct Settlement {
    /// Tables by the name of their topic.
    pub tables: HashMap<String, TableName>,
    /// Offset to read from, for each partition that is held.
    pub positions: Offsets,
    /// LSN up to which a topic's table is complete, by topic, where known.
    pub applied: HashMap<String, Lsn>,
    /// Topics whose events are dropped until a copy starts, each with the reason.
    pub closed: HashMap<String, String>,
    /// Generation of each topic, where its writer records one: tells the topic from its predecessor of the same name.
    pub generations: HashMap<String, i64>,
}

/// Reads the events of the partitions that a consumer group assigns to its member.
pub struct KafkaReader {
    /// Rebalance that has not been settled yet. Declared before the member, so that it is dropped first: a member
    /// that is dropped waits for the answer.
    change: Option<Change>,
    member: GroupMember,
    writer: Writer,
    schemas: SchemaCache,
    topics: BTreeMap<String, Topic>,
    subscribed: BTreeSet<String>,
    held: Vec<TopicPartition>,
    /// Progress record that is being read up to.
    target: Option<TopicProgress>,
    /// Last progress record that was reached, in case its events have to be read again.
    reached: Option<TopicProgress>,
    assembly: Assembly,
    /// Sends messages that cannot be read to the dead-letter topic; without it, they stop their table.
    dead_letters: Option<DeadLetters>,
    lag: LagGauge,
    copies: Copies,
    delivered: OffsetsInFlight,
    flow: Flow,
    last_watermark: Option<Watermark>,
}

impl KafkaReader {
    /// A reader of the partitions that are assigned to `member`. Messages that cannot be read are sent to the
    /// dead-letter topic, if there is one. About `fetch_bytes` of messages may wait to be merged.
    pub fn new(
        member: GroupMember,
        writer: Writer,
        schemas: SchemaCache,
        dead_letters: Option<DeadLetters>,
        fetch_bytes: usize,
    ) -> KafkaReader {
        let lag = member.lag();
        KafkaReader {
            change: None,
            member,
            writer,
            schemas,
            topics: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            held: Vec::new(),
            target: None,
            reached: None,
            assembly: Assembly::default(),
            dead_letters,
            lag,
            copies: Copies::default(),
            delivered: OffsetsInFlight::default(),
            flow: Flow::new(fetch_bytes),
            last_watermark: None,
        }
    }

    /// Gauge of how far each partition has been read.
    pub fn lag(&self) -> LagGauge {
        self.lag.clone()
    }

    /// Subscribes to topics, in place of the former subscription.
    pub fn subscribe(&mut self, topics: Vec<String>) {
        self.subscribed = topics.iter().cloned().collect();
        self.member.subscribe(topics);
    }

    /// Tables by topic, as named by the progress record that is being read up to and by the last one reached.
    pub fn topics(&self) -> HashMap<String, TableName> {
        let records = self.target.iter().chain(&self.reached);
        records.flat_map(TopicProgress::tables_by_topic).collect()
    }

    /// Takes a progress record as the target, and subscribes to topics that are new in it. A topic of a newer
    /// generation than the one being read is a retryable error.
    fn follow(&mut self, progress: TopicProgress) -> Result<()> {
        let is_newer = |(name, topic): &(&String, &Topic)| {
            progress.topic(name).is_some_and(|recorded| recorded.generation > topic.generation)
        };
        if let Some((name, _)) = self.topics.iter().find(is_newer) {
            let why = "its writer writes all tables again";
            return Err(Error::retry(
                Code::TopicRestarted,
                format!("topic {name} begins again"),
                why,
                "nothing; it is read from there",
            ));
        }
        let topics: BTreeSet<String> = progress.topics.values().map(|offsets| offsets.topic.clone()).collect();
        if !topics.is_subset(&self.subscribed) {
            self.subscribe(topics.union(&self.subscribed).cloned().collect());
        }
        self.lag.reading(Some(progress.commit_micros));
        self.target = Some(progress);
        Ok(())
    }

    /// Waits for the first or the next rebalance, and returns the partitions that are held from then on.
    pub async fn changed(&mut self) -> Result<Vec<TopicPartition>> {
        while self.change.is_none() {
            let incoming = self.member.next().await;
            self.take(incoming)?;
        }
        Ok(self.held.clone())
    }

    /// Whether partitions were lost without being revoked first: another member may own them already.
    pub fn lost_without_asking(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.without_asking)
    }

    /// Answers a rebalance: reads the held partitions from their positions on. Fails, retryably, if the consumer no
    /// longer waits for the answer.
    pub fn settle(&mut self, settlement: Settlement) -> Result<()> {
        let Settlement { tables, positions, applied, closed, generations } = settlement;
        let mut by_topic: HashMap<&str, Vec<(i32, i64)>> = HashMap::new();
        for ((topic, partition), offset) in &positions {
            by_topic.entry(topic).or_default().push((*partition, *offset));
        }
        self.topics = BTreeMap::new();
        for (topic, positions) in by_topic {
            let Some(table) = tables.get(topic) else { continue };
            let generation = generations.get(topic).copied().unwrap_or_default();
            let state = Topic::new(table.clone(), generation, positions, applied.get(topic).copied());
            self.topics.insert(topic.to_owned(), state);
        }
        drop(self.assembly.take());
        self.flow.start_over();
        // Whether or not earlier pauses were carried out: nothing is queued any more, so nothing is to stay paused.
        self.member.resume(self.held.clone());
        self.lag.start(&positions);
        self.delivered.clear();
        self.copies = Copies::default();
        self.last_watermark = None;
        self.target = self.target.take().or(self.reached.take());
        for (topic, reason) in closed {
            self.close(&topic, reason);
        }
        let answered = self.change.take().is_none_or(|change| change.settled.send(positions).is_ok());
        if answered {
            return Ok(());
        }
        let why = "the Kafka consumer waited too long for the tables to be opened, or has ended";
        Err(Error::retry(
            Code::AssignmentExpired,
            "cannot read what the group assigned",
            why,
            "nothing; the sink joins the group again",
        ))
    }

    fn take(&mut self, incoming: Incoming) -> Result<()> {
        match incoming {
            Incoming::Records(records) => {
                for record in records {
                    if let Some(topic) = self.topics.get_mut(&*record.topic) {
                        topic.merge.push(record);
                    }
                }
                self.regulate();
            }
            Incoming::Changed(change) => {
                self.held.retain(|place| !change.lost.contains(place));
                self.held.extend(change.gained.iter().cloned());
                self.change = Some(change);
            }
            Incoming::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Applies back-pressure: pauses partitions that have enough messages queued, and resumes those that do not.
    fn regulate(&mut self) {
        let waiting = self.topics.iter().flat_map(|(name, topic)| {
            topic.merge.waiting_bytes().map(move |(partition, bytes)| (name.as_str(), partition, bytes))
        });
        let FlowChange { pause, resume } = self.flow.look(waiting, self.held.len());
        if !pause.is_empty() {
            self.member.pause(pause);
        }
        if !resume.is_empty() {
            self.member.resume(resume);
        }
    }

    /// Moves records that can be handed on into the batch. Cancelling loses nothing.
    async fn gather(&mut self) -> Result<()> {
        let mut reached = true;
        let names: Vec<String> = self.topics.keys().cloned().collect();
        for name in names {
            match self.gather_topic(&name).await? {
                Reach::Target => {}
                Reach::NotYet => reached = false,
                Reach::Missed => {
                    self.target = None;
                    return Ok(());
                }
            }
            if self.assembly.is_full() {
                return Ok(());
            }
        }
        if reached && let Some(target) = self.target.take() {
            self.reach(&target);
            self.reached = Some(target);
        }
        Ok(())
    }

    async fn gather_topic(&mut self, name: &str) -> Result<Reach> {
        loop {
            if self.assembly.is_full() {
                return Ok(Reach::NotYet);
            }
            if matches!(self.writer, Writer::Sooner(_)) && self.target.is_none() {
                return Ok(Reach::Target);
            }
            let Some(topic) = self.topics.get_mut(name) else { return Ok(Reach::Target) };
            let targets = targets_of(&self.writer, &self.target, name, topic.generation);
            let Some(head) = topic.merge.peek(targets).cloned() else {
                return Ok(match topic.merge.next(targets) {
                    Step::Reached => Reach::Target,
                    Step::Missed => Reach::Missed,
                    Step::Wait | Step::Message(..) => Reach::NotYet,
                });
            };
            // The record stays queued until it is handled, so that a cancelled attempt starts again with it.
            self.deal_with(name, &head).await?;
            let Some(topic) = self.topics.get_mut(name) else { return Ok(Reach::Target) };
            let targets = targets_of(&self.writer, &self.target, name, topic.generation);
            if let Step::Message(record, copies) = topic.merge.next(targets) {
                self.assembly.pass(&topic.table, &record, &copies);
            }
        }
    }

    /// Hands on a message's event. A message that cannot be read is sent to the dead-letter topic, or stops its table.
    async fn deal_with(&mut self, name: &str, record: &TopicMessage) -> Result<()> {
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        let schema = match topic.closed && !record.headers.copy_start {
            true => return Ok(()),
            false => self.schemas.find(&topic.table, record).await,
        };
        let taken = schema.and_then(|schema| self.take_record(name, record, schema));
        match taken {
            Err(error) if error.class == Class::Operator => self.set_aside(name, record, &error).await,
            taken => taken,
        }
    }

    fn take_record(&mut self, name: &str, record: &TopicMessage, schema: Option<Arc<EventSchema>>) -> Result<()> {
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        if record.headers.copy_start {
            topic.begin_copy();
        }
        self.assembly.append(&topic.table, record, schema, topic.has_seen(record))?;
        topic.note(record);
        Ok(())
    }

    async fn set_aside(&mut self, name: &str, record: &TopicMessage, error: &Error) -> Result<()> {
        let buried = match &mut self.dead_letters {
            None => Err(error.clone()),
            Some(letters) => letters.bury(record, &format!("{}: {}", error.what, error.why)).await,
        };
        match buried {
            Ok(()) => tracing::warn!(place = record.place(), %error, "the message went to the dead letters"),
            Err(error) if error.class == Class::Operator => self.close(name, error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Closes a topic and stops its table: its events are dropped until a copy starts.
    fn close(&mut self, name: &str, reason: String) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.closed = true;
        self.assembly.poison(topic.table.clone(), reason);
    }

    /// Ends the copies and sets the watermark of a progress record, once everything that it covers is in the batches.
    fn reach(&mut self, target: &TopicProgress) {
        let origin = |progress: &TopicProgress| (progress.record.system_id.clone(), progress.record.timeline);
        let moved = self.reached.as_ref().is_some_and(|former| origin(former) != origin(target));
        if moved {
            // LSNs of another server or timeline cannot be compared with the former ones.
            self.last_watermark = None;
        }
        self.lag.reading(None);
        self.stop_broken_copies(target);
        // While a transaction is split, only some of its events may be here.
        if target.split.is_none() {
            self.assembly.batch.completed.extend(self.copies.ended(target));
        }
        // While a table is copied, the stream stands still; its watermark says nothing about that table.
        let copying = target.record.tables.values().any(|table| table.phase == TablePhase::Copying);
        let former = self.last_watermark.map_or(Lsn::ZERO, |watermark| watermark.commit_lsn);
        let watermark = target.watermark().filter(|watermark| !copying && watermark.commit_lsn >= former);
        if let Some(watermark) = watermark {
            self.assembly.batch.watermark = Some(watermark);
            self.note_delivered(watermark.end_lsn);
        }
    }

    /// Notes the offsets that the watermark at `end_lsn` covers, to be committed once it is durable.
    fn note_delivered(&mut self, end_lsn: Lsn) {
        let positions = self.positions();
        self.lag.read_to(&positions);
        self.delivered.note(end_lsn, positions);
    }

    /// Stops tables that the source has parked in the middle of a copy: their rows are incomplete, and must never
    /// become visible.
    fn stop_broken_copies(&mut self, target: &TopicProgress) {
        for (topic, reason) in broken_copies(target) {
            let Some(state) = self.topics.get(topic).filter(|state| !state.closed) else { continue };
            let of_this_one = target.topic(topic).is_some_and(|offsets| offsets.generation == state.generation);
            // A topic that has been read beyond the record has been copied since.
            if of_this_one && !state.merge.is_beyond(target.offsets_of(topic, state.generation)) {
                self.close(topic, reason);
            }
        }
    }

    fn positions(&self) -> Offsets {
        let topics = self.topics.iter();
        topics
            .flat_map(|(name, topic)| {
                topic.merge.next_offsets().map(|(partition, offset)| ((name.clone(), partition), offset))
            })
            .collect()
    }

    /// The assembled batch; none if it has no content and no new watermark.
    fn ready(&mut self) -> Option<EventBatch> {
        if matches!(self.writer, Writer::Debezium) && !self.assembly.batch.tables.is_empty() {
            let lsn = Lsn(self.assembly.arrived());
            let commit_micros = self.assembly.written_micros().unwrap_or_default();
            self.lag.reading(Some(commit_micros));
            self.assembly.batch.watermark = Some(Watermark { commit_lsn: lsn, end_lsn: lsn, commit_micros });
            self.note_delivered(lsn);
        }
        let EventBatch { tables, poisoned, completed, watermark, .. } = &mut self.assembly.batch;
        let news = watermark.is_some() && *watermark != self.last_watermark;
        if tables.is_empty() && poisoned.is_empty() && completed.is_empty() && !news {
            *watermark = None;
            return None;
        }
        self.last_watermark = watermark.or(self.last_watermark);
        let mut batch = self.assembly.take();
        batch.server_end = batch.watermark.map_or(Lsn::ZERO, |watermark| watermark.end_lsn);
        Some(batch)
    }
}

/// How far a topic has been read towards its target offsets.
enum Reach {
    /// The targets are reached, or the topic has none to reach now.
    Target,
    /// Records below the targets are still to come.
    NotYet,
    /// A message below a target is missing: the next progress record says where it was written again.
    Missed,
}

/// Target offsets of a topic, indexed by partition; none, for an unbounded read, if its writer records no progress.
fn targets_of<'a>(
    writer: &Writer,
    target: &'a Option<TopicProgress>,
    topic: &str,
    generation: i64,
) -> Option<&'a [i64]> {
    match writer {
        Writer::Debezium => None,
        Writer::Sooner(_) => target.as_ref().map(|target| target.offsets_of(topic, generation)),
    }
}

impl EventReader for KafkaReader {
    async fn next(&mut self) -> Result<Option<EventBatch>> {
        loop {
            if self.change.is_some() {
                return Ok(None);
            }
            self.gather().await?;
            self.regulate();
            if let Some(batch) = self.ready() {
                return Ok(Some(batch));
            }
            match &mut self.writer {
                Writer::Sooner(follower) if self.target.is_none() => {
                    tokio::select! {
                        biased;
                        // Progress records first: messages that none covers yet would only wait in memory.
                        progress = follower.next() => self.follow(progress?)?,
                        incoming = self.member.next() => self.take(incoming)?,
                    }
                }
                _ => {
                    let incoming = self.member.next().await;
                    self.take(incoming)?;
                }
            }
        }
    }

    fn applied(&mut self, durable_lsn: Lsn) {
        if let Some(positions) = self.delivered.take(durable_lsn) {
            self.member.commit(positions);
        }
    }
}
