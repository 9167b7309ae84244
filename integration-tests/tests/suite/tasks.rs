//! What takes long and is asked of a running process: exports, backfills, replays and checks come to what the commands
//! come to, whatever dies on the way.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;
use std::time::{Duration, SystemTime};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::{python, root};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sooner::schedule::Due;

use super::trust::{Listener, browse};

const SOURCE: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, balance bigint);
    CREATE TABLE notes (id int PRIMARY KEY, note text);
    INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 2000) i;
    INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 100) i";
const SUM: &str = "200000";

/// A pipeline with a chained history of one table and none of the other, and some changes whose sum is nothing.
async fn begun(postgres: &Postgres) -> (Pipeline, Listener) {
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::local(postgres);
    pipeline.append_settings(
        "[audit]\n[[table]]\nmatch = \"public.accounts\"\nwrite = [\"mirror\", \"history\"]\nchain = true",
    );
    let listener = Listener::of(&pipeline, "allow_control = true");
    pipeline.start();
    pipeline.wait_until_copied("public.accounts").await;
    pipeline.wait_until_copied("public.notes").await;
    pipeline.catch_up(postgres).await;
    for round in 0..20 {
        let (a, b) = (round * 7 + 1, round * 11 + 2);
        let transfer = format!("balance + CASE id WHEN {a} THEN {round} ELSE -{round} END WHERE id IN ({a}, {b})");
        postgres.sql(&format!("UPDATE accounts SET balance = {transfer}")).await;
    }
    pipeline.catch_up(postgres).await;
    (pipeline, listener)
}

/// A report of the table that has a history, which is due each second.
fn with_report(pipeline: &Pipeline) {
    let engine = "import sys, duckdb; duckdb.connect().execute(sys.stdin.read())";
    pipeline.append_settings(&format!(
        "[[report]]\nname = \"sums\"\nschedule = \"* * * * * *\"\ncatch_up = \"none\"\ntables = [\"public.accounts\"]\n\
         engine = [\"{}\", \"-c\", \"{engine}\"]\nsql = \"SELECT sum(balance) AS total FROM public.accounts\"",
        python().display()
    ));
}

/// Asks for a task; returns its name.
async fn ask(listener: &Listener, path: &str, body: Value) -> String {
    let (code, asked) = listener.post(path, body).await;
    assert_eq!(code, StatusCode::ACCEPTED, "{path}: {asked}");
    asked["task"].as_str().unwrap().to_owned()
}

/// Waits until a task is over; returns it.
async fn over(listener: &Listener, name: &str) -> Value {
    listener.until(&format!("/api/v1/tasks/{name}"), |code, _| code == StatusCode::OK).await
}

/// Has something done that goes well; returns what it came to.
async fn done(listener: &Listener, path: &str, body: Value) -> Value {
    let name = ask(listener, path, body).await;
    let task = over(listener, &name).await;
    assert_eq!((&task["state"], &task["good"]), (&json!("done"), &json!(true)), "{task}");
    task["result"].clone()
}

fn path_of(url: &Value) -> String {
    url.as_str().and_then(|url| url.strip_prefix("file://")).unwrap_or_else(|| panic!("{url}")).to_owned()
}

/// What a script of Python prints, with the libraries that readers use.
fn read(script: &str, arguments: &[&str]) -> String {
    let output = Command::new(python()).args(["-c", script]).args(arguments).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An export has the cut's rows, and its history the last state of each, in files that have the manifest's hashes.
fn is_exported(folder: &str, lsn: &Value) {
    let script = root().join("integration-tests/readers/export_check.py");
    let history = "SELECT sum(balance) FROM (SELECT last(balance ORDER BY _commit_lsn, _ordinal) AS balance FROM FILES \
                   WHERE _change_type IN ('snapshot', 'update_postimage') GROUP BY id)";
    let mut check = Command::new(python());
    let output = check.arg(script).args([folder, "SELECT sum(balance) FROM FILES", history]).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told, format!("{}\n{SUM}\n{SUM}\n", lsn.as_str().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_comes_to_the_same_by_http_as_by_the_commands() {
    let postgres = Postgres::start(Version::V15).await;
    let (pipeline, listener) = begun(&postgres).await;
    assert_eq!(listener.get("/api/v1/tasks").await.1, json!({ "tasks": [], "asked": [] }));
    let output = pipeline.output("cut", &["create", "q3", "--json"]);
    let cut: Value = serde_json::from_slice(&output.stdout).unwrap();

    let exported = done(&listener, "/api/v1/cuts/q3/export", json!({})).await;
    assert_eq!((&exported["lsn"], &exported["tables"], &exported["histories"]), (&cut["lsn"], &json!(2), &json!(1)));
    is_exported(&path_of(&exported["url"]), &cut["lsn"]);
    let again = done(&listener, "/api/v1/cuts/q3/export", json!({})).await;
    assert_eq!((&exported["was_there"], &again["was_there"]), (&json!(false), &json!(true)));
    assert_eq!(again["url"], exported["url"], "an export that is there is not made again");

    let verified = done(&listener, "/api/v1/cuts/q3/verify", json!({ "tables": ["public.accounts"] })).await;
    assert_eq!(verified["counts"], json!({ "equal": 1, "different": 0, "unverified": 0 }));
    let name = ask(&listener, "/api/v1/cuts/q3/verify", json!({})).await;
    let task = over(&listener, &name).await;
    assert_eq!((&task["state"], &task["good"]), (&json!("done"), &json!(false)), "unverified is no pass: {task}");
    assert_eq!(task["result"]["reports"][0]["table"], "public.notes", "{task}");

    let range = ["--from", "copy", "--to", cut["lsn"].as_str().unwrap()];
    let asked = json!({ "from": "copy", "to": cut["lsn"] });
    let replayed = done(&listener, "/api/v1/tables/public.accounts/replay", asked.clone()).await;
    let printed = pipeline.output("replay", &[&["public.accounts"], &range[..]].concat());
    assert_eq!(std::fs::read(path_of(&replayed["into"])).unwrap(), printed.stdout);
    let asked = json!({ "from": "copy", "to": cut["lsn"], "format": "parquet" });
    let parquet = done(&listener, "/api/v1/tables/public.accounts/replay", asked).await;
    let rows = read(
        "import sys, duckdb; print(duckdb.sql(f\"SELECT count(*) FROM '{sys.argv[1]}'\").fetchone()[0])",
        &[&path_of(&parquet["into"])],
    );
    assert_eq!(json!(rows.parse::<u64>().unwrap()), parquet["rows"]);
    assert!(
        std::fs::read_dir(pipeline.state_dir().join("tasks")).unwrap().flatten().all(|entry| entry.path().is_file())
    );

    let checked = done(&listener, "/api/v1/tables/public.accounts/history/verify", json!({})).await;
    let head = read_head(&pipeline);
    assert_eq!((&checked["head"], &checked["count"]), (&json!(head), &json!(0)), "{checked}");
    done(&listener, "/api/v1/tables/public.accounts/history/verify", json!({ "head": head })).await;

    let (_, sql) = listener.get("/api/v1/cuts/q3/sql?engine=duckdb").await;
    let printed = pipeline.output("cut", &["sql", "q3", "--engine", "duckdb", "--json"]);
    assert_eq!(sql, serde_json::from_slice::<Value>(&printed.stdout).unwrap());
    let history = format!("/api/v1/tables/public.accounts/history?engine=spark&as_of={}", cut["lsn"].as_str().unwrap());
    let asked = ["public.accounts", "--engine", "spark", "--as-of", cut["lsn"].as_str().unwrap(), "--json"];
    let printed = pipeline.output("history", &asked);
    assert_eq!(listener.get(&history).await.1, serde_json::from_slice::<Value>(&printed.stdout).unwrap());
    browse("tasks.py", &listener.url, "q3,public.accounts").await;
    is_recorded(&listener).await;
}

fn read_head(pipeline: &Pipeline) -> String {
    String::from_utf8_lossy(&pipeline.output("history", &["public.accounts", "--head"]).stdout).trim().to_owned()
}

/// The audit trail says who asked for what.
async fn is_recorded(listener: &Listener) {
    let (_, trail) = listener.get("/api/v1/audit?limit=1000").await;
    for kind in ["cut_exported", "verification", "replay", "history_verification"] {
        let is = |entry: &&Value| entry["kind"] == kind && entry["side"] == "http";
        assert!(trail["entries"].as_array().unwrap().iter().filter(is).count() > 0, "{kind}: {trail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_and_checks_of_the_audit_trail_are_asked_for_by_http_as_by_the_commands() {
    let postgres = Postgres::start(Version::V15).await;
    let (mut pipeline, listener) = begun(&postgres).await;
    let only = json!({ "tables": ["public.notes"] });
    let optimized = done(&listener, "/api/v1/optimize", only.clone()).await;
    assert_eq!((&optimized["count"], &optimized["tables"]["public.notes"]["files_after"]), (&json!(1), &json!(1)));
    let dry = done(&listener, "/api/v1/vacuum", json!({ "dry_run": true })).await;
    assert_eq!((&dry["deleted"], &dry["count"]), (&json!(false), &json!(2)), "{dry}");
    assert_eq!(done(&listener, "/api/v1/vacuum", only).await["deleted"], true);
    let (_, of_chain) = listener.get("/api/v1/tables/public.accounts/history/head").await;
    assert_eq!(of_chain, json!({ "table": "public.accounts", "head": read_head(&pipeline) }));
    assert_eq!(listener.get("/api/v1/tables/public.notes/history/head").await.0, StatusCode::CONFLICT);

    let vacuumed = listener.until("/api/v1/audit?kind=vacuumed", |_, trail| trail["entries"][0].is_object()).await;
    let entries = vacuumed["entries"].as_array().unwrap();
    assert!(entries.len() == 1 && entries[0]["side"] == "http", "a dry run is no deed: {vacuumed}");
    let (_, of_table) = listener.get("/api/v1/audit?table=public.notes&since=1h&limit=2").await;
    let entries = of_table["entries"].as_array().unwrap();
    assert!(entries.len() == 2 && entries.iter().all(|entry| entry["table"] == "public.notes"), "{of_table}");
    let (_, before) = listener.get("/api/v1/audit?since=0s").await;
    assert_eq!(
        (before["entries"].as_array().unwrap().len(), listener.get("/api/v1/audit?since=x").await.0.as_u16()),
        (0, 400)
    );
    let head = vacuumed["head"].as_str().unwrap();
    let checked = done(&listener, "/api/v1/audit/verify", json!({ "head": head })).await;
    assert!(checked["entries"].as_u64() > Some(3) && checked["count"] == 0, "{checked}");
    let (number, _) = head.split_once(':').unwrap();
    let other = json!({ "head": format!("{number}:{}", "0".repeat(64)) });
    let name = ask(&listener, "/api/v1/audit/verify", other).await;
    assert_eq!(over(&listener, &name).await["good"], false, "that entry is another one");

    pipeline.stop();
    with_report(&pipeline);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let due = Due(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64 - 5);
    let made = done(&listener, "/api/v1/reports/sums/run", json!({ "due": due.to_string() })).await;
    assert_eq!((&made["manifest"]["due"], &made["manifest"]["rows"]), (&json!(due.to_string()), &json!(1)), "{made}");
    for (path, body) in [
        ("reports/sums/run", json!({ "due": "soon" })),
        ("audit/verify", json!({ "head": "1:x" })),
        ("vacuum", json!({ "tables": vec!["public.t"; 1001] })),
    ] {
        let (answered, told) = listener.post(&format!("/api/v1/{path}"), body).await;
        assert!(answered == StatusCode::BAD_REQUEST && told["remedy"].is_string(), "{path}: {answered} {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_report_for_times_that_have_passed_are_made_when_http_asks_also_by_the_next_process() {
    let postgres = Postgres::start(Version::V15).await;
    let (mut pipeline, listener) = begun(&postgres).await;
    let from = Due(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64 + 1);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let to = Due(from.0 + 5);
    pipeline.catch_up(&postgres).await;
    with_report(&pipeline);
    let asked = json!({ "from": from.to_string(), "to": to.to_string() });
    let name = ask(&listener, "/api/v1/reports/sums/backfill", asked.clone()).await;
    let path = format!("/api/v1/tasks/{name}");
    listener.until(&path, |_, task| task["state"] == "begun").await;
    assert_eq!(listener.post(&format!("{path}/forget"), json!({})).await.0, StatusCode::CONFLICT);
    pipeline.kill();
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let task = over(&listener, &name).await;
    assert!(task["good"] == true && task["attempts"].as_u64() >= Some(2), "{task}");
    let result = &task["result"];
    assert_eq!(result["made"].as_u64().unwrap() + result["complete"].as_u64().unwrap(), 6, "{task}");
    let script = root().join("integration-tests/readers/reports.py");
    let output = Command::new(python()).arg(script).arg(path_of(&result["url"])).output().unwrap();
    let runs = String::from_utf8_lossy(&output.stdout).into_owned();
    for due in from.0..=to.0 {
        let run = runs.lines().find(|run| run.contains(&Due(due).name())).unwrap_or_else(|| panic!("{due}: {runs}"));
        assert!(run.contains(&format!("\"total\": \"{SUM}\"")), "{run}");
    }
    assert_eq!(done(&listener, "/api/v1/reports/sums/backfill", asked).await["complete"], json!(6));

    // What cannot be is told with why, and can be forgotten; what is no request is refused at once.
    let early = json!({ "from": "2020-01-01T00:00:00Z", "to": "2020-01-01T00:00:01Z" });
    let name = ask(&listener, "/api/v1/reports/sums/backfill", early).await;
    let task = over(&listener, &name).await;
    assert_eq!((&task["good"], &task["result"]["failed"]), (&json!(false), &json!(2)), "{task}");
    let name = ask(&listener, "/api/v1/tables/public.notes/history/verify", json!({})).await;
    let task = over(&listener, &name).await;
    assert!(task["error"]["remedy"].as_str().unwrap().contains("write = "), "{task}");
    let path = format!("/api/v1/tasks/{name}");
    assert_eq!(listener.post(&format!("{path}/forget"), json!({})).await.0, StatusCode::OK);
    assert_eq!(listener.get(&path).await.0, StatusCode::NOT_FOUND);
    for (path, body, code) in [
        ("reports/none/backfill", json!({ "from": "2026-01-01", "to": "2026-01-02" }), StatusCode::NOT_FOUND),
        ("reports/sums/backfill", json!({ "from": "yesterday", "to": "2026-01-02" }), StatusCode::BAD_REQUEST),
        ("cuts/none/export", json!({}), StatusCode::NOT_FOUND),
        ("tables/public.none/replay", json!({ "from": "copy", "to": "now" }), StatusCode::NOT_FOUND),
        ("tables/public.accounts/replay", json!({ "from": "now", "to": "now" }), StatusCode::BAD_REQUEST),
        ("tables/public.accounts/history/verify", json!({ "head": "1:x" }), StatusCode::BAD_REQUEST),
    ] {
        let (answered, told) = listener.post(&format!("/api/v1/{path}"), body).await;
        assert!(answered == code && told["remedy"].is_string(), "{path}: {answered} {told}");
    }
}
