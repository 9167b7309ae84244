//! Measures many small tables: their copy, one commit to each, and a restart; beside writing as many files, each made
//! durable.

use std::fmt::Write;
use std::time::{Duration, Instant};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use sooner::status::Status;

use crate::Line;
use crate::usage::{cpu_seconds, peak_memory_mib, system_seconds};

const ROWS: usize = 20;
/// Files of one commit that updates rows: data, deletion vectors, log entry.
const FILES: usize = 3;

/// Measures the copy of 2,000 tables, or `SOONER_BENCH_TABLES`, and then one UPDATE of ten rows in each.
pub async fn run() -> Vec<Line> {
    let tables = std::env::var("SOONER_BENCH_TABLES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000usize);
    let postgres = Postgres::start_with(Version::V15, &["wal_level=logical", "max_locks_per_transaction=4096"]).await;
    let each = |statement: &dyn Fn(usize) -> String| {
        (0..tables).fold(String::new(), |mut sql, table| {
            let _ = write!(sql, "{};", statement(table));
            sql
        })
    };
    let rows = format!("SELECT i, i, 'row number ' || i FROM generate_series(1, {ROWS}) AS i");
    postgres.sql(&each(&|table| format!("CREATE TABLE t{table} (id integer PRIMARY KEY, n integer, v text)"))).await;
    postgres.sql(&each(&|table| format!("INSERT INTO t{table} {rows}"))).await;
    let mut pipeline = Pipeline::local(&postgres);
    let started = Instant::now();
    pipeline.start();
    let copied = |status: &Status| {
        status.tables.len() == tables && status.tables.values().all(|table| table.table_version.is_some())
    };
    pipeline.wait_for("all tables are copied", Duration::from_secs(900), copied).await;
    let copied = started.elapsed().as_secs_f64();
    let pid = pipeline.pid().to_string();
    let copy_cpu = cpu_seconds(&pid).unwrap_or_default();
    let copy_system = system_seconds(&pid).unwrap_or_default();

    let versions = |status: &Status| status.tables.values().filter_map(|table| table.table_version).sum::<u64>();
    let before = versions(&pipeline.status().unwrap());
    let mut client = postgres.connect("shop").await;
    let started = Instant::now();
    for table in 0..tables {
        client.query(&format!("UPDATE t{table} SET n = n + 1 WHERE id <= 10")).await.unwrap();
    }
    pipeline.catch_up(&postgres).await;
    let applied = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds(&pid).unwrap_or_default() - copy_cpu;
    let system = system_seconds(&pid).unwrap_or_default() - copy_system;
    let commits = versions(&pipeline.status().unwrap()) - before;
    let peak = peak_memory_mib(&pid).unwrap_or_default();
    let restarted = restart(&mut pipeline, &postgres).await;
    let limit = write_files(pipeline.folder(), tables * FILES);
    let line = |what: &str, seconds: f64, peer: &str, limit: f64, notes: String| Line {
        what: format!("(t) {tables} tables: {what}"),
        ours: format!("{seconds:.1} s"),
        peer: format!("{peer} {limit:.1} s"),
        ratio: Some(limit / seconds),
        wanted: "-",
        notes,
    };
    vec![
        line(
            "copy",
            copied,
            "as many files",
            limit * 2.0 / FILES as f64,
            format!("CPU per table {:.2} ms", copy_cpu * 1e3 / tables as f64),
        ),
        line(
            "an UPDATE in each",
            applied,
            "as many files",
            limit,
            format!(
                "{commits} commits, CPU per commit {:.2} ms, {:.2} of it in the kernel; peak memory {} MiB",
                cpu * 1e3 / commits.max(1) as f64,
                system * 1e3 / commits.max(1) as f64,
                peak
            ),
        ),
        line("a restart, until the next commit", restarted, "wanted of 10,000", 20.0, String::new()),
    ]
}

/// Seconds from a start until the next commit.
async fn restart(pipeline: &mut Pipeline, postgres: &Postgres) -> f64 {
    let version = |status: &Status| status.tables.get(&"public.t0".parse().unwrap()).and_then(|t0| t0.table_version);
    pipeline.stop();
    let before = version(&pipeline.status().unwrap());
    let started = Instant::now();
    pipeline.start();
    postgres.sql("UPDATE t0 SET n = n + 1").await;
    let limit = Duration::from_secs(300);
    pipeline.wait_for("the first commit after a restart", limit, |status| version(status) > before).await;
    started.elapsed().as_secs_f64()
}

/// Seconds that it takes to write so many small files, each of which is made durable before the next one.
fn write_files(folder: &std::path::Path, files: usize) -> f64 {
    let folder = folder.join("limit");
    std::fs::create_dir_all(&folder).unwrap();
    let started = Instant::now();
    for number in 0..files {
        let path = folder.join(number.to_string());
        std::fs::write(&path, [0; 1000]).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
    }
    started.elapsed().as_secs_f64()
}
