//! An S3 server, and a proxy in front of it that counts requests, and can cut connections, lose answers, throttle, and
//! strip conditions.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::server::Server;
use crate::{free_port, python, root};

/// How long the S3 server may take after its start until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How requests begin.
const METHODS: [&[u8]; 5] = [b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE "];
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>
const SLOW_DOWN: &[u8] = b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Type: application/xml\r\n\
    Content-Length: 70\r\n\r\n<Error><Code>SlowDown</Code><Message>Reduce the rate</Message></Error>";

/// A running S3 server with a bucket `lake`.
pub struct S3 {
    server: Server,
    _folder: TempDir,
    /// TCP port on 127.0.0.1.
    pub port: u16,
}

impl S3 {
    /// Starts moto's S3 server, which accepts any credentials.
    pub fn start() -> S3 {
        S3::start_with(&[])
    }

    /// Starts moto's S3 server so that it refuses every access key once the bucket has been created.
    pub fn start_locked() -> S3 {
        S3::start_with(&[("INITIAL_NO_AUTH_ACTION_COUNT", "1")])
    }

    fn start_with(environment: &[(&str, &str)]) -> S3 {
        let port = free_port();
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server::new(folder.path().join("log"));
        let mut command = Command::new(python().with_file_name("moto_server"));
        server.launch(command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).envs(environment.iter().copied()));
        let s3 = S3 { server, _folder: folder, port };
        s3.server.wait_until(START_LIMIT, || s3.create_bucket("lake"));
        s3
    }

    /// Tries to create a bucket, and returns whether the server answered that it did.
    fn create_bucket(&self, name: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let authority = "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request";
        let request = format!(
            "PUT /{name} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{authority}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.port
        );
        let mut answer = String::new();
        let asked = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
        asked.is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    /// URL of the server's endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Writes all objects of the bucket `lake` to a folder.
    pub fn download(&self, folder: &Path) {
        let script = root().join("integration-tests/readers/bucket_files.py");
        let mut command = Command::new(python());
        let output = command.arg(script).args([&self.endpoint(), "lake"]).arg(folder).output().expect("python");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Sends the process a signal, such as STOP.
    pub fn signal(&self, name: &str) {
        self.server.signal(name);
    }
}

/// A TCP proxy that forwards connections to a server and disturbs them on demand.
pub struct Proxy {
    /// TCP port on 127.0.0.1 on which the proxy listens.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Vec<TcpStream>>,
    /// Number of answers to puts of Delta log entries that are still to be lost.
    swallow_commit_answers: AtomicU32,
    swallowed: AtomicU32,
    /// Number of requests that are still to be refused, because there are too many.
    throttles: AtomicU32,
    requests: AtomicU64,
    /// Whether the header `If-None-Match` is disabled in every request.
    unconditional: AtomicBool,
    closed: AtomicBool,
}

impl Proxy {
    /// Starts a proxy on a free port that forwards to the port `target` on 127.0.0.1.
    pub fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared::default());
        let known = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if known.closed.load(Ordering::Relaxed) {
                    return;
                }
                forward(client, target, &known);
            }
        });
        Proxy { port, shared }
    }

    /// URL of the proxy, to be used as the endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Cuts all open connections, and returns how many there were.
    pub fn cut(&self) -> usize {
        let cut: Vec<_> = self.shared.open.lock().expect("not poisoned").drain(..).collect();
        for stream in &cut {
            let _ = stream.shutdown(Shutdown::Both);
        }
        cut.len()
    }

    /// Loses the answers to the next `count` puts of Delta log entries: the server carries them out, and the client
    /// gets a closed connection instead of the answer.
    pub fn swallow_commit_answers(&self, count: u32) {
        self.shared.swallow_commit_answers.store(count, Ordering::SeqCst);
    }

    /// Refuses the next `count` requests as S3 does where there are too many: 503, SlowDown.
    pub fn throttle(&self, count: u32) {
        self.shared.throttles.store(count, Ordering::SeqCst);
    }

    /// How many of those requests are still to come.
    pub fn throttles(&self) -> u32 {
        self.shared.throttles.load(Ordering::SeqCst)
    }

    /// How many requests there were so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Disables the condition of every put from now on, as if the store did not support conditional puts.
    pub fn make_unconditional(&self) {
        self.shared.unconditional.store(true, Ordering::SeqCst);
    }

    /// How many answers have been lost so far.
    pub fn swallowed(&self) -> u32 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn forward(client: TcpStream, target: u16, shared: &Arc<Shared>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let copies = [client.try_clone(), client.try_clone(), client.try_clone(), server.try_clone(), server.try_clone()];
    let [Ok(client_end), Ok(client_writer), Ok(mut refusing), Ok(server_writer), Ok(server_reader)] = copies else {
        return;
    };
    shared.open.lock().expect("not poisoned").push(client_end);
    let doomed = Arc::new(AtomicBool::new(false));
    let (to_server, to_client) = (doomed.clone(), doomed);
    let (up, down) = (shared.clone(), shared.clone());
    thread::spawn(move || {
        pump(client, server_writer, |bytes| {
            let is_request = METHODS.iter().any(|method| bytes.starts_with(method));
            up.requests.fetch_add(u64::from(is_request), Ordering::SeqCst);
            if is_request && take_one(&up.throttles) {
                let _ = refusing.write_all(SLOW_DOWN);
                return false;
            }
            if up.unconditional.load(Ordering::SeqCst) {
                drop_condition(bytes);
            }
            if is_commit(bytes) && take_one(&up.swallow_commit_answers) {
                to_server.store(true, Ordering::SeqCst);
            }
            true
        });
    });
    thread::spawn(move || {
        pump(server_reader, client_writer, |_| {
            let lost = to_client.load(Ordering::SeqCst);
            down.swallowed.fetch_add(u32::from(lost), Ordering::SeqCst);
            !lost
        });
    });
}

/// Disables the header `If-None-Match` in these bytes by giving it another name of the same length.
fn drop_condition(bytes: &mut [u8]) {
    const CONDITION: &[u8] = b"if-none-match";
    for start in 0..bytes.len().saturating_sub(CONDITION.len()) {
        let header = &mut bytes[start..start + CONDITION.len()];
        if header.eq_ignore_ascii_case(CONDITION) {
            header.copy_from_slice(b"x-not-a-thing");
        }
    }
}

fn is_commit(bytes: &[u8]) -> bool {
    let first = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]);
    let line = first.lines().next().unwrap_or_default();
    line.starts_with("PUT ") && line.contains("_delta_log/") && line.contains(".json")
}

fn take_one(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// Copies bytes until either end closes, then closes both. `pass` may change the bytes; if it returns false they are
/// dropped and the connection ends.
fn pump(mut from: TcpStream, mut to: TcpStream, mut pass: impl FnMut(&mut [u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !pass(&mut buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
