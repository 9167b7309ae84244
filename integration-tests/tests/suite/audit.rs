//! The audit trail: all that happened and all that was asked for is in it once, whatever dies; and whoever changes it
//! is found out, by the program and by a reader that shares nothing with it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use integration_tests::between;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{eventually_equal, query};
use integration_tests::{python, root};
use serde_json::Value;
use sooner::status::Status;

const LIMIT: Duration = Duration::from_secs(60);

/// A key of openssl's in the pipeline's folder, and `[audit]` with it; returns the file of its public key.
fn audited(pipeline: &Pipeline, more: &str) -> PathBuf {
    let (key, public) = (pipeline.folder().join("audit.pem"), pipeline.folder().join("public.pem"));
    let (key_file, public_file) = (key.to_str().unwrap(), public.to_str().unwrap());
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", key_file]);
    openssl(&["pkey", "-in", key_file, "-pubout", "-out", public_file]);
    pipeline.append_settings(&format!("[audit]\nsigning_key = {{ file = \"audit.pem\" }}\n{more}"));
    public
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A pipeline of a database that nobody asks, for commands alone.
fn without_database() -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").display().to_string();
    Pipeline::with(folder, "postgres://nobody@127.0.0.1:1/none", lake, "", "")
}

fn succeed(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> String {
    let output = pipeline.output(name, arguments);
    assert!(output.status.success(), "{name} {arguments:?}: {}\n{}", said(&output), pipeline.log());
    String::from_utf8(output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn trail(pipeline: &Pipeline) -> Vec<Value> {
    json_lines(&succeed(pipeline, "audit", &["list", "--json"]))
}

/// What a side has recorded, in its order.
fn recorded(pipeline: &Pipeline, side: &str) -> Vec<Value> {
    let entries = trail(pipeline).into_iter().filter(|entry| entry["side"] == side);
    entries.map(|entry| serde_json::from_str(entry["entry"].as_str().unwrap()).unwrap()).collect()
}

fn kinds(pipeline: &Pipeline, side: &str) -> Vec<String> {
    let entries = trail(pipeline).into_iter().filter(|entry| entry["side"] == side);
    entries.map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect()
}

/// What a check without the program says of the trail, with a key and a head if they are given.
fn check_apart(table: &Path, arguments: &[&str]) -> Result<String, String> {
    let script = root().join("integration-tests/readers/audit_check.py");
    let output = Command::new(python()).arg(script).arg(table).args(arguments).output().unwrap();
    let text = said(&output).trim().to_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn table(pipeline: &Pipeline) -> PathBuf {
    Path::new(&pipeline.lake).join("_sooner/shop/audit")
}

/// The trail is good to the program and to others, who also see the same number of entries and the same head.
fn assert_good(pipeline: &Pipeline, public: &Path) -> usize {
    let text = succeed(pipeline, "audit", &["verify", "--json"]);
    let checked: Value = serde_json::from_str(&text).unwrap();
    let (entries, head) = (checked["entries"].as_u64().unwrap(), checked["head"].as_str().unwrap());
    let apart = check_apart(&table(pipeline), &[public.to_str().unwrap(), head]);
    assert_eq!(apart, Ok(format!("good {entries} {} {head}", checked["signatures"])));
    assert_eq!(succeed(pipeline, "audit", &["head"]).trim(), head);
    let counted =
        query(table(pipeline).to_str().unwrap(), "SELECT count(*), count(DISTINCT hash), max(sequence) FROM lake");
    assert_eq!(counted, format!("{entries}|{entries}|{entries}"), "DuckDB reads the table");
    entries as usize
}

/// Processes that are killed while something happens: at any moment, and right after entries have become durable.
async fn die_again_and_again(postgres: &Postgres, pipeline: &mut Pipeline) {
    for number in 0..6 {
        postgres
            .sql(&format!("ALTER TABLE t ADD COLUMN c{number} int; INSERT INTO t (id) VALUES (-{number} - 1)"))
            .await;
        // At any moment of the recorder's round.
        tokio::time::sleep(Duration::from_millis(300 * number + 100)).await;
        pipeline.kill();
        pipeline.start();
    }
    pipeline.kill();
    // Before the process knows that they are: the first time, and a later one.
    for time in [1, 2] {
        pipeline.set("SOONER_FAILPOINT", &format!("audit_appended@{time}"));
        pipeline.start();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        postgres.sql(&format!("ALTER TABLE t ADD COLUMN d{time} int; INSERT INTO t (id) VALUES (-{time} - 100)")).await;
        pipeline.wait_for_end(LIMIT);
    }
    pipeline.set("SOONER_FAILPOINT", "");
}

fn ask_for_everything(pipeline: &Pipeline) {
    let export = pipeline.folder().join("export").display().to_string();
    succeed(pipeline, "cut", &["create", "q1", "--timeout", "60s", "--tables", "public.t"]);
    succeed(pipeline, "verify", &["public.t"]);
    succeed(pipeline, "copy", &["public.t", "--where", "id < 0"]);
    succeed(pipeline, "pause", &[]);
    succeed(pipeline, "resume", &[]);
    succeed(pipeline, "cut", &["export", "q1", "--to", &export]);
    succeed(pipeline, "cut", &["drop", "q1"]);
    assert!(!pipeline.output("cut", &["drop", "q1"]).status.success(), "what fails is recorded, too");
    succeed(pipeline, "vacuum", &["public.t", "--dry-run"]);
    for command in ["optimize", "vacuum"] {
        let done: Value = serde_json::from_str(&succeed(pipeline, command, &["public.t", "--json"])).unwrap();
        assert_eq!(done["table"], "public.t", "{done}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_and_what_was_asked_for_is_recorded_once_through_kills() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 500) i")
        .await;
    postgres.sql("CREATE TABLE d (id int PRIMARY KEY, v date); INSERT INTO d VALUES (1, '2020-02-02')").await;
    let mut pipeline = Pipeline::local(&postgres);
    let public = audited(&pipeline, "required = true");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    die_again_and_again(&postgres, &mut pipeline).await;
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &["public.t", "public.d"], || pipeline.log()).await;
    postgres.sql("INSERT INTO d VALUES (2, 'infinity')").await;
    let parks = |status: &Status| find(status, "public.d").is_some_and(|table| table.reason().is_some());
    pipeline.wait_for("a parked table", LIMIT, parks).await;

    ask_for_everything(&pipeline);
    pipeline.stop();
    succeed(&pipeline, "teardown", &[]);

    // What the journal tells, the trail has: each once, in its order, to the last word of the last process.
    let journal = json_lines(&succeed(&pipeline, "events", &["--json"]));
    assert_eq!(recorded(&pipeline, "pipeline"), journal, "\n{}", pipeline.log());
    let count = |kind: &str| journal.iter().filter(|entry| entry["kind"] == kind).count();
    // The process that is killed as soon as it is started may not have come to say so.
    assert!((9..=10).contains(&count("started")) && count("stopped") == 1, "{journal:?}");
    assert!((9..=10).contains(&count("configured")), "{journal:?}");
    assert!(count("parked") == 1 && count("table_changed") >= 3, "{journal:?}");
    let expected = [
        "cut_created",
        "verification",
        "copy",
        "pause",
        "resume",
        "cut_exported",
        "cut_dropped",
        "cut_dropped",
        "optimized",
        "vacuumed",
        "teardown",
    ];
    assert_eq!(kinds(&pipeline, "command"), expected);
    let commands = recorded(&pipeline, "command");
    assert!(commands[0]["result"]["tables"]["public.t"]["mirror"]["version"].is_u64(), "{}", commands[0]);
    assert_eq!(commands[1]["result"]["all_equal"], true, "{}", commands[1]);
    assert_eq!(commands[2]["asked"]["where"], "id < 0");
    assert!(commands[7]["error"].as_str().unwrap().contains("no cut 'q1'"), "{}", commands[7]);
    assert_eq!(commands[8]["result"]["public.t"]["files_after"], 1, "{}", commands[8]);
    assert!(commands[9]["result"]["public.t"]["bytes"].is_u64(), "{}", commands[9]);
    assert_eq!(commands[10]["result"]["slot_dropped"], true);
    assert_eq!(assert_good(&pipeline, &public), journal.len() + expected.len());

    let settings = &journal.iter().find(|entry| entry["kind"] == "configured").unwrap()["details"];
    assert_eq!(settings["audit"]["signing_key"]["file"], "audit.pem", "{settings}");
    assert!(!serde_json::to_string(&trail(&pipeline)).unwrap().contains("PRIVATE KEY"));
    let one = json_lines(&succeed(&pipeline, "audit", &["list", "--json", "--kind", "parked", "--table", "public.d"]));
    assert_eq!(one.len(), 1, "{one:?}");
    let none = succeed(&pipeline, "audit", &["list", "--kind", "parked", "--table", "public.t"]);
    assert_eq!(none, "no such entry was recorded\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_that_cannot_be_written_delays_entries_and_stops_nothing() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut pipeline = Pipeline::local(&postgres);
    let public = audited(&pipeline, "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (there, away) = (table(&pipeline), pipeline.folder().join("away"));
    let asked = Instant::now();
    while !there.exists() {
        assert!(asked.elapsed() < LIMIT, "\n{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pipeline.stop();
    // A file in the folder's place.
    std::fs::rename(&there, &away).unwrap();
    std::fs::write(&there, "").unwrap();
    pipeline.start();
    postgres.sql("ALTER TABLE t ADD COLUMN a int; INSERT INTO t VALUES (1, 2)").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.t"], || pipeline.log()).await;
    pipeline.wait_for_log("entries of the audit trail wait in the journal", LIMIT).await;
    let warned = pipeline.output("pause", &[]);
    assert!(warned.status.success() && said(&warned).contains("this is not in the audit trail"), "{}", said(&warned));
    succeed(&pipeline, "resume", &[]);
    // Where it is required, nothing is done without it.
    pipeline.configure("[audit]", "required = true");
    let refused = pipeline.output("pause", &[]);
    assert!(!refused.status.success() && said(&refused).contains("nothing was done"), "{}", said(&refused));
    assert!(!pipeline.state_dir().join("paused.source").exists());

    std::fs::remove_file(&there).unwrap();
    std::fs::rename(&away, &there).unwrap();
    succeed(&pipeline, "resume", &[]);
    pipeline.stop();
    let journal = json_lines(&succeed(&pipeline, "events", &["--json"]));
    assert_eq!(recorded(&pipeline, "pipeline"), journal, "\n{}", pipeline.log());
    assert_eq!(kinds(&pipeline, "command"), ["resume"]);
    assert_good(&pipeline, &public);
}

#[tokio::test(flavor = "multi_thread")]
async fn source_and_sink_and_commands_write_one_chain() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "");
    let public = audited(&source, "");
    let mut sink = source.beside();
    std::fs::copy(source.folder().join("audit.pem"), sink.folder().join("audit.pem")).unwrap();
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    eventually_equal(&postgres, &source.lake, &["public.t"], || source.log() + &sink.log()).await;
    let pause = || source.command("pause").args(["--side", "source"]).stdout(Stdio::null()).spawn().unwrap();
    for mut pause in (0..4).map(|_| pause()).collect::<Vec<_>>() {
        assert!(pause.wait().unwrap().success());
    }
    succeed(&source, "resume", &[]);
    source.stop();
    sink.stop();
    for (name, side) in [("source", &source), ("sink", &sink)] {
        let journal = json_lines(&succeed(side, "events", &["--json"]));
        assert!(journal.len() >= 3, "{journal:?}");
        assert_eq!(recorded(&source, name), journal, "\n{}", side.log());
    }
    assert_eq!(kinds(&source, "command"), ["pause", "pause", "pause", "pause", "resume"]);
    assert_good(&source, &public);
}

/// A copy of the pipeline's trail, as `change` leaves it, with the program's word and that of the check apart.
fn changed(pipeline: &Pipeline, public: &Path, head: &str, change: impl FnOnce(&Path)) -> (Value, String) {
    let other = pipeline.beside();
    std::fs::copy(pipeline.folder().join("audit.pem"), other.folder().join("audit.pem")).unwrap();
    let lake = other.folder().join("lake");
    let copied = Command::new("cp").arg("-r").args([Path::new(&pipeline.lake), &lake]).status().unwrap();
    assert!(copied.success());
    other.replace(&pipeline.lake, lake.to_str().unwrap());
    change(&lake.join("_sooner/shop/audit"));
    let output = other.output("audit", &["verify", "--json", "--head", head]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    let apart = check_apart(&lake.join("_sooner/shop/audit"), &[public.to_str().unwrap(), head]);
    (checked["findings"][0].clone(), apart.unwrap_err())
}

fn tamper(table: &Path, expression: &str) {
    let script = root().join("integration-tests/readers/tamper.py");
    let output = Command::new(python()).arg(script).arg(table).arg(expression).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

fn remove_last_commit(table: &Path) {
    let entries = std::fs::read_dir(table.join("_delta_log")).unwrap().flatten().map(|entry| entry.path());
    std::fs::remove_file(entries.filter(|path| path.extension().is_some_and(|end| end == "json")).max().unwrap())
        .unwrap();
}

#[test]
fn whoever_changes_the_trail_is_found_out() {
    let pipeline = without_database();
    let public = audited(&pipeline, "required = true");
    let missing = pipeline.output("audit", &["verify"]);
    assert!(!missing.status.success() && said(&missing).contains("there is no audit trail"), "{}", said(&missing));
    // Two at once each time.
    for _ in 0..3 {
        let both = ["pause", "resume"].map(|name| pipeline.command(name).stdout(Stdio::null()).spawn());
        both.into_iter().for_each(|command| assert!(command.unwrap().wait().unwrap().success()));
    }
    assert_eq!(assert_good(&pipeline, &public), 6);
    let head = succeed(&pipeline, "audit", &["head"]).trim().to_owned();
    let found = |change: &dyn Fn(&Path)| changed(&pipeline, &public, &head, change);
    let is = |finding: &Value, sequence: u64, fault: &str| {
        assert_eq!((&finding["sequence"], &finding["fault"]), (&sequence.into(), &fault.into()), "{finding}");
    };

    let (finding, apart) = found(&|table| tamper(table, "{**row, 'actor': 'me'} if row['sequence'] == 3 else row"));
    is(&finding, 3, "changed");
    assert_eq!(apart, "entry 3 was changed");
    let (finding, apart) = found(&|table| tamper(table, "None if row['sequence'] in (2, 3) else row"));
    is(&finding, 2, "missing");
    assert_eq!((finding["to"].as_u64(), apart.as_str()), (Some(3), "entry 2 is missing"));
    let swap = "{**row, 'sequence': {4: 5, 5: 4}.get(row['sequence'], row['sequence'])}";
    let (finding, apart) = found(&|table| tamper(table, swap));
    is(&finding, 4, "changed");
    assert_eq!(apart, "entry 4 does not follow the one before it");
    let (finding, apart) = found(&|table| tamper(table, "{**row, 'signature': None, 'key_id': None}"));
    is(&finding, 1, "unsigned");
    assert_eq!(apart, "the end is not signed");
    let (finding, apart) = found(&|table| tamper(table, "{**row, 'signature': row['signature'][::-1][2:] + '=='}"));
    is(&finding, 1, "signature_wrong");
    assert!(apart.contains("InvalidSignature"), "{apart}");
    let (finding, apart) = found(&remove_last_commit);
    is(&finding, 6, "missing");
    assert_eq!(apart, format!("the entry {head} is gone"));
    // Another key than that of the trail.
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", pipeline.folder().join("audit.pem").to_str().unwrap()]);
    let output = pipeline.output("audit", &["verify"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("was not given with --key"), "{}", said(&output));
    let text = succeed(&pipeline, "audit", &["verify", "--key", public.to_str().unwrap(), "--head", &head]);
    assert!(text.contains("6 signature(s) are right"), "{text}");
}
