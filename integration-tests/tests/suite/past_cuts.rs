//! Cuts at positions that have passed: what every table was then, or a refusal, never something else.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Output;
use std::time::Duration;

use integration_tests::between;
use integration_tests::cut_sums::cut_sums;
use integration_tests::files_below;
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

/// Transfers, of which many are in one commit, of rows with large values that stay; other rows come, go, and change
/// their keys. Returns what Postgres showed in between.
async fn moments_within_commits(postgres: &Postgres) -> Vec<Moment> {
    let mut moments = Vec::new();
    for amount in 1..=60 {
        transfer(postgres, amount).await;
        let other = 1000 + amount;
        postgres
            .sql(&format!(
                "BEGIN; INSERT INTO bank VALUES ({other}, 5, 'new'); UPDATE bank SET id = -id WHERE id = {amount}; \
                 UPDATE bank SET amount = amount - 5 WHERE id = -{amount}; COMMIT; \
                 DELETE FROM idle WHERE amount = 0 AND id = {other} - 3; INSERT INTO idle VALUES ({other}, 0, NULL)"
            ))
            .await;
        moments.push(moment(postgres).await);
    }
    moments
}

async fn any_position_can_be_cut(postgres: &Postgres, mut pipeline: Pipeline) {
    postgres.sql(SOURCE).await;
    postgres
        .sql("ALTER TABLE bank ADD body text; ALTER TABLE cash ADD body text; ALTER TABLE idle ADD body text")
        .await;
    for table in TABLES {
        let filled = format!(
            "UPDATE {table} SET body = (SELECT string_agg(md5(i || '{table}' || id), '') FROM generate_series(1, 200) i)"
        );
        postgres.sql(&format!("ALTER TABLE {table} ALTER body SET STORAGE EXTERNAL; {filled}")).await;
    }
    postgres.sql("ALTER TABLE bank REPLICA IDENTITY FULL").await;
    pipeline.append_settings("[[table]]\nmatch = \"public.*\"\nwrite = [\"mirror\", \"history\"]");
    pipeline.start();
    for table in TABLES {
        pipeline.wait_until_copied(&format!("public.{table}")).await;
    }
    pipeline.catch_up(postgres).await;
    pipeline.stop();
    pipeline.start();
    pipeline.catch_up(postgres).await;
    let mut moments = moments_within_commits(postgres).await;
    pipeline.kill();
    moments.extend(moments_within_commits_of_another_process(postgres, &mut pipeline).await);
    let mut rebuilt = 0;
    for (number, moment) in moments.iter().enumerate().step_by(7) {
        let name = format!("any-{number}");
        let cut = made(&pipeline, &create(&pipeline, &name, &moment.lsn));
        assert_eq!(cut["lsn"], moment.lsn.as_str());
        assert_eq!(sums(&pipeline, &cut), moment.sums, "{moment:?}: {cut}");
        let verified = pipeline.output("verify", &["--at", &name]);
        assert!(verified.status.success(), "{}: {cut}", String::from_utf8_lossy(&verified.stdout));
        rebuilt +=
            cut["tables"].as_object().unwrap().values().filter(|table| table["mirror"]["rebuilt"].is_string()).count();
        if number == 0 {
            for engine in ["duckdb", "spark", "trino"] {
                let seen: Vec<_> =
                    cut_sums(&pipeline, &name, engine, &TABLES).into_iter().map(|(sum, _)| sum).collect();
                assert_eq!(seen, moment.sums, "read by {engine}: {cut}");
            }
        }
        let to = pipeline.folder().join(&name).display().to_string();
        let exported = pipeline.output("cut", &["export", &name, "--to", &to]);
        assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
        assert!(pipeline.output("cut", &["drop", &name]).status.success());
    }
    assert!(rebuilt > 5, "{rebuilt} tables were made of histories, which proves little");
    let left = std::fs::read_dir(format!("{}/_sooner/shop/cut-tables", pipeline.lake)).unwrap().flatten();
    let files = left.flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten());
    assert!(files.flat_map(|folder| files_below(&folder.path())).next().is_none(), "what was made goes with its cut");
}

/// The same after a kill.
async fn moments_within_commits_of_another_process(postgres: &Postgres, pipeline: &mut Pipeline) -> Vec<Moment> {
    pipeline.start();
    pipeline.catch_up(postgres).await;
    let mut moments = Vec::new();
    for amount in 61..=90 {
        transfer(postgres, amount).await;
        moments.push(moment(postgres).await);
    }
    pipeline.catch_up(postgres).await;
    moments
}

#[tokio::test(flavor = "multi_thread")]
async fn any_position_is_cut_where_tables_have_histories_and_is_what_postgres_showed() {
    let postgres = Postgres::start(Version::V15).await;
    any_position_can_be_cut(&postgres, Pipeline::local(&postgres)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_through_kafka() {
    let (postgres, kafka, registry) = between::start().await;
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2\ngroup_instance = \"one\"");
    past_cuts_are_what_postgres_showed(&postgres, pipeline).await;
}
