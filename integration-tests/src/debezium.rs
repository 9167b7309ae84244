//! A real Debezium on Kafka Connect, with Confluent's Avro converter: the peer whose consumers our events must
//! satisfy.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::registry::Registry;
use crate::server::Server;
use crate::{free_port, stack};

/// A running Kafka Connect worker with one Debezium connector.
pub struct Debezium {
    server: Server,
    /// Folder that is deleted when the worker is dropped; none if the caller owns it.
    _scratch: Option<TempDir>,
}

impl Debezium {
    /// Starts a worker that captures all tables of the database `shop` under a topic prefix; `settings` are further
    /// properties of the connector.
    pub fn start(postgres: &Postgres, kafka: &Kafka, registry: &Registry, prefix: &str, settings: &[&str]) -> Debezium {
        let folder = tempfile::Builder::new().prefix("sooner-debezium-").tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let mut started = Debezium::start_in(postgres, kafka, registry, prefix, settings, &path);
        started._scratch = Some(folder);
        started
    }

    /// Starts a worker as [`Debezium::start`] does, with its offsets in a folder of the caller's, so that a later
    /// worker continues from there.
    pub fn start_in(
        postgres: &Postgres,
        kafka: &Kafka,
        registry: &Registry,
        prefix: &str,
        settings: &[&str],
        folder: &Path,
    ) -> Debezium {
        let converter = |part: &str| {
            format!(
                "{part}.converter=io.confluent.connect.avro.AvroConverter\n{part}.converter.schema.registry.url={}",
                registry.url()
            )
        };
        let worker = [
            format!("bootstrap.servers={}", kafka.brokers()),
            converter("key"),
            converter("value"),
            format!("offset.storage.file.filename={}", folder.join("offsets").display()),
            "offset.flush.interval.ms=1000".to_owned(),
            format!("plugin.path={}", stack().join("connect-plugins").display()),
            "plugin.discovery=only_scan".to_owned(),
            format!("listeners=http://127.0.0.1:{}", free_port()),
        ];
        let connector = [
            "topic.creation.default.replication.factor=1".to_owned(),
            "topic.creation.default.partitions=1".to_owned(),
            "name=debezium".to_owned(),
            "connector.class=io.debezium.connector.postgresql.PostgresConnector".to_owned(),
            "database.hostname=127.0.0.1".to_owned(),
            format!("database.port={}", postgres.port),
            "database.user=postgres".to_owned(),
            "database.password=unused".to_owned(),
            "database.dbname=shop".to_owned(),
            format!("topic.prefix={prefix}"),
            "plugin.name=pgoutput".to_owned(),
            format!("slot.name={prefix}"),
            format!("publication.name={prefix}"),
        ];
        write(folder, "worker.properties", &worker.join("\n"));
        let settings: String = settings.iter().map(|setting| format!("\n{setting}")).collect();
        write(folder, "connector.properties", &(connector.join("\n") + &settings));
        let mut command = Command::new("java");
        command
            .args(["-Xms256m", "-Xmx1g", "-cp"])
            .arg(stack().join("kafka-jars/*"))
            .arg("org.apache.kafka.connect.cli.ConnectStandalone")
            .args([folder.join("worker.properties"), folder.join("connector.properties")]);
        let mut server = Server::new(folder.join("log"));
        server.launch(&mut command);
        Debezium { server, _scratch: None }
    }

    /// Process id of the worker.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Waits until the snapshot is over and the slot streams. That the slot is active is not enough: it also is
    /// while its snapshot is exported.
    pub async fn wait_until_streaming(&self, postgres: &Postgres, slot: &str) {
        let asked = Instant::now();
        let sql = format!(
            "SELECT count(*) FROM pg_replication_slots JOIN pg_stat_replication ON pid = active_pid \
             WHERE slot_name = '{slot}' AND state = 'streaming'"
        );
        while postgres.value(&sql).await != "1" {
            assert!(
                asked.elapsed() < Duration::from_secs(90),
                "Debezium does not stream; its log:\n{}",
                self.server.log()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("writable");
}
