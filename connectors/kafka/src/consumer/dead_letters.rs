//! The dead-letter topic, if one is configured: takes messages that cannot be read, each unchanged, with its place
//! and the reason.
//!
//! Its headers are in [`crate::message::letter_headers`]. A sink that is killed right after a write may write the same
//! message again; the place in its headers shows that it is a duplicate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::producer::BaseRecord;
use sooner_api::{Code, Error, Result};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::cluster::delivery_reports::NO_TABLE;
use crate::cluster::settings::KafkaSettings;
use crate::cluster::transactions::Transactions;
use crate::message::letter_headers::{of_letter, reason};
use crate::message::topic_message::TopicMessage;

/// Upper bound of what a dead letter takes beside key, value, reason and remedy, in bytes.
const OVERHEAD_BYTES: usize = 1024;

/// Writer of a dead-letter topic.
pub struct DeadLetters {
    producer: LetterProducer,
    /// The write under way: the place of its message, and its task.
    under_way: Option<(String, JoinHandle<Result<()>>)>,
    /// Messages that were sent.
    sent: Arc<AtomicU64>,
}

/// The blocking part of the writer: its topic, that topic's limit, and the producer.
#[derive(Clone)]
struct LetterProducer {
    topic: Arc<str>,
    limit_bytes: usize,
    transactions: Arc<Mutex<Transactions>>,
}

impl DeadLetters {
    /// Sets up a writer to a topic; nothing is sent yet. `limit_bytes` is the largest message that the topic takes.
    pub fn open(settings: &KafkaSettings, topic: &str, limit_bytes: usize) -> Result<DeadLetters> {
        let mut settings = settings.clone();
        // No transactions: each dead letter is durable on its own, before the sink goes on.
        settings.producer.transactional_id = None;
        let transactions = Transactions::open(&settings, &[limit_bytes])?;
        let producer =
            LetterProducer { topic: topic.into(), limit_bytes, transactions: Arc::new(Mutex::new(transactions)) };
        Ok(DeadLetters { producer, under_way: None, sent: Arc::default() })
    }

    /// Sends a message to the dead-letter topic, and waits until it is durable there. After a cancellation, call it
    /// again for the same message: it then waits for the write under way and starts no other. A message that is too
    /// large for the topic is an operator error.
    pub async fn send(&mut self, record: &TopicMessage, error: &Error) -> Result<()> {
        let place = record.place();
        let under_way = match self.under_way.take().filter(|(known, _)| *known == place) {
            Some(known) => known,
            None => {
                let (producer, record, error) = (self.producer.clone(), record.clone(), error.clone());
                (place, spawn_blocking(move || producer.write(&record, &error)))
            }
        };
        let (_, writing) = self.under_way.insert(under_way);
        let sent = writing.await;
        self.under_way = None;
        sent.unwrap_or_else(|panic| Err(Error::internal("cannot write a dead letter", panic)))?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Counts the messages that were sent.
    pub fn counter(&self) -> Arc<AtomicU64> {
        self.sent.clone()
    }
}

impl LetterProducer {
    fn write(&self, record: &TopicMessage, error: &Error) -> Result<()> {
        let (key, value) = (record.key(), record.value());
        let reason = reason(error);
        let texts = reason.len() + error.remedy.len();
        let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + texts + OVERHEAD_BYTES;
        if size > self.limit_bytes {
            return Err(self.too_large(record, size, &reason));
        }
        let mut letter = BaseRecord::with_opaque_to(&self.topic, NO_TABLE).headers(of_letter(record, error));
        letter.key = key;
        letter.payload = value;
        let mut transactions = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody polled since the last letter, and a login may have to be renewed.
        transactions.poll();
        transactions.send(letter)?;
        transactions.commit()
    }

    fn too_large(&self, record: &TopicMessage, size: usize, reason: &str) -> Error {
        Error::operator(
            Code::DeadLetterTooLarge,
            format!("cannot write the message at {} to the dead letters", record.place()),
            format!("it takes {size} bytes there, and topic {} takes {} ({reason})", self.topic, self.limit_bytes),
            "raise the topic's max.message.bytes",
        )
    }
}
