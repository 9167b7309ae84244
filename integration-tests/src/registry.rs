//! A real schema registry, which speaks Confluent's API. It keeps its schemas in memory, or in a file beside it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sooner_schemas::avro::Schema;
use tempfile::TempDir;

use crate::{free_port, stack};

/// How long the registry may take to answer.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A running registry.
pub struct Registry {
    folder: TempDir,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    process: Option<Child>,
}

impl Registry {
    /// Starts a registry that asks for backward compatibility, as Confluent's does.
    pub fn start() -> Registry {
        let folder = tempfile::Builder::new().prefix("sooner-registry-").tempdir().expect("a folder");
        let mut registry = Registry { folder, port: free_port(), process: None };
        registry.launch();
        let answer = registry.ask("PUT", "/config", r#"{"compatibility":"BACKWARD"}"#);
        assert!(answer.contains("BACKWARD"), "{answer}");
        registry
    }

    /// The API's URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// Starts the registry, after it was killed.
    pub fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("writable");
        let database = self.folder.path().join("schemas").display().to_string();
        let process = Command::new("java")
            .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar"])
            .arg(stack().join("registry/apicurio-registry-app-3.0.9-runner.jar"))
            .env("QUARKUS_HTTP_PORT", self.port.to_string())
            .env("QUARKUS_HTTP_HOST", "127.0.0.1")
            .env("APICURIO_STORAGE_KIND", "sql")
            .env("APICURIO_STORAGE_SQL_KIND", "h2")
            .env("APICURIO_DATASOURCE_URL", format!("jdbc:h2:file:{database}"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("Java is installed");
        self.process = Some(process);
        let asked = Instant::now();
        while !self.try_ask("GET", "/subjects", "").is_some_and(|answer| answer.contains(" 200 ")) {
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(asked.elapsed() < START_LIMIT, "the registry does not answer; its log:\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Kills the registry, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The schema of an id.
    pub fn schema(&self, id: u32) -> Schema {
        Schema::parse(&self.schema_text(id)).expect("a schema")
    }

    /// The schema of an id, as it is registered.
    pub fn schema_text(&self, id: u32) -> String {
        let answer = self.ask("GET", &format!("/schemas/ids/{id}"), "");
        let start = answer.find('{').expect("JSON");
        let end = answer.rfind('}').expect("JSON");
        let answer: serde_json::Value = serde_json::from_str(&answer[start..=end]).expect("JSON");
        answer["schema"].as_str().expect("a schema").to_owned()
    }

    /// One request; the whole answer as text.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> String {
        self.try_ask(method, path, body).expect("the registry answers")
    }

    fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let request = format!(
            "{method} /apis/ccompat/v7{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}
