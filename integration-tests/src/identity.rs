//! An identity provider: issues signed tokens to clients that know their secret, and publishes the public key that
//! verifies them. It has enough of OAuth 2.0's client credentials (RFC 6749, section 4.4) for brokers, a schema
//! registry, and the clients under test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use tempfile::TempDir;

use crate::certificates::openssl;

/// A running identity provider.
pub struct Identity {
    /// TCP port on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

/// A client: its id, its secret, and the roles that its tokens carry.
pub type Client = (&'static str, &'static str, &'static [&'static str]);

struct Shared {
    folder: TempDir,
    url: String,
    clients: Vec<Client>,
}

impl Identity {
    /// Starts an identity provider that knows these clients.
    pub fn start(clients: &[Client]) -> Identity {
        let folder = tempfile::tempdir().expect("a folder");
        openssl(folder.path(), &["genrsa", "-out", "key.pem", "2048"]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("http://127.0.0.1:{port}");
        let shared = Arc::new(Shared { folder, url, clients: clients.to_vec() });
        let known = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let known = known.clone();
                thread::spawn(move || known.answer(stream));
            }
        });
        Identity { port, shared }
    }

    /// Base URL of the provider, which is the issuer of its tokens.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Issues a token to a client, as it would get it over HTTP; panics if the id is unknown.
    pub fn token(&self, id: &str) -> String {
        let client = self.shared.clients.iter().find(|client| client.0 == id).expect("a client");
        self.shared.token(client)
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut first = String::new();
        reader.read_line(&mut first).ok()?;
        let (mut length, mut authorization) = (0, String::new());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok()?,
                "authorization" => value.trim().clone_into(&mut authorization),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let path = first.split(' ').nth(1)?;
        let (status, answer) = match path.split('?').next()?.trim_end_matches('/') {
            "/jwks" => ("200 OK", self.keys()),
            "/token" => self.grant(&authorization, &String::from_utf8_lossy(&body)),
            _ => ("404 Not Found", json!({})),
        };
        let answer = answer.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).ok()
    }

    fn grant(&self, authorization: &str, body: &str) -> (&'static str, serde_json::Value) {
        let basic = authorization.strip_prefix("Basic ").and_then(|text| BASE64_STANDARD.decode(text).ok());
        let basic = basic.and_then(|bytes| String::from_utf8(bytes).ok());
        let of_body = |name: &str| body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let given = match &basic {
            Some(text) => text.split_once(':'),
            None => of_body("client_id").zip(of_body("client_secret")),
        };
        let client = self.clients.iter().find(|(id, secret, _)| given == Some((*id, *secret)));
        match client {
            Some(client) => {
                let granted = json!({"access_token": self.token(client), "token_type": "Bearer", "expires_in": 600});
                ("200 OK", granted)
            }
            None => ("401 Unauthorized", json!({"error": "invalid_client"})),
        }
    }

    fn token(&self, (id, _, roles): &Client) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let claims = json!({
            "iss": self.url, "sub": id, "azp": id, "aud": "test", "preferred_username": id, "iat": now, "exp": now + 600,
            "realm_access": {"roles": roles}, "groups": roles,
        });
        let encode = |value: serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": "test"});
        let signed = format!("{}.{}", encode(header), encode(claims));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), &signed).expect("writable");
        let path = file.path().display().to_string();
        let signature = openssl(self.folder.path(), &["dgst", "-sha256", "-sign", "key.pem", &path]);
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// The public key that verifies tokens, as a JSON Web Key Set (RFC 7517).
    fn keys(&self) -> serde_json::Value {
        let printed = openssl(self.folder.path(), &["rsa", "-in", "key.pem", "-noout", "-modulus"]);
        let digits = String::from_utf8_lossy(&printed).trim().trim_start_matches("Modulus=").to_owned();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex");
        let modulus: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        let key = json!({
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "test", "e": "AQAB",
            "n": BASE64_URL_SAFE_NO_PAD.encode(modulus),
        });
        json!({"keys": [key]})
    }
}
