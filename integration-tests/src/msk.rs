//! A Kafka broker that admits clients as Amazon MSK does by IAM, and the endpoint where a process in a pod gets its
//! credentials for AWS.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::certificates::Certificates;
use crate::kafka::{Java, Kafka};
use crate::{free_port, root, stack};

/// Keys of the only identity that the broker admits.
pub const KEY_ID: &str = "AKIDTEST";
/// Its secret.
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// Its session token.
pub const SESSION: &str = "FwoGZXIvYXdzE+/=Session==";
/// Region that tokens have to be signed for.
pub const REGION: &str = "eu-west-1";

/// Starts a broker with a listener `SASLTLS` that admits by IAM alone. It has clients log in again every three seconds.
pub fn start(certificates: &Certificates) -> Kafka {
    let classes = tempfile::Builder::new().prefix("sooner-classes-").tempdir().expect("a folder");
    let compiled = Command::new("javac")
        .arg("-cp")
        .arg(stack().join("kafka-jars/*"))
        .arg("-d")
        .arg(classes.path())
        .arg(root().join("integration-tests/java/MskTokens.java"))
        .output()
        .expect("a Java compiler is installed");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let listener = "listener.name.sasltls.oauthbearer";
    let settings = vec![
        "ssl.keystore.type=PEM".to_owned(),
        format!("ssl.keystore.location={}", certificates.key_store("broker").display()),
        "sasl.enabled.mechanisms=OAUTHBEARER".to_owned(),
        format!(
            "{listener}.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
             unsecuredLoginStringClaim_sub=\"broker\";"
        ),
        format!("{listener}.sasl.server.callback.handler.class=MskTokens"),
        format!("{listener}.connections.max.reauth.ms=3000"),
    ];
    let options = format!("-Dmsk.id={KEY_ID} -Dmsk.secret={SECRET} -Dmsk.session={SESSION} -Dmsk.region={REGION}");
    let ports = HashMap::from([("SASLTLS", free_port())]);
    Kafka::start_with(settings, ports, &[], Java { options, classes: Some(classes) })
}

/// Gives the identity's credentials to whoever has a token, as the agent of EKS Pod Identity does.
pub struct PodIdentity {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl PodIdentity {
    /// Starts the endpoint, which gives credentials to who authorizes itself by this token.
    pub fn start(token: &'static str) -> PodIdentity {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
                let is_known = head.iter().any(|line| {
                    line.split_once(": ").is_some_and(|(name, value)| {
                        name.eq_ignore_ascii_case("authorization") && value.trim() == token
                    })
                });
                let (status, body) = match is_known {
                    true => ("200 OK", credentials()),
                    false => ("401 Unauthorized", json!({})),
                };
                count.fetch_add(1, Ordering::SeqCst);
                let body = body.to_string();
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                     Connection: close\r\n\r\n{body}"
                );
            }
        });
        PodIdentity { port, asked }
    }

    /// URL of the credentials.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/credentials", self.port)
    }

    /// How often it was asked so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn credentials() -> serde_json::Value {
    json!({
        "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "Token": SESSION, "AccountId": "123456789012",
        "Expiration": "2099-01-01T00:00:00Z",
    })
}
