//! The real program: configured, started, watched and killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sooner::status::{Status, TableStatus, load};
use sooner_api::TableState;
use sooner_schemas::Lsn;
use tempfile::TempDir;

use crate::kafka::Kafka;
use crate::postgres::Postgres;
use crate::readers::{Reader, compare};
use crate::registry::Registry;
use crate::root;

/// A pipeline's configuration in a folder of its own, and its process while it runs.
pub struct Pipeline {
    folder: TempDir,
    /// Location of the lake, as the configuration has it.
    pub lake: String,
    environment: Vec<(String, String)>,
    process: Option<Child>,
}

impl Pipeline {
    /// A pipeline from a database into a local folder, in direct mode.
    pub fn local(postgres: &Postgres) -> Pipeline {
        let folder = tempfile::tempdir().expect("a folder");
        let lake = folder.path().join("lake").display().to_string();
        Pipeline::with(folder, &postgres.url(), lake, "", "")
    }

    /// A pipeline from a database into a local folder, in direct mode, with further lines for `[source]`.
    pub fn local_with(postgres: &Postgres, source: &str) -> Pipeline {
        let folder = tempfile::tempdir().expect("a folder");
        let lake = folder.path().join("lake").display().to_string();
        Pipeline::with(folder, &postgres.url(), lake, source, "")
    }

    /// Adds lines to `[source]`; this takes effect at the next start.
    pub fn configure_source(&self, lines: &str) {
        self.configure("[source]", lines);
    }

    /// Adds lines to a section; this takes effect at the next start.
    pub fn configure(&self, section: &str, lines: &str) {
        let path = self.folder.path().join("sooner.toml");
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(path, text.replacen(section, &format!("{section}\n{lines}"), 1)).expect("writable");
    }

    /// Replaces a text in the configuration; this takes effect when it is read next.
    pub fn replace(&self, from: &str, to: &str) {
        let path = self.folder.path().join("sooner.toml");
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(path, text.replacen(from, to, 1)).expect("writable");
    }

    /// Runs the program without a configuration, and waits until it ends.
    pub fn program(arguments: &[&str]) -> Output {
        Command::new(program()).args(arguments).output().expect("the program is built")
    }

    /// Adds lines to the end of the file; this takes effect at the next start.
    pub fn append_settings(&self, lines: &str) {
        let path = self.folder.path().join("sooner.toml");
        let text = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(path, format!("{text}\n{lines}\n")).expect("writable");
    }

    /// A pipeline from a database into an S3 bucket behind an endpoint, in direct mode.
    pub fn s3(postgres: &Postgres, endpoint: &str) -> Pipeline {
        let folder = tempfile::tempdir().expect("a folder");
        let lake = "s3://lake/shop".to_owned();
        let mut pipeline = Pipeline::with(folder, &postgres.url(), lake, "", &format!("endpoint = \"{endpoint}\""));
        pipeline.set("AWS_ACCESS_KEY_ID", "test");
        pipeline.set("AWS_SECRET_ACCESS_KEY", "test");
        pipeline
    }

    /// A pipeline with further configuration lines: `source` for `[source]`, `lake_settings` for `[lake]` and what
    /// follows.
    pub fn with(folder: TempDir, url: &str, lake: String, source: &str, lake_settings: &str) -> Pipeline {
        let text = format!(
            "name = \"shop\"\n[source]\nurl = \"{url}\"\n{source}\n[lake]\nurl = \"{lake}\"\nfreshness = \"200ms\"\n{lake_settings}\n"
        );
        std::fs::write(folder.path().join("sooner.toml"), text).expect("writable");
        Pipeline { folder, lake, environment: Vec::new(), process: None }
    }

    /// A pipeline from a database through Kafka into a local folder; `kafka_settings` are further lines for `[kafka]`.
    pub fn kafka(postgres: &Postgres, kafka: &Kafka, registry: &Registry, kafka_settings: &str) -> Pipeline {
        let folder = tempfile::tempdir().expect("a folder");
        let lake = folder.path().join("lake").display().to_string();
        let settings = format!(
            "[kafka]\nbrokers = \"{}\"\n{kafka_settings}\n[registry]\nurl = \"{}\"",
            kafka.brokers(),
            registry.url()
        );
        Pipeline::with(folder, &postgres.url(), lake, "", &settings)
    }

    /// Replaces the lines of `[kafka]` and `[registry]` in the configuration; this takes effect at the next start.
    pub fn reroute(&self, postgres: &Postgres, kafka: &str, registry: &str) {
        let text = format!(
            "name = \"shop\"\n[source]\nurl = \"{}\"\n[lake]\nurl = \"{}\"\nfreshness = \"200ms\"\n\
             [kafka]\n{kafka}\n[registry]\n{registry}\n",
            postgres.url(),
            self.lake
        );
        std::fs::write(self.folder.path().join("sooner.toml"), text).expect("writable");
    }

    /// Another process of the same pipeline, not started yet, with the same configuration and a state folder of its
    /// own.
    pub fn beside(&self) -> Pipeline {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::copy(self.folder.path().join("sooner.toml"), folder.path().join("sooner.toml")).expect("readable");
        Pipeline { folder, lake: self.lake.clone(), environment: self.environment.clone(), process: None }
    }

    /// Sets an environment variable for processes that are started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts `sooner run`.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts `sooner run` with arguments.
    pub fn start_with(&mut self, arguments: &[&str]) {
        self.start_command("run", arguments);
    }

    /// Starts a command that runs until it is stopped, such as `run` or `sink`; its log is appended to a file.
    pub fn start_command(&mut self, name: &str, arguments: &[&str]) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).expect("writable");
        let mut command = self.command(name);
        let process = command.args(arguments).stdout(Stdio::null()).stderr(log).spawn();
        self.process = Some(process.expect("the program is built"));
    }

    /// A command of the program with this configuration, to be started by the caller.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program());
        command.arg("--config").arg(self.folder.path().join("sooner.toml")).arg(name);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a command to its end, and returns its exit status and output.
    pub fn output(&self, name: &str, arguments: &[&str]) -> Output {
        self.command(name).args(arguments).output().expect("the program is built")
    }

    /// Waits for the process to end by itself, and returns its log; after `limit` it is killed and the test fails.
    pub fn wait_for_end(&mut self, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !self.is_running() {
                return self.log();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.kill();
        panic!("it did not end in {limit:?}; its log:\n{}", self.log());
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
        let id = self.process.as_ref().expect("started").id().to_string();
        let signalled = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill");
        assert!(signalled.success());
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("started").id()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().expect("a child").is_none())
    }

    /// Sends SIGTERM, waits until the process has ended with success, and returns how long that took.
    pub fn stop(&mut self) -> Duration {
        let mut process = self.process.take().expect("started");
        let asked = Instant::now();
        let signalled = Command::new("kill").arg(process.id().to_string()).status().expect("kill");
        assert!(signalled.success());
        let status = process.wait().expect("a child");
        assert!(status.success(), "a clean stop ends with 0; log:\n{}", self.log());
        asked.elapsed()
    }

    /// The status that the process last wrote; none if there is none yet, or it cannot be read.
    pub fn status(&self) -> Option<Status> {
        load(&self.state_dir()).ok().flatten()
    }

    /// Waits until the status fulfils a condition, and returns it; fails with status and log after `limit`.
    pub async fn wait_for(&self, what: &str, limit: Duration, condition: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.status().filter(&condition) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not in {limit:?}: {what}; status: {:#?}\nlog:\n{}", self.status(), self.log());
    }

    /// Waits until the log contains a phrase; fails after `limit`.
    pub async fn wait_for_log(&self, phrase: &str, limit: Duration) {
        self.wait_for_log_times(phrase, 1, limit).await;
    }

    /// Waits until the log contains a phrase at least so many times; fails after `limit`.
    pub async fn wait_for_log_times(&self, phrase: &str, times: usize, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.log().matches(phrase).count() < times {
            assert!(Instant::now() < deadline, "not in {limit:?}: '{phrase}'; log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until everything that is committed at the source by now is in the lake, for tables that stream, and no
    /// table is being copied. A copy that somebody has just asked for may not have begun yet, and a table that is new
    /// to the pipeline may not be known yet: for those, wait by `wait_until_copied` first.
    pub async fn catch_up(&self, postgres: &Postgres) {
        let end: Lsn = postgres.end_lsn().await;
        let pid = self.process.as_ref().map(Child::id);
        self.wait_for(&format!("durable to {end}"), Duration::from_secs(90), |status| {
            let is_copying = |state: &TableState| *state == TableState::Copying;
            let copied =
                |table: &TableStatus| !is_copying(&table.state) && !table.source_state.as_ref().is_some_and(is_copying);
            let is_told = Some(status.pid) == pid && !status.tables.is_empty();
            is_told && status.durable_lsn >= end && status.tables.values().all(copied)
        })
        .await;
    }

    /// Fails, with status and log, unless each of these tables in the lake equals its source, as DuckDB sees it.
    pub fn assert_equal(&self, postgres: &Postgres, tables: &[&str]) {
        if let Err(difference) = compare(Reader::DuckDb, postgres, &self.lake, None, tables) {
            panic!("the lake differs from Postgres:\n{difference}\n{:?}\n{}", self.status(), self.log());
        }
    }

    /// Fails if the status has a reason why a table is parked.
    pub fn assert_all_stream(&self) {
        let stopped = |status: &Status| status.tables.values().find_map(TableStatus::reason);
        assert_eq!(self.status().as_ref().and_then(stopped), None, "log:\n{}", self.log());
    }

    /// Everything that was logged, by all processes that were started here.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Path of the pipeline's state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join(".sooner/shop")
    }

    /// Path of the folder that contains the configuration and, where the lake is local, the lake.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("sooner.log")
    }
}

/// A table's part of a status; none if the status does not have it.
pub fn find<'s>(status: &'s Status, table: &str) -> Option<&'s TableStatus> {
    status.tables.get(&table.parse().expect("a table's name"))
}

/// A table's part of a status, which must have it.
pub fn of<'s>(status: &'s Status, table: &str) -> &'s TableStatus {
    find(status, table).expect("the status has the table")
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && std::env::var_os("SOONER_TEST_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("kept {}", self.folder.path().display());
        }
    }
}

/// Path of the program as `cargo build` made it, or what `SOONER_PROGRAM` names; panics if it is missing.
pub fn program() -> PathBuf {
    let path = std::env::var_os("SOONER_PROGRAM").map_or(root().join("target/debug/sooner"), PathBuf::from);
    assert!(path.exists(), "run `cargo build` first: {} does not exist", path.display());
    path
}
