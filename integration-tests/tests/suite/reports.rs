//! Reports: each time at which one is due has one result, of one state of all tables, whatever dies on the way; and
//! what is made for times that have passed is what was true then.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use integration_tests::cut_sums::sums_of;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sooner::journal::{Kind, read};
use sooner::schedule::Due;
use sooner_postgres::client::Mode;
use sooner_postgres::{Client, ConnectOptions};

/// Money that is moved between two tables; nothing happens to the third.
const SOURCE: &str = "
    CREATE TABLE cash (id int PRIMARY KEY, amount bigint);
    CREATE TABLE bank (id int PRIMARY KEY, amount bigint);
    CREATE TABLE nothing (id int PRIMARY KEY);
    INSERT INTO cash SELECT i, 100 FROM generate_series(1, 1000) i;
    INSERT INTO bank SELECT i, 100 FROM generate_series(1, 1000) i";
const SUM: &str = "200000";

/// A command that runs SQL, as a person without DuckDB's own may name one.
fn engine() -> String {
    let script = "import sys, duckdb; duckdb.connect().execute(sys.stdin.read())";
    format!("engine = [\"{}\", \"-c\", \"{script}\"]", integration_tests::python().display())
}

/// Transfers until it is told to stop; returns how many.
fn transfers(url: String, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    tokio::spawn(async move {
        let options = ConnectOptions::parse(&url).unwrap();
        let mut client = Client::connect(&options, Mode::Sql).await.unwrap();
        let (mut random, mut done) = (StdRng::seed_from_u64(71), 0);
        while !stop.load(Ordering::Relaxed) {
            let (a, b, amount) =
                (random.random_range(1..1000), random.random_range(1..1000), random.random_range(1..50));
            let sql = format!(
                "BEGIN; UPDATE cash SET amount = amount - {amount} WHERE id = {a}; \
                 UPDATE bank SET amount = amount + {amount} WHERE id = {b}; COMMIT"
            );
            client.query(&sql).await.unwrap();
            done += 1;
        }
        done
    })
}

/// The runs of a report, as a reader finds them who knows only manifests.
fn runs(folder: &str) -> Vec<Value> {
    let script = integration_tests::root().join("integration-tests/readers/reports.py");
    let output = std::process::Command::new(integration_tests::python()).arg(script).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn due_of(run: &Value) -> Due {
    Due::of_name(run["run"].as_str().unwrap()).unwrap_or_else(|| panic!("{run}"))
}

fn now() -> Due {
    Due(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64)
}

/// What a command prints as JSON.
fn json(pipeline: &Pipeline, name: &str, arguments: &[&str]) -> Value {
    let output = pipeline.output(name, arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let told = || format!("{text}{}\n{}", String::from_utf8_lossy(&output.stderr), pipeline.log());
    assert!(output.status.success(), "{}", told());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {}", told()))
}

fn with_reports(pipeline: &Pipeline) {
    let engine = engine();
    let lake = &pipeline.lake;
    pipeline.append_settings(&format!(
        "[[report]]\nname = \"sums\"\nschedule = \"*/4 * * * * *\"\n{engine}\n\
         sql = \"SELECT (SELECT sum(amount) FROM public.cash) + (SELECT sum(amount) FROM public.bank) AS total, \
         (SELECT count(*) FROM public.nothing) AS none, sum(9007199254740993) OVER () AS wide, run.* FROM sooner.run\"\n\
         [[report]]\nname = \"broken\"\nschedule = \"*/10 * * * * *\"\n{engine}\ncatch_up = \"last\"\n\
         tables = [\"public.nothing\"]\nsql = \"SELECT id FROM public.nowhere\"\nformat = \"csv\"\n\
         output = \"{lake}-reports\"",
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_due_run_has_one_result_of_one_state_through_kills_and_a_failing_query_stops_nothing() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::local(&postgres);
    with_reports(&pipeline);
    pipeline.start();
    pipeline.wait_until_copied("public.cash").await;
    pipeline.catch_up(&postgres).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = transfers(postgres.url(), stop.clone());
    let mut random = StdRng::seed_from_u64(72);
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(random.random_range(1500..5500))).await;
        pipeline.kill();
        pipeline.start();
    }
    made_until(&pipeline, "sums", now()).await;
    // What is due meanwhile is missed, and made afterwards.
    pipeline.stop();
    let (missed_from, missed_to) = (now(), Due(now().0 + 9));
    tokio::time::sleep(Duration::from_secs(9)).await;
    pipeline.start();
    made_until(&pipeline, "sums", missed_to).await;
    stop.store(true, Ordering::Relaxed);
    assert!(load.await.unwrap() > 100, "few transfers prove little");
    pipeline.catch_up(&postgres).await;
    let last = now();
    made_until(&pipeline, "sums", last).await;
    failed_is_told_and_made_again(&pipeline).await;
    pipeline.assert_equal(&postgres, &["public.cash", "public.bank", "public.nothing"]);
    assert_eq!(read(&pipeline.state_dir()).unwrap().iter().filter(|entry| entry.kind == Kind::Parked).count(), 0);
    pipeline.stop();
    all_are_complete(&pipeline, last);
    let late = |run: &&Value| run["manifest"]["late_seconds"].as_i64().unwrap_or(0) > 0;
    let runs = runs(&format!("{}/_sooner/shop/reports/sums", pipeline.lake));
    let missed: Vec<_> = runs.iter().filter(|run| due_of(run) > missed_from && due_of(run) < missed_to).collect();
    assert!(missed.len() >= 2 && missed.iter().all(late), "{missed:?}");
}

/// Waits until all runs of a report that were due up to a moment are complete.
async fn made_until(pipeline: &Pipeline, report: &str, until: Due) {
    for _ in 0..240 {
        let listed = json(pipeline, "report", &["list", "--json"]);
        let last = listed.as_array().unwrap().iter().find(|listed| listed["report"] == report);
        let last = last.unwrap()["last"]["run"].as_str().and_then(Due::of_name);
        if last.is_some_and(|last| last.0 + 4 > until.0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("not made until {until}\n{}", pipeline.log());
}

fn all_are_complete(pipeline: &Pipeline, last: Due) {
    let mut runs = runs(&format!("{}/_sooner/shop/reports/sums", pipeline.lake));
    runs.retain(|run| due_of(run) <= last);
    assert!(runs.len() >= 8, "{} runs prove little", runs.len());
    for run in &runs {
        let (manifest, row) = (&run["manifest"], &run["rows"][0]);
        assert_eq!(manifest["rows"], 1, "{run}\n{}", pipeline.log());
        assert_eq!((row["total"].as_str(), row["none"].as_str()), (Some(SUM), Some("0")), "{run}");
        assert_eq!(row["wide"].as_str(), Some("9007199254740993"), "no digit is lost: {run}");
        assert_eq!((&row["lsn"], &row["report"]), (&manifest["cut"]["lsn"], &manifest["report"]), "{run}");
        assert!(manifest["late_seconds"].as_i64().unwrap() >= 0, "all that was committed by then is in it: {run}");
        assert!(manifest["engine_version"].as_str().unwrap().starts_with('v'), "{run}");
        assert_eq!(manifest["tables"]["public.cash"]["rows"], 1000, "{run}");
    }
    // None is missing: the schedule is every four seconds.
    let dues: Vec<_> = runs.iter().map(due_of).collect();
    assert!(dues.windows(2).all(|pair| pair[1].0 - pair[0].0 == 4), "{dues:?}");
    let cuts = json(pipeline, "cut", &["list", "--json"]);
    let left: Vec<_> = cuts.as_array().unwrap().iter().filter(|cut| cut["name"] != Value::Null).collect();
    assert!(left.len() <= 2, "cuts are dropped, but for those of runs that have begun: {left:?}");
}

/// A failing run is noted, and shown with the engine's words; once its query is right, it is made when somebody asks.
async fn failed_is_told_and_made_again(pipeline: &Pipeline) {
    let mut failed = None;
    for _ in 0..120 {
        let shown = json(pipeline, "report", &["show", "broken", "--json"]);
        failed = shown["runs"].as_array().unwrap().iter().find(|run| run["state"] == "failed").cloned();
        if failed.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let failed = failed.unwrap_or_else(|| panic!("no run has failed\n{}", pipeline.log()));
    let told = failed["error"].to_string();
    assert!(told.contains("nowhere") && told.contains("report_failed"), "{told}");
    let noted = read(&pipeline.state_dir()).unwrap();
    assert!(noted.iter().any(|entry| entry.kind == Kind::ReportFailed && entry.what.contains("nowhere")), "{noted:?}");
    pipeline.replace("public.nowhere", "public.nothing");
    let due = due_of(&failed).to_string();
    let made = json(pipeline, "report", &["run", "broken", "--due", &due, "--json"]);
    assert_eq!((made["due"].as_str(), made["rows"].as_i64()), (Some(due.as_str()), Some(0)));
    let again = json(pipeline, "report", &["run", "broken", "--due", &due, "--json"]);
    assert_eq!(made, again, "what is complete stays as it is");
    let refused = pipeline.output("report", &["run", "broken", "--due", "2026-01-01T00:00:03Z"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("was not due"), "{refused:?}");
    let asked = json(pipeline, "report", &["run", "broken", "--json"]);
    assert!(asked["run"].as_str().unwrap().starts_with("asked-"), "{asked}");
    let found = runs(&format!("{}-reports/broken", pipeline.lake));
    assert!(found.iter().filter(|run| run["manifest"] != Value::Null).count() >= 2, "{found:?}");
    let checked = json(pipeline, "check", &["--json"]);
    let engine = |finding: &&Value| finding["finding"].as_str().unwrap().contains("runs SQL, version v");
    assert!(checked.as_array().unwrap().iter().any(|finding| engine(&finding)), "{checked}");
}

/// Sleeps until some milliseconds after a whole second, and returns that second.
async fn until_millis(millis: u64) -> Due {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let wait = (1000 + millis - u64::from(now.subsec_millis())) % 1000;
    tokio::time::sleep(Duration::from_millis(wait.max(1))).await;
    now_of(SystemTime::now())
}

fn now_of(time: SystemTime) -> Due {
    Due(time.duration_since(UNIX_EPOCH).unwrap().as_secs() as i64)
}

const STATE: &str = "SELECT count(*) || ' ' || coalesce(sum(balance), 0) || ' ' || \
     md5(coalesce(string_agg(id || ':' || balance, ',' ORDER BY id), '')) FROM accounts";

/// Changes of all kinds, each in the middle of a second, so that what was true at the next whole second is known.
async fn known_states(postgres: &Postgres) -> Vec<(Due, String)> {
    let mut states = Vec::new();
    for round in 0..12 {
        until_millis(300).await;
        let statement = match round % 4 {
            0 => format!("UPDATE accounts SET balance = balance + {round} WHERE id % 7 = 3"),
            1 => format!("DELETE FROM accounts WHERE id = {}", round * 3 + 1),
            2 => format!("INSERT INTO accounts VALUES ({}, 5)", 1000 + round),
            _ => format!("UPDATE accounts SET id = id + 5000 WHERE id = {}", round * 5 + 2),
        };
        postgres.sql(&statement).await;
        let second = until_millis(700).await;
        states.push((Due(second.0 + 1), postgres.value(STATE).await));
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_for_times_that_have_passed_are_what_was_true_then() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint); CREATE TABLE others (id int PRIMARY KEY);
              INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 200) i",
        )
        .await;
    let before = Due(now().0 - 3);
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.accounts\"\nwrite = [\"mirror\", \"history\"]");
    pipeline.start();
    pipeline.wait_until_copied("public.accounts").await;
    pipeline.catch_up(&postgres).await;
    let states = known_states(&postgres).await;
    pipeline.catch_up(&postgres).await;
    // Nobody knew of the report when these runs were due.
    let sql = STATE.replace("accounts", "public.accounts");
    let engine = engine();
    for (name, tables) in [("states", "tables = [\"public.accounts\"]"), ("all", "")] {
        pipeline.append_settings(&format!(
            "[[report]]\nname = \"{name}\"\nschedule = \"* * * * * *\"\ncatch_up = \"none\"\n{tables}\n{engine}\n\
             sql = \"SELECT ({sql}) AS state\"\nformat = \"csv\""
        ));
    }
    let (from, to) = (states[0].0.to_string(), states.last().unwrap().0.to_string());
    let fill = ["states", "--from", &from, "--to", &to];
    // It is broken off, and goes on.
    let mut broken_off = pipeline.command("backfill").args(fill).stdout(Stdio::null()).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    broken_off.kill().unwrap();
    broken_off.wait().unwrap();
    let output = pipeline.output("backfill", &fill);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}\n{}", String::from_utf8_lossy(&output.stderr), pipeline.log());
    let folder = format!("{}/_sooner/shop/reports/states", pipeline.lake);
    let filled = runs(&folder);
    for (due, state) in &states {
        let run = filled.iter().find(|run| due_of(run) == *due).unwrap_or_else(|| panic!("{due} is missing: {told}"));
        assert_eq!(run["rows"][0]["state"].as_str(), Some(state.as_str()), "{run}");
        let manifest = &run["manifest"];
        assert_eq!((&manifest["made_from"], &manifest["late_seconds"]), (&"history".into(), &0.into()), "{run}");
    }
    let again = String::from_utf8_lossy(&pipeline.output("backfill", &fill).stdout).into_owned();
    assert!(again.starts_with("0 runs were made, 12 were complete already"), "{again}");
    assert_eq!(runs(&folder), filled, "what is complete stays as it is");
    let early = pipeline.output("backfill", &["states", "--from", &before.to_string(), "--to", &before.to_string()]);
    let told = String::from_utf8_lossy(&early.stdout).into_owned();
    assert!(!early.status.success() && told.contains("its history begins at"), "{told}");
    let refused = pipeline.output("backfill", &["all", "--from", &from, "--to", &to]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("no history of public.others"), "{told}");
    assert!(told.contains("write = "), "{told}");
    let cuts = json(&pipeline, "cut", &["list", "--json"]);
    assert!(cuts.as_array().unwrap().len() <= 1, "{cuts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_missed_is_as_of_when_it_was_due_where_histories_tell_that() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint);
             INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 200) i",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.accounts\"\nwrite = [\"mirror\", \"history\"]");
    let (sql, engine) = (STATE.replace("accounts", "public.accounts"), engine());
    pipeline.append_settings(&format!(
        "[[report]]\nname = \"states\"\nschedule = \"*/5 * * * * *\"\ncatch_up = \"all\"\n{engine}\n\
         sql = \"SELECT ({sql}) AS state\"\nformat = \"csv\""
    ));
    pipeline.start();
    pipeline.wait_until_copied("public.accounts").await;
    let folder = format!("{}/_sooner/shop/reports/states", pipeline.lake);
    let is_made = |due: Due| Path::new(&folder).join(due.name()).join("manifest.json").exists();
    pipeline.wait_for_log_times("made a report", 1, Duration::from_secs(60)).await;
    pipeline.stop();
    let states: Vec<_> = known_states(&postgres).await.into_iter().filter(|(due, _)| due.0 % 5 == 0).collect();
    tokio::time::sleep(Duration::from_secs(11)).await;
    pipeline.start();
    let asked = Instant::now();
    while !states.iter().all(|(due, _)| is_made(*due)) {
        assert!(asked.elapsed() < Duration::from_secs(90), "{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let made = runs(&folder);
    assert!(states.len() >= 2);
    for (due, state) in &states {
        let run = made.iter().find(|run| due_of(run) == *due).unwrap();
        assert_eq!(run["rows"][0]["state"].as_str(), Some(state.as_str()), "{run}");
        assert_eq!((&run["manifest"]["made_from"], &run["manifest"]["late_seconds"]), (&"history".into(), &0.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_views_runs_no_engine_and_its_statements_read_what_was_there_when_it_was_made() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings(
        "[[report]]\nname = \"moved\"\nschedule = \"0 6 1 1 *\"\nformat = \"views\"\nkeep = \"7y\"\n\
         sql = \"SELECT amount FROM public.cash UNION ALL SELECT amount FROM public.bank\"",
    );
    pipeline.start();
    pipeline.wait_until_copied("public.bank").await;
    pipeline.catch_up(&postgres).await;
    let manifest = json(&pipeline, "report", &["run", "moved", "--json"]);
    assert_eq!(
        (&manifest["engine"], &manifest["tables"]["public.cash"]["rows"]),
        (&Value::Array(vec![]), &1000.into())
    );
    postgres.sql("UPDATE cash SET amount = 0; DELETE FROM bank WHERE id > 10").await;
    pipeline.catch_up(&postgres).await;
    let folder = Path::new(&pipeline.lake).join("_sooner/shop/reports/moved").join(manifest["run"].as_str().unwrap());
    for (ending, engine, view, sum) in [
        ("duckdb.sql", "duckdb", "moved", (200_000, 2000)),
        ("spark.sql", "spark", "public_cash", (100_000, 1000)),
        ("trino.sql", "trino", "public_bank", (100_000, 1000)),
        ("polars.py", "polars", "public_bank", (100_000, 1000)),
    ] {
        let files = manifest["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap());
        let file = files.clone().find(|name| name.ends_with(ending)).unwrap_or_else(|| panic!("{manifest}"));
        let statements = std::fs::read(folder.join(file)).unwrap();
        assert_eq!(sums_of(&pipeline, &statements, engine, &[view]), [sum], "read by {engine}");
    }
    let refused = pipeline.output("backfill", &["moved", "--from", "2026-01-01", "--to", "2026-02-01"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("`sooner cut create NAME --at TIME`"), "{told}");
}
