//! What compaction has left of a partition.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use sooner_api::Result;

use crate::errors::kafka_error;
use crate::progress::{assign, open_reader};
use crate::settings::KafkaSettings;

/// How long the brokers may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Whether there is a committed message at an offset or behind it. May take seconds: call it where blocking is allowed.
pub fn has_messages_from(settings: &KafkaSettings, topic: &str, partition: i32, offset: i64) -> Result<bool> {
    let consumer = open_reader(settings)?;
    let failed = |error: &KafkaError| {
        kafka_error(format!("cannot read {topic}/{partition}"), error, consumer.context().complaint.last())
    };
    assign(&consumer, topic, partition, offset).map_err(|error| failed(&error))?;
    let asked = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(_)) => return Ok(true),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(false),
            Some(Err(error)) => return Err(failed(&error)),
            None if asked.elapsed() > TIMEOUT => {
                return Err(failed(&KafkaError::MessageConsumption(Code::OperationTimedOut)));
            }
            None => {}
        }
    }
}
