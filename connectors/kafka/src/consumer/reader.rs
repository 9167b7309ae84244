//! The event log's exit: a member of the consumer group reads partitions, and makes batches of them in order.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sooner_api::{
    Applied, Assigned, Code, Error, EventBatch, EventReader, Fact, Feed, MemoryBudget, Opened, Result, TableState,
    Telemetry,
};
use sooner_schemas::TableName;
use sooner_schemas::naming::TopicPattern;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::flow::{Flow, FlowChange};
use super::group::{Change, GroupMember, Incoming};
use super::intake::Intake;
use super::lag::{LagGauge, LetterReport, report_lag};
use super::offsets_in_flight::OffsetsInFlight;
use super::ordering::new_topics;
use super::remainder::has_messages;
use super::start_point::{PartitionFacts, awaited_copy};
use super::topic::Topic;
use crate::cluster::admin::{Admin, topic_gone};
use crate::cluster::settings::KafkaSettings;
use crate::cluster::topic_partition::{Offsets, TopicPartition};
use crate::progress::load::load;
use crate::progress::record::TopicProgress;

/// How often topics are looked for whose writer does not report them.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);

/// What a reader is made of.
pub struct ReaderParts {
    /// Asks brokers about topics.
    pub admin: Admin,
    /// Settings.
    pub settings: KafkaSettings,
    /// Which topic is a table's.
    pub topics: TopicPattern,
    /// Member of the consumer group.
    pub member: GroupMember,
    /// Makes batches of messages.
    pub intake: Intake,
    /// Memory that batches take until they are dropped.
    pub budget: MemoryBudget,
}

/// The exit.
pub struct KafkaReader {
    /// A rebalance that has not been answered. Before the member, which waits for the answer when it is dropped.
    change: Option<Change>,
    parts: ReaderParts,
    subscribed: HashSet<String>,
    held: Vec<TopicPartition>,
    /// What was assigned last, until it is started.
    assignment: Option<Assignment>,
    /// A batch that waits for room.
    ready: Option<EventBatch>,
    in_flight: OffsetsInFlight,
    flow: Flow,
    lag: LagGauge,
    discovery: Interval,
    reporter: JoinHandle<()>,
    letters: LetterReport,
}

/// Partitions that were assigned, with what is known of their topics.
struct Assignment {
    record: Option<TopicProgress>,
    /// Number of partitions of each topic in the cluster.
    partitions: HashMap<String, i32>,
    /// Topics that are read, each with its table and its assigned partitions.
    topics: BTreeMap<TableName, (String, BTreeSet<i32>)>,
}

impl KafkaReader {
    /// Reads what the member is given of these topics.
    pub fn new<T: Telemetry>(parts: ReaderParts, topics: Vec<String>, telemetry: T) -> KafkaReader {
        let mut discovery = interval(DISCOVERY_INTERVAL);
        discovery.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let lag = parts.member.lag();
        let in_transactions = parts.intake.ordering.has_records();
        let counted = parts.intake.dead_letters().unwrap_or_default();
        let told = telemetry.clone();
        let letters: LetterReport = Arc::new(move || {
            let sent = counted.swap(0, Ordering::Relaxed);
            if sent > 0 {
                told.record(Fact::DeadLetters(sent));
            }
        });
        let reporting = report_lag(telemetry, lag.clone(), letters.clone(), in_transactions);
        let reporter = tokio::spawn(reporting);
        let mut reader = KafkaReader {
            change: None,
            flow: Flow::new(parts.settings.consumer.fetch_bytes),
            parts,
            subscribed: HashSet::new(),
            held: Vec::new(),
            assignment: None,
            ready: None,
            in_flight: OffsetsInFlight::default(),
            lag,
            discovery,
            reporter,
            letters,
        };
        reader.subscribe(topics);
        reader
    }

    /// Subscribes to more topics.
    fn subscribe(&mut self, topics: impl IntoIterator<Item = String>) {
        self.subscribed.extend(topics);
        self.parts.member.subscribe(self.subscribed.iter().cloned().collect());
    }

    fn take(&mut self, incoming: Incoming) -> Result<()> {
        match incoming {
            Incoming::Records(messages) => {
                messages.into_iter().for_each(|message| self.parts.intake.push(message));
                self.regulate();
            }
            Incoming::Changed(change) => {
                self.held.retain(|partition| !change.lost.contains(partition));
                self.held.extend(change.gained.iter().cloned());
                self.change = Some(change);
            }
            Incoming::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Pauses partitions that have enough waiting, and resumes those that do not.
    fn regulate(&mut self) {
        let waiting = self.parts.intake.topics().flat_map(|(name, topic)| {
            topic.merge.waiting_bytes().map(move |(partition, bytes)| (name, partition, bytes))
        });
        let FlowChange { pause, resume } = self.flow.regulate(waiting, self.held.len());
        if !pause.is_empty() {
            self.parts.member.pause(pause);
        }
        if !resume.is_empty() {
            self.parts.member.resume(resume);
        }
    }

    /// Reads up to a record from now on. One that names other topics than those before has the group read them, too.
    fn follow_record(&mut self, record: TopicProgress) -> Result<()> {
        let is_newer = |(_, topic): &(&str, &Topic)| {
            record.topics.get(&topic.table).is_some_and(|recorded| Some(recorded.generation) > topic.generation)
        };
        if let Some((_, topic)) = self.parts.intake.topics().find(is_newer) {
            let table = &topic.table;
            let (what, why) = (format!("the events of {table} begin again"), "its writer writes its tables again");
            return Err(Error::retry(Code::TopicRestarted, what, why, "nothing; they are read from there"));
        }
        let new: Vec<_> = new_topics(&record, &self.subscribed).into_iter().map(str::to_owned).collect();
        if !new.is_empty() {
            self.subscribe(new);
        }
        self.lag.reading(Some(record.commit_micros));
        self.parts.intake.ordering.set_target(record);
        Ok(())
    }

    /// Looks for topics that another producer has created.
    fn discover_topics(&mut self) -> Result<()> {
        let found = topics_by_name(&self.parts.admin, &self.parts.settings, &self.parts.topics)?;
        let new: Vec<_> = found.into_keys().filter(|topic| !self.subscribed.contains(topic)).collect();
        if !new.is_empty() {
            tracing::info!(topics = new.len(), "there are new topics");
            self.subscribe(new);
        }
        Ok(())
    }

    /// What is held, by table. Topics that the source wrote to before are no table's any more.
    fn assign(&self) -> Result<Assignment> {
        let partitions = self.parts.admin.list()?;
        let has_records = self.parts.intake.ordering.has_records();
        let record = if has_records { load(&self.parts.settings)? } else { None };
        let tables = match &record {
            Some(record) => record.tables_by_topic(),
            None if has_records => self.parts.intake.ordering.tables(),
            None => topics_by_name(&self.parts.admin, &self.parts.settings, &self.parts.topics)?,
        };
        let mut topics: BTreeMap<TableName, (String, BTreeSet<i32>)> = BTreeMap::new();
        for (topic, partition) in &self.held {
            if let Some(table) = tables.get(topic) {
                let entry = topics.entry(table.clone()).or_insert_with(|| (topic.clone(), BTreeSet::new()));
                entry.1.insert(*partition);
            }
        }
        Ok(Assignment { record, partitions, topics })
    }

    /// Sets where the partitions of a table are read from.
    async fn start_table(
        &self,
        assignment: &Assignment,
        table: &Opened,
        offsets: &mut Offsets,
    ) -> Result<Option<(String, Topic, Option<Error>)>> {
        let Some((topic, assigned)) = assignment.topics.get(&table.table) else { return Ok(None) };
        let has_records = self.parts.intake.ordering.has_records();
        let recorded = assignment.record.as_ref().and_then(|record| record.topic(topic));
        let partitions = assignment.partitions.get(topic).copied().unwrap_or_default();
        let mut problem = awaited_copy(topic, table, has_records);
        let mut positions = Vec::new();
        for &partition in assigned {
            let (first, end) = self.parts.admin.offsets(topic, partition)?;
            let facts = PartitionFacts { partition, recorded, has_records, first, end };
            let start = facts.start_point(topic, table);
            problem = problem.or(start.problem);
            let from = match facts.written().filter(|written| *written > start.offset) {
                Some(written) => self.skip_compacted(topic, partition, start.offset, written).await?,
                None => start.offset,
            };
            positions.push((partition, from));
            offsets.insert((topic.clone(), partition), from);
        }
        if let Some(most) = highest_partition(table).filter(|most| *most > partitions) {
            let why = format!("the table has events of {most} partitions, and the topic has {partitions}");
            problem = Some(topic_gone(topic, &why));
        }
        let whole = assigned.len() as i32 == partitions && problem.is_none();
        let applied = table.watermark.filter(|_| whole);
        let generation = recorded.map(|recorded| recorded.generation);
        let state = Topic::new(table.table.clone(), generation, positions, applied);
        Ok(Some((topic.clone(), state, problem)))
    }

    /// Where to read from: compaction may have left nothing of the last events, and nobody is to wait for them.
    async fn skip_compacted(&self, topic: &str, partition: i32, from: i64, written: i64) -> Result<i64> {
        let settings = &self.parts.settings;
        // Who may not ask for a topic's settings goes by its own.
        let described = self.parts.admin.describe(topic, partition + 1).await;
        let is_compacted = described.map_or(settings.topics.is_compacted(), |state| state.is_compacted());
        let is_there = !is_compacted || has_messages(settings, topic, partition, from..written)?;
        Ok(if is_there { from } else { written })
    }

    /// Notes which offsets a watermark covers that was just handed on.
    fn note_completed(&mut self) {
        if let Some(lsn) = self.parts.intake.take_completed() {
            let offsets = self.parts.intake.next_offsets();
            self.lag.read_to(&offsets);
            self.lag.reading(None);
            self.in_flight.note(lsn, offsets);
        }
    }
}

impl EventReader for KafkaReader {
    async fn assigned(&mut self) -> Result<Option<Vec<Assigned>>> {
        while self.change.is_none() {
            let incoming = self.parts.member.next().await;
            self.take(incoming)?;
        }
        let assignment = self.assign()?;
        let in_commit_order = self.parts.intake.ordering.has_records();
        let tables = assignment.topics.iter().map(|(table, (topic, assigned))| {
            let recorded = assignment.record.as_ref().and_then(|record| record.topic(topic));
            let state = assignment.record.as_ref().and_then(|record| record.record.tables.get(table));
            Assigned {
                table: table.clone(),
                feed: Feed::Topic {
                    topic: topic.clone(),
                    generation: recorded.map(|recorded| recorded.generation),
                    partitions: assignment.partitions.get(topic).copied().unwrap_or_default(),
                    assigned: assigned.clone(),
                    in_commit_order,
                },
                state: state.map_or(TableState::Streaming { copied_lsn: None }, |table| table.state.clone()),
                lake: None,
                copy: None,
            }
        });
        let tables = tables.collect();
        self.assignment = Some(assignment);
        Ok(Some(tables))
    }

    async fn start(&mut self, tables: Vec<Opened>) -> Result<()> {
        let Some(assignment) = self.assignment.take() else {
            return Err(Error::internal("cannot read from Kafka", "nothing was assigned"));
        };
        let (mut offsets, mut topics, mut problems) = (Offsets::new(), BTreeMap::new(), Vec::new());
        for table in tables.iter().filter(|table| table.error.is_none()) {
            if let Some((name, topic, problem)) = self.start_table(&assignment, table, &mut offsets).await? {
                problems.extend(problem.map(|problem| (name.clone(), problem)));
                topics.insert(name, topic);
            }
        }
        tracing::info!(partitions = offsets.len(), tables = topics.len(), "reading");
        self.ready = None;
        self.parts.intake.restart(topics);
        problems.into_iter().for_each(|(name, problem)| self.parts.intake.close(&name, problem));
        self.flow.start_over();
        // Whatever became of former commands: nothing waits any more, so nothing is paused.
        self.parts.member.resume(self.held.clone());
        let tables = self.parts.intake.topics().map(|(name, topic)| (name.to_owned(), topic.table.clone()));
        self.lag.start(&offsets, tables.collect());
        self.in_flight.clear();
        let answered = self.change.take().is_none_or(|change| change.settled.send(offsets).is_ok());
        if answered {
            return Ok(());
        }
        let why = "the Kafka consumer waited too long for the tables to be opened, or has ended";
        let remedy = "nothing; the sink joins the group again";
        Err(Error::retry(Code::AssignmentExpired, "cannot read what the group assigned", why, remedy))
    }

    async fn next(&mut self) -> Result<Option<EventBatch>> {
        while self.ready.is_none() {
            if self.change.is_some() {
                return Ok(None);
            }
            self.parts.intake.gather().await?;
            self.regulate();
            self.ready = self.parts.intake.take_batch();
            self.note_completed();
            if self.ready.is_some() {
                break;
            }
            let waits_for_record = self.parts.intake.ordering.waits_for_record();
            let discovers = !self.parts.intake.ordering.has_records();
            tokio::select! {
                biased;
                // First: messages that no record covers yet would only wait in memory.
                record = self.parts.intake.ordering.next_record(), if waits_for_record => self.follow_record(record?)?,
                incoming = self.parts.member.next() => self.take(incoming)?,
                _ = self.discovery.tick(), if discovers => self.discover_topics()?,
            }
        }
        if let Some(batch) = &mut self.ready {
            batch.reserve(&self.parts.budget).await;
        }
        Ok(self.ready.take())
    }

    /// The tables' own logs are the truth; what is committed to the group is for tools that show lag.
    async fn store(&mut self, applied: Applied) -> Result<()> {
        if let Some(offsets) = applied.confirmed_lsn.and_then(|lsn| self.in_flight.take(lsn)) {
            self.parts.member.commit(offsets);
        }
        Ok(())
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.reporter.abort();
        (self.letters)();
    }
}

fn highest_partition(table: &Opened) -> Option<i32> {
    match table.positions.as_ref()? {
        sooner_api::Positions::Topic { next_offsets, .. } => next_offsets.keys().max().map(|partition| partition + 1),
        sooner_api::Positions::Stream(_) => None,
    }
}

/// Topics whose names fit the pattern, and each one's table.
pub fn topics_by_name(
    admin: &Admin,
    settings: &KafkaSettings,
    topics: &TopicPattern,
) -> Result<HashMap<String, TableName>> {
    let existing = admin.list()?;
    let is_ours =
        |topic: &String| *topic == settings.topics.progress || settings.consumer.dead_letters.as_ref() == Some(topic);
    let fitting = existing.keys().filter(|topic| !is_ours(topic));
    Ok(fitting.filter_map(|topic| Some((topic.clone(), topics.table(topic)?))).collect())
}
