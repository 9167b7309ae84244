//! Histories that are kept for a while: what was superseded goes, under load and through kills, and every later moment
//! is told as before; what is held stays; earlier moments are refused.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Output;
use std::time::{Duration, Instant};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::query;
use serde_json::Value;
use sooner_api::TRIMMING_FAILPOINTS;

use super::trust::Listener;

const SOURCE: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, email text, balance int, body text);
    ALTER TABLE accounts ALTER body SET STORAGE EXTERNAL;
    INSERT INTO accounts SELECT i, 'p' || i || '@doe.example', 0, repeat(md5(i::text), 200) FROM generate_series(1, 300) i;
    CREATE TABLE clicks (said text, n int); ALTER TABLE clicks REPLICA IDENTITY FULL;
    INSERT INTO clicks VALUES ('old', 1);";
const KEPT_FOREVER: &str = "[[table]]\nmatch = \"public.*\"\nwrite = [\"mirror\", \"history\"]
[[table]]\nmatch = \"public.clicks\"\nwrite = [\"history\"]";
/// Time in seconds between what is old and what is not: in between is the cut-off, as long as commands take no longer.
const BETWEEN: u64 = 22;
const ALL: &str =
    "SELECT count(*) || ' ' || md5(string_agg(concat_ws(',', id, email, balance, md5(body)), ';' ORDER BY id))";

fn history(pipeline: &Pipeline, table: &str) -> String {
    format!("{}/public/{table}-history", pipeline.lake)
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a query that `sooner history` prints finds.
fn found(pipeline: &Pipeline, as_of: &[&str], select: &str) -> String {
    let output = pipeline.output("history", &[&["public.accounts"], as_of].concat());
    assert!(output.status.success(), "{}", told(&output));
    let view = String::from_utf8_lossy(&output.stdout).trim().trim_end_matches(';').to_owned();
    query(&history(pipeline, "accounts"), &format!("{select} FROM ({view})"))
}

/// Changes of all kinds; most keep the large value, which the source then leaves out.
async fn change(postgres: &Postgres, round: i32) {
    let new = 1000 + round;
    postgres
        .sql(&format!(
            "BEGIN; UPDATE accounts SET balance = balance + 1 WHERE id % 7 = {round} % 7; \
             INSERT INTO accounts VALUES ({new}, 'new', {round}, repeat('x', 3000)); \
             DELETE FROM accounts WHERE id = {new} - 3; UPDATE accounts SET body = repeat('y{round}', 900) WHERE id = {round}; \
             COMMIT; INSERT INTO clicks VALUES ('round', {round})"
        ))
        .await;
}

/// Trims by the command until it has come to its end, which it does not where it dies.
fn trim(pipeline: &Pipeline, failpoint: Option<&str>) -> Output {
    let mut command = pipeline.command("vacuum");
    if let Some(failpoint) = failpoint {
        command.env("SOONER_FAILPOINT", format!("{failpoint}@1"));
    }
    command.arg("public.accounts").output().unwrap()
}

/// A source with changes that are old, a hold of a subject whose rows are among them, and an LSN in their middle.
async fn begun() -> (Postgres, Pipeline, String) {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.configure("[lake]", "deleted_file_retention = \"0s\"");
    pipeline.append_settings(KEPT_FOREVER);
    pipeline.start();
    for table in ["public.accounts", "public.clicks"] {
        pipeline.wait_until_copied(table).await;
    }
    for statement in ["gone", "held"] {
        postgres.sql(&format!("UPDATE accounts SET email = '{statement}@doe.example' WHERE id = 3")).await;
        postgres.sql("UPDATE accounts SET email = 'p3@doe.example' WHERE id = 3").await;
    }
    let mut early = String::new();
    for round in 1..40 {
        change(&postgres, round).await;
        if round == 20 {
            early = postgres.end_lsn().await.to_string();
        }
    }
    pipeline.catch_up(&postgres).await;
    let hold = ["add", "case-7", "--subject", "email=held@doe.example", "--reason", "case 7"];
    assert!(pipeline.output("hold", &hold).status.success());
    (postgres, pipeline, early)
}

/// What the table was at moments of changes that are made now: LSNs and times, each with a digest of the table.
async fn told_moments(postgres: &Postgres, pipeline: &Pipeline) -> Vec<(String, String)> {
    let (mut lsns, mut times) = (Vec::new(), Vec::new());
    let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    for round in 40..60 {
        change(postgres, round).await;
        lsns.push(postgres.end_lsn().await.to_string());
        times.push(postgres.value(now).await);
    }
    pipeline.catch_up(postgres).await;
    let source = postgres.value(&format!("{ALL} FROM accounts")).await;
    assert_eq!(as_of(pipeline, lsns.last().unwrap()), source);
    let moments = lsns.into_iter().step_by(6).chain(times.into_iter().step_by(9));
    moments.map(|moment| (moment.clone(), as_of(pipeline, &moment))).collect()
}

fn as_of(pipeline: &Pipeline, moment: &str) -> String {
    found(pipeline, &["--as-of", moment], ALL)
}

fn rows(pipeline: &Pipeline, table: &str, condition: &str) -> u64 {
    let count = query(&history(pipeline, table), &format!("SELECT count(*) FROM lake WHERE {condition}"));
    count.parse().unwrap()
}

/// The command dies beside the pipeline, which goes on; then it comes to its end.
async fn trim_with_kills(postgres: &Postgres, pipeline: &Pipeline) {
    for failpoint in TRIMMING_FAILPOINTS {
        let killed = trim(pipeline, Some(failpoint));
        assert!(!killed.status.success(), "{failpoint}: {}", told(&killed));
        change(postgres, 60 + failpoint.len() as i32).await;
    }
    let trimmed = trim(pipeline, None);
    assert!(trimmed.status.success(), "{}", told(&trimmed));
}

/// The pipeline, which may have died, trims by itself.
async fn trims_by_itself(postgres: &Postgres, pipeline: &mut Pipeline) {
    pipeline.kill();
    pipeline.start();
    let deadline = Instant::now() + Duration::from_secs(60);
    while rows(pipeline, "clicks", "n < 40") > 0 {
        assert!(Instant::now() < deadline, "{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    pipeline.catch_up(postgres).await;
    pipeline.assert_all_stream();
    pipeline.assert_equal(postgres, &["public.accounts"]);
    assert_eq!(as_of(pipeline, "now"), postgres.value(&format!("{ALL} FROM accounts")).await);
    let current = found(pipeline, &[], "SELECT count(*) FILTER (is_current)");
    assert_eq!(current, postgres.value("SELECT count(*) FROM accounts").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_superseded_goes_and_every_later_moment_is_as_before() {
    let (postgres, mut pipeline, early) = begun().await;
    // All of that is to be old.
    tokio::time::sleep(Duration::from_secs(BETWEEN)).await;
    let began = Instant::now();
    let moments = told_moments(&postgres, &pipeline).await;
    let before = rows(&pipeline, "accounts", "true");
    let keep = began.elapsed().as_secs() + BETWEEN - 2;
    pipeline.append_settings(&format!("[[table]]\nmatch = \"public.*\"\nkeep_history = \"{keep}s\"\n[audit]"));
    trim_with_kills(&postgres, &pipeline).await;
    let after = rows(&pipeline, "accounts", "true");
    assert!(after + 1000 < before, "{before} rows, and {after}\n{}", pipeline.log());
    for (moment, view) in &moments {
        assert_eq!(&as_of(&pipeline, moment), view, "as of {moment}\n{}", pipeline.log());
    }
    let refused = pipeline.output("history", &["public.accounts", "--as-of", &early]);
    assert!(!refused.status.success() && told(&refused).contains("reaches back to 20"), "{}", told(&refused));

    pipeline.catch_up(&postgres).await;
    trims_by_itself(&postgres, &mut pipeline).await;

    // The subject's rows stay, with those of their key, until the hold is released.
    let of_both = "email IN ('held@doe.example', 'gone@doe.example')";
    assert_eq!(rows(&pipeline, "accounts", of_both), 2);
    assert!(told(&pipeline.output("vacuum", &["--dry-run"])).contains("the legal hold case-7 keeps"));
    assert!(pipeline.output("hold", &["release", "case-7", "--reason", "closed"]).status.success());
    pipeline.stop();
    let trimmed = trim(&pipeline, None);
    assert_eq!(rows(&pipeline, "accounts", of_both), 0, "{}", told(&trimmed));
    assert!(told(&pipeline.output("events", &[])).contains("superseded by"));
    // The audit trail has it, whoever did it.
    let list = told(&pipeline.output("audit", &["list", "--json", "--kind", "history_trimmed"]));
    assert!(list.contains("\"side\":\"command\"") && list.contains("\"side\":\"pipeline\""), "{list}");
}

/// Waits until a history has so many rows that fulfil a condition.
async fn wait_for_rows(pipeline: &Pipeline, table: &str, condition: &str, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(240);
    while rows(pipeline, table, condition) != wanted {
        assert!(Instant::now() < deadline, "{table}: {}\n{}", rows(pipeline, table, "true"), pipeline.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_of_tables_that_are_gone_and_what_cannot_go_is_told() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(SOURCE).await;
    postgres
        .sql("CREATE TABLE keyed (id int PRIMARY KEY, other int NOT NULL UNIQUE, n int); INSERT INTO keyed VALUES (1, 10, 0)")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.configure("[lake]", "deleted_file_retention = \"0s\"");
    pipeline.append_settings("[[table]]\nmatch = \"public.*\"\nwrite = [\"history\"]\nkeep_history = \"60s\"");
    let listener = Listener::of(&pipeline, "");
    pipeline.start();
    for table in ["public.clicks", "public.keyed", "public.accounts"] {
        pipeline.wait_until_copied(table).await;
    }
    for n in 1..5 {
        postgres.sql(&format!("UPDATE keyed SET n = {n}; INSERT INTO clicks VALUES ('more', {n})")).await;
    }
    postgres.sql("DROP TABLE clicks; ALTER TABLE keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (other)").await;
    postgres.sql("UPDATE keyed SET n = 5").await;
    pipeline.catch_up(&postgres).await;
    wait_for_rows(&pipeline, "clicks", "_change_type <> 'snapshot_start'", 0).await;
    listener.until("/api/v1/health", |_, health| warns(health, "history of public.keyed")).await;
    assert!(told(&pipeline.output("events", &[])).contains("had another key before"), "{}", pipeline.log());
    let updates = "n BETWEEN 1 AND 4 AND _change_type = 'update_postimage'";
    assert_eq!(rows(&pipeline, "keyed", updates), 4, "which of them are states of one row is not certain");
}

/// Whether a check is a warning that says what to do.
fn warns(health: &Value, name: &str) -> bool {
    let checks = health["checks"].as_array().unwrap().iter();
    checks.filter(|check| check["name"] == name).any(|check| check["health"] == "warn" && check["remedy"] != "")
}
