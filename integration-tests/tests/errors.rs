//! Bad input: each error says what failed, why, and what to do; and nothing is lost by it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal};
use integration_tests::s3::{Proxy, S3};

const TABLE: &str = "CREATE TABLE items (id integer PRIMARY KEY, a text, n numeric(6, 2)); \
                     INSERT INTO items SELECT i, 'a' || i, i FROM generate_series(1, 100) AS i";

/// A pipeline with another URL, and more lines for `[source]` and `[lake]`.
fn pipeline_with(url: &str, source: &str, lake_settings: &str) -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").display().to_string();
    Pipeline::with(folder, url, lake, source, lake_settings)
}

fn assert_says(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "'{part}' not in:\n{text}");
    }
}

/// Starts the pipeline, which must end by itself and soon, and returns what it said.
fn refused(pipeline: &mut Pipeline) -> String {
    pipeline.start();
    pipeline.wait_for_end(Duration::from_secs(30))
}

/// What `sooner check` says of a pipeline that cannot run.
fn checked(pipeline: &Pipeline) -> String {
    let output = pipeline.output("check", &[]);
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn reason_of(pipeline: &Pipeline, table: &str) -> String {
    let parked = |status: &sooner::status::Status| status.tables.get(table).is_some_and(|table| table.reason.is_some());
    let status = pipeline.wait_for("parked", Duration::from_secs(30), parked).await;
    status.tables[table].reason.clone().unwrap()
}

/// Resumes the table of the tests, which must then equal its source.
async fn resume_items(pipeline: &Pipeline, postgres: &Postgres) {
    assert!(pipeline.output("resume", &["public.items"]).status.success());
    let resumed = |status: &sooner::status::Status| status.tables["public.items"].reason.is_none();
    pipeline.wait_for("resumed", Duration::from_secs(30), resumed).await;
    pipeline.catch_up(postgres).await;
    assert_equal(Reader::DuckDb, postgres, &pipeline.lake, None, &["public.items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_none_at_all() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE ROLE reader LOGIN REPLICATION PASSWORD 'right'").await;
    let rules = format!("{}/pg_hba.conf", postgres.data());
    let trusted = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("host all reader all scram-sha-256\n{trusted}")).unwrap();
    postgres.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let url = format!("postgres://reader@127.0.0.1:{}/shop", postgres.port);

    let mut pipeline = pipeline_with(&url, "password = { env = \"TEST_PASSWORD\" }", "");
    pipeline.set("TEST_PASSWORD", "wr0ng-secret");
    let said = refused(&mut pipeline);
    assert_says(&said, &["cannot log in", "password authentication failed", "check the user and the password"]);
    assert!(!said.contains("wr0ng-secret"));

    let said = refused(&mut pipeline_with(&url, "", ""));
    assert_says(&said, &["the server asks for a password and none is configured"]);

    let mut pipeline = pipeline_with(&url, "password = { env = \"TEST_PASSWORD\" }", "");
    pipeline.set("TEST_PASSWORD", "right");
    assert_says(&checked(&pipeline), &["ok       connection"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_in_every_mode() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let certificates = tempfile::tempdir().unwrap();
    make_certificates(certificates.path());
    for file in ["server.crt", "server.key"] {
        let target = format!("{}/{file}", postgres.data());
        std::fs::copy(certificates.path().join(file), &target).unwrap();
        Command::new("chmod").args(["600", &target]).status().unwrap();
        Command::new("chown").args(["postgres", &target]).status().unwrap();
    }
    let without = format!("{}?sslmode=require", postgres.url());
    assert_says(&refused(&mut pipeline_with(&without, "", "")), &["the server does not support TLS"]);
    postgres.sql("ALTER SYSTEM SET ssl = on").await;
    postgres.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let url = |host: &str, mode: &str, root: &str| {
        let root = certificates.path().join(root);
        format!("postgres://postgres@{host}:{}/shop?sslmode={mode}&sslrootcert={}", postgres.port, root.display())
    };
    for (host, mode) in [("localhost", "verify-full"), ("127.0.0.1", "verify-ca"), ("127.0.0.1", "require")] {
        let said = pipeline_with(&url(host, mode, "root.crt"), "", "").output("check", &[]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_says(&said, &["ok       connection"]);
    }
    let wrong_root = refused(&mut pipeline_with(&url("localhost", "verify-ca", "other.crt"), "", ""));
    assert_says(&wrong_root, &["TLS with Postgres", "UnknownIssuer", "set sslrootcert"]);
    let wrong_name = refused(&mut pipeline_with(&url("127.0.0.1", "verify-full", "root.crt"), "", ""));
    assert_says(&wrong_name, &["TLS with Postgres", "not valid for"]);
    let no_file = refused(&mut pipeline_with(&url("localhost", "verify-full", "absent.crt"), "", ""));
    assert_says(&no_file, &["cannot read the root certificate", "absent.crt"]);

    let mut pipeline = pipeline_with(&url("localhost", "verify-full", "root.crt"), "", "");
    pipeline.start();
    postgres.sql("UPDATE items SET a = 'over TLS' WHERE id = 1").await;
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.items"]);
}

fn make_certificates(folder: &Path) {
    let openssl = |arguments: &[&str]| {
        let done = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    for root in ["root", "other"] {
        let (key, certificate, subject) = (format!("{root}.key"), format!("{root}.crt"), format!("/CN=Test {root}"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
    }
    openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ]);
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "root.crt",
        "-CAkey",
        "root.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "server.crt",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_level_is_not_logical() {
    let postgres = Postgres::start_with(Version::V15, &["wal_level=replica"]).await;
    postgres.sql(TABLE).await;
    let mut pipeline = Pipeline::local(&postgres);
    assert_says(&checked(&pipeline), &["FAILED   wal_level", "ALTER SYSTEM SET wal_level = logical"]);
    assert_says(&refused(&mut pipeline), &["wal_level", "ALTER SYSTEM SET wal_level = logical"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_replication() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres
        .sql("CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE shop TO plain; ALTER TABLE items OWNER TO plain")
        .await;
    let mut pipeline = pipeline_with(&format!("postgres://plain@127.0.0.1:{}/shop", postgres.port), "", "");
    assert_says(&checked(&pipeline), &["'plain' lacks REPLICATION", "ALTER ROLE \"plain\" REPLICATION"]);
    assert_says(&refused(&mut pipeline), &["REPLICATION"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_key_stops_alone() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE TABLE keyless (a integer); INSERT INTO keyless VALUES (1)").await;
    let mut pipeline = Pipeline::local(&postgres);
    assert_says(
        &checked(&pipeline),
        &["FAILED   public.keyless", "ALTER TABLE \"public\".\"keyless\" ADD PRIMARY KEY"],
    );
    pipeline.start();
    let reason = reason_of(&pipeline, "public.keyless").await;
    assert_says(&reason, &["neither a primary key nor a replica identity index", "ADD PRIMARY KEY"]);
    postgres.sql("INSERT INTO items VALUES (1000, 'still here', 1)").await;
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_plugin_and_a_lost_slot() {
    let postgres = Postgres::start_with(
        Version::V15,
        &["wal_level=logical", "max_slot_wal_keep_size=1MB", "max_wal_size=32MB", "min_wal_size=32MB"],
    )
    .await;
    postgres.sql(TABLE).await;
    postgres.sql("SELECT pg_create_logical_replication_slot('sooner_shop', 'test_decoding')").await;
    let mut pipeline = Pipeline::local(&postgres);
    let expected = ["its output plugin is 'test_decoding', not 'pgoutput'", "pg_drop_replication_slot('sooner_shop')"];
    assert_says(&checked(&pipeline), &expected);
    assert_says(&refused(&mut pipeline), &expected);
    postgres.sql("SELECT pg_drop_replication_slot('sooner_shop')").await;

    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    for _ in 0..6 {
        postgres.sql("UPDATE items SET a = repeat(md5(random()::text), 2000)").await;
        postgres.sql("SELECT pg_switch_wal(); CHECKPOINT").await;
    }
    assert_says(
        &refused(&mut pipeline),
        &["the slot 'sooner_shop' cannot be used", "max_slot_wal_keep_size", "--recopy"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_lacks_a_table() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE TABLE more (id integer PRIMARY KEY); CREATE PUBLICATION sooner_shop FOR TABLE items").await;
    let mut pipeline = Pipeline::local(&postgres);
    let remedy = "ALTER PUBLICATION \"sooner_shop\" ADD TABLE \"public\".\"more\"";
    assert_says(&checked(&pipeline), &["it lacks public.more", remedy]);
    assert_says(&refused(&mut pipeline), &["it lacks public.more", remedy]);
    postgres
        .sql("ALTER PUBLICATION sooner_shop ADD TABLE more; ALTER PUBLICATION sooner_shop SET (publish = 'insert')")
        .await;
    assert_says(&refused(&mut pipeline), &["it leaves out: update, delete, truncate", "SET (publish ="]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_dropped_while_running() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE TABLE doomed (id integer PRIMARY KEY); INSERT INTO doomed VALUES (1)").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("DROP TABLE doomed").await;
    assert_says(&reason_of(&pipeline, "public.doomed").await, &["the table was dropped or renamed at the source"]);
    postgres.sql("INSERT INTO items VALUES (1000, 'still here', 1)").await;
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_the_lake_cannot_hold() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres
        .sql("CREATE TABLE times (id integer PRIMARY KEY, at timestamptz); CREATE TABLE calm (id integer PRIMARY KEY)")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("INSERT INTO items VALUES (7777, 'x', 'NaN'); INSERT INTO times VALUES (5, 'infinity'); INSERT INTO calm VALUES (1)").await;
    assert_says(
        &reason_of(&pipeline, "public.items").await,
        &["id=7777", "column 'n'", "NaN has no place in a decimal"],
    );
    assert_says(&reason_of(&pipeline, "public.times").await, &["id=5", "column 'at'", "infinity has no place"]);
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.calm"]);
    // A parked table stays parked over a restart, and goes on once it is mended and resumed.
    pipeline.kill();
    postgres.sql("UPDATE items SET n = 0 WHERE id = 7777").await;
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert_says(&reason_of(&pipeline, "public.items").await, &["id=7777"]);
    resume_items(&pipeline, &postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_and_wrong_credentials_are_told_within_seconds() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    postgres.sql(TABLE).await;
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("endpoint = \"{}\"", s3.endpoint());
    let mut pipeline = Pipeline::with(folder, &postgres.url(), "s3://absent/lake".into(), "", &endpoint);
    pipeline.set("AWS_ACCESS_KEY_ID", "test");
    pipeline.set("AWS_SECRET_ACCESS_KEY", "test");
    assert_says(&checked(&pipeline), &["NoSuchBucket", "create the bucket"]);
    assert_says(&refused(&mut pipeline), &["NoSuchBucket", "create the bucket, or correct url in [lake]"]);

    let folder = tempfile::tempdir().unwrap();
    let without = Pipeline::with(folder, &postgres.url(), "s3://lake/x".into(), "", &endpoint);
    let asked = Instant::now();
    let said = checked(&without);
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
    assert_says(&said, &["AWS_ACCESS_KEY_ID"]);

    let locked = S3::start_locked();
    let mut pipeline = Pipeline::s3(&postgres, &locked.endpoint());
    let asked = Instant::now();
    assert_says(&refused(&mut pipeline), &["cannot write to the lake", "check the credentials of [lake]"]);
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    postgres.sql(TABLE).await;
    let proxy = Proxy::start(s3.port);
    proxy.make_unconditional();
    let mut pipeline = Pipeline::s3(&postgres, &proxy.endpoint());
    let expected = ["does not honour conditional puts (If-None-Match: *)", "use a store that does"];
    assert_says(&checked(&pipeline), &expected);
    assert_says(&refused(&mut pipeline), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_table_of_somebody_else() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let mut pipeline = Pipeline::local(&postgres);
    let script = "import sys, pyarrow, deltalake; \
                  deltalake.write_deltalake(sys.argv[1], pyarrow.table({'other': [1, 2]}))";
    let path = format!("{}/public/items", pipeline.lake);
    let written = Command::new(integration_tests::python()).args(["-c", script, &path]).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    pipeline.start();
    let reason = reason_of(&pipeline, "public.items").await;
    assert_says(&reason, &["this pipeline did not make it", "move it away"]);
    assert!(!Path::new(&path).join("_delta_log/00000000000000000001.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_data_file() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let files = std::fs::read_dir(format!("{}/public/items", pipeline.lake)).unwrap().flatten();
    let file = files.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "parquet")).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    pipeline.start();
    postgres.sql("UPDATE items SET a = 'needs the index' WHERE id = 1").await;
    let reason = reason_of(&pipeline, "public.items").await;
    assert_says(&reason, &["cannot read the data file", file.file_name().unwrap().to_str().unwrap(), "sooner resume"]);
    resume_items(&pipeline, &postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let disk = SmallDisk::mount();
    let Some(disk) = disk else {
        // Only root may mount.
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let lake = disk.0.path().join("lake").display().to_string();
    let mut pipeline = Pipeline::with(folder, &postgres.url(), lake, "", "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    std::fs::write(disk.0.path().join("ballast"), vec![1u8; 7 << 20]).unwrap();
    postgres.sql("INSERT INTO items SELECT i, md5(random()::text) || md5(random()::text), 1 FROM generate_series(1000, 60000) AS i").await;
    let full = |status: &sooner::status::Status| {
        status.trouble.as_deref().is_some_and(|why| why.contains("No space left") && why.contains("make space"))
    };
    pipeline.wait_for("told that the disk is full", Duration::from_secs(60), full).await;
    std::fs::remove_file(disk.0.path().join("ballast")).unwrap();
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &["public.items"]);
}

/// A file system of 10 MiB in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=10m", "tmpfs"]).arg(folder.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_errors_in_the_configuration() {
    let pipeline = pipeline_with("postgres://me@db/shop", "slto = \"x\"", "freshnes = \"1s\"");
    let output = pipeline.output("check", &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_says(
        &said,
        &["source.slto: is not known; did you mean 'slot'?", "lake.freshnes: is not known; did you mean 'freshness'?"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_what_check_and_run_accept() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE TABLE keyless (a integer)").await;
    let folder = tempfile::tempdir().unwrap();
    let program = integration_tests::pipeline::program();
    let run = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).current_dir(folder.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (ok, said) = run(&["init", "--from", &postgres.url(), "--to", "lake"]);
    assert!(ok, "{said}");
    assert_says(&said, &["public.items", "key (id)", "public.keyless", "NO KEY"]);
    let (ok, said) = run(&["check", "--json"]);
    assert!(ok, "{said}");
    assert!(said.contains("\"verdict\": \"ok\""));
    let (ok, said) = run(&["init", "--from", &postgres.url(), "--to", "lake"]);
    assert!(!ok && said.contains("exists already"), "{said}");
}
