//! Steering a pipeline by commands and signals: it rests and goes on, takes another configuration over, and says of
//! itself what it is.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::between;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use sooner::status::Status;

const LIMIT: Duration = Duration::from_secs(30);

fn said(pipeline: &Pipeline, command: &str, arguments: &[&str]) -> String {
    let output = pipeline.output(command, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn is_paused(status: &Status) -> bool {
    !status.paused.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_rests_while_it_is_paused_also_over_a_restart_and_then_catches_up() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert!(said(&pipeline, "health", &[]).contains("all is well"));

    let told = said(&pipeline, "pause", &[]);
    assert!(told.contains("keep all log") && told.contains("from now on"), "{told}");
    pipeline.wait_for("a pause", LIMIT, is_paused).await;
    postgres.sql("INSERT INTO t SELECT generate_series(2, 1000)").await;
    let end = postgres.end_lsn().await;
    // What the slot keeps is looked at all the while.
    let is_kept = |status: &Status| status.slot.as_ref().is_some_and(|slot| slot.unconfirmed_bytes > 10_000);
    pipeline.wait_for("the slot's standing", LIMIT, is_kept).await;
    assert!(said(&pipeline, "health", &[]).contains("paused"));
    pipeline.stop();
    pipeline.start();
    let pid = pipeline.pid();
    let status = pipeline.wait_for("a pause", LIMIT, |status| status.pid == pid && is_paused(status)).await;
    assert!(status.durable_lsn < end);

    assert!(said(&pipeline, "resume", &[]).contains("goes on now"));
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t"]);
    assert!(said(&pipeline, "resume", &[]).contains("was not paused"));
    let none = pipeline.output("cancel", &["public.t"]);
    assert!(!none.status.success() && String::from_utf8_lossy(&none.stderr).contains("nothing that was asked"));
    pipeline.stop();
    pipeline.resume("public.t");
    assert!(said(&pipeline, "cancel", &["public.t"]).contains("withdrew 1"));
    let json = |command, arguments: &[&str]| -> serde_json::Value {
        let text = said(&pipeline, command, &[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}"))
    };
    assert_eq!(json("pause", &[])["paused"], serde_json::json!(["source", "sink"]));
    assert_eq!(json("resume", &[])["was_paused"], true);
    let copy = json("copy", &["public.t", "--where", "id < 3"]);
    assert_eq!(
        (&copy["table"], &copy["where"], &copy["when"]),
        (&"public.t".into(), &"id < 3".into(), &"when it starts".into())
    );
    assert_eq!(json("resume", &["public.t"])["where"], serde_json::Value::Null);
    assert_eq!(json("cancel", &["public.t"])["withdrawn"], 2);
    assert_eq!(json("wait", &["public.t", "--until", "0/1"])["complete"], true);
    assert!(!pipeline.output("health", &[]).status.success(), "it does not run");
    assert_eq!(json("teardown", &[])["slot"]["became"], "dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_side_rests_while_the_other_goes_on() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.start();
    pipeline.wait_until_copied("public.t").await;
    said(&pipeline, "pause", &["--side", "sink"]);
    pipeline.wait_for("a pause", LIMIT, is_paused).await;
    postgres.sql("INSERT INTO t VALUES (2)").await;
    let end = postgres.end_lsn().await;
    let status = pipeline.wait_for("it is on the topics", LIMIT, |status| status.confirmed_flush_lsn >= end).await;
    assert!(status.durable_lsn < end);
    said(&pipeline, "resume", &["--side", "sink"]);
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_read_again_on_demand_and_a_wrong_one_changes_nothing() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure_source("tables = [\"public.a\"]");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let pid = pipeline.pid();
    assert!(find(&pipeline.status().unwrap(), "public.b").is_none());

    let former = "tables = [\"public.a\"]";
    pipeline.replace(former, "slto = 'x'");
    pipeline.signal("HUP");
    pipeline.wait_for_log("slto: is not known", LIMIT).await;
    assert!(pipeline.log().contains("line "), "with its place");
    postgres.sql("INSERT INTO a VALUES (1)").await;
    pipeline.catch_up(&postgres).await;

    pipeline.replace("slto = 'x'", "tables = [\"public.*\"]");
    pipeline.signal("HUP");
    pipeline.wait_for("the other table", LIMIT, |status| find(status, "public.b").is_some()).await;
    postgres.sql("INSERT INTO b VALUES (7)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a", "public.b"]);
    assert_eq!(pipeline.pid(), pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_whose_file_changes_is_taken_over_and_one_that_goes_changes_nothing() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE app LOGIN SUPERUSER REPLICATION PASSWORD 'one'")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    let secret = pipeline.folder().join("secret");
    std::fs::write(&secret, "one\n").unwrap();
    pipeline.configure_source("password = { file = \"secret\" }");
    pipeline.replace("postgres://postgres@", "postgres://app@");
    postgres.demand_password("app").await;
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("ALTER ROLE app PASSWORD 'two'; INSERT INTO t VALUES (1)").await;
    std::fs::write(&secret, "two\n").unwrap();
    pipeline.wait_for_log("the configuration was read again", LIMIT).await;
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'").await;
    postgres.sql("INSERT INTO t VALUES (2)").await;
    pipeline.catch_up(&postgres).await;
    std::fs::remove_file(&secret).unwrap();
    pipeline.wait_for_log("secret cannot be read", LIMIT).await;
    postgres.sql("INSERT INTO t VALUES (3)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t"]);
}

#[test]
fn the_program_tells_what_it_is_and_how_it_is_used() {
    let run = |arguments: &[&str]| {
        let output = Pipeline::program(arguments);
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let version = run(&["--version"]);
    assert!(version.contains("librdkafka 2.") && version.contains('('), "{version}");
    assert!(run(&["man"]).starts_with(".ie"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("dry-run"), "{shell}");
    }
    let schema: serde_json::Value = serde_json::from_str(&run(&["schema"])).unwrap();
    assert_eq!(schema["required"][0], "name");
}
