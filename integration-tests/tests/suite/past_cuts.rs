//! Cuts at positions that have passed: what every table was then, or a refusal, never something else.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Output;
use std::time::Duration;

use integration_tests::between;
use integration_tests::cut_sums::cut_sums;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use serde_json::Value;

/// Money that is moved between two tables; nothing happens to the third, and all of it stays the same sum.
const SOURCE: &str = "
    CREATE TABLE cash (id int PRIMARY KEY, amount bigint);
    CREATE TABLE bank (id int PRIMARY KEY, amount bigint);
    CREATE TABLE idle (id int PRIMARY KEY, amount bigint);
    INSERT INTO cash SELECT i, 100 FROM generate_series(1, 100) i;
    INSERT INTO bank SELECT i, 100 FROM generate_series(1, 100) i;
    INSERT INTO idle SELECT i, 100 FROM generate_series(1, 100) i";
const TABLES: [&str; 3] = ["bank", "cash", "idle"];
const SUM: i64 = 30_000;

/// What Postgres showed at a position between two transactions.
#[derive(Debug)]
struct Moment {
    lsn: String,
    time: String,
    sums: Vec<i64>,
}

async fn moment(postgres: &Postgres) -> Moment {
    let lsn = postgres.value("SELECT pg_current_wal_insert_lsn()").await;
    let utc = "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time = postgres.value(&format!("SELECT {utc}")).await;
    let mut sums = Vec::new();
    for table in TABLES {
        sums.push(postgres.value(&format!("SELECT sum(amount) FROM {table}")).await.parse().unwrap());
    }
    Moment { lsn, time, sums }
}

async fn transfer(postgres: &Postgres, amount: i64) {
    let sql = format!(
        "BEGIN; UPDATE cash SET amount = amount - {amount} WHERE id = {amount}; \
         UPDATE bank SET amount = amount + {amount} WHERE id = 7; COMMIT"
    );
    postgres.sql(&sql).await;
}

fn create(pipeline: &Pipeline, name: &str, at: &str) -> Output {
    pipeline.output("cut", &["create", name, "--json", "--timeout", "60s", "--at", at])
}

fn made(pipeline: &Pipeline, output: &Output) -> Value {
    let told = || format!("{}\n{}\n{}", String::from_utf8_lossy(&output.stderr), commits(pipeline), pipeline.log());
    assert!(output.status.success(), "{}", told());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told()))
}

/// What the commits of a table tell of themselves.
fn commits(pipeline: &Pipeline) -> String {
    let entries = std::fs::read_dir(format!("{}/public/bank/_delta_log", pipeline.lake)).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let texts = paths.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default());
    texts.filter_map(|text| text.lines().next().map(str::to_owned)).collect::<Vec<_>>().join("\n")
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sums of the tables as of a cut, by a reader that knows nothing of cuts.
fn sums(pipeline: &Pipeline, cut: &Value) -> Vec<i64> {
    cut_sums(pipeline, cut["name"].as_str().unwrap(), "polars", &TABLES).into_iter().map(|(sum, _)| sum).collect()
}

/// Number of transfers in the history of `cash` as of a cut.
fn transfers_in_history(cut: &Value) -> i64 {
    let history = &cut["tables"]["public.cash"]["history"];
    let script = "import sys, polars; frame = polars.scan_delta(sys.argv[1], version=int(sys.argv[2]))\n\
                  print(frame.filter(polars.col('_change_type') == 'update_postimage').select(polars.len()).collect().item())";
    let (url, version) = (history["url"].as_str().unwrap(), history["version"].to_string());
    let mut command = std::process::Command::new(integration_tests::python());
    let output = command.args(["-c", script, url, &version]).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

async fn past_cuts_are_what_postgres_showed(postgres: &Postgres, mut pipeline: Pipeline) {
    postgres.sql(SOURCE).await;
    pipeline.append_settings("[[table]]\nmatch = \"public.cash\"\nwrite = [\"mirror\", \"history\"]");
    pipeline.start();
    for table in TABLES {
        pipeline.wait_until_copied(&format!("public.{table}")).await;
    }
    pipeline.catch_up(postgres).await;
    let mut moments = vec![moment(postgres).await];
    for amount in 1..=6 {
        transfer(postgres, amount).await;
        // So each transaction has a version of its own.
        pipeline.catch_up(postgres).await;
        moments.push(moment(postgres).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Files are written again in between, which changes no rows.
    assert!(pipeline.output("optimize", &[]).status.success());
    transfer(postgres, 50).await;
    pipeline.catch_up(postgres).await;
    for (number, moment) in moments.iter().enumerate() {
        let cut = made(&pipeline, &create(&pipeline, &format!("lsn-{number}"), &moment.lsn));
        let seen = sums(&pipeline, &cut);
        assert_eq!((&seen, seen.iter().sum()), (&moment.sums, SUM), "{moment:?}: {cut}");
        assert_eq!(cut["lsn"], moment.lsn.as_str());
        assert_eq!(transfers_in_history(&cut), number as i64, "{moment:?}: {cut}");
        let cut = made(&pipeline, &create(&pipeline, &format!("time-{number}"), &moment.time));
        assert_eq!(sums(&pipeline, &cut), moment.sums, "{moment:?}: {cut}");
    }
    let early = refusal(&create(&pipeline, "early", "0/1"));
    assert!(early.contains("To do: choose a later position"), "{early}");
    // No pipeline is needed, and what a commit spans has no version.
    pipeline.stop();
    let mut within = Vec::new();
    for amount in 10..15 {
        transfer(postgres, amount).await;
        within.push(moment(postgres).await);
    }
    let missing = pipeline.output("cut", &["create", "behind", "--at", &within[0].lsn, "--timeout", "1s"]);
    assert!(refusal(&missing).contains("is not known to be complete"), "{missing:?}");
    pipeline.start();
    pipeline.catch_up(postgres).await;
    pipeline.stop();
    let (mut refused, last) = (0, moments.last().unwrap());
    for (number, moment) in within.iter().chain([last]).enumerate() {
        let output = create(&pipeline, &format!("within-{number}"), &moment.lsn);
        if output.status.success() {
            let cut = made(&pipeline, &output);
            assert_eq!(sums(&pipeline, &cut), moment.sums, "{moment:?}: {cut}");
        } else {
            let why = refusal(&output);
            assert!(why.contains("is exactly at") && why.contains("nearest are"), "{why}");
            refused += 1;
        }
    }
    assert!((1..=4).contains(&refused), "{refused} of four positions within commits are refused, and no other is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_past_cut_is_what_postgres_showed_then_and_what_a_commit_spans_is_refused() {
    let postgres = Postgres::start(Version::V15).await;
    past_cuts_are_what_postgres_showed(&postgres, Pipeline::local(&postgres)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_through_kafka() {
    let (postgres, kafka, registry) = between::start().await;
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2\ngroup_instance = \"one\"");
    past_cuts_are_what_postgres_showed(&postgres, pipeline).await;
}
