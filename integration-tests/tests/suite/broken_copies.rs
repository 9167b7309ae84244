//! Copies that are broken off: what had been copied before stays, and nobody sees it before the copy has ended.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration_tests::between;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::eventually_equal;
use sooner_api::COPY_FAILPOINTS;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(120);
const TABLE: &str = "public.documents";
const DOCUMENTS: u64 = 14_000;
const ACCOUNTS: u64 = 40_000;

/// A database whose largest table takes a while to be copied.
async fn fill(postgres: &Postgres) {
    postgres.sql(load::SCHEMA).await;
    // Values of documents are stored out of line, and left out of changes that do not touch them.
    let rows = format!(
        "INSERT INTO accounts SELECT i, repeat(md5(i::text), 3), i, NULL FROM generate_series(5001, {ACCOUNTS}) i; \
         INSERT INTO documents SELECT i, 'title', repeat(md5(i::text), 80), 1 FROM generate_series(2001, {DOCUMENTS}) i; \
         VACUUM ANALYZE"
    );
    for statement in rows.split(';') {
        postgres.sql(statement).await;
    }
}

/// Changes documents all over the table, without their large value, until it is aborted.
async fn change_in_part(postgres: &Postgres) -> JoinHandle<()> {
    let mut client = postgres.connect("shop").await;
    tokio::spawn(async move {
        for round in 0u32.. {
            let sql = format!("UPDATE documents SET title = 'title {round}' WHERE id % 3000 = {}", round % 3000);
            if client.query(&sql).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}

/// Objects in a folder of progress records, in their order, that tell of a copy that has not ended.
fn reports(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let tells = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains("complete_lsn"));
    let mut reports: Vec<_> = entries.filter(tells).collect();
    reports.sort();
    reports
}

/// Numbers of rows from which copies of the table went on, as the log tells.
fn resumed_from(log: &str) -> Vec<u64> {
    let lines = log.lines().filter(|line| line.contains("\"the copy goes on\"") && line.contains(TABLE));
    let rows = lines.map(|line| line.split("\"rows\":").nth(1).expect("a number of rows"));
    rows.map(|rows| rows.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()).collect()
}

fn begun(log: &str) -> usize {
    log.lines().filter(|line| line.contains("\"copying\"") && line.contains(TABLE)).count()
}

/// Kills the pipeline twice, each time once it has stored so often how far its copy is.
async fn break_off(pipeline: &mut Pipeline, records: &Path, stores: usize) {
    for _ in 0..2 {
        let before = reports(records).pop();
        let is_new = |report: &PathBuf| Some(report) > before.as_ref();
        pipeline.start();
        let deadline = Instant::now() + LIMIT;
        while reports(records).into_iter().filter(is_new).count() < stores {
            assert!(Instant::now() < deadline, "nothing was stored of the copy: {}", pipeline.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!pipeline.log().contains(&format!("\"copied\",\"table\":\"{TABLE}\"")), "the copy is too fast");
        assert!(!Path::new(&pipeline.lake).join("public/documents/_delta_log").exists(), "half a table is visible");
        pipeline.kill();
    }
}

/// From here on copies are faster, though not so fast that they end before anything of them is durable.
fn hurry(pipeline: &Pipeline) {
    let path = pipeline.folder().join("sooner.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(path, text.replace("\"1MB\"", "\"2MB\"")).unwrap();
}

/// A process that is left alone ends the copy.
async fn ends_equal(pipeline: &mut Pipeline, postgres: &Postgres, load: Load, changes: JoinHandle<()>) {
    hurry(pipeline);
    pipeline.start();
    pipeline.wait_for_log(&format!("\"copied\",\"table\":\"{TABLE}\""), LIMIT).await;
    load.stop().await;
    changes.abort();
    eventually_equal(postgres, &pipeline.lake, &load::TABLES, || pipeline.log()).await;
    let log = pipeline.log();
    let resumed = resumed_from(&log);
    assert_eq!((begun(&log), resumed.len()), (1, 2), "{log}");
    assert!(0 < resumed[0] && resumed[0] <= resumed[1], "{resumed:?}");
    pipeline.assert_all_stream();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_costs_a_copy_only_what_was_on_its_way() {
    let postgres = Postgres::start(Version::V15).await;
    fill(&postgres).await;
    let (load, changes) = (Load::start(postgres.url(), 41), change_in_part(&postgres).await);
    let mut pipeline = Pipeline::local_with(&postgres, "copy_bytes_per_second = \"1MB\"");
    let records = Path::new(&pipeline.lake).join("_sooner/shop");
    // A process begins with storing what the former one had stored.
    break_off(&mut pipeline, &records, 2).await;
    ends_equal(&mut pipeline, &postgres, load, changes).await;

    // Right after its copy has replaced a table, and before that is stored.
    let copies = pipeline.log().matches(&format!("\"copied\",\"table\":\"{TABLE}\"")).count();
    pipeline.stop();
    pipeline.set("SOONER_FAILPOINT", &format!("{}@1", COPY_FAILPOINTS[0]));
    pipeline.resume(TABLE);
    pipeline.start();
    pipeline.wait_for_end(LIMIT);
    pipeline.set("SOONER_FAILPOINT", "");
    postgres.sql("UPDATE documents SET title = 'late' WHERE id < 100").await;
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    eventually_equal(&postgres, &pipeline.lake, &load::TABLES, || pipeline.log()).await;
    let log = pipeline.log();
    assert_eq!(begun(&log), 2, "it is not copied once more");
    assert_eq!(log.matches(&format!("\"copied\",\"table\":\"{TABLE}\"")).count(), copies + 1);
    let left = std::fs::read_dir(Path::new(&pipeline.lake).join("public/documents/_sooner_next"));
    let left: usize = left.into_iter().flatten().flatten().map(|copy| files_below(&copy.path())).sum();
    assert!(left <= 60, "{left} files of former copies are left");
    pipeline.stop();
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

/// The source goes on from what is on the topic, and the sink with what of it is in the lake.
#[tokio::test(flavor = "multi_thread")]
async fn through_kafka_a_kill_costs_a_copy_only_what_was_on_its_way() {
    let (postgres, kafka, registry) = between::start().await;
    fill(&postgres).await;
    let (load, changes) = (Load::start(postgres.url(), 42), change_in_part(&postgres).await);
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3\ngroup_instance = \"one\"");
    pipeline.configure_source("copy_bytes_per_second = \"1MB\"");
    let records = Path::new(&pipeline.lake).join("_sooner/shop/sinks");
    break_off(&mut pipeline, &records, 1).await;
    ends_equal(&mut pipeline, &postgres, load, changes).await;
    let in_lake =
        pipeline.log().lines().filter(|line| line.contains("copy in the lake goes on") && line.contains(TABLE)).count();
    assert_eq!(in_lake, 2, "{}", pipeline.log());

    // Again, over rows that are there: the record of the former copy's end is still on the progress topic.
    let before = reports(&records).pop();
    pipeline.resume(TABLE);
    let deadline = Instant::now() + LIMIT;
    while !reports(&records).iter().any(|report| Some(report) > before.as_ref()) {
        assert!(Instant::now() < deadline, "nothing was stored of the copy: {}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    pipeline.kill();
    pipeline.start();
    pipeline.wait_for_log_times(&format!("\"copied\",\"table\":\"{TABLE}\""), 2, LIMIT).await;
    eventually_equal(&postgres, &pipeline.lake, &load::TABLES, || pipeline.log()).await;
    let shown = rows_of_replacements(&Path::new(&pipeline.lake).join("public/documents/_delta_log"));
    assert!(
        shown.len() == 2 && shown.iter().all(|rows| *rows > DOCUMENTS * 8 / 10),
        "half a copy was visible: {shown:?}"
    );
    pipeline.stop();
}

/// For each time that a copy has replaced a table: rows in the files that it put there.
fn rows_of_replacements(log: &Path) -> Vec<u64> {
    let mut entries: Vec<_> = std::fs::read_dir(log).unwrap().flatten().map(|entry| entry.path()).collect();
    entries.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    entries.sort();
    let texts = entries.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let replacements = texts.filter(|text| text.contains("REPLACE TABLE AS SELECT"));
    let rows = |line: &str| {
        let action: serde_json::Value = serde_json::from_str(line).unwrap();
        let stats: serde_json::Value = serde_json::from_str(action["add"]["stats"].as_str()?).unwrap();
        stats["numRecords"].as_u64()
    };
    replacements.map(|text| text.lines().filter_map(rows).sum()).collect()
}

/// What was visible before may be lost in a crash, and no event says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_begins_again_after_a_crash_of_postgres_and_goes_on_after_a_restart() {
    let postgres = Postgres::start(Version::V15).await;
    fill(&postgres).await;
    let mut pipeline = Pipeline::local_with(&postgres, "copy_bytes_per_second = \"1MB\"");
    let records = Path::new(&pipeline.lake).join("_sooner/shop");
    break_off(&mut pipeline, &records, 2).await;
    postgres.stop("fast");
    postgres.launch();
    pipeline.start();
    pipeline.wait_for_log_times(&format!("\"the copy goes on\",\"table\":\"{TABLE}\""), 2, LIMIT).await;
    pipeline.kill();
    let log = pipeline.log();
    assert_eq!((begun(&log), resumed_from(&log).len()), (1, 2), "{log}");
    postgres.stop("immediate");
    postgres.launch();
    hurry(&pipeline);
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &load::TABLES, || pipeline.log()).await;
    let log = pipeline.log();
    assert_eq!((begun(&log), resumed_from(&log).len()), (2, 2), "{log}");
    pipeline.stop();
}
