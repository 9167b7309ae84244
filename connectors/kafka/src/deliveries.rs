//! What brokers answer to our messages: the offset of each, or the first error.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::context::{Complaint, log, note_error};
use crate::errors::code_of;

/// The number that a message carries which is no table's event; others carry their table's.
pub const NO_TABLE: usize = usize::MAX;

/// A producer's context: gathers delivery reports.
#[derive(Default)]
pub struct Deliveries {
    /// What the client last reported about its connections.
    pub complaint: Complaint,
    gathered: Mutex<Gathered>,
    reports: AtomicU64,
}

/// Reports since they were last taken.
#[derive(Default)]
pub struct Gathered {
    /// By table and partition: the offset after the last delivered message.
    pub next_offsets: HashMap<(usize, i32), i64>,
    /// The first message that was not delivered.
    pub failed: Option<KafkaError>,
}

impl Deliveries {
    /// Number of reports so far.
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    /// Takes what has been gathered.
    pub fn take(&self) -> Gathered {
        std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_purge(error: &KafkaError) -> bool {
    matches!(code_of(error), Some(Code::PurgeQueue | Code::PurgeInflight))
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note_error(&self.complaint, &error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, table: usize) {
        self.reports.fetch_add(1, Ordering::Relaxed);
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) if table != NO_TABLE => {
                let next = gathered.next_offsets.entry((table, message.partition())).or_default();
                *next = (*next).max(message.offset() + 1);
            }
            Ok(_) => {}
            // That others were thrown away because of it says less than the first real reason.
            Err((error, _)) if gathered.failed.as_ref().is_none_or(is_purge) => gathered.failed = Some(error.clone()),
            Err(_) => {}
        }
    }
}
