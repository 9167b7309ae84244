//! A real Kafka broker in KRaft mode, whose data folder is deleted when it is dropped.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::identity::Identity;
use crate::server::Server;
use crate::{free_port, stack};

/// How long the broker may take after its start until it accepts connections.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Settings of every broker, protected or not.
const SETTINGS: &[&str] = &[
    "process.roles=broker,controller",
    "node.id=1",
    "controller.listener.names=CONTROLLER",
    "inter.broker.listener.name=PLAINTEXT",
    "auto.create.topics.enable=false",
    "num.partitions=1",
    "default.replication.factor=1",
    "offsets.topic.replication.factor=1",
    "offsets.topic.num.partitions=4",
    "transaction.state.log.replication.factor=1",
    "transaction.state.log.min.isr=1",
    "transaction.state.log.num.partitions=4",
    "group.initial.rebalance.delay.ms=0",
    // A killed group member is detected after ten seconds rather than 45.
    "group.consumer.min.session.timeout.ms=10000",
    "group.consumer.session.timeout.ms=10000",
    "group.consumer.min.heartbeat.interval.ms=1000",
    "group.consumer.heartbeat.interval.ms=1000",
    "share.coordinator.state.topic.replication.factor=1",
];

/// Names of the protected listeners, with their security protocols.
const LISTENERS: [(&str, &str); 4] =
    [("TLS", "SSL"), ("MTLS", "SSL"), ("SASL", "SASL_PLAINTEXT"), ("SASLTLS", "SASL_SSL")];

/// A running Kafka broker.
pub struct Kafka {
    server: Server,
    folder: TempDir,
    /// TCP port of the unprotected listener, on 127.0.0.1.
    pub port: u16,
    /// TCP ports of the protected listeners, by name.
    ports: HashMap<&'static str, u16>,
    java: Java,
}

/// What a broker's Java is told beside its configuration.
#[derive(Default)]
pub(crate) struct Java {
    /// Options, such as `-Dname=value`.
    pub options: String,
    /// Folder of classes that the broker loads beside its own.
    pub classes: Option<TempDir>,
}

impl Kafka {
    /// Starts a broker with only an unprotected listener.
    pub fn start() -> Kafka {
        Kafka::start_with(Vec::new(), HashMap::new(), &[], Java::default())
    }

    /// Starts a broker with a listener for each kind of protection, beside the unprotected one; see
    /// [`Kafka::listener`]. It admits the user `sooner` with the password `secret`, and clients with a token of the
    /// identity provider.
    pub fn start_protected(certificates: &Certificates, identity: &Identity) -> Kafka {
        Kafka::start_guarded(certificates, identity, true)
    }

    /// The same; unless it `allows_all`, nobody may do what no access control list allows.
    pub fn start_guarded(certificates: &Certificates, identity: &Identity, allows_all: bool) -> Kafka {
        let ports: HashMap<_, _> = LISTENERS.iter().map(|(name, _)| (*name, free_port())).collect();
        let mut settings = vec![
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", certificates.key_store("broker").display()),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", certificates.path("root.crt").display()),
            "listener.name.mtls.ssl.client.auth=required".to_owned(),
            "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".to_owned(),
        ];
        let module = "org.apache.kafka.common.security";
        for name in ["sasl", "sasltls"] {
            let listener = format!("listener.name.{name}");
            settings.extend([
                format!(
                    "{listener}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_sooner=\"secret\";"
                ),
                format!("{listener}.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;"),
                format!("{listener}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;"),
                format!(
                    "{listener}.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required \
                     unsecuredLoginStringClaim_sub=\"broker\";"
                ),
                format!(
                    "{listener}.oauthbearer.sasl.server.callback.handler.class=\
                     {module}.oauthbearer.OAuthBearerValidatorCallbackHandler"
                ),
                format!("{listener}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url={}/jwks", identity.url()),
                format!("{listener}.oauthbearer.sasl.oauthbearer.expected.audience=test"),
            ]);
        }
        // What comes by the unprotected listener may do everything; others what they are allowed.
        settings.extend([
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            "super.users=User:ANONYMOUS".to_owned(),
            format!("allow.everyone.if.no.acl.found={allows_all}"),
        ]);
        let scram = |hash: &str| format!("SCRAM-SHA-{hash}=[name=sooner,password=secret]");
        let users = ["--add-scram", &scram("256"), "--add-scram", &scram("512")].map(str::to_owned);
        // Brokers fetch the keys of tokens only from URLs that are allowed by this property.
        let options = format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}/jwks", identity.url());
        Kafka::start_with(settings, ports, &users, Java { options, classes: None })
    }

    /// Starts a broker with these further settings, and with the protected listeners that have a port here.
    pub(crate) fn start_with(
        settings: Vec<String>,
        ports: HashMap<&'static str, u16>,
        users: &[String],
        java: Java,
    ) -> Kafka {
        let folder = tempfile::Builder::new().prefix("sooner-kafka-").tempdir().expect("a folder");
        let (port, controller) = (free_port(), free_port());
        let open = |name, port| (name, "PLAINTEXT", "127.0.0.1", port);
        let mut listeners = vec![open("PLAINTEXT", port), open("CONTROLLER", controller)];
        for (name, protocol) in LISTENERS {
            listeners.extend(ports.get(name).map(|port| (name, protocol, "localhost", *port)));
        }
        let join = |texts: Vec<String>| texts.join(",");
        let address = |(name, _, host, port): &(&str, &str, &str, u16)| format!("{name}://{host}:{port}");
        let clients = listeners.iter().filter(|(name, ..)| *name != "CONTROLLER");
        let mut properties: Vec<String> = SETTINGS.iter().map(|setting| (*setting).to_owned()).collect();
        properties.extend([
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            format!("log.dirs={}", folder.path().join("data").display()),
            format!("listeners={}", join(listeners.iter().map(address).collect())),
            format!("advertised.listeners={}", join(clients.map(address).collect())),
            format!(
                "listener.security.protocol.map={}",
                join(listeners.iter().map(|(name, protocol, ..)| format!("{name}:{protocol}")).collect())
            ),
        ]);
        properties.extend(settings);
        std::fs::write(folder.path().join("server.properties"), properties.join("\n")).expect("writable");
        let server = Server::new(folder.path().join("log"));
        let mut kafka = Kafka { server, folder, port, ports, java };
        kafka.format(users);
        kafka.launch();
        kafka
    }

    /// `host:port` of a protected listener: `TLS`, `MTLS`, `SASL` or `SASLTLS`.
    pub fn listener(&self, name: &str) -> String {
        format!("localhost:{}", self.ports[name])
    }

    /// `host:port` of the unprotected listener.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn properties(&self) -> String {
        self.folder.path().join("server.properties").display().to_string()
    }

    fn format(&self, arguments: &[String]) {
        let id = self.java("kafka.tools.StorageTool", &["random-uuid"]);
        let mut format = vec!["format", "-t", id.trim(), "-c"];
        let properties = self.properties();
        format.push(&properties);
        format.extend(arguments.iter().map(String::as_str));
        self.java("kafka.tools.StorageTool", &format);
    }

    /// Starts the broker's process, for the first time or after it was killed, and waits until it accepts connections.
    pub fn launch(&mut self) {
        let classes = self.java.classes.as_ref().map(|folder| folder.path().to_owned());
        let mut broker = command_with("kafka.Kafka", classes);
        self.server.launch(broker.arg(self.properties()).env("JDK_JAVA_OPTIONS", &self.java.options));
        self.server.wait_until(START_LIMIT, || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Kills the broker, as `kill -9` does.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Runs one of Kafka's own tools, and returns its standard output; panics if it fails.
    pub fn java(&self, class: &str, arguments: &[&str]) -> String {
        let output = command(class).args(arguments).stderr(Stdio::piped()).output().expect("Java is installed");
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{class} {arguments:?}: {said}{complained}");
        said.into_owned()
    }

    /// Runs `kafka-topics.sh`, and returns its standard output.
    pub fn topics(&self, arguments: &[&str]) -> String {
        let brokers = self.brokers();
        let mut all = vec!["--bootstrap-server", &brokers];
        all.extend(arguments);
        self.java("org.apache.kafka.tools.TopicCommand", &all)
    }

    /// What `kafka-consumer-groups.sh` shows of a group: the lag of each partition, none where nothing is committed.
    pub fn group_lags(&self, group: &str) -> BTreeMap<(String, i32), Option<i64>> {
        let brokers = self.brokers();
        let arguments = ["--bootstrap-server", &brokers, "--describe", "--group", group];
        let described = self.java("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", &arguments);
        let rows = described.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|row| row.first() == Some(&group) && row.len() > 5);
        rows.map(|row| ((row[1].to_owned(), row[2].parse().expect("a partition")), row[5].parse().ok())).collect()
    }

    /// Changes a setting of a topic, given as `name=value`, as `kafka-configs.sh` does.
    pub fn alter_topic(&self, topic: &str, setting: &str) {
        let brokers = self.brokers();
        let arguments = ["--bootstrap-server", &brokers, "--alter", "--entity-type", "topics", "--entity-name", topic];
        self.java("kafka.admin.ConfigCommand", &[&arguments[..], &["--add-config", setting]].concat());
    }

    /// Changes a setting of all brokers, given as `name=value`, while they run.
    pub fn alter_brokers(&self, setting: &str) {
        let brokers = self.brokers();
        let arguments = ["--bootstrap-server", &brokers, "--alter", "--entity-type", "brokers", "--entity-default"];
        self.java("kafka.admin.ConfigCommand", &[&arguments[..], &["--add-config", setting]].concat());
    }

    /// Writes a message to partition 0 of a topic, and waits until it is no longer in flight.
    pub fn produce(&self, topic: &str, key: &[u8], value: &[u8]) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.brokers()).create().expect("a producer");
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(0).key(key).payload(value);
        producer.send(record).map_err(|(error, _)| error).expect("sent");
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(20));
        }
    }

    /// Deletes the messages before an offset of a topic's partition 0, as retention does; all of them before -1.
    pub fn delete_records(&self, topic: &str, before: i64) {
        let file = self.folder.path().join("delete.json");
        let text = format!(r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":{before}}}],"version":1}}"#);
        std::fs::write(&file, text).expect("writable");
        let (brokers, file) = (self.brokers(), file.display().to_string());
        let arguments = ["--bootstrap-server", &brokers, "--offset-json-file", &file];
        self.java("org.apache.kafka.tools.DeleteRecordsCommand", &arguments);
    }
}

fn command(class: &str) -> Command {
    command_with(class, None)
}

fn command_with(class: &str, classes: Option<PathBuf>) -> Command {
    let paths = [stack().join("kafka-jars/*")].into_iter().chain(classes);
    let paths: Vec<_> = paths.map(|path| path.display().to_string()).collect();
    let mut command = Command::new("java");
    command.args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(paths.join(":")).arg(class).stdin(Stdio::null());
    command
}
