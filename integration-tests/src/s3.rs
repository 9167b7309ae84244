//! A real S3 server, and a connection to it that can be cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::server::Server;
use crate::{free_port, python};

/// How long the server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running server with a bucket `lake`.
pub struct S3 {
    server: Server,
    _folder: TempDir,
    /// TCP port on 127.0.0.1.
    pub port: u16,
}

impl S3 {
    /// Starts moto's server, which lets everybody in.
    pub fn start() -> S3 {
        S3::start_with(&[])
    }

    /// Starts it so that it knows no access key, once the bucket is there.
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

    /// Whether the server answers, and has the bucket now.
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

    /// Its endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Forwards connections to a server, and cuts them on demand.
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Vec<TcpStream>>,
    /// Answers to puts of log entries that are still to be swallowed.
    swallow_commit_answers: AtomicU32,
    swallowed: AtomicU32,
    /// Conditions of puts are taken out on the way.
    unconditional: AtomicBool,
    closed: AtomicBool,
}

impl Proxy {
    /// Listens on a free port and forwards to a port on 127.0.0.1.
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

    /// Where it listens, as an endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Cuts all open connections, and says how many there were.
    pub fn cut(&self) -> usize {
        let cut: Vec<_> = self.shared.open.lock().expect("not poisoned").drain(..).collect();
        for stream in &cut {
            let _ = stream.shutdown(Shutdown::Both);
        }
        cut.len()
    }

    /// Loses the answers to the next puts of log entries: the server does them, and the client never hears of it.
    pub fn swallow_commit_answers(&self, count: u32) {
        self.shared.swallow_commit_answers.store(count, Ordering::SeqCst);
    }

    /// Takes the condition out of every put from now on, as a store does that has never heard of it.
    pub fn make_unconditional(&self) {
        self.shared.unconditional.store(true, Ordering::SeqCst);
    }

    /// How many answers were lost.
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
    let copies = [client.try_clone(), client.try_clone(), server.try_clone(), server.try_clone()];
    let [Ok(client_end), Ok(client_writer), Ok(server_writer), Ok(server_reader)] = copies else { return };
    shared.open.lock().expect("not poisoned").push(client_end);
    let doomed = Arc::new(AtomicBool::new(false));
    let (to_server, to_client) = (doomed.clone(), doomed);
    let (up, down) = (shared.clone(), shared.clone());
    thread::spawn(move || {
        pump(client, server_writer, |bytes| {
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

/// Gives the header another name of the same length.
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

/// Copies bytes until either end closes; `pass` may change them, or say to lose them and hang up.
fn pump(mut from: TcpStream, mut to: TcpStream, pass: impl Fn(&mut [u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !pass(&mut buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
