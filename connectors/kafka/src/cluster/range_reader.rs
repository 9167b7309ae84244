//! Reads ranges of a partition's offsets.

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use rdkafka::Message;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaErrorCode as KafkaCode;
use sooner_api::{Error, Result};

use crate::cluster::context::PlainContext;
use crate::cluster::errors::{is_transient, kafka_error};
use crate::cluster::msk_iam::Renewal;
use crate::cluster::settings::KafkaSettings;

/// How long the brokers may take to answer a request, and a reader may go without a message.
const TIMEOUT: Duration = Duration::from_secs(15);

/// How long brokers may hold a fetch open. Kept short, because the next range has to wait for the answer to the
/// last fetch of the former one.
const PIECE_WAIT: Duration = Duration::from_millis(2);

/// Isolation level: which messages a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Only messages of committed transactions.
    Committed,
    /// All messages that were written, whatever the outcome of their transactions.
    All,
}

/// Reads ranges of partitions' offsets, one after the other.
pub(crate) struct RangeReader {
    consumer: BaseConsumer<PlainContext>,
    renewal: Renewal,
}

impl RangeReader {
    /// Sets up a consumer; nothing is read yet.
    pub fn open(settings: &KafkaSettings, isolation: Isolation) -> Result<RangeReader> {
        Ok(RangeReader { consumer: open_reader(settings, isolation, PIECE_WAIT)?, renewal: Renewal::default() })
    }

    /// First offset that the partition still has, and its end offset as seen at the reader's isolation level: the
    /// last stable offset for [`Isolation::Committed`].
    pub fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.renewal.renew(self.consumer.context().iam.as_ref(), self.consumer.client())?;
        let bounds = self.consumer.fetch_watermarks(topic, partition, TIMEOUT);
        bounds.map_err(|error| self.failed(topic, partition, &error))
    }

    /// For each of a topic's partitions, the offset of the first message that is no older than a time in milliseconds
    /// since 1970; none where all are older.
    pub fn offsets_since(&self, topic: &str, partitions: i32, millis: i64) -> Result<Vec<Option<i64>>> {
        let failed = |error: KafkaError| {
            let said = self.consumer.context().complaint.last();
            kafka_error(format!("cannot read the offsets of topic {topic}"), &error, said)
        };
        let mut times = TopicPartitionList::new();
        for partition in 0..partitions {
            // The request has the time where the answer has the offset.
            times.add_partition_offset(topic, partition, Offset::Offset(millis)).map_err(failed)?;
        }
        let told = self.consumer.offsets_for_times(times, TIMEOUT).map_err(failed)?;
        let offset = |partition| {
            let told = told.find_partition(topic, partition)?;
            told.offset().to_raw().filter(|offset| told.error().is_ok() && *offset >= 0)
        };
        Ok((0..partitions).map(offset).collect())
    }

    /// Passes each message in `offsets` to `take`, until `take` breaks or the range ends. Returns `false` if the
    /// partition ended before the range did, otherwise `true`. May take seconds: call it where blocking is allowed.
    pub fn read(
        &self,
        topic: &str,
        partition: i32,
        offsets: Range<i64>,
        take: impl FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        if offsets.is_empty() {
            return Ok(true);
        }
        let read = self.read_assigned(topic, partition, offsets, take);
        self.consumer.unassign().map_err(|error| self.failed(topic, partition, &error))?;
        read
    }

    fn read_assigned(
        &self,
        topic: &str,
        partition: i32,
        offsets: Range<i64>,
        mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        assign(&self.consumer, topic, partition, offsets.start)
            .map_err(|error| self.failed(topic, partition, &error))?;
        let mut heard = Instant::now();
        loop {
            match self.consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let offset = message.offset();
                    let ended = offsets.contains(&offset) && take(&message)?.is_break();
                    if ended || offset >= offsets.end - 1 {
                        return Ok(true);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(false),
                Some(Err(error)) if is_transient(&error) && heard.elapsed() <= TIMEOUT => {}
                Some(Err(error)) => return Err(self.failed(topic, partition, &error)),
                None if heard.elapsed() > TIMEOUT => {
                    return Err(self.failed(
                        topic,
                        partition,
                        &KafkaError::MessageConsumption(KafkaCode::OperationTimedOut),
                    ));
                }
                None => {}
            }
        }
    }

    fn failed(&self, topic: &str, partition: i32, error: &KafkaError) -> Error {
        kafka_error(format!("cannot read {topic}/{partition}"), error, self.consumer.context().complaint.last())
    }
}

/// A consumer that reports the end of a partition. Brokers hold a fetch open for at most `wait` when there is
/// nothing new.
pub(crate) fn open_reader(
    settings: &KafkaSettings,
    isolation: Isolation,
    wait: Duration,
) -> Result<BaseConsumer<PlainContext>> {
    let isolation = match isolation {
        Isolation::Committed => "read_committed",
        Isolation::All => "read_uncommitted",
    };
    let mut config = settings.client_config("progress");
    config.set("group.id", settings.progress_group());
    config.set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "earliest");
    config.set("isolation.level", isolation);
    config.set("check.crcs", "true");
    config.set("enable.partition.eof", "true");
    config.set("fetch.wait.max.ms", wait.as_millis().to_string());
    let context = PlainContext { iam: settings.iam().cloned(), ..PlainContext::default() };
    let consumer = BaseConsumer::from_config_and_context(&config, context)
        .map_err(|error| kafka_error("cannot set up a Kafka consumer", &error, None))?;
    settings.log_in(consumer.client())?;
    Ok(consumer)
}

pub(crate) fn assign(
    consumer: &BaseConsumer<PlainContext>,
    topic: &str,
    partition: i32,
    offset: i64,
) -> std::result::Result<(), KafkaError> {
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    consumer.assign(&partitions)
}
