//! What every client of ours does with librdkafka's messages: log them, and remember the last complaint.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;

/// The last thing that a client reported about its connections.
#[derive(Clone, Debug, Default)]
pub struct Complaint(Arc<Mutex<Option<String>>>);

impl Complaint {
    /// Remembers a report.
    pub fn note(&self, report: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(strip_addresses(report));
    }

    /// The last report.
    pub fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A client that does nothing special.
#[derive(Clone, Debug, Default)]
pub struct PlainContext {
    /// What it last reported.
    pub complaint: Complaint,
}

impl ClientContext for PlainContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note_error(&self.complaint, &error, reason);
    }
}

impl ConsumerContext for PlainContext {}

/// Notes an error event.
pub fn note_error(complaint: &Complaint, error: &KafkaError, reason: &str) {
    tracing::debug!(%error, reason, "librdkafka reports");
    complaint.note(reason);
}

/// Passes a log line of librdkafka on.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(facility, message, "librdkafka");
        }
        // What matters of these comes back as an error of a call.
        _ => tracing::debug!(facility, message, "librdkafka"),
    }
}

/// Reports start with the connection's name and state; a person wants what follows.
fn strip_addresses(report: &str) -> String {
    report.trim().trim_end_matches('.').to_owned()
}
