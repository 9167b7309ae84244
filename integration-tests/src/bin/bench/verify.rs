//! Measures `sooner verify` of two million rows, beside a COPY of them into `/dev/null`: how fast it is, what it costs
//! the server, and for how long it keeps a transaction open.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use sooner_postgres::client::Mode;
use sooner_postgres::{Client, ConnectOptions};

use crate::Line;
use crate::usage::children_seconds;

const ROWS: u64 = 2_000_000;
/// Of whoever reads the table: how long its transaction has been open, in milliseconds.
const OPEN: &str = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start) * 1000), 0)::bigint \
                    FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";

/// Measures both in turn, twice each, and takes the faster run of each.
pub async fn run() -> Vec<Line> {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(&format!(
            "CREATE TABLE rows (id bigint PRIMARY KEY, a integer, b text, c timestamptz, d numeric(10, 2)); \
             INSERT INTO rows SELECT i, i % 1000, 'row number ' || i, now(), i % 10000 / 100.0 FROM generate_series(1, {ROWS}) AS i; \
             ANALYZE rows; CHECKPOINT"
        ))
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.wait_until_copied("public.rows").await;
    pipeline.catch_up(&postgres).await;
    let (mut copies, mut verifications, mut open_millis) = (Vec::new(), Vec::new(), 0);
    for _ in 0..2 {
        let mut copy = postgres.program("psql");
        copy.args(["-h", "127.0.0.1", "-p", &postgres.port.to_string(), "-U", "postgres", "shop"]);
        copy.args(["-c", "COPY rows TO STDOUT"]).stdout(Stdio::null());
        copies.push(timed(&postgres, || assert!(copy.status().unwrap().success())));
        let (ended, watched) = (Arc::new(AtomicBool::new(false)), postgres.url());
        let watching = tokio::spawn(longest(watched, ended.clone()));
        let verified = timed(&postgres, || {
            let output = tokio::task::block_in_place(|| pipeline.output("verify", &["public.rows"]));
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        });
        ended.store(true, Ordering::Relaxed);
        open_millis = open_millis.max(watching.await.unwrap());
        verifications.push(verified);
    }
    let faster = |runs: Vec<(f64, f64)>| runs.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    let ((copy, copy_cpu), (ours, ours_cpu)) = (faster(copies), faster(verifications));
    let (rate, micros) = (|seconds: f64| ROWS as f64 / seconds / 1e3, |cpu: f64| cpu * 1e6 / ROWS as f64);
    vec![Line {
        what: format!("verify of {} M rows, both sides", ROWS / 1_000_000),
        ours: format!("{:.0} k rows/s", rate(ours)),
        peer: format!("COPY to nowhere {:.0} k rows/s", rate(copy)),
        ratio: Some(copy / ours),
        wanted: "-",
        notes: format!(
            "the server's CPU per row {:.2} µs, of a COPY {:.2} µs; longest transaction {open_millis} ms",
            micros(ours_cpu),
            micros(copy_cpu)
        ),
    }]
}

/// Seconds that something takes, and CPU seconds of the server's processes that ended meanwhile.
fn timed(postgres: &Postgres, work: impl FnOnce()) -> (f64, f64) {
    let file = std::fs::read_to_string(format!("{}/postmaster.pid", postgres.data())).unwrap();
    let pid = file.lines().next().unwrap();
    let server = || children_seconds(pid).unwrap_or_default();
    let (started, before) = (Instant::now(), server());
    work();
    let seconds = started.elapsed().as_secs_f64();
    // The server waits for its processes a moment later.
    std::thread::sleep(Duration::from_millis(300));
    (seconds, server() - before)
}

/// For how long anybody's transaction was open, in milliseconds, until it ends.
async fn longest(url: String, ended: Arc<AtomicBool>) -> u64 {
    let mut client = Client::connect(&ConnectOptions::parse(&url).unwrap(), Mode::Sql).await.unwrap();
    let mut longest = 0;
    while !ended.load(Ordering::Relaxed) {
        let open = client.query_value(OPEN).await.unwrap().and_then(|millis| millis.parse().ok());
        longest = longest.max(open.unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    longest
}
