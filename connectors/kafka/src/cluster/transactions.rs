//! librdkafka's transactional producer: messages are sent, delivered, and become visible all at once or not at all.
//!
//! Without a transactional id there are no transactions; then a commit only waits until everything is delivered.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode as KafkaCode;
use sooner_api::{Code, Error, Result, failpoint};

use crate::cluster::delivery_reports::{DeliveryReports, Gathered, NO_TABLE};
use crate::cluster::errors::{is_fenced, is_fencing, kafka_error};
use crate::cluster::settings::KafkaSettings;

/// How long brokers may be unavailable before the pipeline starts over.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is waited for delivery reports between two looks, at first and later.
const SHORTEST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
/// Bound of the messages that wait in librdkafka's queue, in KiB.
const QUEUE_KBYTES: usize = 32 << 10;

/// Size that a progress record may have, in bytes: it names all tables and their columns. Rows are checked against
/// their topic's limit instead.
pub const PROGRESS_BYTES: usize = 16 << 20;
/// Largest message that can be sent, in bytes: it has to fit into librdkafka's queue.
pub const LARGEST_MESSAGE: usize = 30 << 20;

/// Producer of messages, in transactions if it has a transactional id. Each message carries the number of its table.
pub struct Transactions {
    producer: BaseProducer<DeliveryReports>,
    id: Option<String>,
    /// When the open transaction began; none if none is open.
    open_since: Option<Instant>,
    /// Number of messages queued in librdkafka so far.
    sent: u64,
}

impl Transactions {
    /// Connects to the brokers. With a transactional id, fences all other producers of that id, and waits until
    /// their transactions have ended. `topic_limits` are the largest messages that the topics take, in bytes.
    pub fn open(settings: &KafkaSettings, topic_limits: &[usize]) -> Result<Transactions> {
        let (least, most) = (topic_limits.iter().min(), topic_limits.iter().max());
        let mut config = settings.client_config("source");
        config.set("enable.idempotence", "true");
        config.set("acks", "all");
        config.set("compression.codec", &settings.topics.compression);
        // While requests are on their way, messages gather without waiting for each other.
        settings.set_default(&mut config, &["linger.ms", "queue.buffering.max.ms"], "0");
        config.set("queue.buffering.max.kbytes", QUEUE_KBYTES.to_string());
        settings.set_default(&mut config, &["queue.buffering.max.messages"], "500000");
        config.set("message.timeout.ms", PATIENCE.as_millis().to_string());
        config.set("message.max.bytes", most.unwrap_or(&0).clamp(&PROGRESS_BYTES, &LARGEST_MESSAGE).to_string());
        // The broker's size limit applies to a whole batch.
        config.set("batch.size", (least.unwrap_or(&1_000_000) * 9 / 10).min(1_000_000).to_string());
        settings.set_default(&mut config, &["statistics.interval.ms"], "5000");
        let id = settings.producer.transactional_id.clone();
        if let Some(id) = &id {
            config.set("transactional.id", id);
            settings.set_default(&mut config, &["transaction.timeout.ms"], PATIENCE.as_millis().to_string());
        }
        let context = DeliveryReports::of(settings.iam().cloned());
        let producer = BaseProducer::from_config_and_context(&config, context)
            .map_err(|error| kafka_error("cannot set up a Kafka producer", &error, None))?;
        settings.log_in(producer.client())?;
        let opened = Transactions { producer, id, open_since: None, sent: 0 };
        if opened.id.is_some() {
            let begun = opened.producer.init_transactions(PATIENCE);
            begun.map_err(|error| opened.failed("cannot begin transactions with Kafka", &error))?;
        }
        Ok(opened)
    }

    /// How long brokers made the producer wait, because of a quota; none if they told nothing since the last call.
    pub fn throttled(&self) -> Option<Duration> {
        self.producer.context().throttle.take()
    }

    /// Whether there are transactions.
    pub fn is_transactional(&self) -> bool {
        self.id.is_some()
    }

    /// When the open transaction began; none if there is none.
    pub fn open_since(&self) -> Option<Instant> {
        self.open_since
    }

    /// Begins a transaction, if none is open.
    pub fn begin(&mut self) -> Result<()> {
        if self.open_since.is_none() {
            if self.id.is_some() {
                let begun = self.producer.begin_transaction();
                begun.map_err(|error| self.failed("cannot begin a Kafka transaction", &error))?;
            }
            self.open_since = Some(Instant::now());
        }
        Ok(())
    }

    /// Queues a message in librdkafka; blocks while the queue is full, and fails if that lasts too long.
    pub fn send(&mut self, mut message: BaseRecord<'_, [u8], [u8], usize>) -> Result<()> {
        let asked = Instant::now();
        loop {
            match self.producer.send(message) {
                Ok(()) => {
                    self.sent += 1;
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(KafkaCode::QueueFull), back)) if asked.elapsed() < PATIENCE => {
                    self.producer.poll(Duration::from_millis(20));
                    message = back;
                }
                Err((error, back)) if back.delivery_opaque == NO_TABLE => {
                    return Err(self.failed(&format!("cannot write to topic {}", back.topic), &error));
                }
                Err((error, _)) => return Err(self.failed("cannot write an event to Kafka", &error)),
            }
        }
    }

    /// Lets librdkafka run its callbacks, such as delivery reports, without blocking.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until each sent message has its delivery report, and returns what the reports say. Fails if a message
    /// was not delivered.
    pub fn deliver(&self) -> Result<Gathered> {
        let asked = Instant::now();
        let (mut woken, mut pause) = (None::<Instant>, SHORTEST_PAUSE);
        while self.producer.context().reports() < self.sent {
            if asked.elapsed() >= PATIENCE * 2 {
                let error = KafkaError::Flush(KafkaCode::OperationTimedOut);
                return Err(self.failed("cannot write events to Kafka", &error));
            }
            // Wakes librdkafka's threads that wait to fill batches.
            if woken.is_none_or(|woken| woken.elapsed() >= LONGEST_PAUSE) {
                let _ = self.producer.flush(Duration::ZERO);
                woken = Some(Instant::now());
            }
            let before = self.producer.context().reports();
            self.producer.poll(Duration::ZERO);
            // A poll that waits would wait for its whole time, whatever comes.
            if self.producer.context().reports() == before {
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        let gathered = self.producer.context().take();
        match &gathered.failed {
            Some(error) => Err(self.failed("cannot write events to Kafka", error)),
            None => Ok(gathered),
        }
    }

    /// Waits until all sent messages are delivered, and commits the transaction, which makes them visible.
    pub fn commit(&mut self) -> Result<()> {
        // A commit would wait for the delivery reports too, but check for them only every 100 ms.
        self.deliver()?;
        failpoint("record_written");
        if self.id.is_some() {
            self.commit_transaction()?;
            failpoint("transaction_committed");
        }
        self.open_since = None;
        Ok(())
    }

    fn commit_transaction(&self) -> Result<()> {
        self.end("cannot commit a Kafka transaction", |limit| self.producer.commit_transaction(limit))
    }

    /// Aborts the open transaction, if there is one: readers of committed messages never see what was sent in it.
    pub fn abort(&mut self) -> Result<()> {
        if self.id.is_some() && self.open_since.is_some() {
            self.end("cannot abort a Kafka transaction", |limit| self.producer.abort_transaction(limit))?;
        }
        self.open_since = None;
        Ok(())
    }

    fn end(&self, what: &str, ask: impl Fn(Duration) -> KafkaResult<()>) -> Result<()> {
        let asked = Instant::now();
        loop {
            match ask(Duration::from_secs(10)) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && asked.elapsed() < PATIENCE => {}
                Err(error) => return Err(self.failed(what, &error)),
            }
        }
    }

    fn failed(&self, what: &str, error: &KafkaError) -> Error {
        // A fatal error of the producer says more than the error that it causes in a later call.
        let fatal = self.producer.client().fatal_error();
        let fenced = is_fenced(error) || fatal.as_ref().is_some_and(|(code, _)| is_fencing(*code));
        if fenced {
            let id = self.id.as_deref().unwrap_or_default();
            return Error::retry(
                Code::ProducerFenced,
                "this process no longer writes to Kafka",
                format!("another source with the transactional id '{id}' has taken over, and fenced this one"),
                "stop one of the two, or give it another name; this one waits until the slot is free. Where there is no other, \
                 brokers were away for so long that they gave the transaction up: nothing then",
            );
        }
        let gathered = self.producer.context().take();
        kafka_error(what, gathered.failed.as_ref().unwrap_or(error), self.producer.context().complaint.last())
    }
}
