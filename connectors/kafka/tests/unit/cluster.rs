//! Reaching a cluster: errors by code and class, and settings as librdkafka's properties.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as KafkaCode};
use rdkafka::types::RDKafkaConfRes;
use sooner_api::{Class, Code};
use sooner_kafka::cluster::context::Complaint;
use sooner_kafka::cluster::errors::{code_of, is_fenced, is_transient, kafka_error};
use sooner_kafka::cluster::properties::refusal;
use sooner_kafka::cluster::settings::{
    ConsumerSettings, GroupProtocol, KafkaSettings, PartitionBy, PasswordMechanism, ProducerSettings, Sasl, Tls,
    TopicSettings,
};
use sooner_kafka::cluster::topic_state::TopicState;

use crate::support::topic_state;

fn settings() -> KafkaSettings {
    KafkaSettings {
        brokers: "b:1".to_owned(),
        tls: None,
        sasl: None,
        properties: Vec::new(),
        pipeline: "shop".to_owned(),
        topics: TopicSettings {
            create: true,
            partitions: 6,
            replication: None,
            cleanup_policy: "delete".to_owned(),
            compression: "none".to_owned(),
            retention: None,
            max_message_bytes: None,
            progress: "p".to_owned(),
        },
        producer: ProducerSettings {
            transactional_id: None,
            transaction_bytes: 1,
            transaction_interval: Duration::from_secs(1),
            partition_by: PartitionBy::Key,
        },
        consumer: ConsumerSettings {
            group: "g".to_owned(),
            instance: None,
            protocol: GroupProtocol::Auto,
            fetch_bytes: 1,
            dead_letters: None,
        },
    }
}

/// Values of some properties as clients get them.
fn config<const N: usize>(settings: &KafkaSettings, names: [&str; N]) -> [Option<String>; N] {
    let config = settings.client_config("client");
    names.map(|name| config.get(name).map(str::to_owned))
}

fn password(mechanism: PasswordMechanism) -> Sasl {
    Sasl::Password { mechanism, user: "u".to_owned(), password: "secret".to_owned() }
}

#[test]
fn errors_of_brokers_are_classified_by_their_code() {
    let expected = [
        (KafkaCode::SaslAuthenticationFailed, Code::KafkaLoginRefused, Class::Fatal),
        (KafkaCode::Authentication, Code::KafkaLoginRefused, Class::Fatal),
        (KafkaCode::SSL, Code::KafkaTlsFailed, Class::Fatal),
        (KafkaCode::TopicAuthorizationFailed, Code::KafkaPermissionDenied, Class::Fatal),
        (KafkaCode::TransactionalIdAuthorizationFailed, Code::KafkaPermissionDenied, Class::Fatal),
        (KafkaCode::InvalidReplicationFactor, Code::KafkaConfigurationRefused, Class::Retry),
        (KafkaCode::PolicyViolation, Code::KafkaConfigurationRefused, Class::Operator),
        (KafkaCode::InvalidTransactionTimeout, Code::KafkaConfigurationRefused, Class::Operator),
        (KafkaCode::MessageSizeTooLarge, Code::MessageTooLarge, Class::Operator),
        (KafkaCode::InvalidRecord, Code::MessageRefused, Class::Retry),
        (KafkaCode::AllBrokersDown, Code::KafkaUnreachable, Class::Retry),
        (KafkaCode::RequestTimedOut, Code::KafkaUnreachable, Class::Retry),
        (KafkaCode::NotLeaderForPartition, Code::KafkaUnreachable, Class::Retry),
    ];
    for (kafka, code, class) in expected {
        for error in [KafkaError::Global(kafka), KafkaError::AdminOp(kafka), KafkaError::MetadataFetch(kafka)] {
            let ours = kafka_error("what", &error, None);
            assert_eq!((ours.code, ours.class, ours.what.as_str()), (code, class, "what"), "{error:?}");
            assert!(!ours.why.is_empty() && !ours.remedy.is_empty(), "{error:?}");
        }
    }
}

#[test]
fn what_the_client_said_explains_an_error_that_says_nothing() {
    let said = [
        ("SASL authentication error: Authentication failed", Code::KafkaLoginRefused, Class::Fatal),
        ("Failed to acquire SASL OAUTHBEARER token: invalid_client", Code::KafkaLoginRefused, Class::Fatal),
        ("Failed to acquire SASL OAUTHBEARER token: HTTP 503", Code::KafkaLoginRefused, Class::Retry),
        ("SSL handshake failed: certificate verify failed", Code::KafkaTlsFailed, Class::Fatal),
        ("SaslAuthenticateRequest failed: Local: Broker transport failure", Code::KafkaUnreachable, Class::Retry),
        ("SASL authentication error: Disconnected", Code::KafkaUnreachable, Class::Retry),
        ("Connect to b:1 failed: Connection refused", Code::KafkaUnreachable, Class::Retry),
    ];
    for (text, code, class) in said {
        let mute = kafka_error("what", &KafkaError::MetadataFetch(KafkaCode::AllBrokersDown), Some(text.to_owned()));
        assert_eq!((mute.code, mute.class, mute.why.as_str()), (code, class, text));
        let late = kafka_error("what", &KafkaError::Flush(KafkaCode::MessageTimedOut), Some(text.to_owned()));
        assert_eq!((late.code, late.class), (code, class));
        assert!(late.why.contains(text) && late.why.len() > text.len(), "{late}");
        let telling = kafka_error("what", &KafkaError::Flush(KafkaCode::InvalidRecord), Some(text.to_owned()));
        assert_eq!(telling.code, Code::MessageRefused);
        assert!(!telling.why.contains(text), "{telling}");
    }
}

#[test]
fn a_client_that_cannot_be_set_up_is_a_matter_of_configuration() {
    let refused = KafkaError::ClientConfig(
        RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN,
        "No such property".to_owned(),
        "linger.sm".to_owned(),
        "5".to_owned(),
    );
    for error in [refused, KafkaError::ClientCreation("no such file".to_owned())] {
        let ours = kafka_error("what", &error, None);
        assert_eq!((ours.code, ours.class), (Code::KafkaConfigurationRefused, Class::Operator));
    }
}

#[test]
fn fencing_and_what_passes_by_itself_are_told_apart() {
    for fenced in [KafkaCode::Fenced, KafkaCode::ProducerFenced, KafkaCode::InvalidProducerEpoch] {
        assert!(is_fenced(&KafkaError::MessageProduction(fenced)) && is_fenced(&KafkaError::AdminOp(fenced)));
        assert!(!is_transient(&KafkaError::MessageConsumption(fenced)));
    }
    assert!(!is_fenced(&KafkaError::Canceled) && !is_fenced(&KafkaError::Global(KafkaCode::RequestTimedOut)));
    assert!(is_transient(&KafkaError::PartitionEOF(3)));
    assert!(is_transient(&KafkaError::MessageConsumption(KafkaCode::NotLeaderForPartition)));
    assert!(!is_transient(&KafkaError::MessageConsumption(KafkaCode::OffsetOutOfRange)));
    assert!(!is_transient(&KafkaError::MessageConsumptionFatal(KafkaCode::NotLeaderForPartition)));
    assert_eq!(code_of(&KafkaError::AdminOp(KafkaCode::SSL)), Some(KafkaCode::SSL));
    assert_eq!(code_of(&KafkaError::Canceled), None);
}

#[test]
fn a_report_that_says_why_is_kept_over_those_that_do_not() {
    let (why, down) = (KafkaError::Global(KafkaCode::SSL), KafkaError::Global(KafkaCode::AllBrokersDown));
    let complaint = Complaint::default();
    assert_eq!(complaint.last(), None);
    complaint.note(&down, "1/1 brokers are down.");
    assert_eq!(complaint.last().as_deref(), Some("1/1 brokers are down"));
    complaint.clone().note(&why, " handshake failed ");
    complaint.note(&down, "again");
    assert_eq!(complaint.last().as_deref(), Some("handshake failed"));
    complaint.note(&why, "another reason");
    assert_eq!(complaint.last().as_deref(), Some("another reason"));
}

#[test]
fn tls_and_sasl_choose_the_protocol() {
    let tls = Tls { ca: Some(PathBuf::from("/ca.pem")), key_password: Some("k".to_owned()), ..Tls::default() };
    let sasl = password(PasswordMechanism::ScramSha256);
    for (tls, sasl, expected) in [
        (None, None, "plaintext"),
        (Some(tls.clone()), None, "ssl"),
        (None, Some(sasl.clone()), "sasl_plaintext"),
        (Some(tls), Some(sasl), "sasl_ssl"),
    ] {
        let (has_tls, has_sasl) = (tls.is_some(), sasl.is_some());
        let settings = KafkaSettings { tls, sasl, ..settings() };
        let names = ["security.protocol", "ssl.ca.location", "ssl.key.password", "sasl.mechanism", "ssl.key.location"];
        let value = |is_set: bool, value: &str| is_set.then(|| value.to_owned());
        let expected = [
            value(true, expected),
            value(has_tls, "/ca.pem"),
            value(has_tls, "k"),
            value(has_sasl, "SCRAM-SHA-256"),
            None,
        ];
        assert_eq!(config(&settings, names), expected);
    }
}

#[test]
fn tokens_are_got_from_the_provider() {
    let token = |scope: Option<&str>| Sasl::OauthBearer {
        token_url: "https://t".to_owned(),
        client_id: "id".to_owned(),
        client_secret: "secret".to_owned(),
        scope: scope.map(str::to_owned),
    };
    let names = ["sasl.mechanism", "sasl.oauthbearer.method", "sasl.oauthbearer.client.id", "sasl.oauthbearer.scope"];
    let got = |scope| config(&KafkaSettings { sasl: Some(token(scope)), ..settings() }, names);
    let known = ["OAUTHBEARER", "oidc", "id"].map(|value| Some(value.to_owned()));
    let [mechanism, method, id] = known.clone();
    assert_eq!(got(None), [mechanism, method, id, None]);
    let [mechanism, method, id] = known;
    assert_eq!(got(Some("kafka")), [mechanism, method, id, Some("kafka".to_owned())]);
}

#[test]
fn properties_of_users_replace_defaults_and_nothing_that_has_a_key_of_its_own() {
    let set = [("client.id", "mine"), ("bootstrap.servers", "other:1"), ("queue.buffering.max.ms", "7")];
    let properties = set.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let settings = KafkaSettings { properties, ..settings() };
    let found = config(&settings, ["client.id", "bootstrap.servers", "allow.auto.create.topics"]);
    assert_eq!(found, ["mine", "b:1", "false"].map(|value| Some(value.to_owned())));
    let mut config = settings.client_config("client");
    settings.set_default(&mut config, &["linger.ms", "queue.buffering.max.ms"], "2");
    settings.set_default(&mut config, &["statistics.interval.ms"], "1000");
    assert_eq!((config.get("linger.ms"), config.get("statistics.interval.ms")), (None, Some("1000")));
    for name in ["bootstrap.servers", "security.protocol", "sasl.password", "transactional.id", "isolation.level"] {
        assert!(refusal(name).is_some(), "{name}");
    }
    assert_eq!((refusal("client.id"), refusal("linger.ms")), (None, None));
}

#[test]
fn secrets_are_not_shown() {
    let settings = KafkaSettings { sasl: Some(password(PasswordMechanism::Plain)), ..settings() };
    let shown = format!("{settings:?}");
    assert!(shown.contains("b:1") && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_topic_is_compared_in_the_words_of_brokers() {
    let mut topics = settings().topics;
    let state = TopicState { replication: None, compression: "uncompressed".to_owned(), ..topic_state() };
    assert!(state.differences(&topics).is_empty(), "none is called uncompressed");
    topics.replication = Some(2);
    assert!(state.differences(&topics).is_empty(), "brokers that do not report replicas are believed");
    topics.max_message_bytes = Some(2000);
    topics.cleanup_policy = "compact".to_owned();
    assert!(topics.is_compacted() && !state.is_compacted());
    let expected = ["cleanup.policy is delete (configured: compact)", "max.message.bytes is 1000 (configured: 2000)"];
    assert_eq!(state.differences(&topics), expected);
}
