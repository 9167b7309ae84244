//! What all Kafka clients here do with librdkafka's messages: log them, and remember a client's last report about
//! its connections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as KafkaCode};

use crate::cluster::errors::code_of;
use crate::cluster::msk_iam::{self, MskIam};

/// How long a report counts as the explanation of a failure.
const MEMORY: Duration = Duration::from_secs(60);

/// The last report of a client about its connections. Clones share it; it counts only while it is fresh.
#[derive(Clone, Debug, Default)]
pub struct Complaint(Arc<Mutex<Option<ConnectionReport>>>);

#[derive(Debug)]
struct ConnectionReport {
    text: String,
    /// Whether the report says why a connection failed, not only that it did.
    telling: bool,
    at: Instant,
}

impl Complaint {
    /// Remembers a report. One that only says that brokers are unreachable does not displace a fresh one that says
    /// why.
    pub fn note(&self, error: &KafkaError, report: &str) {
        let telling = !matches!(code_of(error), Some(KafkaCode::AllBrokersDown | KafkaCode::BrokerTransportFailure));
        let text = report.trim().trim_end_matches('.').to_owned();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if telling || last.as_ref().is_none_or(|last| !last.telling || last.at.elapsed() > MEMORY) {
            *last = Some(ConnectionReport { text, telling, at: Instant::now() });
        }
    }

    /// Text of the last report; none if there was none, or if it is no longer fresh.
    pub fn last(&self) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|last| last.at.elapsed() < MEMORY).map(|last| last.text.clone())
    }
}

/// Context of a client that only logs and remembers reports.
#[derive(Clone, Debug, Default)]
pub struct PlainContext {
    /// The client's last report about its connections.
    pub complaint: Complaint,
    /// Login by IAM, where that is how clients log in.
    pub iam: Option<MskIam>,
}

impl ClientContext for PlainContext {
    // Asked only where IAM is configured: for its other tokens librdkafka does not ask the application.
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
}

impl ConsumerContext for PlainContext {}

/// Logs an error event of librdkafka and remembers it as a report.
pub fn note_error(complaint: &Complaint, error: &KafkaError, reason: &str) {
    tracing::debug!(%error, reason, "librdkafka reports");
    complaint.note(error, reason);
}

/// Passes a log line of librdkafka on to our log. Only critical ones are logged as errors.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        // What matters of the other levels is also returned as an error of a call.
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}
