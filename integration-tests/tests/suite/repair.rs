//! Rows that differ from their source are copied again, and no others; and a running pipeline verifies by itself.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::{free_port, python, root};
use serde_json::{Value, json};
use sooner::clock::SystemClock;
use sooner_api::Clock;

const LIMIT: Duration = Duration::from_secs(60);

/// Verifies a table with these arguments; returns whether it is equal, and the report.
fn verify(pipeline: &Pipeline, table: &str, arguments: &[&str]) -> (bool, Value) {
    let output = pipeline.output("verify", &[&[table, "--json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = || format!("{text}{}\n{}", String::from_utf8_lossy(&output.stderr), pipeline.log());
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}", told()));
    (output.status.success(), report)
}

/// Changes rows of a table in the lake's files by an expression of Python.
fn tamper(pipeline: &Pipeline, table: &str, expression: &str) {
    let script = root().join("integration-tests/readers/tamper.py");
    let table = format!("{}/public/{table}", pipeline.lake);
    let output = std::process::Command::new(python()).arg(script).args([&table, expression]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the log tells of a copy that has ended.
const COPIED: &str = "\"message\":\"copied\"";

/// Numbers of rows of the copies that have ended, in their order, as the log tells them.
fn copied_rows(pipeline: &Pipeline) -> Vec<u64> {
    let log = pipeline.log();
    let ended = log.lines().filter(|line| line.contains(COPIED));
    ended.filter_map(|line| serde_json::from_str::<Value>(line).ok()?["rows"].as_u64()).collect()
}

/// Waits until what was asked for is durable: a request is kept until a later transaction is.
async fn granted(pipeline: &Pipeline, postgres: &Postgres) {
    let requests = pipeline.state_dir().join("requests");
    for _ in 0..120 {
        if std::fs::read_dir(&requests).unwrap().count() == 0 {
            return;
        }
        postgres.sql("UPDATE wide SET n = n WHERE id = 60000").await;
        pipeline.catch_up(postgres).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    panic!("requests are left in {}\n{}", requests.display(), pipeline.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_rows_that_differ_are_copied_again() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE wide (id bigint PRIMARY KEY, n int, t text)").await;
    postgres.sql("INSERT INTO wide SELECT i, i, md5(i::text) FROM generate_series(1, 60000) i").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.wait_until_copied("public.wide").await;
    // Its row is the only one of a file.
    postgres.sql("UPDATE wide SET n = -1 WHERE id = 17").await;
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let expression = "None if row['n'] == -1 else {**row, 't': 'x'} if row['id'] in (300, 45000) else row";
    tamper(&pipeline, "wide", expression);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (is_equal, report) = verify(&pipeline, "public.wide", &["--repair"]);
    assert!(!is_equal && report["repair"] == "rows" && report["count"] == 3, "{report}");
    assert_eq!(report["at_least"], false, "{report}");
    pipeline.wait_for_log_times(COPIED, 2, LIMIT).await;
    assert_eq!(copied_rows(&pipeline), [60_000, 3], "{}", pipeline.log());
    pipeline.catch_up(&postgres).await;
    let (is_equal, report) = verify(&pipeline, "public.wide", &["--repair"]);
    assert!(is_equal && report.get("repair").is_none(), "{report}");
    pipeline.assert_equal(&postgres, &["public.wide"]);

    // Many rows go by ranges of their keys.
    granted(&pipeline, &postgres).await;
    pipeline.stop();
    tamper(&pipeline, "wide", "{**row, 'n': 0} if 2000 <= row['id'] < 4000 or row['id'] == 50000 else row");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (_, report) = verify(&pipeline, "public.wide", &["--repair"]);
    assert!(report["repair"] == "rows" && report["count"] == 2001, "{report}");
    pipeline.wait_for_log_times(COPIED, 3, LIMIT).await;
    assert_eq!(copied_rows(&pipeline)[2], 2001, "{}", pipeline.log());
    pipeline.catch_up(&postgres).await;
    assert!(verify(&pipeline, "public.wide", &[]).0);

    // A row that only the lake has goes with a copy of the whole table.
    granted(&pipeline, &postgres).await;
    pipeline.stop();
    tamper(&pipeline, "wide", "{**row, 'id': 70000} if row['id'] == 9 else row");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (_, report) = verify(&pipeline, "public.wide", &["--repair"]);
    assert!(report["repair"] == "table" && report["count"] == 2, "{report}");
    pipeline.wait_for_log_times(COPIED, 4, LIMIT).await;
    pipeline.catch_up(&postgres).await;
    assert!(verify(&pipeline, "public.wide", &[]).0);
    pipeline.assert_equal(&postgres, &["public.wide"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pipeline_verifies_and_repairs_when_its_schedule_says_so_and_makes_up_for_a_missed_run_once() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE few (id int PRIMARY KEY, t text)").await;
    postgres.sql("INSERT INTO few SELECT i, 'a' FROM generate_series(1, 100) i").await;
    let mut pipeline = Pipeline::local(&postgres);
    let address = format!("127.0.0.1:{}", free_port());
    pipeline.append_settings(&format!("[audit]\n[http]\nlisten = \"{address}\"\n[verify]\nschedule = \"* * * * * *\""));
    pipeline.start();
    pipeline.wait_for_log_times("verified: equal", 2, LIMIT).await;
    let metrics = reqwest::get(format!("http://{address}/metrics")).await.unwrap().text().await.unwrap();
    for metric in ["sooner_verify_last_success_timestamp_seconds{", "sooner_verify_rows_differing{"] {
        assert!(metrics.contains(metric), "{metrics}");
    }
    pipeline.stop();
    // From now on every year alone; a run was missed two years ago.
    tamper(&pipeline, "few", "{**row, 't': 'x'} if row['id'] == 5 else row");
    pipeline.replace("\"* * * * * *\"", "\"0 3 1 1 *\"\nrepair = true\ntables = [\"public.few\"]");
    let ago = SystemClock.now_micros() / 1_000_000 - 2 * 366 * 86_400;
    let noted = pipeline.state_dir().join("verify_schedule.json");
    std::fs::write(&noted, json!({"until": ago}).to_string()).unwrap();
    let equal = pipeline.log().matches("verified: equal").count();
    pipeline.start();
    pipeline.wait_for_log("rows differ", LIMIT).await;
    pipeline.wait_for_log_times(COPIED, 2, LIMIT).await;
    assert_eq!(copied_rows(&pipeline)[1], 1, "{}", pipeline.log());
    pipeline.catch_up(&postgres).await;
    assert!(verify(&pipeline, "public.few", &[]).0, "it was repaired");
    let until = serde_json::from_slice::<Value>(&std::fs::read(&noted).unwrap()).unwrap()["until"].as_i64().unwrap();
    assert!(until > ago, "what was missed is made up for");
    pipeline.stop();
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let log = pipeline.log();
    assert_eq!((log.matches("rows differ").count(), log.matches("verified: equal").count()), (1, equal), "{log}");
    let audit = pipeline.output("audit", &["list", "--json", "--kind", "verification"]);
    let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(audit.contains("scheduled") && audit.contains("\\\"repair\\\":\\\"rows\\\""), "{audit}");
}
