//! A server's process: started with its output in a log file, waited for until it is ready, killed when it is dropped.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server process that a test starts; it is killed when this value is dropped.
pub struct Server {
    log: PathBuf,
    process: Option<Child>,
}

impl Server {
    /// A server that is not started yet; its output will be appended to the file `log`.
    pub fn new(log: PathBuf) -> Server {
        Server { log, process: None }
    }

    /// Starts the process, for the first time or after it was killed.
    pub fn launch(&mut self, command: &mut Command) {
        let log = File::options().create(true).append(true).open(&self.log).expect("writable");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        self.process = Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// Waits until `is_ready` says so; panics with the server's log after `limit`.
    pub fn wait_until(&self, limit: Duration, is_ready: impl Fn() -> bool) {
        let asked = Instant::now();
        while !is_ready() {
            assert!(asked.elapsed() < limit, "the server is not ready in {limit:?}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills the process, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Sends the process a signal, such as STOP.
    pub fn signal(&self, name: &str) {
        let signalled = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().expect("kill");
        assert!(signalled.success());
    }

    /// Id of the running process.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("started").id()
    }

    /// Everything that the process has printed, over all starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && std::env::var_os("SOONER_TEST_LOGS").is_some() {
            eprintln!("{}:\n{}", self.log.display(), self.log());
        }
    }
}
