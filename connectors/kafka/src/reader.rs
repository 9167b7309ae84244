//! The event log's exit: topics merged into batches, each topic in commit order, up to what a progress record covers.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use sooner_api::{Class, Error, EventReader, Result, TablePhase};
use sooner_schemas::event::{EventBatch, EventSchema, Watermark};
use sooner_schemas::{Lsn, Position, TableName};

use crate::assembly::Assembly;
use crate::dead_letters::DeadLetters;
use crate::follow::ProgressFollower;
use crate::group::{Change, GroupMember, Incoming, Place, Positions};
use crate::lag::LagGauge;
use crate::merge::{Step, TopicMerge};
use crate::progress::TopicProgress;
use crate::record::Record;
use crate::schemas::SchemaCache;

/// Who writes the topics.
pub enum Writer {
    /// A source of ours, which says in a progress topic how far it is.
    Sooner(ProgressFollower),
    /// Another producer of Debezium's events.
    Debezium,
}

/// What is read after partitions have come or gone.
#[derive(Default)]
pub struct Settlement {
    /// Each topic's table.
    pub tables: HashMap<String, TableName>,
    /// Where to read from, for all that is held.
    pub positions: Positions,
    /// Up to where tables of topics are complete, where that is known.
    pub applied: HashMap<String, Lsn>,
    /// Topics of which no event is taken until a copy starts, and why.
    pub closed: HashMap<String, String>,
    /// Which topic of its name each is, where its writer tells.
    pub generations: HashMap<String, i64>,
}

/// One topic that is read.
struct Topic {
    table: TableName,
    merge: TopicMerge,
    generation: i64,
    /// Why its events are dropped, until a copy starts.
    closed: bool,
    /// By partition: events at or below it have been handed on. A writer without transactions repeats some.
    seen: HashMap<i32, Position>,
}

impl Topic {
    /// Whether an event was handed on before. A tombstone stands where its delete does, and is no event of its own.
    fn has_seen(&self, record: &Record) -> bool {
        let last = self.seen.get(&record.partition);
        record.position().is_some_and(|position| last.is_some_and(|last| position <= *last))
    }

    /// Notes an event that was handed on.
    fn note(&mut self, record: &Record) {
        if let Some(position) = record.position() {
            let last = self.seen.entry(record.partition).or_insert(position);
            *last = position.max(*last);
        }
    }
}

/// The exit.
pub struct KafkaReader {
    /// A change of partitions that has not been settled. Before the member, which waits for the answer when it is dropped.
    change: Option<Change>,
    member: GroupMember,
    writer: Writer,
    schemas: SchemaCache,
    topics: BTreeMap<String, Topic>,
    subscribed: BTreeSet<String>,
    held: Vec<Place>,
    /// The progress record that is being read up to.
    target: Option<TopicProgress>,
    /// The one before it, in case that its events have to be read again.
    reached: Option<TopicProgress>,
    assembly: Assembly,
    /// Where messages go that cannot be read; without it, they stop their table.
    dead_letters: Option<DeadLetters>,
    lag: LagGauge,
    /// What the last record said of each table's copy.
    copied: HashMap<TableName, Lsn>,
    /// Watermarks on their way, each with the offsets that it covers.
    delivered: VecDeque<(Lsn, Positions)>,
    last_watermark: Option<Watermark>,
}

impl KafkaReader {
    /// Reads what a member of the group is given. Messages that cannot be read go to the dead letters, if there are any.
    pub fn new(
        member: GroupMember,
        writer: Writer,
        schemas: SchemaCache,
        dead_letters: Option<DeadLetters>,
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
            copied: HashMap::new(),
            delivered: VecDeque::new(),
            last_watermark: None,
        }
    }

    /// How far each partition is read.
    pub fn lag(&self) -> LagGauge {
        self.lag.clone()
    }

    /// Subscribes to topics, in place of those before.
    pub fn subscribe(&mut self, topics: Vec<String>) {
        self.subscribed = topics.iter().cloned().collect();
        self.member.subscribe(topics);
    }

    /// The tables of topics that progress records told of since the start.
    pub fn topics(&self) -> HashMap<String, TableName> {
        let records = self.target.iter().chain(&self.reached);
        records.flat_map(TopicProgress::tables_by_topic).collect()
    }

    /// Takes a progress record. One that tells of other topics than those before has the group read them too.
    fn follow(&mut self, progress: TopicProgress) -> Result<()> {
        let is_newer = |(name, topic): &(&String, &Topic)| {
            progress.topic(name).is_some_and(|recorded| recorded.generation > topic.generation)
        };
        if let Some((name, _)) = self.topics.iter().find(is_newer) {
            let why = "its writer writes all tables anew";
            return Err(Error::retry(format!("topic {name} begins anew"), why, "nothing; it is read from there"));
        }
        let topics: BTreeSet<String> = progress.topics.values().map(|offsets| offsets.topic.clone()).collect();
        if !topics.is_subset(&self.subscribed) {
            self.subscribe(topics.union(&self.subscribed).cloned().collect());
        }
        self.target = Some(progress);
        Ok(())
    }

    /// Waits for the first or the next change of partitions, and tells what is held from then on.
    pub async fn changed(&mut self) -> Result<Vec<Place>> {
        while self.change.is_none() {
            let incoming = self.member.next().await;
            self.take(incoming)?;
        }
        Ok(self.held.clone())
    }

    /// Whether partitions went without asking: somebody else may have them already.
    pub fn lost_without_asking(&self) -> bool {
        self.change.as_ref().is_some_and(|change| change.without_asking)
    }

    /// Answers a change: reads what is held, from its positions on.
    pub fn settle(&mut self, settlement: Settlement) -> Result<()> {
        let Settlement { tables, positions, applied, closed, generations } = settlement;
        let mut by_topic: HashMap<&str, Vec<(i32, i64)>> = HashMap::new();
        for ((topic, partition), offset) in &positions {
            by_topic.entry(topic).or_default().push((*partition, *offset));
        }
        self.topics = BTreeMap::new();
        for (topic, positions) in by_topic {
            let Some(table) = tables.get(topic) else { continue };
            // A table is complete between transactions, so all events of the last one are in it.
            let complete = applied.get(topic).map(|lsn| Position { commit_lsn: *lsn, ordinal: u64::MAX });
            let seen = positions.iter().filter_map(|(partition, _)| Some((*partition, complete?))).collect();
            let (merge, generation) = (TopicMerge::new(positions), generations.get(topic).copied().unwrap_or_default());
            let topic_state = Topic { table: table.clone(), merge, generation, closed: false, seen };
            self.topics.insert(topic.to_owned(), topic_state);
        }
        drop(self.assembly.take());
        self.lag.start(&positions);
        self.delivered.clear();
        self.copied.clear();
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
        Err(Error::retry("cannot read what the group assigned", why, "nothing; the sink joins the group again"))
    }

    fn take(&mut self, incoming: Incoming) -> Result<()> {
        match incoming {
            Incoming::Records(records) => {
                for record in records {
                    if let Some(topic) = self.topics.get_mut(&*record.topic) {
                        topic.merge.push(record);
                    }
                }
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

    /// Moves what can be handed on into the batch. Cancelling loses nothing.
    async fn gather(&mut self) -> Result<()> {
        let mut reached = true;
        let names: Vec<String> = self.topics.keys().cloned().collect();
        for name in names {
            reached &= self.gather_topic(&name).await?;
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

    /// Whether the topic is read up to where it should be.
    async fn gather_topic(&mut self, name: &str) -> Result<bool> {
        loop {
            if matches!(self.writer, Writer::Sooner(_)) && self.target.is_none() {
                return Ok(true);
            }
            let Some(topic) = self.topics.get_mut(name) else { return Ok(true) };
            let targets = targets_of(&self.writer, &self.target, name, topic.generation);
            let Some(head) = topic.merge.peek(targets).cloned() else {
                return Ok(matches!(topic.merge.next(targets), Step::Reached));
            };
            // It stays where it is until it is dealt with: what is cancelled on the way begins again.
            self.deal_with(name, &head).await?;
            let Some(topic) = self.topics.get_mut(name) else { return Ok(true) };
            let targets = targets_of(&self.writer, &self.target, name, topic.generation);
            if let Step::Record(record, copies) = topic.merge.next(targets) {
                self.assembly.pass(&topic.table, &record, &copies);
            }
            if self.assembly.is_full() {
                return Ok(false);
            }
        }
    }

    /// Hands a message's event on, or what cannot be read to the dead letters, or stops its table.
    async fn deal_with(&mut self, name: &str, record: &Record) -> Result<()> {
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

    fn take_record(&mut self, name: &str, record: &Record, schema: Option<Arc<EventSchema>>) -> Result<()> {
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        if record.headers.copy_start {
            topic.closed = false;
            topic.seen.clear();
        }
        self.assembly.append(&topic.table, record, schema, topic.has_seen(record))?;
        topic.note(record);
        Ok(())
    }

    async fn set_aside(&mut self, name: &str, record: &Record, error: &Error) -> Result<()> {
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

    /// Stops a topic: its events are dropped until a copy starts.
    fn close(&mut self, name: &str, reason: String) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.closed = true;
        self.assembly.poison(topic.table.clone(), reason);
    }

    /// Everything that a record covers is in the batches.
    fn reach(&mut self, target: &TopicProgress) {
        let origin = |progress: &TopicProgress| (progress.record.system_id.clone(), progress.record.timeline);
        let moved = self.reached.as_ref().is_some_and(|former| origin(former) != origin(target));
        if moved {
            // Another server counts from another start.
            self.last_watermark = None;
        }
        // Of a transaction that is split, some of its events may be here.
        if target.split.is_none() {
            self.complete_copies(target);
        }
        // While a table is copied, the stream stands still; its watermark says nothing about that table.
        let copying = target.record.tables.values().any(|table| table.phase == TablePhase::Copying);
        let former = self.last_watermark.map_or(Lsn::ZERO, |watermark| watermark.commit_lsn);
        let watermark = target.watermark().filter(|watermark| !copying && watermark.commit_lsn >= former);
        if let Some(watermark) = watermark {
            self.assembly.batch.watermark = Some(watermark);
            let positions = self.positions();
            self.lag.read_to(&positions);
            self.delivered.push_back((watermark.end_lsn, positions));
        }
    }

    /// Tells of tables whose copy ends with what has been read.
    fn complete_copies(&mut self, target: &TopicProgress) {
        for (name, table) in &target.record.tables {
            let Some(name) = TableName::parse(name) else { continue };
            if let (TablePhase::Streaming, Some(copied)) = (table.phase, table.copied_lsn)
                && self.copied.insert(name.clone(), copied) != Some(copied)
            {
                let lsn = copied.max(target.commit_lsn);
                let watermark =
                    Watermark { commit_lsn: lsn, end_lsn: Lsn(lsn.0 + 1), commit_micros: target.commit_micros };
                self.assembly.batch.completed.push((name, watermark));
            }
        }
    }

    fn positions(&self) -> Positions {
        let topics = self.topics.iter();
        topics
            .flat_map(|(name, topic)| {
                topic.merge.next_offsets().map(|(partition, offset)| ((name.clone(), partition), offset))
            })
            .collect()
    }

    /// The batch, if there is something in it.
    fn ready(&mut self) -> Option<EventBatch> {
        if matches!(self.writer, Writer::Debezium) && !self.assembly.batch.tables.is_empty() {
            let lsn = Lsn(self.assembly.arrived());
            self.assembly.batch.watermark = Some(Watermark { commit_lsn: lsn, end_lsn: lsn, commit_micros: 0 });
            let positions = self.positions();
            self.lag.read_to(&positions);
            self.delivered.push_back((lsn, positions));
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

/// Up to which offsets a topic is to be read; without a bound if nobody tells.
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
            if let Some(batch) = self.ready() {
                return Ok(Some(batch));
            }
            match &mut self.writer {
                Writer::Sooner(follower) if self.target.is_none() => {
                    tokio::select! {
                        incoming = self.member.next() => self.take(incoming)?,
                        progress = follower.next() => self.follow(progress?)?,
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
        let mut reached = None;
        while self.delivered.front().is_some_and(|(lsn, _)| *lsn <= durable_lsn) {
            reached = self.delivered.pop_front();
        }
        if let Some((_, positions)) = reached {
            self.member.commit(positions);
        }
    }
}
