//! The event log's exit: topics merged into batches, each topic in commit order, up to what a progress record covers.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use sooner_api::{Error, EventReader, Result, TablePhase};
use sooner_schemas::event::{EventBatch, Poisoned, TableEvents, Watermark};
use sooner_schemas::{Lsn, Position, TableName};

use crate::events::{advance, append};
use crate::follow::ProgressFollower;
use crate::group::{Change, GroupMember, Incoming, Place, Positions};
use crate::merge::{Step, TopicMerge};
use crate::progress::TopicProgress;
use crate::record::Record;
use crate::schemas::SchemaCache;

/// A batch of this size goes out.
const BATCH_BYTES: usize = 512 << 10;

/// Who writes the topics.
pub enum Writer {
    /// A source of ours, which says in a progress topic how far it is.
    Sooner(ProgressFollower),
    /// Another producer of Debezium's events.
    Debezium,
}

/// One topic that is read.
struct Topic {
    table: TableName,
    merge: TopicMerge,
    /// Why its events are dropped, until a copy starts.
    closed: bool,
    /// By partition: events at or below it have been handed on. A writer without transactions repeats some.
    seen: HashMap<i32, Position>,
}

impl Topic {
    /// Whether an event was handed on before; notes it if not. A tombstone stands where its delete does, and is no
    /// event of its own.
    fn has_seen(&mut self, partition: i32, position: Position) -> bool {
        let last = self.seen.get(&partition);
        if last.is_some_and(|last| position <= *last) {
            return true;
        }
        self.seen.insert(partition, position);
        false
    }
}

/// The exit.
pub struct KafkaReader {
    member: GroupMember,
    writer: Writer,
    schemas: SchemaCache,
    topics: BTreeMap<String, Topic>,
    subscribed: BTreeSet<String>,
    held: Vec<Place>,
    /// A change of partitions that has not been settled.
    change: Option<Change>,
    /// The progress record that is being read up to.
    target: Option<TopicProgress>,
    /// The one before it, in case that its events have to be read again.
    reached: Option<TopicProgress>,
    batch: EventBatch,
    batch_bytes: usize,
    /// Where in the batch a table's events go.
    open: HashMap<TableName, usize>,
    /// What the last record said of each table's copy.
    copied: HashMap<TableName, Lsn>,
    /// Watermarks on their way, each with the offsets that it covers.
    delivered: VecDeque<(Lsn, Positions)>,
    last_watermark: Option<Watermark>,
    /// Messages without a position so far.
    arrived: u64,
}

impl KafkaReader {
    /// Reads what a member of the group is given.
    pub fn new(member: GroupMember, writer: Writer, schemas: SchemaCache) -> KafkaReader {
        KafkaReader {
            member,
            writer,
            schemas,
            topics: BTreeMap::new(),
            subscribed: BTreeSet::new(),
            held: Vec::new(),
            change: None,
            target: None,
            reached: None,
            batch: EventBatch::default(),
            batch_bytes: 0,
            open: HashMap::new(),
            copied: HashMap::new(),
            delivered: VecDeque::new(),
            last_watermark: None,
            arrived: 0,
        }
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
    fn follow(&mut self, progress: TopicProgress) {
        let topics: BTreeSet<String> = progress.topics.values().map(|offsets| offsets.topic.clone()).collect();
        if !topics.is_subset(&self.subscribed) {
            self.subscribe(topics.union(&self.subscribed).cloned().collect());
        }
        self.target = Some(progress);
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

    /// Answers a change: reads what is held, from these positions on. `tables` names each topic's table.
    /// `applied` says up to where tables are complete, and `closed` of which topics no event is taken until a copy
    /// starts, and why.
    pub fn settle(
        &mut self,
        tables: &HashMap<String, TableName>,
        positions: Positions,
        applied: &HashMap<String, Lsn>,
        closed: HashMap<String, String>,
    ) -> Result<()> {
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
            let merge = TopicMerge::new(positions);
            let topic_state = Topic { table: table.clone(), merge, closed: false, seen };
            self.topics.insert(topic.to_owned(), topic_state);
        }
        self.batch = EventBatch::default();
        self.batch_bytes = 0;
        self.open.clear();
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
            if self.batch_bytes >= BATCH_BYTES {
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
            let targets = match (&self.writer, &self.target) {
                (Writer::Debezium, _) => None,
                (Writer::Sooner(_), None) => return Ok(true),
                (Writer::Sooner(_), Some(target)) => Some(target.offsets_of(name)),
            };
            let Some(topic) = self.topics.get_mut(name) else { return Ok(true) };
            let Some(head) = topic.merge.peek(targets) else {
                return Ok(matches!(topic.merge.next(targets), Step::Reached));
            };
            let schema = match topic.closed && !head.headers.copy_start {
                true => Ok(None),
                false => self.schemas.find(&topic.table, head).await,
            };
            let Step::Record(record) = topic.merge.next(targets) else { return Ok(false) };
            let taken = match schema {
                Ok(schema) => self.take_record(name, &record, schema),
                Err(error) => Err(error),
            };
            match taken {
                Err(error) if error.class == sooner_api::Class::Operator => self.close(name, error.to_string()),
                taken => taken?,
            }
            if self.batch_bytes >= BATCH_BYTES {
                return Ok(false);
            }
        }
    }

    fn take_record(
        &mut self,
        name: &str,
        record: &Record,
        schema: Option<Arc<sooner_schemas::event::EventSchema>>,
    ) -> Result<()> {
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        if record.headers.copy_start {
            topic.closed = false;
            topic.seen.clear();
        }
        let repeated = record.position().is_some_and(|position| topic.has_seen(record.partition, position));
        if topic.closed {
            return Ok(());
        }
        let table = topic.table.clone();
        let index = match (&schema, self.open.get(&table)) {
            (None, Some(&index)) => index,
            // An event of the whole table stands alone: what it does to the table comes before what follows.
            (Some(schema), Some(&index))
                if record.key().is_some() && Arc::ptr_eq(&self.batch.tables[index].schema, schema) =>
            {
                index
            }
            (None, None) => return Ok(()),
            (Some(schema), _) => {
                self.batch.tables.push(TableEvents::new(schema.clone()));
                let index = self.batch.tables.len() - 1;
                self.open.insert(table, index);
                index
            }
        };
        let out = &mut self.batch.tables[index];
        let before = out.bytes.len();
        advance(out, record);
        if !repeated {
            self.arrived += 1;
            append(out, record, self.arrived)?;
        }
        self.batch_bytes += out.bytes.len() - before + 64;
        Ok(())
    }

    /// Stops a topic: its events are dropped until a copy starts.
    fn close(&mut self, name: &str, reason: String) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.closed = true;
        self.batch.poisoned.push(Poisoned { table: topic.table.clone(), reason });
    }

    /// Everything that a record covers is in the batches.
    fn reach(&mut self, target: &TopicProgress) {
        let moved = self.reached.as_ref().is_some_and(|former| former.record.system_id != target.record.system_id);
        if moved {
            // Another server counts from another start.
            self.last_watermark = None;
        }
        for (name, table) in &target.record.tables {
            let Some((schema, short)) = name.split_once('.') else { continue };
            let name = TableName::new(schema, short);
            if let (TablePhase::Streaming, Some(lsn)) = (table.phase, table.copied_lsn)
                && self.copied.insert(name.clone(), lsn) != Some(lsn)
            {
                let watermark =
                    Watermark { commit_lsn: lsn, end_lsn: Lsn(lsn.0 + 1), commit_micros: target.commit_micros };
                self.batch.completed.push((name, watermark));
            }
        }
        // While a table is copied, the stream stands still; its watermark says nothing about that table.
        let copying = target.record.tables.values().any(|table| table.phase == TablePhase::Copying);
        let former = self.last_watermark.map_or(Lsn::ZERO, |watermark| watermark.commit_lsn);
        let watermark = target.watermark().filter(|watermark| !copying && watermark.commit_lsn >= former);
        if let Some(watermark) = watermark {
            self.batch.watermark = Some(watermark);
            self.delivered.push_back((watermark.end_lsn, self.positions()));
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
        if matches!(self.writer, Writer::Debezium) && !self.batch.tables.is_empty() {
            let lsn = Lsn(self.arrived);
            self.batch.watermark = Some(Watermark { commit_lsn: lsn, end_lsn: lsn, commit_micros: 0 });
            self.delivered.push_back((lsn, self.positions()));
        }
        let EventBatch { tables, poisoned, completed, watermark, .. } = &self.batch;
        let news = watermark.is_some() && *watermark != self.last_watermark;
        if tables.is_empty() && poisoned.is_empty() && completed.is_empty() && !news {
            self.batch.watermark = None;
            return None;
        }
        self.last_watermark = watermark.or(self.last_watermark);
        self.batch_bytes = 0;
        self.open.clear();
        let mut batch = std::mem::take(&mut self.batch);
        batch.server_end = batch.watermark.map_or(Lsn::ZERO, |watermark| watermark.end_lsn);
        Some(batch)
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
                        progress = follower.next() => self.follow(progress?),
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
