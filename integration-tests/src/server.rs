//! A server's process: started with its output in a log, waited for until it answers, and killed with its owner.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that a test started.
pub struct Server {
    log: PathBuf,
    process: Option<Child>,
}

impl Server {
    /// Not started yet; what it will print goes to a file.
    pub fn new(log: PathBuf) -> Server {
        Server { log, process: None }
    }

    /// Starts it, for the first time or after it was killed.
    pub fn launch(&mut self, command: &mut Command) {
        let log = File::options().create(true).append(true).open(&self.log).expect("writable");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        self.process = Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// Waits until it is ready.
    pub fn wait_until(&self, limit: Duration, is_ready: impl Fn() -> bool) {
        let asked = Instant::now();
        while !is_ready() {
            assert!(asked.elapsed() < limit, "the server is not ready in {limit:?}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Sends it a signal, such as STOP.
    pub fn signal(&self, name: &str) {
        let signalled = Command::new("kill").args([format!("-{name}"), self.pid().to_string()]).status().expect("kill");
        assert!(signalled.success());
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("started").id()
    }

    /// What it printed, all starts together.
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
