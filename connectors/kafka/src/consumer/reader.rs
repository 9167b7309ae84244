//! The event log's exit: a member of the consumer group reads partitions, and makes batches of them in order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sooner_api::{
    Applied, Assigned, Code, Error, EventBatch, EventReader, Fact, MemoryBudget, Opened, Result, TableState, Telemetry,
};
use sooner_schemas::TableName;
use sooner_schemas::naming::TopicPattern;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

use super::assignment::{Assignment, Held, by_topic};
use super::flow::{Flow, FlowChange};
use super::group::{Change, GroupMember, Incoming};
use super::intake::{Intake, NotRead};
use super::lag::{LagGauge, LetterReport, report_lag};
use super::offsets_in_flight::OffsetsInFlight;
use super::ordering::new_topics;
use super::succession::Succession;
use super::table_start::TableStart;
use super::topic::Topic;
use crate::cluster::admin::Admin;
use crate::cluster::settings::KafkaSettings;
use crate::cluster::topic_partition::{Offsets, TopicPartition};
use crate::progress::load::load;
use crate::progress::record::TopicProgress;
use crate::progress::stages::Stage;

/// How often topics are looked for whose writer does not report them.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);
/// How soon it is looked whether the lake has all of a topic that was read to its end: other members may read parts of
/// it.
const ENDED_DELAY: Duration = Duration::from_millis(300);

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
    /// Which of a table's topics is read, where there are several.
    succession: Succession,
    /// When the lake's tables are opened again, because a topic was read to its end and another one goes on.
    reopens_at: Option<Instant>,
    /// A batch that waits for room.
    ready: Option<EventBatch>,
    in_flight: OffsetsInFlight,
    flow: Flow,
    lag: LagGauge,
    discovery: Interval,
    reporter: JoinHandle<()>,
    letters: LetterReport,
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
            succession: Succession::default(),
            reopens_at: None,
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
        let unread = self.parts.intake.note_topics(&record);
        if !new.is_empty() {
            self.subscribe(new);
        } else if self.held.iter().any(|(topic, _)| unread.contains(&topic.as_str())) {
            // It was held before any table was on it.
            self.parts.member.start_over();
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

    /// What is held, by table. Topics that no record names are no table's any more.
    fn assign(&self) -> Result<Assignment> {
        let partitions = self.parts.admin.list()?;
        let has_records = self.parts.intake.ordering.has_records();
        let record = if has_records { load(&self.parts.settings)? } else { None };
        let held = by_topic(&self.held);
        let of = |table: &TableName, stages: Vec<Stage>| {
            let held = Held::of(stages, &held, self.succession.topic(table))?;
            Some((table.clone(), held))
        };
        let tables = match &record {
            Some(record) => record.topics.keys().filter_map(|table| of(table, record.stages(table))).collect(),
            None => {
                let names = match has_records {
                    true => self.parts.intake.ordering.tables(),
                    false => topics_by_name(&self.parts.admin, &self.parts.settings, &self.parts.topics)?,
                };
                let alone = names.iter().filter_map(|(topic, table)| of(table, vec![Stage::alone(topic, None)]));
                alone.collect()
            }
        };
        Ok(Assignment { record, partitions, tables })
    }

    /// Reads the topic of a table that its lake table has to read; false if that is another one than was assigned.
    fn follow_succession(&mut self, held: &Held, table: &Opened) -> bool {
        let is_right = self.succession.follow(held, table);
        let needed = self.succession.topic(&table.table).map(str::to_owned);
        if let Some(needed) = needed.filter(|needed| !self.subscribed.contains(needed)) {
            self.subscribe([needed]);
        } else if is_right && held.at + 1 == held.stages.len() {
            let before = self.subscribed.len();
            let former = &held.stages[..held.at];
            self.subscribed.retain(|topic| former.iter().all(|stage| stage.topic != *topic));
            if self.subscribed.len() < before {
                self.subscribe(None);
            }
        }
        is_right
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
        let tables = assignment.tables.iter().map(|(table, held)| {
            let state = assignment.record.as_ref().and_then(|record| record.record.tables.get(table));
            let present = held.stages.last().map(|stage| stage.topic.as_str()).unwrap_or_default();
            let partitions = assignment.partitions.get(present).copied().unwrap_or_default();
            Assigned {
                table: table.clone(),
                feed: held.feed(partitions, in_commit_order),
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
        let has_records = self.parts.intake.ordering.has_records();
        let mut not_read = NotRead::default();
        not_read.failed.extend(tables.iter().filter(|table| table.error.is_some()).map(|table| table.table.clone()));
        for table in tables.iter().filter(|table| table.error.is_none()) {
            let Some(held) = assignment.tables.get(&table.table) else { continue };
            if !self.follow_succession(held, table) {
                not_read.unread.push(table.table.clone());
                continue;
            }
            let given_up = self.succession.given_up(&table.table);
            let starting = TableStart { admin: &self.parts.admin, settings: &self.parts.settings, has_records, held };
            let (topic, problem) = starting.start(&assignment, table, given_up, &mut offsets).await?;
            let is_present = held.at + 1 == held.stages.len();
            if let Some(problem) = problem.clone().filter(|_| !is_present) {
                // Nobody writes to that topic any more: only a copy, which comes in the present one, goes on.
                self.succession.give_up(&table.table, problem);
                not_read.unread.push(table.table.clone());
                continue;
            }
            problems.extend(problem.map(|problem| (held.stage().topic.clone(), problem)));
            topics.insert(held.stage().topic.clone(), topic);
        }
        tracing::info!(partitions = offsets.len(), tables = topics.len(), "reading");
        self.ready = None;
        self.reopens_at = (!not_read.unread.is_empty()).then(Instant::now);
        self.parts.intake.restart(topics, not_read);
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
            for (table, partitions) in self.parts.intake.take_ended() {
                self.succession.end(table, partitions);
                self.reopens_at = Some(Instant::now() + ENDED_DELAY);
            }
            if self.ready.is_some() {
                break;
            }
            let waits_for_record = self.parts.intake.ordering.waits_for_record();
            let discovers = !self.parts.intake.ordering.has_records();
            let reopens_at = self.reopens_at;
            tokio::select! {
                biased;
                // First: messages that no record covers yet would only wait in memory.
                () = sleep_until(reopens_at.unwrap_or_else(Instant::now)), if reopens_at.is_some() => {
                    self.reopens_at = None;
                    self.parts.member.start_over();
                }
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
