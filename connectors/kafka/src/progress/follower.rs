//! Follows the progress topic: yields every committed record, in order.

use std::thread;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as KafkaCode;
use sooner_api::{Error, Result};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::record::{RecordReplay, TopicProgress};
use crate::cluster::errors::kafka_error;
use crate::cluster::range_reader::{Isolation, assign, open_reader};
use crate::cluster::settings::KafkaSettings;

/// Most records that wait to be taken.
const QUEUE: usize = 16;
/// How long brokers wait for the next record before they answer a fetch.
const WAIT: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_millis(100);

/// Receiver of committed progress records, which a thread reads from the topic until this is dropped.
pub struct ProgressFollower {
    records: Receiver<Result<TopicProgress>>,
}

impl ProgressFollower {
    /// Starts a thread that reads from the first record that compaction has left.
    pub fn start(settings: &KafkaSettings) -> Result<ProgressFollower> {
        let topic = settings.topics.progress.clone();
        let consumer = open_reader(settings, Isolation::Committed, WAIT)?;
        let failed = |error: &KafkaError| {
            kafka_error(format!("cannot read the progress topic {topic}"), error, consumer.context().complaint.last())
        };
        let (first, _) =
            consumer.fetch_watermarks(&topic, 0, Duration::from_secs(15)).map_err(|error| failed(&error))?;
        assign(&consumer, &topic, 0, first).map_err(|error| failed(&error))?;
        let (sender, records) = channel(QUEUE);
        let mut replay = RecordReplay::default();
        thread::spawn(move || {
            while !sender.is_closed() {
                match consumer.poll(POLL) {
                    Some(Ok(message)) => {
                        let place = format!("{topic}/0 offset {}", message.offset());
                        let taken = replay.take(&place, message.key().unwrap_or_default(), message.payload());
                        if let Some(record) = taken.transpose() {
                            send(&sender, record);
                        }
                    }
                    Some(Err(error)) if is_fatal(&error) => {
                        let complaint = consumer.context().complaint.last();
                        send(
                            &sender,
                            Err(kafka_error(format!("cannot read the progress topic {topic}"), &error, complaint)),
                        );
                        return;
                    }
                    // Nothing was polled, or the client recovers from the error by itself.
                    _ => {}
                }
            }
        });
        Ok(ProgressFollower { records })
    }

    /// Waits for the next record, in the order of the topic. Cancelling loses nothing. A record that cannot be
    /// understood is an error, and the next call goes on after it; after any other error no record follows.
    pub async fn next(&mut self) -> Result<TopicProgress> {
        self.records.recv().await.unwrap_or_else(|| {
            Err(Error::internal("the reader of the progress topic ended without a result", "its thread panicked"))
        })
    }
}

fn send(sender: &Sender<Result<TopicProgress>>, record: Result<TopicProgress>) {
    // Sending fails only when the pipeline ends and nobody receives any more.
    let _ = sender.blocking_send(record);
}

fn is_fatal(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumptionFatal(_)
            | KafkaError::MessageConsumption(
                KafkaCode::OffsetOutOfRange
                    | KafkaCode::AutoOffsetReset
                    | KafkaCode::TopicAuthorizationFailed
                    | KafkaCode::Authentication
            )
    )
}
