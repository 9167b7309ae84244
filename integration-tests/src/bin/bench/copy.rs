//! Measures the initial copy into a lake table, beside the same COPY into `/dev/null`.

use std::time::Instant;

use integration_tests::pipeline::{Pipeline, of};
use integration_tests::postgres::{Postgres, Version};

use crate::Line;
use crate::usage::{cpu_seconds, peak_memory_mib};

const ROWS: u64 = 2_000_000;

/// Measures the copy of one table of two million rows.
pub async fn run() -> Vec<Line> {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(&format!(
            "CREATE TABLE rows (id bigint PRIMARY KEY, a integer, b text, c timestamptz, d numeric(10, 2)); \
             INSERT INTO rows SELECT i, i % 1000, 'row number ' || i, now(), i % 10000 / 100.0 FROM generate_series(1, {ROWS}) AS i; \
             ANALYZE rows; CHECKPOINT"
        ))
        .await;
    let copy_to_nowhere = || {
        let started = Instant::now();
        let done = postgres
            .program("psql")
            .args(["-h", "127.0.0.1", "-p", &postgres.port.to_string(), "-U", "postgres", "shop"])
            .args(["-c", "COPY rows TO STDOUT"])
            .stdout(std::process::Stdio::null())
            .status();
        assert!(done.unwrap().success());
        started.elapsed().as_secs_f64()
    };
    copy_to_nowhere();
    let peer = copy_to_nowhere();

    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    let copying = |status: &sooner::status::Status| status.tables.values().any(|table| table.rows_copied > 0);
    let status = pipeline.wait_for("copying", std::time::Duration::from_secs(60), copying).await;
    let (started, already) = (Instant::now(), of(&status, "public.rows").rows_copied);
    let copied = |status: &sooner::status::Status| of(status, "public.rows").table_version.is_some();
    let status = pipeline.wait_for("copied", std::time::Duration::from_secs(300), copied).await;
    let rows = of(&status, "public.rows").rows_copied - already;
    let ours = started.elapsed().as_secs_f64() * ROWS as f64 / rows as f64;
    let pid = status.pid.to_string();
    vec![Line {
        what: format!("(d) initial copy of {} M rows", ROWS / 1_000_000),
        ours: format!("{:.0} k rows/s", ROWS as f64 / ours / 1e3),
        peer: format!("COPY to nowhere {:.0} k rows/s", ROWS as f64 / peer / 1e3),
        ratio: Some(peer / ours),
        wanted: "-",
        notes: format!(
            "CPU per row {:.2} µs, peak memory {} MiB",
            cpu_seconds(&pid).unwrap_or_default() * 1e6 / ROWS as f64,
            peak_memory_mib(&pid).unwrap_or_default()
        ),
    }]
}
