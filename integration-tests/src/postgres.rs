//! A real Postgres server, whose data folder is deleted when it is dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use sooner_postgres::client::{Mode, Row};
use sooner_postgres::log_end::log_end;
use sooner_postgres::{Client, ConnectOptions};
use sooner_schemas::Lsn;
use tempfile::TempDir;

use crate::{free_port, stack};

/// Version of an installed Postgres server.
#[derive(Clone, Copy, Debug)]
pub enum Version {
    /// Version 15, from Debian's package; or, in longer tests, the one that `SOONER_POSTGRES` says.
    V15,
    /// Version 18, from the Python package.
    V18,
}

/// A running Postgres server with a database `shop`.
pub struct Postgres {
    binaries: PathBuf,
    folder: TempDir,
    /// TCP port on 127.0.0.1.
    pub port: u16,
    settings: Vec<String>,
}

impl Postgres {
    /// Starts a server with `wal_level=logical`, ready for logical replication.
    pub async fn start(version: Version) -> Postgres {
        Postgres::start_with(version, &["wal_level=logical"]).await
    }

    /// Starts a server with these further settings, each of the form `name=value`.
    pub async fn start_with(version: Version, settings: &[&str]) -> Postgres {
        let binaries = match version {
            Version::V15 => match std::env::var("SOONER_POSTGRES") {
                Ok(version) => stack().join(format!("postgres-{version}/bin")).canonicalize().expect("installed"),
                Err(_) => PathBuf::from("/usr/lib/postgresql/15/bin"),
            },
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

    /// A standby of this server, which has a physical slot `standby`; running, and with its logical slots in step.
    pub async fn standby(&self, settings: &[&str]) -> Postgres {
        let folder = tempfile::Builder::new().prefix("sooner-test-").tempdir_in("/tmp").expect("a folder");
        give_to_postgres(folder.path());
        let connection = format!("host=127.0.0.1 port={} user=postgres dbname=shop", self.port);
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let standby = Postgres { binaries: self.binaries.clone(), folder, port: free_port(), settings };
        standby.run("pg_basebackup", &["-R", "-c", "fast", "-S", "standby", "-D", &standby.data(), "-d", &connection]);
        standby.launch();
        standby
    }

    /// Makes this standby a primary that listens where its own primary did.
    pub fn take_over(&mut self, primary: &Postgres) {
        primary.stop("immediate");
        self.run("pg_ctl", &["-D", &self.data(), "-w", "promote"]);
        self.stop("fast");
        self.port = primary.port;
        self.launch();
    }

    /// Replaces the server, which is stopped, by one that pg_upgrade makes of it, and starts that.
    pub fn upgrade(&self) {
        let former = self.folder.path().join("former");
        std::fs::rename(self.data(), &former).expect("a data folder");
        self.run("initdb", &["-A", "trust", "-U", "postgres", "--no-sync", "-D", &self.data()]);
        let (former, data) = (former.display().to_string(), self.data());
        let (binaries, options) =
            (self.binaries.display().to_string(), "-c wal_level=logical -c max_replication_slots=20");
        let folders = ["-b", &binaries, "-B", &binaries, "-d", &former, "-D", &data, "-s", "/tmp"];
        self.run("pg_upgrade", &[&folders[..], &["-U", "postgres", "-o", options, "-O", options]].concat());
        self.launch();
    }

    /// Starts the server's process, for the first time or after it was stopped, and waits until it is ready.
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

    /// Stops the server in a mode of `pg_ctl`: `fast`, or `immediate`, which amounts to a crash.
    pub fn stop(&self, mode: &str) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", mode, "-w", "stop"]);
    }

    /// URL of the database `shop` for the superuser.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/shop", self.port)
    }

    /// Runs a script by psql, as the superuser, in the database `shop`; panics if a statement of it fails.
    pub fn psql(&self, script: &str) {
        let path = self.folder.path().join("script.sql");
        std::fs::write(&path, script).expect("writable");
        let (port, path) = (self.port.to_string(), path.display().to_string());
        let arguments =
            ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-f", &path, "shop"];
        let output = Command::new(self.binaries.join("psql")).args(arguments).output().expect("psql is installed");
        assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// From now on, a role needs its password to log in.
    pub async fn demand_password(&self, role: &str) {
        let path = PathBuf::from(self.data()).join("pg_hba.conf");
        let rules = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(path, format!("host all,replication {role} 127.0.0.1/32 scram-sha-256\n{rules}"))
            .expect("writable");
        self.sql("SELECT pg_reload_conf()").await;
    }

    /// Folder of the server's Unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// Path of the data folder.
    pub fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// Runs statements in the database `shop`, and returns their rows; panics on an error.
    pub async fn sql(&self, sql: &str) -> Vec<Row> {
        self.sql_in("shop", sql).await
    }

    /// Runs a statement in the database `shop`, and returns the first value of its first row.
    pub async fn value(&self, sql: &str) -> String {
        self.sql(sql).await.remove(0).remove(0).expect("a value")
    }

    /// LSN at which the write-ahead log ends now, by its insert position.
    pub async fn end_lsn(&self) -> Lsn {
        log_end(&mut self.connect("shop").await).await.expect("an LSN")
    }

    async fn sql_in(&self, database: &str, sql: &str) -> Vec<Row> {
        self.connect(database).await.query(sql).await.expect("valid SQL")
    }

    /// Connects to a database as the superuser.
    pub async fn connect(&self, database: &str) -> Client {
        let url = format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port);
        let options = ConnectOptions::parse(&url).expect("valid");
        let mut client = Client::connect(&options, Mode::Sql).await.expect("the server runs");
        client.query("SET statement_timeout = 0; SET lock_timeout = 0").await.expect("settings");
        client
    }

    /// Runs one of the server's programs to its end; panics if it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let output = as_postgres(&self.binaries.join(program)).args(arguments).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} failed: {}{text}", String::from_utf8_lossy(&output.stdout));
    }

    /// A command of one of the server's programs, to be started by the caller.
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

/// A command that runs a program as the user `postgres` if this process is root, as which Postgres and PgBouncer refuse
/// to run.
pub fn as_postgres(program: &Path) -> Command {
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
