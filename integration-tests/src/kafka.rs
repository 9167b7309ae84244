//! A real Kafka broker, in KRaft mode, with its data in a folder that goes with it.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tempfile::TempDir;

use crate::{free_port, stack};

/// How long the broker may take to listen.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running broker.
pub struct Kafka {
    folder: TempDir,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    process: Option<Child>,
}

impl Kafka {
    /// Starts a broker without protection.
    pub fn start() -> Kafka {
        Kafka::start_with(&[])
    }

    /// Starts a broker with more settings.
    pub fn start_with(settings: &[String]) -> Kafka {
        let folder = tempfile::Builder::new().prefix("sooner-kafka-").tempdir().expect("a folder");
        let (port, controller) = (free_port(), free_port());
        let mut properties = vec![
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("controller.quorum.voters=1@127.0.0.1:{controller}"),
            "controller.listener.names=CONTROLLER".to_owned(),
            format!("log.dirs={}", folder.path().join("data").display()),
            "auto.create.topics.enable=false".to_owned(),
            "num.partitions=1".to_owned(),
            "default.replication.factor=1".to_owned(),
            "offsets.topic.replication.factor=1".to_owned(),
            "offsets.topic.num.partitions=4".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
            "transaction.state.log.num.partitions=4".to_owned(),
            "share.coordinator.state.topic.replication.factor=1".to_owned(),
            "share.coordinator.state.topic.min.isr=1".to_owned(),
            "group.initial.rebalance.delay.ms=0".to_owned(),
        ];
        if !settings.iter().any(|setting| setting.starts_with("listeners=")) {
            properties.push(format!("listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"));
            properties.push(format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}"));
            properties.push("listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned());
        }
        let fill = |setting: &String| {
            setting.replace("{port}", &port.to_string()).replace("{controller}", &controller.to_string())
        };
        properties.extend(settings.iter().map(fill));
        std::fs::write(folder.path().join("server.properties"), properties.join("\n")).expect("writable");
        let mut kafka = Kafka { folder, port, process: None };
        kafka.format(&[]);
        kafka.launch();
        kafka
    }

    /// `host:port` for clients.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn properties(&self) -> String {
        self.folder.path().join("server.properties").display().to_string()
    }

    fn format(&self, arguments: &[&str]) {
        let id = self.java("kafka.tools.StorageTool", &["random-uuid"]);
        let mut format = vec!["format", "-t", id.trim(), "-c"];
        let properties = self.properties();
        format.push(&properties);
        format.extend(arguments);
        self.java("kafka.tools.StorageTool", &format);
    }

    /// Starts the broker, after it was killed.
    pub fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("writable");
        let process = command("kafka.Kafka")
            .arg(self.properties())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("Java is installed");
        self.process = Some(process);
        let asked = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(asked.elapsed() < START_LIMIT, "the broker does not listen; its log:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the broker, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Runs one of Kafka's own tools, and returns what it prints.
    pub fn java(&self, class: &str, arguments: &[&str]) -> String {
        let output = command(class).args(arguments).stderr(Stdio::piped()).output().expect("Java is installed");
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{class} {arguments:?}: {said}{complained}");
        said.into_owned()
    }

    /// Runs `kafka-topics.sh`.
    pub fn topics(&self, arguments: &[&str]) -> String {
        let brokers = self.brokers();
        let mut all = vec!["--bootstrap-server", &brokers];
        all.extend(arguments);
        self.java("org.apache.kafka.tools.TopicCommand", &all)
    }
}

impl Kafka {
    /// Changes a topic's setting, as `kafka-configs.sh` does.
    pub fn alter_topic(&self, topic: &str, setting: &str) {
        let brokers = self.brokers();
        let arguments = ["--bootstrap-server", &brokers, "--alter", "--entity-type", "topics", "--entity-name", topic];
        self.java("kafka.admin.ConfigCommand", &[&arguments[..], &["--add-config", setting]].concat());
    }

    /// Writes a text to a topic without a key, as `kafka-console-producer.sh` does.
    pub fn produce(&self, topic: &str, text: &str) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.brokers()).create().expect("a producer");
        let record = BaseRecord::<str, str>::to(topic).key("k").payload(text);
        producer.send(record).map_err(|(error, _)| error).expect("sent");
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(20));
        }
    }

    /// Removes what lies before an offset of partition 0, as retention does.
    pub fn delete_records(&self, topic: &str, before: i64) {
        let file = self.folder.path().join("delete.json");
        let text = format!(r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":{before}}}],"version":1}}"#);
        std::fs::write(&file, text).expect("writable");
        let (brokers, file) = (self.brokers(), file.display().to_string());
        let arguments = ["--bootstrap-server", &brokers, "--offset-json-file", &file];
        self.java("org.apache.kafka.tools.DeleteRecordsCommand", &arguments);
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command(class: &str) -> Command {
    let libraries: PathBuf = stack().join("kafka-jars/*");
    let mut command = Command::new("java");
    command.args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
    command.arg(libraries).arg(class).stdin(Stdio::null());
    command
}
