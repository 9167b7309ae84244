//! Membership in the consumer group. A thread polls the brokers; at a rebalance it waits until the reader has
//! answered where to read from.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver as StdReceiver, Sender as StdSender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaErrorCode as KafkaCode, RDKafkaRespErr};
use rdkafka::{Message, Statistics};
use sooner_api::{Code, Error, Result, failpoint};
use tokio::sync::mpsc::{Receiver, Sender};

use crate::cluster::context::{Complaint, log, note_error};
use crate::cluster::errors::{is_transient, kafka_error};
use crate::cluster::msk_iam::{self, MskIam};
use crate::cluster::settings::KafkaSettings;
use crate::cluster::topic_partition::{Offsets, TopicPartition};
use crate::consumer::group_config::group_config;
use crate::consumer::lag::LagGauge;
use crate::message::polled::PolledMessages;
use crate::message::topic_message::TopicMessage;

/// Pieces of records that may wait to be taken.
const QUEUE: usize = 4;
/// Size from which polled messages are handed on, in bytes of keys and values.
const PIECE_BYTES: usize = 1 << 20;
const POLL: Duration = Duration::from_millis(100);
/// How long the answer to a rebalance may take. By default the consumer may take five minutes between two polls
/// (`max.poll.interval.ms`).
const SETTLE_LIMIT: Duration = Duration::from_secs(240);
/// How long seeking back may take, per partition.
const SEEK_LIMIT: Duration = Duration::from_secs(20);
/// How long leaving the group may take. After that, the brokers notice that the member is gone only by its session
/// timeout.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// What the polling thread reports.
pub enum Incoming {
    /// Messages that were read, in offset order within each partition.
    Records(Vec<TopicMessage>),
    /// Partitions were assigned or revoked. Nothing is polled until [`Change::settled`] is answered.
    Changed(Change),
    /// The consumer cannot go on; no records or changes follow.
    Failed(Error),
}

/// A rebalance: the partitions assigned to this member, or revoked from it.
pub struct Change {
    /// Partitions newly assigned to this member.
    pub gained: Vec<TopicPartition>,
    /// Partitions revoked from this member.
    pub lost: Vec<TopicPartition>,
    /// The assignment was lost rather than revoked: other members may own these partitions already.
    pub without_asking: bool,
    /// Takes the answer: where to read from, for all partitions that are held after the change. Without an answer
    /// in time the consumer fails.
    pub settled: StdSender<Offsets>,
}

enum MemberCommand {
    Subscribe(Vec<String>),
    Commit(Offsets),
    Pause(Vec<TopicPartition>),
    Resume(Vec<TopicPartition>),
    StartOver,
}

/// A member of the consumer group. Dropping it leaves the group, waiting for that a few seconds at most, so that
/// others need not wait for its session to time out.
pub struct GroupMember {
    incoming: Receiver<Incoming>,
    commands: StdSender<MemberCommand>,
    lag: LagGauge,
    /// Disconnected when the thread has ended.
    left: Mutex<StdReceiver<()>>,
}

impl GroupMember {
    /// Starts a member, which joins the group with its first subscription. The group protocol must be known:
    /// [`Admin::group_protocol`] decides it.
    ///
    /// [`Admin::group_protocol`]: crate::cluster::admin::Admin::group_protocol
    pub fn join(settings: &KafkaSettings) -> Result<GroupMember> {
        let (sender, incoming) = tokio::sync::mpsc::channel(QUEUE);
        let (commands, received) = channel();
        let (complaint, lag) = (Complaint::default(), LagGauge::default());
        let context = GroupContext {
            incoming: sender.clone(),
            complaint: complaint.clone(),
            lag: lag.clone(),
            iam: settings.iam().cloned(),
            changed: Mutex::default(),
        };
        let consumer = BaseConsumer::from_config_and_context(&group_config(settings), context)
            .map_err(|error| kafka_error("cannot set up a Kafka consumer", &error, None))?;
        settings.log_in(consumer.client())?;
        let poller = Poller { consumer, incoming: sender, commands: received, topics: HashMap::new(), complaint };
        let (leaving, left) = channel();
        thread::spawn(move || {
            poller.run();
            drop(leaving);
        });
        Ok(GroupMember { incoming, commands, lag, left: Mutex::new(left) })
    }

    /// Gauge of how far each partition is read.
    pub fn lag(&self) -> LagGauge {
        self.lag.clone()
    }

    /// Subscribes to these topics, in place of those subscribed to before.
    pub fn subscribe(&self, topics: Vec<String>) {
        // If the thread has ended, it has reported why.
        let _ = self.commands.send(MemberCommand::Subscribe(topics));
    }

    /// Commits offsets to the group, without waiting for the outcome. Nothing but tools that show lag relies on
    /// them.
    pub fn commit(&self, positions: Offsets) {
        let _ = self.commands.send(MemberCommand::Commit(positions));
    }

    /// Pauses fetching of these partitions, which have enough waiting.
    pub fn pause(&self, places: Vec<TopicPartition>) {
        let _ = self.commands.send(MemberCommand::Pause(places));
    }

    /// Resumes fetching of these partitions.
    pub fn resume(&self, places: Vec<TopicPartition>) {
        let _ = self.commands.send(MemberCommand::Resume(places));
    }

    /// Asks where to read all partitions from, as at a rebalance: the next change is one without partitions.
    pub fn start_over(&self) {
        let _ = self.commands.send(MemberCommand::StartOver);
    }

    /// Waits for the thread's next report. Cancelling loses nothing. After [`Incoming::Failed`] every call returns
    /// a failure.
    pub async fn next(&mut self) -> Incoming {
        self.incoming.recv().await.unwrap_or_else(|| {
            Incoming::Failed(Error::fatal(
                Code::Internal,
                "the Kafka consumer ended without a result",
                "its thread panicked",
                "report this",
            ))
        })
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        // Drops queued changes with their answer channels, so that the thread does not wait for an answer.
        self.incoming.close();
        while self.incoming.try_recv().is_ok() {}
        let _ = self.left.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(LEAVE_LIMIT);
    }
}

struct GroupContext {
    incoming: Sender<Incoming>,
    complaint: Complaint,
    lag: LagGauge,
    iam: Option<MskIam>,
    /// Outcome of the last rebalance, until the thread has acted on it: partitions that were held before, each with
    /// the offset to seek to; or why it failed.
    changed: Mutex<Option<std::result::Result<Offsets, KafkaError>>>,
}

impl ClientContext for GroupContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> std::result::Result<OAuthToken, Box<dyn std::error::Error>> {
        msk_iam::answer(self.iam.as_ref())
    }

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
    /// Reports a rebalance, waits for the answer, and sets where to read newly assigned partitions from. Returns
    /// the positions of partitions that were held before.
    fn settle(
        &self,
        places: Vec<TopicPartition>,
        gains: bool,
        assignment_lost: bool,
        partitions: &mut TopicPartitionList,
    ) -> std::result::Result<Offsets, KafkaError> {
        let (gained, lost) = if gains { (places, Vec::new()) } else { (Vec::new(), places) };
        let (settled, answer) = channel();
        let change = Change { gained, lost, without_asking: !gains && assignment_lost, settled };
        let unanswered = KafkaError::Rebalance(KafkaCode::OperationTimedOut);
        // Sending fails only when the pipeline ends and nobody answers any more.
        self.incoming.blocking_send(Incoming::Changed(change)).map_err(|_| unanswered.clone())?;
        let mut positions = answer.recv_timeout(SETTLE_LIMIT).map_err(|_| unanswered)?;
        if gains {
            for mut element in partitions.elements() {
                let place = (element.topic().to_owned(), element.partition());
                // Nobody here reads a partition without a position; it starts at its end.
                element.set_offset(positions.remove(&place).map_or(Offset::End, Offset::Offset))?;
            }
        }
        Ok(positions)
    }
}

fn list(places: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    list
}

fn places(partitions: &TopicPartitionList) -> Vec<TopicPartition> {
    partitions.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

struct Poller {
    consumer: BaseConsumer<GroupContext>,
    incoming: Sender<Incoming>,
    commands: StdReceiver<MemberCommand>,
    /// Topic names, each held once and shared by records.
    topics: HashMap<String, Arc<str>>,
    complaint: Complaint,
}

impl Poller {
    fn run(mut self) {
        while !self.incoming.is_closed() {
            if let Err(error) = self.run_commands().and_then(|()| self.poll()) {
                let failed = kafka_error("cannot read from Kafka", &error, self.complaint.last());
                let _ = self.incoming.blocking_send(Incoming::Failed(failed));
                return;
            }
        }
        // The last offsets are still to be committed.
        if let Err(error) = self.run_commands() {
            tracing::debug!(%error, "the consumer ends");
        }
    }

    fn run_commands(&self) -> std::result::Result<(), KafkaError> {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                MemberCommand::Subscribe(topics) => {
                    let topics: Vec<_> = topics.iter().map(String::as_str).collect();
                    self.consumer.subscribe(&topics)?;
                }
                MemberCommand::Commit(durable) => {
                    self.commit(self.consumer.context().lag.commit(durable))?;
                    failpoint("offsets_committed");
                }
                MemberCommand::Pause(places) => self.consumer.pause(&list(&places))?,
                MemberCommand::Resume(places) => self.consumer.resume(&list(&places))?,
                MemberCommand::StartOver => {
                    let mut none = TopicPartitionList::new();
                    let context = self.consumer.context();
                    self.rewind(&context.settle(Vec::new(), false, false, &mut none)?)?;
                }
            }
        }
        let ends = self.consumer.context().lag.take_ends();
        if ends.is_empty() { Ok(()) } else { self.commit(ends) }
    }

    fn commit(&self, positions: Offsets) -> std::result::Result<(), KafkaError> {
        let mut partitions = TopicPartitionList::new();
        for ((topic, partition), offset) in positions {
            partitions.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
        }
        // An asynchronous commit is still sent before the member leaves.
        if let Err(error) = self.consumer.commit(&partitions, CommitMode::Async) {
            tracing::debug!(%error, "could not commit the group's offsets");
        }
        Ok(())
    }

    fn poll(&mut self) -> std::result::Result<(), KafkaError> {
        let mut polled = PolledMessages::default();
        let mut wait = POLL;
        while polled.bytes() < PIECE_BYTES {
            let next = self.consumer.poll(wait);
            wait = Duration::ZERO;
            match next {
                Some(Ok(message)) => {
                    let topic = intern(&mut self.topics, message.topic());
                    polled.take(&topic, &message);
                }
                Some(Err(error)) if is_transient(&error) => tracing::debug!(%error, "the consumer reports"),
                Some(Err(error)) => return Err(error),
                // A poll also returns nothing after a rebalance.
                None => break,
            }
        }
        let records = polled.finish();
        self.consumer.context().lag.polled(&records);
        let changed = self.consumer.context().changed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(changed) = changed {
            // What was polled before the rebalance is read again, or belongs to another member now.
            return self.rewind(&changed?);
        }
        if !records.is_empty() {
            // Sending fails only when the pipeline ends and nobody receives any more.
            let _ = self.incoming.blocking_send(Incoming::Records(records));
        }
        Ok(())
    }

    /// Seeks to these positions. Going on without it would leave events out, so a failure is an error.
    fn rewind(&self, positions: &Offsets) -> std::result::Result<(), KafkaError> {
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
