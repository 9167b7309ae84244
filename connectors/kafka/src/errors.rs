//! What librdkafka reports, in the three classes.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use sooner_api::{Class, Error};

/// An error of the brokers or the client. `said` is what the client last reported about its connections.
pub fn kafka_error(what: impl Into<String>, error: &KafkaError, said: Option<String>) -> Error {
    let why = match &said {
        Some(said) => format!("{} ({said})", plain(error)),
        None => plain(error),
    };
    let code = code_of(error);
    let (class, remedy) = judge(code, &why);
    Error { class, what: what.into(), why, remedy: remedy.to_owned() }
}

/// The code behind an error.
pub fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        error => error.rdkafka_error_code(),
    }
}

/// Whether another producer of the same `transactional.id` has taken over.
pub fn is_fenced(error: &KafkaError) -> bool {
    matches!(
        code_of(error),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::InvalidProducerIdMapping)
    )
}

fn plain(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => error.string(),
        error => code_of(error).map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

fn judge(code: Option<Code>, why: &str) -> (Class, &'static str) {
    use Code::*;
    let login = "check user, password and mechanism in sasl of [kafka]";
    let tls =
        "check tls of [kafka]: the root certificates (ca), and our own certificate and key if brokers ask for one";
    match code {
        Some(SaslAuthenticationFailed | Authentication | UnsupportedSASLMechanism | IllegalSASLState) => {
            (Class::Fatal, login)
        }
        Some(SSL) => (Class::Fatal, tls),
        Some(TopicAuthorizationFailed | GroupAuthorizationFailed | ClusterAuthorizationFailed) => {
            (Class::Fatal, "grant the user access to the pipeline's topics and group (kafka-acls.sh)")
        }
        Some(TransactionalIdAuthorizationFailed) => {
            (Class::Fatal, "grant the user Write and Describe on the transactional id (kafka-acls.sh)")
        }
        _ if why.contains("SASL authentication error") || why.contains("Authentication failed") => {
            (Class::Fatal, login)
        }
        _ if why.contains("certificate verify failed") || why.contains("SSL handshake failed") => (Class::Fatal, tls),
        _ => (Class::Retry, "check brokers of [kafka] and that they can be reached; it is tried again"),
    }
}
