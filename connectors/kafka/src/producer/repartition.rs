//! Gives tables' topics another number of partitions: a new topic is filled with all messages of the present one, in
//! commit order, in the same Kafka transactions as the progress record says how far that is; then it takes that one's
//! place.
//!
//! The switch is a record of its own. Before it, everything that the present topic has is in the new one, committed,
//! and was seen there; no event of any table is written in between. So a process that dies leaves either the former
//! state, from which the next one goes on, or the new one.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::message::OwnedMessage;
use rdkafka::producer::BaseRecord;
use sooner_api::{Class, Code, Error, Result, SuccessorStanding, TableState, TopicStanding, failpoint};
use sooner_schemas::TableName;
use sooner_schemas::naming::TopicPattern;
use tokio::runtime::Handle;

use super::partition_ends::PartitionEnds;
use super::repartition_rules::{RepartitionDesk, RepartitionRequest, check_request};
use super::replay::{Replay, Replayed};
use super::route::TopicRoute;
use super::successor::{PreparedSuccessor, SuccessorPlan, hanging, prepare};
use super::transaction_writer::TransactionWriter;
use crate::cluster::settings::KafkaSettings;
use crate::message::partition::partition_of;
use crate::progress::record::TopicProgress;

/// How often requests are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a table rests after brokers did not do what was asked.
const REST: Duration = Duration::from_secs(10);
/// Bytes of messages that are written again in one go, between batches of events.
const TURN_BYTES: usize = 1 << 20;
/// A switch is tried once no more messages than this are left.
const CLOSE_MESSAGES: i64 = 5000;
/// How long events may wait for a switch.
const HOLD: Duration = Duration::from_secs(2);
/// How long to wait after a switch that took too long.
const PAUSE: Duration = Duration::from_secs(5);
/// How long the end of a transaction may take to reach all partitions.
const END_LIMIT: Duration = Duration::from_secs(15);

/// The tables whose topics get another number of partitions.
pub struct Repartitions {
    settings: KafkaSettings,
    topics: TopicPattern,
    desk: RepartitionDesk,
    runtime: Handle,
    works: BTreeMap<TableName, Work>,
    looked_at: Option<Instant>,
}

/// How far a table is.
enum Work {
    /// Its new topic is being made, for a request or to go on with what was begun before.
    Preparing(Receiver<Result<PreparedSuccessor>>, Option<RepartitionRequest>),
    /// Its new topic is being filled.
    Replaying(Box<Replaying>),
    /// It is tried again then.
    Resting(Instant),
}

/// A topic that is being filled.
struct Replaying {
    /// Number of its route.
    number: usize,
    replay: Replay,
    ends: PartitionEnds,
    /// A switch is not tried before.
    switches_from: Instant,
}

impl Repartitions {
    /// None yet; `topics` names the tables' topics by the configuration.
    pub fn new(
        settings: &KafkaSettings,
        topics: &TopicPattern,
        desk: RepartitionDesk,
        runtime: Handle,
    ) -> Repartitions {
        let (settings, topics) = (settings.clone(), topics.clone());
        Repartitions { settings, topics, desk, runtime, works: BTreeMap::new(), looked_at: None }
    }

    /// Does what there is to do between two batches of events. Returns whether there is more to do at once.
    pub fn turn(&mut self, writer: &mut TransactionWriter) -> Result<bool> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
            self.looked_at = Some(Instant::now());
            self.look(writer.progress());
        }
        let mut is_busy = false;
        for (table, work) in std::mem::take(&mut self.works) {
            let next = match work {
                Work::Preparing(answer, request) => match answer.try_recv() {
                    Err(TryRecvError::Empty) => Some(Work::Preparing(answer, request)),
                    Ok(Ok(prepared)) => Some(self.begin(writer, &table, prepared, request)?),
                    Ok(Err(error)) => self.fail(writer, &table, error, request),
                    Err(TryRecvError::Disconnected) => Some(Work::Resting(Instant::now() + REST)),
                },
                Work::Replaying(mut replaying) => {
                    is_busy |= replaying.write(writer, &table)?;
                    let is_switched =
                        replaying.may_switch(writer.progress(), &table) && replaying.switch(writer, &table)?;
                    (!is_switched).then_some(Work::Replaying(replaying))
                }
                Work::Resting(until) => (Instant::now() < until).then_some(Work::Resting(until)),
            };
            self.works.extend(next.map(|work| (table, work)));
        }
        Ok(is_busy)
    }

    /// Looks for what is to be begun, or to go on.
    fn look(&mut self, progress: &TopicProgress) {
        for (table, lineage) in &progress.lineages {
            // Without transactions, a piece that is written again after a kill would be there twice.
            let may_go_on = self.settings.producer.transactional_id.is_some() && !self.works.contains_key(table);
            let Some(successor) = lineage.successor.as_ref().filter(|_| may_go_on) else { continue };
            let known = Some(successor.topic.clone()).filter(|_| !successor.is_lost);
            let partitions = successor.next_offsets.len() as i32;
            self.prepare(progress, RepartitionRequest { table: table.clone(), partitions }, known, true);
        }
        for request in (self.desk.asked)() {
            if matches!(self.works.get(&request.table), Some(Work::Preparing(..) | Work::Resting(_))) {
                continue;
            }
            if progress
                .successor(&request.table)
                .is_some_and(|known| known.next_offsets.len() as i32 == request.partitions)
            {
                // A former process began it, and died before it could say so.
                (self.desk.settled)(&request);
                continue;
            }
            match check_request(&self.settings, progress, &request) {
                Ok(()) => self.prepare(progress, request, None, false),
                Err(error) => self.refuse(&request, &error),
            }
        }
    }

    fn prepare(&mut self, progress: &TopicProgress, asked: RepartitionRequest, known: Option<String>, goes_on: bool) {
        let RepartitionRequest { table, partitions } = asked.clone();
        let Some(present) = progress.topics.get(&table) else { return };
        let plan = SuccessorPlan {
            base: self.topics.topic(&table),
            present: present.topic.clone(),
            present_partitions: present.next_offsets.len() as i32,
            partitions,
            known,
            table: table.clone(),
        };
        let answer = prepare(&self.settings, &self.runtime, plan);
        self.works.insert(table, Work::Preparing(answer, Some(asked).filter(|_| !goes_on)));
    }

    fn refuse(&self, request: &RepartitionRequest, error: &Error) {
        tracing::error!(table = %request.table, code = %error.code, %error, "the topic keeps its partitions");
        (self.desk.settled)(request);
    }

    /// A new topic could not be made, or is gone.
    fn fail(
        &self,
        writer: &mut TransactionWriter,
        table: &TableName,
        error: Error,
        request: Option<RepartitionRequest>,
    ) -> Option<Work> {
        match &request {
            Some(request) if error.class == Class::Operator => {
                self.refuse(request, &error);
                return None;
            }
            None if error.code == Code::TopicReplaced => {
                tracing::warn!(%table, %error, "the new topic is begun again");
                writer.keeper.change_topics(table, |progress| {
                    if let Some(successor) = progress.successor_mut(table) {
                        successor.is_lost = true;
                    }
                });
            }
            _ => tracing::warn!(%table, %error, "the new topic is not there yet"),
        }
        Some(Work::Resting(Instant::now() + REST))
    }

    /// The new topic is there: it is recorded, before anything is written to it, and filled from now on.
    fn begin(
        &self,
        writer: &mut TransactionWriter,
        table: &TableName,
        prepared: PreparedSuccessor,
        request: Option<RepartitionRequest>,
    ) -> Result<Work> {
        let PreparedSuccessor { topic, state, first_offsets, ends } = prepared;
        let base = self.topics.topic(table);
        let mut route = TopicRoute::new(table.clone(), topic.clone(), &state);
        (route.is_successor, route.closed) = (true, true);
        if let Some(relation) = writer.progress().record.tables.get(table).and_then(|known| known.relation.as_ref()) {
            route.adopt_relation(relation);
        }
        writer.routes.push(route);
        let number = writer.routes.len() - 1;
        if writer.progress().successor(table).is_none_or(|known| known.topic != topic) {
            writer.keeper.change_topics(table, |progress| {
                progress.begin_successor(table, base, &topic, state.partitions, &first_offsets);
            });
            // On its own: what is aborted leaves the topic as it was.
            writer.commit()?;
            failpoint("repartition_begun");
            tracing::info!(%table, %topic, partitions = state.partitions, "the table's messages are written to a new topic");
        }
        if let Some(request) = &request {
            (self.desk.settled)(request);
        }
        let progress = writer.progress();
        let present = progress.topics.get(table).map(|present| present.topic.as_str()).unwrap_or_default();
        let from = progress.successor(table).map(|successor| successor.read_offsets.as_slice()).unwrap_or_default();
        let replay = Replay::start(&self.settings, present, from);
        Ok(Work::Replaying(Box::new(Replaying { number, replay, ends, switches_from: Instant::now() })))
    }
}

impl Replaying {
    /// Writes what has been read; returns whether there was something.
    fn write(&mut self, writer: &mut TransactionWriter, table: &TableName) -> Result<bool> {
        if let Some(present) = writer.progress().topics.get(table) {
            self.replay.set_targets(&present.next_offsets);
        }
        let mut bytes = 0;
        while bytes < TURN_BYTES
            && let Some(piece) = self.replay.take()?
        {
            bytes += self.write_piece(writer, table, piece)?;
        }
        Ok(bytes > 0)
    }

    fn write_piece(&self, writer: &mut TransactionWriter, table: &TableName, piece: Vec<Replayed>) -> Result<usize> {
        let mut bytes = 0;
        let mut read = BTreeMap::new();
        for Replayed { message, read: further } in piece {
            if let Some(message) = message {
                bytes += self.write_message(writer, &message)?;
            }
            read.extend(further);
        }
        let is_partial = self.replay.is_partial();
        writer.keeper.change_topics(table, |progress| {
            let Some(successor) = progress.successor_mut(table) else { return };
            successor.is_partial |= is_partial;
            for (partition, next) in read {
                if let Some(known) =
                    usize::try_from(partition).ok().and_then(|index| successor.read_offsets.get_mut(index))
                {
                    *known = next;
                }
            }
        });
        Ok(bytes.max(1))
    }

    /// Writes a message as it is; the partition of its key is another one. An event of the whole table has no key, and
    /// goes to every partition.
    fn write_message(&self, writer: &mut TransactionWriter, message: &OwnedMessage) -> Result<usize> {
        let route = &writer.routes[self.number];
        let partitions = match message.key() {
            None => 0..route.partitions,
            Some(key) => {
                let by = &writer.settings.producer.partition_by;
                // A key that columns cannot be told of, of a former schema, still has one partition.
                let partition = route.partition(by, key).unwrap_or_else(|_| partition_of(key, route.partitions));
                partition..partition + 1
            }
        };
        let topic = route.topic.clone();
        let size = message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len);
        writer.begin()?;
        for partition in partitions {
            let mut record = BaseRecord::with_opaque_to(&topic, self.number).partition(partition);
            (record.key, record.payload) = (message.key(), message.payload());
            record.headers = message.headers().cloned();
            record.timestamp = message.timestamp().to_millis();
            writer.transactions.send(record)?;
            writer.open_bytes += size;
        }
        Ok(size)
    }

    /// Whether so little is left that events may wait for it, and the table is between transactions and copies.
    fn may_switch(&self, progress: &TopicProgress, table: &TableName) -> bool {
        let state = progress.record.tables.get(table).map(|table| &table.state);
        let follows = matches!(state, Some(TableState::Streaming { .. }));
        let left = messages_left(progress, table).unwrap_or(i64::MAX);
        follows && progress.split.is_none() && left <= CLOSE_MESSAGES && Instant::now() >= self.switches_from
    }

    /// Writes what is left while no event comes between, and switches; false if that takes too long.
    fn switch(&mut self, writer: &mut TransactionWriter, table: &TableName) -> Result<bool> {
        let begun = Instant::now();
        writer.commit()?;
        self.write(writer, table)?;
        while messages_left(writer.progress(), table) != Some(0) {
            let left = HOLD.saturating_sub(begun.elapsed());
            let Some(piece) = self.replay.wait(left)? else {
                tracing::info!(%table, "the last messages take too long to be read; the switch is tried again");
                self.switches_from = Instant::now() + PAUSE;
                return Ok(false);
            };
            self.write_piece(writer, table, piece)?;
        }
        writer.commit()?;
        failpoint("replay_ended");
        self.wait_until_seen(writer.progress(), table)?;
        writer.keeper.change_topics(table, |progress| progress.switch(table));
        take_over(writer, table, self.number);
        writer.commit()?;
        failpoint("topic_switched");
        let topic = &writer.routes[self.number].topic;
        tracing::info!(%table, %topic, took = ?begun.elapsed(), "the table's events go to the new topic; the former one is kept");
        Ok(true)
    }

    /// Waits until whoever reads committed messages sees everything that was written to the new topic.
    fn wait_until_seen(&self, progress: &TopicProgress, table: &TableName) -> Result<()> {
        let Some(successor) = progress.successor(table) else { return Ok(()) };
        let asked = Instant::now();
        for (partition, next) in (0..).zip(&successor.next_offsets) {
            while self.ends.stable_end(&successor.topic, partition)? < *next {
                if asked.elapsed() > END_LIMIT {
                    return Err(hanging(&successor.topic, partition));
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

/// Offsets of a table's topic whose messages are not in its successor; none without a successor.
pub fn messages_left(progress: &TopicProgress, table: &TableName) -> Option<i64> {
    let (present, successor) = (progress.topics.get(table)?, progress.successor(table)?);
    let left = present.next_offsets.iter().zip(&successor.read_offsets).map(|(next, read)| (next - read).max(0));
    Some(left.sum())
}

/// A table's events take this route from now on.
fn take_over(writer: &mut TransactionWriter, table: &TableName, number: usize) {
    let Some(former) = writer.by_name.insert(table.clone(), number) else { return };
    let (relation, closed) = (writer.routes[former].relation.clone(), writer.routes[former].closed);
    let route = &mut writer.routes[number];
    route.relation = relation;
    (route.is_successor, route.closed, route.replaces) = (false, closed, true);
}

/// Where a table's events are, and are to be; none for a table that has a topic of no other.
pub fn standing(progress: &TopicProgress, table: &TableName) -> Option<TopicStanding> {
    let (present, lineage) = (progress.topics.get(table)?, progress.lineages.get(table)?);
    let successor = lineage.successor.as_ref().map(|successor| SuccessorStanding {
        topic: successor.topic.clone(),
        partitions: successor.next_offsets.len(),
        messages_left: messages_left(progress, table).unwrap_or_default(),
    });
    let archived = lineage.former.iter().map(|former| former.topic.clone()).collect();
    let partitions = present.next_offsets.len();
    Some(TopicStanding { topic: present.topic.clone(), partitions, archived, successor })
}
