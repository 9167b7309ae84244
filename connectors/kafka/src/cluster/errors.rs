//! Maps librdkafka's errors to ours, each with its class: retry, operator or fatal.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as KafkaCode};
use sooner_api::{Class, Code, Error};

/// Error for a failure of the brokers or the client. `what` says what failed; `said` is the client's last report
/// about its connections.
pub fn kafka_error(what: impl Into<String>, error: &KafkaError, said: Option<String>) -> Error {
    let code = code_of(error);
    // Such an error says only that there is no connection, or no answer; the client's report says why.
    let said = said.filter(|_| code.is_none_or(is_mute));
    let why = match (code, said) {
        (Some(KafkaCode::BrokerTransportFailure | KafkaCode::AllBrokersDown), Some(said)) => said,
        (_, Some(said)) => format!("{} ({said})", plain(error)),
        (_, None) => plain(error),
    };
    let (code, class, remedy) = match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => (
            Code::KafkaConfigurationRefused,
            Class::Operator,
            "correct [kafka.properties], and the files in tls of [kafka]",
        ),
        _ => judge(code, &why),
    };
    Error { code, class, what: what.into(), why, remedy: remedy.to_owned() }
}

fn is_mute(code: KafkaCode) -> bool {
    use KafkaCode::*;
    matches!(
        code,
        BrokerTransportFailure
            | AllBrokersDown
            | RequestTimedOut
            | OperationTimedOut
            | MessageTimedOut
            | TimedOutQueue
            | WaitingForCoordinator
            | Authentication
    )
}

/// librdkafka's code of an error; none for an error without one.
pub fn code_of(error: &KafkaError) -> Option<KafkaCode> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

/// Whether an error means fencing: another producer with the same `transactional.id` has taken over.
pub fn is_fenced(error: &KafkaError) -> bool {
    code_of(error).is_some_and(is_fencing)
}

/// Whether an error code means fencing: another producer with the same `transactional.id` has taken over.
pub fn is_fencing(code: KafkaCode) -> bool {
    matches!(
        code,
        KafkaCode::Fenced
            | KafkaCode::ProducerFenced
            | KafkaCode::InvalidProducerEpoch
            | KafkaCode::InvalidProducerIdMapping
    )
}

/// Whether polling goes on after this error: the client recovers from it by itself, or it only reports a
/// partition's end.
pub fn is_transient(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(
            KafkaCode::BrokerTransportFailure
                | KafkaCode::AllBrokersDown
                | KafkaCode::OperationTimedOut
                | KafkaCode::UnknownTopicOrPartition
                | KafkaCode::UnknownTopic
                | KafkaCode::NotLeaderForPartition
                | KafkaCode::LeaderNotAvailable
                | KafkaCode::CoordinatorLoadInProgress
                | KafkaCode::CoordinatorNotAvailable
                | KafkaCode::NotCoordinator
                | KafkaCode::Resolve
                | KafkaCode::NetworkException
                | KafkaCode::OffsetNotAvailable
        ) | KafkaError::PartitionEOF(_)
    )
}

fn plain(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => error.string(),
        error => code_of(error).map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

/// OAuth error codes by which a token endpoint refuses a client for good.
const REFUSALS: [&str; 4] = ["invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type"];

/// How librdkafka's report begins where there is no token to log in with.
const NO_TOKEN: &str = "OAUTHBEARER token";

const CHECK_LOGIN: &str = "check user, password and mechanism in sasl of [kafka]; with AWS_MSK_IAM its region, and that \
                           the role may connect (`sooner acls --of kafka`)";
const CHECK_TLS: &str =
    "check tls of [kafka]: the root certificates (ca), and our own certificate and key if brokers ask for one";

fn judge(code: Option<KafkaCode>, why: &str) -> (Code, Class, &'static str) {
    use KafkaCode::*;
    match code {
        // The client has no token to log in with, which says nothing of what brokers would make of it.
        Some(Authentication) if why.contains(NO_TOKEN) => judge_text(why),
        Some(SaslAuthenticationFailed | Authentication | UnsupportedSASLMechanism | IllegalSASLState) => {
            (Code::KafkaLoginRefused, Class::Fatal, CHECK_LOGIN)
        }
        Some(SSL) => (Code::KafkaTlsFailed, Class::Fatal, CHECK_TLS),
        Some(TopicAuthorizationFailed | GroupAuthorizationFailed | ClusterAuthorizationFailed) => (
            Code::KafkaPermissionDenied,
            Class::Fatal,
            "allow the user what `sooner acls --of kafka` prints: access to the pipeline's topics and group",
        ),
        Some(TransactionalIdAuthorizationFailed) => (
            Code::KafkaPermissionDenied,
            Class::Fatal,
            "allow the user what `sooner acls --of kafka` prints: Write and Describe on the transactional id",
        ),
        // Also reported while brokers are still starting, and passes by itself then.
        Some(InvalidReplicationFactor) => (
            Code::KafkaConfigurationRefused,
            Class::Retry,
            "correct replication of [kafka], if there are not so many brokers; it is tried again",
        ),
        Some(InvalidPartitions | InvalidConfig | InvalidTopic | PolicyViolation) => (
            Code::KafkaConfigurationRefused,
            Class::Operator,
            "correct partitions, replication, retention and max_message_bytes of [kafka]; or create the topic",
        ),
        Some(InvalidTransactionTimeout) => (
            Code::KafkaConfigurationRefused,
            Class::Operator,
            "raise transaction.max.timeout.ms of the brokers to a minute or more",
        ),
        Some(MessageSizeTooLarge) => (
            Code::MessageTooLarge,
            Class::Operator,
            "raise max.message.bytes of the topic (kafka-configs.sh), and start again",
        ),
        // A source that starts again inspects its topics, parks the table of a compacted one, and reports why.
        Some(InvalidRecord) => (
            Code::MessageRefused,
            Class::Retry,
            "see whether a topic has been altered, since compacted ones take no message without a key; it is looked at again",
        ),
        _ => judge_text(why),
    }
}

/// Judges an error that has no code of its own by its text.
fn judge_text(why: &str) -> (Code, Class, &'static str) {
    match why {
        // The broker closed the connection midway; that says nothing about our credentials.
        _ if why.contains("Disconnected") || why.contains("SaslAuthenticateRequest failed") => (
            Code::KafkaUnreachable,
            Class::Retry,
            "check brokers of [kafka] and that they can be reached, and whether they speak TLS and SASL there; it is tried again",
        ),
        _ if why.contains("SASL authentication error") || why.contains("Authentication failed") => {
            (Code::KafkaLoginRefused, Class::Fatal, CHECK_LOGIN)
        }
        _ if why.contains(NO_TOKEN) && why.contains("credentials for AWS") => (
            Code::AwsCredentialsMissing,
            Class::Retry,
            "give the process a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; it is tried again",
        ),
        // Error codes of RFC 6749, section 5.2.
        _ if why.contains(NO_TOKEN) && REFUSALS.iter().any(|refusal| why.contains(refusal)) => {
            (Code::KafkaLoginRefused, Class::Fatal, "check token_url, client_id and client_secret in sasl of [kafka]")
        }
        _ if why.contains(NO_TOKEN) => (
            Code::KafkaLoginRefused,
            Class::Retry,
            "check token_url in sasl of [kafka] and that tokens are given there; it is tried again",
        ),
        _ if why.contains("SSL handshake failed") || why.contains("SSL routines") => {
            (Code::KafkaTlsFailed, Class::Fatal, CHECK_TLS)
        }
        _ => (
            Code::KafkaUnreachable,
            Class::Retry,
            "check brokers of [kafka] and that they can be reached; it is tried again",
        ),
    }
}
