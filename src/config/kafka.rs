//! The sections `[kafka]` and `[registry]` of the configuration, read into checked settings.

mod region;
mod registry;

use std::time::Duration;

use sooner_kafka::WrittenBy;
use sooner_kafka::aws::region::region_of_brokers;
use sooner_kafka::cluster::msk_iam::MskIam;
use sooner_kafka::cluster::properties::refusal;
use sooner_kafka::cluster::settings::PartitionBy;
use sooner_kafka::cluster::settings::{
    ConsumerSettings, GroupProtocol, KafkaSettings, PasswordMechanism, ProducerSettings, Sasl, Tls, TopicSettings,
};
use sooner_kafka::registry::reader::RegistryKind;
use sooner_postgres::encoders::{EncoderFactory, ValuePolicies};
use sooner_schemas::naming::{SubjectStrategy, TopicPattern};

use region::read_region;
pub use registry::read_registry;

use super::reader::Section;
use super::table::TableBlocks;
use crate::memory::MemoryShares;

/// Lower bound of `transaction_bytes`, in bytes: a smaller transaction makes no sense.
const LEAST_TRANSACTION_BYTES: usize = 64 << 10;

/// Checked settings of the sections `[kafka]` and `[registry]`.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Settings of brokers, topics, producer and consumer.
    pub settings: KafkaSettings,
    /// The schema registry, and how to reach it.
    pub registry: RegistryKind,
    /// Prefix of topics: the `name` in the source block of events, and what `{prefix}` stands for in patterns.
    pub prefix: String,
    /// Pattern that names each table's topic.
    pub topics: TopicPattern,
    /// Strategy that names the subjects of schemas.
    pub subjects: SubjectStrategy,
    /// Writer of the topics that the sink reads.
    pub written_by: WrittenBy,
}

impl KafkaConfig {
    /// Creates the factory of event encoders for the tables of `database`.
    pub fn encoders<R>(&self, registry: R, database: &str, policies: ValuePolicies) -> EncoderFactory<R> {
        EncoderFactory {
            registry,
            prefix: self.prefix.clone(),
            topics: self.topics.clone(),
            subjects: self.subjects,
            database: database.to_owned(),
            policies,
            known: Default::default(),
            fingerprints: Default::default(),
        }
    }
}

impl std::fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaConfig").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Reads `[kafka]`. `registry` is what was read of `[registry]`; none if it or a required key is missing.
pub fn read_kafka(
    section: &mut Section,
    name: Option<&str>,
    memory_bytes: usize,
    registry: Option<(RegistryKind, SubjectStrategy)>,
    blocks: &TableBlocks,
) -> Option<KafkaConfig> {
    let name = name.unwrap_or_default();
    let brokers = section.text("brokers", |text| Ok(text.to_owned()));
    let prefix = section.optional("prefix", check_prefix).unwrap_or_else(|| name.to_owned());
    let pattern = section.optional("topic", |text| TopicPattern::parse(text, &prefix).map_err(|why| why.to_string()));
    let tls = section.optional_section("tls", read_tls);
    let sasl = section.optional_section("sasl", |section| read_sasl(section, brokers.as_deref().unwrap_or_default()));
    // Amazon MSK takes tokens over TLS only, and nobody else should see them.
    let tls = tls.or_else(|| matches!(sasl, Some(Sasl::AwsMskIam(_))).then(Tls::default));
    let topics = read_topics(section, name);
    let producer = read_producer(section, name);
    let consumer = read_consumer(section, name, memory_bytes);
    let written_by = section.optional("written_by", |text| match text {
        "sooner" => Ok(WrittenBy::Sooner),
        "debezium" => Ok(WrittenBy::Debezium),
        _ => Err("expected \"sooner\" or \"debezium\"".to_owned()),
    });
    let properties = section.strings("properties", |name| refusal(name).map_or(Ok(()), |why| Err(why.to_owned())));
    let (registry, subjects) = registry?;
    let pipeline = name.to_owned();
    let settings = KafkaSettings { brokers: brokers?, tls, sasl, properties, pipeline, topics, producer, consumer };
    Some(KafkaConfig {
        settings,
        registry,
        topics: pattern.unwrap_or_else(|| TopicPattern::debezium(&prefix)).except(blocks.topics()),
        prefix,
        subjects,
        written_by: written_by.unwrap_or(WrittenBy::Sooner),
    })
}

fn read_tls(section: &mut Section) -> Option<Tls> {
    let ca = section.path("ca");
    let certificate = section.path("certificate");
    let key = section.path("key");
    let key_password = section.secret("key_password");
    if certificate.is_some() != key.is_some() {
        section.problem("certificate", "certificate and key go together: set both or neither");
    }
    Some(Tls { ca, certificate, key, key_password })
}

/// Ways to log in, by what the configuration has to tell of them.
enum Mechanism {
    Password(PasswordMechanism),
    OauthBearer,
    AwsMskIam,
}

fn read_sasl(section: &mut Section, brokers: &str) -> Option<Sasl> {
    let mechanism = section.text("mechanism", |text| match text {
        "PLAIN" => Ok(Mechanism::Password(PasswordMechanism::Plain)),
        "SCRAM-SHA-256" => Ok(Mechanism::Password(PasswordMechanism::ScramSha256)),
        "SCRAM-SHA-512" => Ok(Mechanism::Password(PasswordMechanism::ScramSha512)),
        "OAUTHBEARER" => Ok(Mechanism::OauthBearer),
        "AWS_MSK_IAM" => Ok(Mechanism::AwsMskIam),
        _ => Err("expected PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM".to_owned()),
    })?;
    let text = |text: &str| Ok(text.to_owned());
    match mechanism {
        Mechanism::AwsMskIam => {
            let region = read_region(section, region_of_brokers(brokers))?;
            Some(Sasl::AwsMskIam(MskIam::new(region)))
        }
        Mechanism::Password(mechanism) => {
            let (user, password) = (section.text("user", text), section.required_secret("password"));
            Some(Sasl::Password { mechanism, user: user?, password: password? })
        }
        Mechanism::OauthBearer => {
            let (token_url, client_id) = (section.text("token_url", text), section.text("client_id", text));
            let client_secret = section.required_secret("client_secret");
            let scope = section.optional("scope", text);
            Some(Sasl::OauthBearer {
                token_url: token_url?,
                client_id: client_id?,
                client_secret: client_secret?,
                scope,
            })
        }
    }
}

fn read_topics(section: &mut Section, name: &str) -> TopicSettings {
    let replication = section.count("replication", 0, 1..=99);
    let retention = section.optional("retention", |text| {
        humantime::parse_duration(text).map_err(|error| format!("expected a duration such as \"7days\" ({error})"))
    });
    let max_message_bytes = section.size("max_message_bytes", 0, 1024);
    let cleanup_policy = section.optional("cleanup_policy", |text| match text {
        "delete" | "compact" | "compact,delete" => Ok(text.to_owned()),
        _ => Err("expected \"delete\", \"compact\" or \"compact,delete\"".to_owned()),
    });
    let compression = section.optional("compression", |text| match text {
        "none" | "gzip" | "snappy" | "lz4" | "zstd" => Ok(text.to_owned()),
        _ => Err("expected \"none\", \"gzip\", \"snappy\", \"lz4\" or \"zstd\"".to_owned()),
    });
    let progress = section.optional("progress_topic", |text| Ok(text.to_owned()));
    TopicSettings {
        create: section.flag("create_topics", true),
        partitions: section.count("partitions", 1, 1..=10_000) as i32,
        replication: (replication > 0).then_some(replication as i32),
        cleanup_policy: cleanup_policy.unwrap_or_else(|| "delete".to_owned()),
        compression: compression.unwrap_or_else(|| "lz4".to_owned()),
        retention,
        max_message_bytes: (max_message_bytes > 0).then_some(max_message_bytes),
        progress: progress.unwrap_or_else(|| format!("sooner.{name}.progress")),
    }
}

fn read_producer(section: &mut Section, name: &str) -> ProducerSettings {
    let exactly_once = section.optional("delivery", |text| match text {
        "exactly-once" => Ok(true),
        "at-least-once" => Ok(false),
        _ => Err("expected \"exactly-once\" or \"at-least-once\"".to_owned()),
    });
    let columns = section.list("partition_by", |text| Ok(text.to_owned()));
    let interval = section.duration("transaction_interval", Duration::from_millis(20), Duration::from_millis(1));
    if interval > Duration::from_secs(10) {
        section.problem("transaction_interval", "expected at most 10s; Kafka ends a transaction that stays open");
    }
    ProducerSettings {
        transactional_id: exactly_once.unwrap_or(true).then(|| format!("sooner-{name}")),
        transaction_bytes: section.size("transaction_bytes", 8 << 20, LEAST_TRANSACTION_BYTES),
        transaction_interval: interval,
        partition_by: columns.map_or(PartitionBy::Key, PartitionBy::Columns),
    }
}

fn read_consumer(section: &mut Section, name: &str, memory_bytes: usize) -> ConsumerSettings {
    let group = section.optional("group", |text| Ok(text.to_owned()));
    let protocol = section.optional("group_protocol", |text| match text {
        "auto" => Ok(GroupProtocol::Auto),
        "classic" => Ok(GroupProtocol::Classic),
        "consumer" => Ok(GroupProtocol::Consumer),
        _ => Err("expected \"auto\", \"classic\" or \"consumer\" (KIP-848)".to_owned()),
    });
    ConsumerSettings {
        group: group.unwrap_or_else(|| format!("sooner-{name}")),
        instance: section.optional("group_instance", |text| Ok(text.to_owned())),
        protocol: protocol.unwrap_or(GroupProtocol::Auto),
        fetch_bytes: MemoryShares::fetch_bytes(memory_bytes),
        dead_letters: section.optional("dead_letter_topic", |text| Ok(text.to_owned())),
    }
}

fn check_prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !text.is_empty() && text.len() <= 100 && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("expected up to 100 letters, digits, '.', '_' and '-' (Kafka's rule for topics)".to_owned())
}
