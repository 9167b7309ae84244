//! How to reach the brokers: addresses, TLS, SASL, and librdkafka's own properties.

use std::path::PathBuf;
use std::time::Duration;

use rdkafka::config::ClientConfig;

use crate::partition::PartitionBy;

/// Everything about the brokers and the topics.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port`, several separated by commas.
    pub brokers: String,
    /// TLS; none for an unprotected connection.
    pub tls: Option<Tls>,
    /// Who we are; none for nobody.
    pub sasl: Option<Sasl>,
    /// Properties of librdkafka that are passed through.
    pub properties: Vec<(String, String)>,
    /// How topics are made.
    pub topics: TopicSettings,
    /// How events are written.
    pub producer: ProducerSettings,
    /// How events are read.
    pub consumer: ConsumerSettings,
}

/// TLS with the brokers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Root certificates as a PEM file; the system's if none.
    pub ca: Option<PathBuf>,
    /// Our own certificate as a PEM file.
    pub certificate: Option<PathBuf>,
    /// Its private key as a PEM file.
    pub key: Option<PathBuf>,
    /// The password of that file.
    pub key_password: Option<String>,
}

/// SASL with the brokers.
#[derive(Clone, PartialEq, Eq)]
pub enum Sasl {
    /// A name and a password.
    Password {
        /// How they are sent.
        mechanism: PasswordMechanism,
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// Tokens from an OpenID provider, by client credentials.
    OauthBearer {
        /// The provider's token endpoint.
        token_url: String,
        /// Client.
        client_id: String,
        /// Its secret.
        client_secret: String,
        /// What is asked for.
        scope: Option<String>,
    },
}

/// How a password is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PasswordMechanism {
    /// As it is.
    Plain,
    /// By challenge and response.
    ScramSha256,
    /// By challenge and response.
    ScramSha512,
}

impl PasswordMechanism {
    /// The protocol's name.
    pub fn name(self) -> &'static str {
        match self {
            PasswordMechanism::Plain => "PLAIN",
            PasswordMechanism::ScramSha256 => "SCRAM-SHA-256",
            PasswordMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// How data topics are made, and what they are verified against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Whether missing topics are created.
    pub create: bool,
    /// Partitions.
    pub partitions: i32,
    /// Copies of each; the brokers' default if none.
    pub replication: Option<i32>,
    /// `cleanup.policy`.
    pub cleanup_policy: String,
    /// How producers compress, and topics keep it: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// `retention.ms`; the brokers' default if none.
    pub retention: Option<Duration>,
    /// `max.message.bytes`; the brokers' default if none.
    pub max_message_bytes: Option<usize>,
    /// The pipeline's progress topic.
    pub progress: String,
}

impl TopicSettings {
    /// Whether topics are made compacted.
    pub fn is_compacted(&self) -> bool {
        is_compacted(&self.cleanup_policy)
    }

    /// `compression.type`, which has a name of its own for none.
    pub fn compression_type(&self) -> &str {
        if self.compression == "none" { "uncompressed" } else { &self.compression }
    }
}

/// Whether a `cleanup.policy` removes messages whose key comes again. Brokers refuse messages without a key then.
pub fn is_compacted(cleanup_policy: &str) -> bool {
    cleanup_policy.split(',').any(|policy| policy.trim() == "compact")
}

/// How events are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerSettings {
    /// `transactional.id`; none writes at least once.
    pub transactional_id: Option<String>,
    /// Bytes of events after which a transaction is committed.
    pub transaction_bytes: usize,
    /// Age after which a transaction is committed.
    pub transaction_interval: Duration,
    /// Which partition an event goes to.
    pub partition_by: PartitionBy,
}

/// How events are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// Consumer group.
    pub group: String,
    /// `group.instance.id`: a member that comes back under it within the session timeout keeps its partitions.
    pub instance: Option<String>,
    /// Which protocol the group speaks.
    pub protocol: GroupProtocol,
    /// Bytes of messages that wait to be merged.
    pub fetch_bytes: usize,
    /// Topic for messages that cannot be read; none stops their table.
    pub dead_letters: Option<String>,
}

/// How members of a group agree on partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupProtocol {
    /// What the brokers have: theirs, or else that of members.
    Auto,
    /// Members decide, by the cooperative-sticky assignor.
    Classic,
    /// The broker decides (KIP-848, Kafka 4.0 and newer).
    Consumer,
}

impl KafkaSettings {
    /// The properties that all clients share.
    pub fn client_config(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", client_id);
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

    /// Sets a property unless the user has, under this name or an alias of it.
    pub fn set_default(&self, config: &mut ClientConfig, names: &[&str], value: impl Into<String>) {
        let is_set = |name: &&str| self.properties.iter().any(|(known, _)| known == name);
        if let [name, ..] = names
            && !names.iter().any(is_set)
        {
            config.set(*name, value);
        }
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
    }
}

impl std::fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSettings").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}
