//! Measures the time from a commit in Postgres to the row in a fresh snapshot of the lake table, at steady rates.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use integration_tests::pipeline::{Pipeline, of};
use integration_tests::postgres::{Postgres, Version};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use sooner_delta::rows::stored_file;

use crate::Line;
use crate::usage::{cpu_seconds, peak_memory_mib, percentile};

const SECONDS: u64 = 10;
const TRANSACTIONS_PER_SECOND: u64 = 100;

/// Tables that are copied meanwhile, with so many rows each.
const LARGE_TABLES: [&str; 2] = ["large", "larger"];
const LARGE_ROWS: u64 = 4_000_000;

/// Measures the latency at 1,000 and at 10,000 events per second, and at 1,000 while other tables are copied.
pub async fn run() -> Vec<Line> {
    vec![at_rate(1_000, &[]).await, at_rate(10_000, &[]).await, at_rate(1_000, &LARGE_TABLES).await]
}

async fn at_rate(rate: u64, copied: &[&str]) -> Line {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE rows (id bigint PRIMARY KEY, a text)").await;
    for table in copied {
        let rows = format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, a text); \
             INSERT INTO {table} SELECT i, 'row number ' || i FROM generate_series(1, {LARGE_ROWS}) i"
        );
        postgres.sql(&rows).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").display().to_string();
    // Measured with the default freshness of one second, so the setting for tests is taken out.
    let mut pipeline = Pipeline::with(folder, &postgres.url(), lake.clone(), "", "");
    let configuration = pipeline.folder().join("sooner.toml");
    let text = std::fs::read_to_string(&configuration).unwrap().replace("freshness = \"200ms\"\n", "");
    std::fs::write(configuration, text).unwrap();
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    copied.iter().for_each(|table| pipeline.resume(&format!("public.{table}")));
    let pid = pipeline.status().unwrap().pid.to_string();
    let cpu_before = cpu_seconds(&pid).unwrap();
    let committed: Arc<Mutex<HashMap<i64, Instant>>> = Arc::default();
    let watcher = tokio::spawn(watch(PathBuf::from(lake).join("public/rows"), committed.clone(), rate * SECONDS));
    let mut client = postgres.connect("shop").await;
    let per_transaction = rate / TRANSACTIONS_PER_SECOND;
    let started = Instant::now();
    for transaction in 0..SECONDS * TRANSACTIONS_PER_SECOND {
        let due = Duration::from_micros(transaction * 1_000_000 / TRANSACTIONS_PER_SECOND);
        tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        let (low, high) = (transaction * per_transaction, (transaction + 1) * per_transaction - 1);
        client
            .query(&format!("INSERT INTO rows SELECT i, 'row ' || i FROM generate_series({low}, {high}) AS i"))
            .await
            .unwrap();
        let now = Instant::now();
        committed.lock().unwrap().extend((low..=high).map(|id| (id as i64, now)));
    }
    let status = pipeline.status().unwrap();
    let is_copying = |table: &&&str| *of(&status, &format!("public.{table}")).state.name() == *"copying";
    let still_copying = copied.iter().filter(is_copying).count();
    let mut waits = watcher.await.unwrap();
    waits.sort_by(f64::total_cmp);
    let events = (rate * SECONDS) as f64;
    Line {
        what: match copied.len() {
            0 => format!("(c) commit to visible at {rate} events/s"),
            tables => format!("(c) the same at {rate} events/s beside copies of {tables} large tables"),
        },
        ours: format!("p50 {:.2} s, p99 {:.2} s", percentile(&waits, 0.5), percentile(&waits, 0.99)),
        peer: "freshness 1.00 s".to_owned(),
        ratio: Some(1.0 / percentile(&waits, 0.99)),
        wanted: "-",
        notes: format!(
            "CPU per event {:.1} µs, peak memory {} MiB; copies still running at the end: {still_copying}",
            (cpu_seconds(&pid).unwrap() - cpu_before) * 1e6 / events,
            peak_memory_mib(&pid).unwrap_or_default()
        ),
    }
}

/// Follows the table's log, and returns for each row of each new file the seconds from its commit until it was seen.
async fn watch(table: PathBuf, committed: Arc<Mutex<HashMap<i64, Instant>>>, expected: u64) -> Vec<f64> {
    let store: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(&table).unwrap());
    let (mut version, mut waits) = (1, Vec::new());
    let deadline = Instant::now() + Duration::from_secs(SECONDS * 3);
    while (waits.len() as u64) < expected && Instant::now() < deadline {
        let Ok(text) = std::fs::read_to_string(table.join(format!("_delta_log/{version:020}.json"))) else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        let seen = Instant::now();
        version += 1;
        for line in text.lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            // Rows that were only moved are none that became visible.
            let changes_data = action["add"]["dataChange"].as_bool() == Some(true);
            let Some(path) = action["add"]["path"].as_str().filter(|_| changes_data) else { continue };
            let size = action["add"]["size"].as_u64().unwrap();
            let mut ids = Vec::new();
            stored_file::read(&store, &path.into(), size, &["id"], None, |batch| {
                ids.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
                Ok(())
            })
            .await
            .unwrap();
            // The load notes a commit only when it has the server's answer, which may come after the row is visible.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let committed = committed.lock().unwrap();
            waits.extend(
                ids.iter().filter_map(|id| Some(seen.saturating_duration_since(*committed.get(id)?).as_secs_f64())),
            );
        }
    }
    waits
}
