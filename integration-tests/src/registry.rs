//! A real schema registry, Apicurio, which speaks Confluent's API. It keeps its schemas in a file, so that they
//! survive when it is killed and started again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use sooner_schemas::avro::Schema;
use tempfile::TempDir;

use crate::certificates::Certificates;
use crate::identity::Identity;
use crate::server::Server;
use crate::{free_port, stack};

/// How long the registry may take after its start until it answers.
const START_LIMIT: Duration = Duration::from_secs(90);

/// A running schema registry; it is killed and its folder is deleted when this value is dropped.
pub struct Registry {
    server: Server,
    folder: TempDir,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    /// TCP port for TLS.
    pub tls_port: u16,
    settings: Vec<String>,
    /// Bearer token of the harness's own requests; none where the registry is open to everybody.
    token: Option<String>,
}

impl Registry {
    /// Starts a registry without authentication that demands backward compatibility, as Confluent's does by default.
    pub fn start() -> Registry {
        Registry::start_with(Vec::new(), None)
    }

    /// Starts a registry that admits only clients of an identity provider: by a token, or by id and secret as user
    /// and password. The token's roles say what a client may do: `sr-admin`, `sr-developer`, `sr-readonly`. The
    /// registry also speaks TLS as `localhost`, with the certificate `registry`.
    pub fn start_protected(identity: &Identity, certificates: &Certificates, admin: &str) -> Registry {
        let url = identity.url();
        let settings = [
            "quarkus.oidc.tenant-enabled=true".to_owned(),
            format!("quarkus.oidc.auth-server-url={url}"),
            "quarkus.oidc.discovery-enabled=false".to_owned(),
            "quarkus.oidc.jwks-path=/jwks".to_owned(),
            format!("quarkus.oidc.token-path={url}/token"),
            format!("quarkus.oidc.token.issuer={url}"),
            format!("quarkus.oidc.client-id={admin}"),
            format!("apicurio.auth.token.endpoint={url}/token"),
            "quarkus.oidc.roles.role-claim-path=realm_access/roles".to_owned(),
            "apicurio.auth.role-based-authorization=true".to_owned(),
            "apicurio.authn.basic-client-credentials.enabled=true".to_owned(),
            format!("quarkus.http.ssl.certificate.files={}", certificates.path("registry.crt").display()),
            format!("quarkus.http.ssl.certificate.key-files={}", certificates.path("registry.key").display()),
        ];
        Registry::start_with(settings.to_vec(), Some(identity.token(admin)))
    }

    fn start_with(settings: Vec<String>, token: Option<String>) -> Registry {
        let folder = tempfile::Builder::new().prefix("sooner-registry-").tempdir().expect("a folder");
        let server = Server::new(folder.path().join("log"));
        let (port, tls_port) = (free_port(), free_port());
        let mut registry = Registry { server, folder, port, tls_port, settings, token };
        registry.launch();
        let answer = registry.ask("PUT", "/config", r#"{"compatibility":"BACKWARD"}"#);
        assert!(answer.contains("BACKWARD"), "{answer}");
        registry
    }

    /// URL of the Confluent API, without TLS.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// URL of the Confluent API under TLS.
    pub fn tls_url(&self) -> String {
        format!("https://localhost:{}/apis/ccompat/v7", self.tls_port)
    }

    /// Starts the registry's process, for the first time or after it was killed, and waits until it answers.
    pub fn launch(&mut self) {
        let database = self.folder.path().join("schemas").display().to_string();
        let mut command = Command::new("java");
        command
            .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(self.settings.iter().map(|setting| format!("-D{setting}")))
            .arg("-jar")
            .arg(stack().join("registry/apicurio-registry-app-3.0.9-runner.jar"))
            .env("QUARKUS_HTTP_PORT", self.port.to_string())
            .env("QUARKUS_HTTP_SSL_PORT", self.tls_port.to_string())
            .env("QUARKUS_HTTP_HOST", "127.0.0.1")
            .env("APICURIO_STORAGE_KIND", "sql")
            .env("APICURIO_STORAGE_SQL_KIND", "h2")
            .env("APICURIO_DATASOURCE_URL", format!("jdbc:h2:file:{database}"))
            .current_dir(self.folder.path());
        self.server.launch(&mut command);
        let answers = || self.try_ask("GET", "/subjects", "").is_some_and(|answer| answer.contains(" 200 "));
        self.server.wait_until(START_LIMIT, answers);
    }

    /// Sends the registry a signal, such as STOP.
    pub fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// Kills the registry, as `kill -9` does.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// The schema with an id, parsed.
    pub fn schema(&self, id: u32) -> Schema {
        Schema::parse(&self.schema_text(id)).expect("a schema")
    }

    /// The schema with an id, as the text that is registered.
    pub fn schema_text(&self, id: u32) -> String {
        let answer = self.ask("GET", &format!("/schemas/ids/{id}"), "");
        let start = answer.find('{').expect("JSON");
        let end = answer.rfind('}').expect("JSON");
        let answer: serde_json::Value = serde_json::from_str(&answer[start..=end]).expect("JSON");
        answer["schema"].as_str().expect("a schema").to_owned()
    }

    /// Sends one request to the API, and returns the whole HTTP response as text; panics if there is none.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> String {
        self.try_ask(method, path, body).expect("the registry answers")
    }

    fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        let authorization = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} /apis/ccompat/v7{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{}\
             Content-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n{body}",
            authorization.unwrap_or_default(),
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}
