//! A real Postgres, with its data in a folder that goes with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use sooner_postgres::client::{Mode, Row};
use sooner_postgres::{Client, ConnectOptions};
use sooner_schemas::Lsn;
use tempfile::TempDir;

use crate::{free_port, stack};

/// The servers that are installed.
#[derive(Clone, Copy, Debug)]
pub enum Version {
    /// Debian's.
    V15,
    /// The one from the Python package.
    V18,
}

/// A running server with a database `shop`.
pub struct Postgres {
    binaries: PathBuf,
    folder: TempDir,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    settings: Vec<String>,
}

impl Postgres {
    /// Starts a server that is ready for logical replication.
    pub async fn start(version: Version) -> Postgres {
        Postgres::start_with(version, &["wal_level=logical"]).await
    }

    /// Starts a server with these settings.
    pub async fn start_with(version: Version, settings: &[&str]) -> Postgres {
        let binaries = match version {
            Version::V15 => PathBuf::from("/usr/lib/postgresql/15/bin"),
            Version::V18 => stack().join("postgres-18/bin").canonicalize().expect("Postgres 18 is installed"),
        };
        let folder = tempfile::Builder::new().prefix("sooner-test-").tempdir_in("/tmp").expect("a folder");
        let postgres = Postgres {
            binaries,
            folder,
            port: free_port(),
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
        };
        give_to_postgres(postgres.folder.path());
        postgres.run("initdb", &["-A", "trust", "-U", "postgres", "--no-sync", "-D", &postgres.data()]);
        postgres.launch();
        postgres.sql_in("postgres", "CREATE DATABASE shop").await;
        postgres
    }

    /// Starts the server, after it was stopped.
    pub fn launch(&self) {
        let mut settings = vec![
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", self.folder.path().display()),
            "max_replication_slots=20".to_owned(),
            "max_wal_senders=20".to_owned(),
        ];
        settings.extend(self.settings.iter().cloned());
        let options: String = settings.iter().map(|setting| format!(" -c {setting}")).collect();
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-o", &options, "-l", &log, "-w", "-t", "60", "start"]);
    }

    /// Stops the server: `fast`, or `immediate`, which is a crash.
    pub fn stop(&self, mode: &str) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", mode, "-w", "stop"]);
    }

    /// The URL of `shop` for the superuser.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/shop", self.port)
    }

    /// The folder of the unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder.
    pub fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// Runs statements in `shop`.
    pub async fn sql(&self, sql: &str) -> Vec<Row> {
        self.sql_in("shop", sql).await
    }

    /// Runs a statement and returns its only value.
    pub async fn value(&self, sql: &str) -> String {
        self.sql(sql).await.remove(0).remove(0).expect("a value")
    }

    /// Where the log ends now.
    pub async fn end_lsn(&self) -> Lsn {
        self.value("SELECT pg_current_wal_insert_lsn()").await.parse().expect("an LSN")
    }

    async fn sql_in(&self, database: &str, sql: &str) -> Vec<Row> {
        self.connect(database).await.query(sql).await.expect("valid SQL")
    }

    /// A connection of the superuser.
    pub async fn connect(&self, database: &str) -> Client {
        let url = format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port);
        Client::connect(&ConnectOptions::parse(&url).expect("valid"), Mode::Sql).await.expect("the server runs")
    }

    /// Runs one of the server's programs.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let output = as_postgres(&self.binaries.join(program)).args(arguments).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} failed: {}{text}", String::from_utf8_lossy(&output.stdout));
    }

    /// One of the server's programs, to be started by the caller.
    pub fn program(&self, name: &str) -> Command {
        Command::new(self.binaries.join(name))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = as_postgres(&self.binaries.join("pg_ctl"));
        let _ = stop.args(["-D", &self.data(), "-m", "immediate", "stop"]).output();
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Postgres refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/tmp");
    command
}

fn give_to_postgres(folder: &Path) {
    if is_root() {
        let given = Command::new("chown").arg("postgres").arg(folder).status().expect("chown");
        assert!(given.success());
    }
}
