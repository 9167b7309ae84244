//! Membership in the consumer group: a thread polls the brokers; when partitions come or go, it waits until whoever
//! reads has settled what that means.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver as StdReceiver, Sender as StdSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};
use rdkafka::{Message, Statistics};
use sooner_api::{Error, Result};
use tokio::sync::mpsc::{Receiver, Sender};

use crate::context::{Complaint, log, note_error};
use crate::errors::kafka_error;
use crate::lag::LagGauge;
use crate::piece::Piece;
use crate::record::Record;
use crate::settings::{GroupProtocol, KafkaSettings};

/// Pieces of records that wait to be taken.
const QUEUE: usize = 4;
/// Size of a piece.
const PIECE_BYTES: usize = 1 << 20;
const POLL: Duration = Duration::from_millis(100);
/// How long settling may take. The brokers allow five minutes between two polls.
const SETTLE_LIMIT: Duration = Duration::from_secs(240);
/// How long going back may take.
const SEEK_LIMIT: Duration = Duration::from_secs(20);
/// How long leaving may take, before the brokers have to miss the member.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// Topic and partition.
pub type Place = (String, i32);
/// Where to read each partition from.
pub type Positions = HashMap<Place, i64>;

/// What the thread tells.
pub enum Incoming {
    /// Messages; of each partition in order.
    Records(Vec<Record>),
    /// Partitions came or went. Nothing is polled until the answer: where to read from, for all that are held now.
    Changed(Change),
    /// The consumer cannot go on.
    Failed(Error),
}

/// A change of what is held.
pub struct Change {
    /// Came.
    pub gained: Vec<Place>,
    /// Went.
    pub lost: Vec<Place>,
    /// They went without asking: somebody else may have them already.
    pub without_asking: bool,
    /// Where the answer goes.
    pub settled: StdSender<Positions>,
}

enum Order {
    Subscribe(Vec<String>),
    Commit(Positions),
    Pause(Vec<Place>),
    Resume(Vec<Place>),
}

/// A member of the group. Once it is dropped it leaves, so that others need not wait until it is missed.
pub struct GroupMember {
    incoming: Receiver<Incoming>,
    orders: StdSender<Order>,
    lag: LagGauge,
    /// Closed when the thread has ended.
    left: StdReceiver<()>,
}

impl GroupMember {
    /// Joins the group once topics are subscribed to. The protocol must be known: [`Admin::group_protocol`] tells it.
    ///
    /// [`Admin::group_protocol`]: crate::admin::Admin::group_protocol
    pub fn join(settings: &KafkaSettings) -> Result<GroupMember> {
        let (sender, incoming) = tokio::sync::mpsc::channel(QUEUE);
        let (orders, received) = channel();
        let (complaint, lag) = (Complaint::default(), LagGauge::default());
        let context = GroupContext {
            incoming: sender.clone(),
            complaint: complaint.clone(),
            lag: lag.clone(),
            changed: Mutex::default(),
        };
        let consumer = BaseConsumer::from_config_and_context(&group_config(settings), context)
            .map_err(|error| kafka_error("cannot set up a Kafka consumer", &error, None))?;
        let poller = Poller { consumer, incoming: sender, orders: received, topics: HashMap::new(), complaint };
        let (leaving, left) = channel();
        thread::spawn(move || {
            poller.run();
            drop(leaving);
        });
        Ok(GroupMember { incoming, orders, lag, left })
    }

    /// How far each partition is read.
    pub fn lag(&self) -> LagGauge {
        self.lag.clone()
    }

    /// Subscribes to topics, in place of those before.
    pub fn subscribe(&self, topics: Vec<String>) {
        // If the thread has ended, it has said why.
        let _ = self.orders.send(Order::Subscribe(topics));
    }

    /// Tells the group how far we are. Nothing relies on it but tools that show lag.
    pub fn commit(&self, positions: Positions) {
        let _ = self.orders.send(Order::Commit(positions));
    }

    /// Fetches no more of these partitions, which have enough waiting.
    pub fn pause(&self, places: Vec<Place>) {
        let _ = self.orders.send(Order::Pause(places));
    }

    /// Fetches them again.
    pub fn resume(&self, places: Vec<Place>) {
        let _ = self.orders.send(Order::Resume(places));
    }

    /// What comes next. Cancelling loses nothing.
    pub async fn next(&mut self) -> Incoming {
        self.incoming.recv().await.unwrap_or_else(|| {
            Incoming::Failed(Error::fatal(
                "the Kafka consumer ended without a result",
                "its thread panicked",
                "report this",
            ))
        })
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        // Whoever waits there for an answer is told that none will come.
        self.incoming.close();
        while self.incoming.try_recv().is_ok() {}
        let _ = self.left.recv_timeout(LEAVE_LIMIT);
    }
}

fn group_config(settings: &KafkaSettings) -> rdkafka::ClientConfig {
    let group = &settings.consumer;
    let mut config = settings.client_config("sooner-sink");
    config.set("group.id", &group.group);
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error");
    config.set("isolation.level", "read_committed");
    config.set("check.crcs", "true");
    settings.set_default(&mut config, &["fetch.wait.max.ms"], "100");
    settings.set_default(
        &mut config,
        &["queued.max.messages.kbytes"],
        (group.fetch_bytes / 1024).max(1024).to_string(),
    );
    settings.set_default(
        &mut config,
        &["fetch.message.max.bytes", "max.partition.fetch.bytes"],
        (1 << 20).min(group.fetch_bytes).to_string(),
    );
    settings.set_default(&mut config, &["max.poll.interval.ms"], "300000");
    // Tells where partitions end.
    settings.set_default(&mut config, &["statistics.interval.ms"], "1000");
    if let Some(instance) = &group.instance {
        config.set("group.instance.id", instance);
    }
    match group.protocol {
        // The brokers set the session's timeout.
        GroupProtocol::Consumer => {
            config.set("group.protocol", "consumer");
        }
        GroupProtocol::Classic | GroupProtocol::Auto => {
            config.set("partition.assignment.strategy", "cooperative-sticky");
            settings.set_default(&mut config, &["heartbeat.interval.ms"], "2000");
            settings.set_default(&mut config, &["session.timeout.ms"], "10000");
        }
    }
    config
}

struct GroupContext {
    incoming: Sender<Incoming>,
    complaint: Complaint,
    lag: LagGauge,
    /// Set by a change: partitions that were held before it, and have to be read again from here; or why it failed.
    changed: Mutex<Option<std::result::Result<Positions, KafkaError>>>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note_error(&self.complaint, &error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.lag.hear(&statistics);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let gains = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let places = places(partitions);
        let settled = match places.is_empty() {
            true => None,
            false => Some(self.settle(places, gains, consumer.assignment_lost(), partitions)),
        };
        let changed = match gains {
            true => consumer.incremental_assign(partitions),
            false => consumer.incremental_unassign(partitions),
        };
        let outcome = match (changed, settled) {
            (Err(error), _) | (Ok(()), Some(Err(error))) => Some(Err(error)),
            (Ok(()), Some(Ok(rewind))) => Some(Ok(rewind)),
            (Ok(()), None) => None,
        };
        if outcome.is_some() {
            *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
        }
    }
}

impl GroupContext {
    /// Waits for the answer, and sets where to read from. Returns the positions of partitions that were held before.
    fn settle(
        &self,
        places: Vec<Place>,
        gains: bool,
        assignment_lost: bool,
        partitions: &mut TopicPartitionList,
    ) -> std::result::Result<Positions, KafkaError> {
        let (gained, lost) = if gains { (places, Vec::new()) } else { (Vec::new(), places) };
        let (settled, answer) = channel();
        let change = Change { gained, lost, without_asking: !gains && assignment_lost, settled };
        let unanswered = KafkaError::Rebalance(Code::OperationTimedOut);
        // Nobody answers any more only when the pipeline ends.
        self.incoming.blocking_send(Incoming::Changed(change)).map_err(|_| unanswered.clone())?;
        let mut positions = answer.recv_timeout(SETTLE_LIMIT).map_err(|_| unanswered)?;
        if gains {
            for mut element in partitions.elements() {
                let place = (element.topic().to_owned(), element.partition());
                // A partition without a position is one that nobody here reads.
                element.set_offset(positions.remove(&place).map_or(Offset::End, Offset::Offset))?;
            }
        }
        Ok(positions)
    }
}

fn list(places: &[Place]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
}

fn places(partitions: &TopicPartitionList) -> Vec<Place> {
    partitions.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

struct Poller {
    consumer: BaseConsumer<GroupContext>,
    incoming: Sender<Incoming>,
    orders: StdReceiver<Order>,
    /// Names, each held once.
    topics: HashMap<String, Arc<str>>,
    complaint: Complaint,
}

impl Poller {
    fn run(mut self) {
        while !self.incoming.is_closed() {
            if let Err(error) = self.obey().and_then(|()| self.poll()) {
                let failed = kafka_error("cannot read from Kafka", &error, self.complaint.last());
                let _ = self.incoming.blocking_send(Incoming::Failed(failed));
                return;
            }
        }
        // The last offsets are still to be told.
        if let Err(error) = self.obey() {
            tracing::debug!(%error, "the consumer ends");
        }
    }

    fn obey(&self) -> std::result::Result<(), KafkaError> {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Subscribe(topics) => {
                    let topics: Vec<_> = topics.iter().map(String::as_str).collect();
                    self.consumer.subscribe(&topics)?;
                }
                Order::Commit(positions) => {
                    let mut partitions = TopicPartitionList::new();
                    for ((topic, partition), offset) in positions {
                        partitions.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
                    }
                    // Committed before the member leaves, too.
                    if let Err(error) = self.consumer.commit(&partitions, CommitMode::Async) {
                        tracing::debug!(%error, "could not commit the group's offsets");
                    }
                }
                Order::Pause(places) => self.consumer.pause(&list(&places))?,
                Order::Resume(places) => self.consumer.resume(&list(&places))?,
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> std::result::Result<(), KafkaError> {
        let mut piece = Piece::default();
        let mut wait = POLL;
        while piece.bytes() < PIECE_BYTES {
            let polled = self.consumer.poll(wait);
            wait = Duration::ZERO;
            match polled {
                Some(Ok(message)) => {
                    let topic = intern(&mut self.topics, message.topic());
                    piece.take(&topic, &message);
                }
                Some(Err(error)) if passes(&error) => tracing::debug!(%error, "the consumer reports"),
                Some(Err(error)) => return Err(error),
                // Also after a change of partitions.
                None => break,
            }
        }
        let changed = self.consumer.context().changed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(changed) = changed {
            // What was polled before the change is read again, or is no longer ours.
            return self.rewind(&changed?);
        }
        let records = piece.finish();
        if !records.is_empty() {
            // Nobody listens any more only when the pipeline ends.
            let _ = self.incoming.blocking_send(Incoming::Records(records));
        }
        Ok(())
    }

    /// Goes back. To go on without it would leave events out.
    fn rewind(&self, positions: &Positions) -> std::result::Result<(), KafkaError> {
        for ((topic, partition), offset) in positions {
            self.consumer.seek(topic, *partition, Offset::Offset(*offset), SEEK_LIMIT)?;
        }
        Ok(())
    }
}

fn intern(names: &mut HashMap<String, Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = names.get(name) {
        return known.clone();
    }
    let known: Arc<str> = name.into();
    names.insert(name.to_owned(), known.clone());
    known
}

/// What the client mends by itself.
pub(crate) fn passes(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::NotCoordinator
                | Code::Resolve
                | Code::NetworkException
                | Code::OffsetNotAvailable
        ) | KafkaError::PartitionEOF(_)
    )
}
