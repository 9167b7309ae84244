//! AWS Glue's schema registry, as moto has it, for a user whose requests it verifies; and a registry that knows the
//! schemas of GUIDs, which no registry that can be installed here does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::server::Server;
use crate::{free_port, python};

/// How long the server may take after its start until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);
const REGION: &str = "eu-west-1";
const USER: &str = "sink";

/// A running AWS Glue, with the keys of a user who may do nothing at first.
pub struct Glue {
    _server: Server,
    _folder: TempDir,
    port: u16,
    /// Access key id and secret access key of the user.
    pub keys: (String, String),
}

impl Glue {
    /// Starts a server, which lets everybody do everything until [`Glue::lock`].
    pub async fn start() -> Glue {
        let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder"));
        let mut server = Server::new(folder.path().join("log"));
        let mut command = Command::new(python().with_file_name("moto_server"));
        server.launch(command.args(["-H", "127.0.0.1", "-p", &port.to_string()]));
        server.wait_until(START_LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let mut glue = Glue { _server: server, _folder: folder, port, keys: Default::default() };
        glue.identity(&[("Action", "CreateUser")]).await;
        let created = glue.identity(&[("Action", "CreateAccessKey")]).await;
        let part = |name: &str| {
            let rest = created.split(&format!("<{name}>")).nth(1).expect("a key");
            rest.split('<').next().expect("its end").to_owned()
        };
        glue.keys = (part("AccessKeyId"), part("SecretAccessKey"));
        glue.ask("CreateRegistry", json!({"RegistryName": "shop"})).await;
        glue
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Registers a schema under a new name, and returns the id of its version.
    pub async fn register(&self, name: &str, format: &str, schema: &str) -> Uuid {
        let created = self
            .ask(
                "CreateSchema",
                json!({
                    "RegistryId": {"RegistryName": "shop"}, "SchemaName": name, "DataFormat": format,
                    "Compatibility": "NONE", "SchemaDefinition": schema,
                }),
            )
            .await;
        created["SchemaVersionId"].as_str().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("{created}"))
    }

    /// Gives the user this policy.
    pub async fn allow(&self, policy: &str) {
        self.identity(&[("Action", "PutUserPolicy"), ("PolicyName", "all"), ("PolicyDocument", policy)]).await;
    }

    /// From now on, requests have to be signed by the user's keys, and do what the user may do.
    pub async fn lock(&self) {
        self.verify_after("0").await;
    }

    /// From now on, everybody may do everything again.
    pub async fn unlock(&self) {
        self.verify_after("inf").await;
    }

    async fn verify_after(&self, requests: &'static str) {
        let url = format!("{}moto-api/reset-auth", self.url());
        let asked = reqwest::Client::new().post(url).body(requests).send().await;
        assert!(asked.expect("an answer").status().is_success());
    }

    async fn ask(&self, action: &str, body: Value) -> Value {
        let request = self.request("glue").header("x-amz-target", format!("AWSGlue.{action}"));
        let request = request.header("content-type", "application/x-amz-json-1.1").body(body.to_string());
        let answer = request.send().await.expect("an answer").text().await.expect("a text");
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"))
    }

    /// Asks IAM about the user.
    async fn identity(&self, parameters: &[(&str, &str)]) -> String {
        let shared = [("UserName", USER), ("Version", "2010-05-08")];
        let form = [parameters, &shared].concat();
        let response = self.request("iam").form(&form).send().await.expect("an answer");
        let (status, text) = (response.status(), response.text().await.expect("a text"));
        assert!(status.is_success(), "{text}");
        text
    }

    fn request(&self, service: &str) -> reqwest::RequestBuilder {
        let credential = format!("AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request");
        reqwest::Client::new().post(self.url()).header("authorization", credential)
    }
}

/// A registry that speaks as much of Confluent's API as a reader of GUIDs needs.
#[derive(Clone, Default)]
pub struct GuidRegistry {
    port: u16,
    schemas: Arc<Mutex<HashMap<String, String>>>,
}

impl GuidRegistry {
    /// Starts a registry without schemas.
    pub fn start() -> GuidRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let registry = GuidRegistry { port, schemas: Arc::default() };
        let known = registry.clone();
        thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(|stream| known.answer(stream)));
        registry
    }

    /// URL of the registry.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Registers a schema, and returns its GUID.
    pub fn register(&self, schema: &str) -> Uuid {
        let guid = Uuid::new_v4();
        self.schemas.lock().expect("not poisoned").insert(guid.to_string(), schema.to_owned());
        guid
    }

    fn answer(&self, mut stream: TcpStream) {
        let lines = BufReader::new(&stream).lines().map_while(Result::ok);
        let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        let path = head.first().and_then(|first| first.split(' ').nth(1)).unwrap_or_default();
        let guid = path.strip_prefix("/schemas/guids/").unwrap_or_default();
        let (status, body) = match self.schemas.lock().expect("not poisoned").get(guid) {
            Some(schema) => ("200 OK", json!({"schema": schema, "guid": guid})),
            None => ("404 Not Found", json!({"error_code": 40403, "message": "Schema not found"})),
        };
        let body = body.to_string();
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
    }
}
