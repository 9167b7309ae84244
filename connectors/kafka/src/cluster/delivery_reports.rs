//! Delivery reports of our messages: the offset of each, or the first error.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::Message;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as KafkaCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::statistics::Statistics;

use crate::cluster::context::{Complaint, log, note_error};
use crate::cluster::errors::code_of;
use crate::cluster::msk_iam::{self, MskIam};
use crate::cluster::throttle::Throttle;

/// Opaque number of a message that is no table's event; events carry the number of their table.
pub const NO_TABLE: usize = usize::MAX;

/// Context of a producer: gathers delivery reports.
#[derive(Default)]
pub struct DeliveryReports {
    /// The client's last report about its connections.
    pub complaint: Complaint,
    /// How long brokers make it wait.
    pub throttle: Throttle,
    iam: Option<MskIam>,
    gathered: Mutex<Gathered>,
    reports: AtomicU64,
}

/// Delivery reports gathered since they were last taken.
#[derive(Default)]
pub struct Gathered {
    /// The offset after the last delivered message, by table number and partition.
    pub next_offsets: HashMap<(usize, i32), i64>,
    /// Error of the first message that was not delivered; a purge counts only while there is no other error.
    pub failed: Option<KafkaError>,
}

impl DeliveryReports {
    /// Context of a producer that logs in by IAM, or by what its configuration says.
    pub fn of(iam: Option<MskIam>) -> DeliveryReports {
        DeliveryReports { iam, ..DeliveryReports::default() }
    }

    /// Number of delivery reports received so far, of delivered and of failed messages.
    pub fn reports(&self) -> u64 {
        self.reports.load(Ordering::Relaxed)
    }

    /// Takes the reports gathered since the last call.
    pub fn take(&self) -> Gathered {
        std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_purge(error: &KafkaError) -> bool {
    matches!(code_of(error), Some(KafkaCode::PurgeQueue | KafkaCode::PurgeInflight))
}

impl ClientContext for DeliveryReports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        msk_iam::answer(self.iam.as_ref())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note_error(&self.complaint, &error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.throttle.hear(&statistics);
    }
}

impl ProducerContext for DeliveryReports {
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
            // A purge is only a consequence: it says less than the first real reason.
            Err((error, _)) if gathered.failed.as_ref().is_none_or(is_purge) => gathered.failed = Some(error.clone()),
            Err(_) => {}
        }
    }
}
