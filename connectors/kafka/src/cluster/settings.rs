//! Settings for Kafka: how to reach the brokers (addresses, TLS, SASL, librdkafka's own properties), and how
//! topics, producer and consumer are set up.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::ClientConfig;
use sooner_api::Result;

use crate::cluster::msk_iam::MskIam;

/// Settings of the brokers, the topics, and the clients that write and read them.
#[derive(Clone)]
pub struct KafkaSettings {
    /// Addresses of brokers: `host:port`, several separated by commas.
    pub brokers: String,
    /// TLS settings; none for an unencrypted connection.
    pub tls: Option<Tls>,
    /// SASL credentials; none to connect without SASL.
    pub sasl: Option<Sasl>,
    /// Properties of librdkafka that are passed through, each with its value.
    pub properties: Vec<(String, String)>,
    /// Name of the pipeline.
    pub pipeline: String,
    /// How topics are created and verified.
    pub topics: TopicSettings,
    /// How events are written.
    pub producer: ProducerSettings,
    /// How events are read.
    pub consumer: ConsumerSettings,
}

/// TLS settings of connections to the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Root certificates as a PEM file; the system's if none.
    pub ca: Option<PathBuf>,
    /// Client certificate as a PEM file.
    pub certificate: Option<PathBuf>,
    /// Private key of the client certificate, as a PEM file.
    pub key: Option<PathBuf>,
    /// Password of the private key's file.
    pub key_password: Option<String>,
}

/// SASL credentials for the brokers.
#[derive(Clone, PartialEq, Eq)]
pub enum Sasl {
    /// A user name and a password.
    Password {
        /// SASL mechanism by which the password is sent.
        mechanism: PasswordMechanism,
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// Tokens from an OpenID provider, obtained with client credentials.
    OauthBearer {
        /// URL of the provider's token endpoint.
        token_url: String,
        /// Client id at the provider.
        client_id: String,
        /// Secret of the client.
        client_secret: String,
        /// Scope that is requested; none to request none.
        scope: Option<String>,
    },
    /// Tokens made of the process' credentials for AWS, for Amazon MSK.
    AwsMskIam(MskIam),
}

/// SASL mechanism by which a password is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordMechanism {
    /// `PLAIN`: the password is sent as it is.
    Plain,
    /// `SCRAM-SHA-256`: challenge and response.
    ScramSha256,
    /// `SCRAM-SHA-512`: challenge and response.
    ScramSha512,
}

impl PasswordMechanism {
    /// Name of the mechanism in the SASL protocol.
    pub fn name(self) -> &'static str {
        match self {
            PasswordMechanism::Plain => "PLAIN",
            PasswordMechanism::ScramSha256 => "SCRAM-SHA-256",
            PasswordMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// How data topics are created, and what existing ones are verified against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Whether missing topics are created.
    pub create: bool,
    /// Number of partitions of each topic.
    pub partitions: i32,
    /// Number of replicas of each partition; the brokers' default if none.
    pub replication: Option<i32>,
    /// `cleanup.policy` of the topics.
    pub cleanup_policy: String,
    /// Compression by producers, and in topics: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// `retention.ms` of the topics; the brokers' default if none.
    pub retention: Option<Duration>,
    /// `max.message.bytes` of the topics; the brokers' default if none.
    pub max_message_bytes: Option<usize>,
    /// Name of the pipeline's progress topic.
    pub progress: String,
}

impl TopicSettings {
    /// Whether topics are created compacted.
    pub fn is_compacted(&self) -> bool {
        is_compacted(&self.cleanup_policy)
    }

    /// `compression.type` of the topics, where no compression is called `uncompressed`.
    pub fn compression_type(&self) -> &str {
        if self.compression == "none" { "uncompressed" } else { &self.compression }
    }
}

/// Whether a `cleanup.policy` compacts, that is, removes messages whose key is written again. Brokers refuse
/// messages without a key on such a topic.
pub fn is_compacted(cleanup_policy: &str) -> bool {
    cleanup_policy.split(',').any(|policy| policy.trim() == "compact")
}

/// Settings of the producer: how events are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSettings {
    /// `transactional.id`; without one, events are written at least once.
    pub transactional_id: Option<String>,
    /// Bytes of events after which a Kafka transaction is committed.
    pub transaction_bytes: usize,
    /// Age after which a Kafka transaction is committed.
    pub transaction_interval: Duration,
    /// Rule by which an event's partition is chosen.
    pub partition_by: PartitionBy,
}

/// Part of the key that determines the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionBy {
    /// The whole key message, as it is on the topic.
    Key,
    /// Some columns of the key: rows that agree in them share a partition.
    Columns(Vec<String>),
}

/// Settings of the consumer: how events are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// Name of the consumer group.
    pub group: String,
    /// `group.instance.id`: a member that rejoins under it within the session timeout keeps its partitions.
    pub instance: Option<String>,
    /// Rebalance protocol of the group.
    pub protocol: GroupProtocol,
    /// Bytes of messages that may wait to be merged.
    pub fetch_bytes: usize,
    /// Dead-letter topic, for messages that cannot be read; without one, such a message stops its table.
    pub dead_letters: Option<String>,
}

/// Rebalance protocol: how the partitions are assigned to a group's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The brokers' protocol (`Consumer`) if they have it, or else that of the members (`Classic`).
    Auto,
    /// Members assign partitions, by the cooperative-sticky assignor.
    Classic,
    /// The broker assigns partitions (KIP-848, Kafka 4.0 and newer).
    Consumer,
}

impl KafkaSettings {
    /// Name of a group that readers of ranges of topics have, without ever joining it.
    pub fn progress_group(&self) -> String {
        format!("{}-progress", self.consumer.group)
    }

    /// Transactional id of whoever handles the letters of a dead-letter topic: one for all, so that of two that do so
    /// at a time the former is fenced.
    pub fn letters_id(&self, topic: &str) -> String {
        format!("sooner-letters-{topic}")
    }

    /// Transactional id of whoever erases a subject from this pipeline's topics: of two that do so at a time the former
    /// is fenced.
    pub fn erasure_id(&self) -> String {
        format!("sooner-erasure-{}", self.pipeline)
    }

    /// Configuration that all clients share, including the properties that are passed through. Brokers know a client by
    /// its pipeline and this part of it, for their quotas and logs.
    pub fn client_config(&self, part: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", format!("sooner-{}-{part}", self.pipeline));
        config.set("client.software.name", "sooner");
        config.set("socket.keepalive.enable", "true");
        config.set("reconnect.backoff.max.ms", "2000");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config.set("allow.auto.create.topics", "false");
        config.set("log.connection.close", "false");
        config.set("security.protocol", self.security_protocol());
        if let Some(tls) = &self.tls {
            set_tls(&mut config, tls);
        }
        if let Some(sasl) = &self.sasl {
            set_sasl(&mut config, sasl);
        }
        config
    }

    /// Sets the first of `names` to a default value, unless the user has set it under any of them: the rest are
    /// aliases.
    pub fn set_default(&self, config: &mut ClientConfig, names: &[&str], value: impl Into<String>) {
        let is_set = |name: &&str| self.properties.iter().any(|(known, _)| known == name);
        if let [name, ..] = names
            && !names.iter().any(is_set)
        {
            config.set(*name, value);
        }
    }

    /// Login by IAM; none where clients log in by something else.
    pub fn iam(&self) -> Option<&MskIam> {
        match &self.sasl {
            Some(Sasl::AwsMskIam(iam)) => Some(iam),
            _ => None,
        }
    }

    /// Gives a client that has just been set up what it needs to connect and does not get by its configuration: the
    /// first token, where it logs in by IAM.
    pub fn log_in<C: ClientContext>(&self, client: &Client<C>) -> Result<()> {
        self.iam().map_or(Ok(()), |iam| iam.log_in(client))
    }

    fn security_protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }
}

fn set_tls(config: &mut ClientConfig, tls: &Tls) {
    let files =
        [("ssl.ca.location", &tls.ca), ("ssl.certificate.location", &tls.certificate), ("ssl.key.location", &tls.key)];
    for (name, path) in files {
        if let Some(path) = path {
            config.set(name, path.display().to_string());
        }
    }
    if let Some(password) = &tls.key_password {
        config.set("ssl.key.password", password);
    }
}

fn set_sasl(config: &mut ClientConfig, sasl: &Sasl) {
    match sasl {
        Sasl::Password { mechanism, user, password } => {
            config.set("sasl.mechanism", mechanism.name());
            config.set("sasl.username", user);
            config.set("sasl.password", password);
        }
        Sasl::OauthBearer { token_url, client_id, client_secret, scope } => {
            config.set("sasl.mechanism", "OAUTHBEARER");
            config.set("sasl.oauthbearer.method", "oidc");
            config.set("sasl.oauthbearer.token.endpoint.url", token_url);
            config.set("sasl.oauthbearer.client.id", client_id);
            config.set("sasl.oauthbearer.client.secret", client_secret);
            if let Some(scope) = scope {
                config.set("sasl.oauthbearer.scope", scope);
            }
        }
        Sasl::AwsMskIam(_) => {
            config.set("sasl.mechanism", "OAUTHBEARER");
        }
    }
}

impl std::fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSettings").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}
