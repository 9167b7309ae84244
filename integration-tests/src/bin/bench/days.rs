//! Days of a table, sped up: a commit of ten updates each second into two million rows, with everything that the table
//! does for itself beside. What it costs at the end is what it cost at the beginning. The clock is turned from one
//! commit to the next, and so are the ages of the log's files; those of files that are no longer part of the table are
//! the machine's.

use std::path::Path;
use std::time::{Duration, Instant};

use integration_tests::{python, root};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::{Feed, Lake, LakeTable, MemoryBudget};
use sooner_delta::{DeltaLake, IndexSettings, LakeStore, PartLimits, RetentionSettings, S3Settings};
use sooner_schemas::TableName;

use crate::Line;
use crate::merge::{copy_rows, encoder, events, watermark};
use crate::usage::{memory_mib, percentile};

const ROWS: u64 = 2_000_000;
/// Rows of a commit.
const UPDATES: usize = 10;
/// Files are kept for so long, so that some of them go during the run.
const RETENTION: Duration = Duration::from_secs(10);
/// Entries of the log are kept for so long, by the turned clock.
const LOG_RETENTION: Duration = Duration::from_secs(3600);
/// Commits after which files of the log are as old as that clock says.
const COMMITS_PER_TURN: u64 = 600;
const STAGES: u64 = 5;
/// From one commit to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// After so long without anything to do, a table is as it stays.
const LEFT_ALONE: Duration = Duration::from_secs(45);
const READERS: [&str; 3] = ["DuckDB", "Polars", "Spark"];

/// Makes 5,000 commits, or `SOONER_BENCH_COMMITS`, and says what each fifth of them left.
pub fn run() -> Vec<Line> {
    let days = std::thread::spawn(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap().block_on(days())
    });
    days.join().unwrap()
}

async fn days() -> Vec<Line> {
    let commits = std::env::var("SOONER_BENCH_COMMITS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000u64);
    let folder = tempfile::tempdir().unwrap();
    let (encoder, schema) = encoder();
    let store = LakeStore::open(&folder.path().join("lake").display().to_string(), &S3Settings::default()).unwrap();
    let limits = PartLimits { part_bytes: 32 << 20, budget: MemoryBudget::new(32 << 20) };
    let indexes = IndexSettings::new(Some(folder.path().join("index")), 64 << 20);
    let retention = RetentionSettings { deleted_files: Some(RETENTION), log: Some(LOG_RETENTION) };
    let lake = DeltaLake::new(store, "bench", limits).with_indexes(&indexes).with_retention(retention);
    let mut table = lake.open(&TableName::new("public", "rows"), &Feed::Slot("bench".to_owned())).await.unwrap();
    copy_rows(&mut table, &encoder, &schema, ROWS).await;
    let path = folder.path().join("lake/public/rows");
    let fresh = scan_millis(&path);
    let mut random = StdRng::seed_from_u64(1);
    let mut lines = Vec::new();
    for stage in 1..=STAGES {
        let (mut took, mut worst_files) = (Vec::new(), 0);
        for commit in (stage - 1) * commits / STAGES..stage * commits / STAGES {
            let ids: Vec<_> = (0..UPDATES).map(|_| random.random_range(0..ROWS)).collect();
            let staged = events(&encoder, &schema, &ids, 100 + commit, false);
            let started = Instant::now();
            table.stage(staged).await.unwrap();
            table.commit(watermark(100 + commit)).await.unwrap();
            took.push(started.elapsed().as_secs_f64() * 1e3);
            // Beside, as a worker would.
            let ends = tokio::time::Instant::now() + INTERVAL;
            while tokio::time::timeout_at(ends, table.maintenance_due()).await.is_ok() {
                table.maintain().await.unwrap();
            }
            if commit.is_multiple_of(COMMITS_PER_TURN) {
                turn_ages(&path, table.version().unwrap());
            }
            worst_files = worst_files.max(table.size().unwrap().files);
        }
        took.sort_by(f64::total_cmp);
        let (what, scans) =
            (format!("commits {} to {}", (stage - 1) * commits / STAGES, stage * commits / STAGES), scan_millis(&path));
        lines.push(Line {
            ours: format!("{:.1} ms p50, {:.1} p99", percentile(&took, 0.5), percentile(&took, 0.99)),
            peer: String::new(),
            ratio: None,
            wanted: "",
            notes: format!(
                "{worst_files} files at most, {} on disk, {} log entries, checkpoint {} KiB, {} MiB of memory",
                count(&path, ".parquet"),
                count(&path.join("_delta_log"), ".json"),
                checkpoint_kib(&path),
                memory_mib("self").unwrap_or_default()
            ),
            what: format!("(d) {what}"),
        });
        lines.extend(scan_lines(&what, scans, fresh));
    }
    leave_alone(&mut table).await;
    lines.extend(scan_lines("left alone", scan_millis(&path), fresh));
    lines
}

/// What readers took for a scan, beside what they took in the beginning.
fn scan_lines(what: &str, scans: [f64; 3], fresh: [f64; 3]) -> Vec<Line> {
    let lines = READERS.iter().zip(scans).zip(fresh).map(|((reader, scan), fresh)| Line {
        what: format!("(d) {what}: {reader}"),
        ours: format!("scan {scan:.0} ms"),
        peer: format!("fresh {fresh:.0} ms"),
        ratio: Some(scan / fresh),
        wanted: "≤ 1.2×",
        notes: String::new(),
    });
    lines.collect()
}

/// Makes files of the log as old as the turned clock says: an interval for each version since.
fn turn_ages(path: &Path, version: u64) {
    for entry in std::fs::read_dir(path.join("_delta_log")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let Some(written) = name.get(..20).and_then(|number| number.parse::<u64>().ok()) else { continue };
        let age = INTERVAL * u32::try_from(version.saturating_sub(written)).unwrap();
        let file = std::fs::File::options().write(true).open(entry.path()).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
    }
}

/// A while in which nothing is committed.
async fn leave_alone(table: &mut impl LakeTable) {
    while let Ok(()) = tokio::time::timeout(LEFT_ALONE, table.maintenance_due()).await {
        table.maintain().await.unwrap();
    }
}

/// Milliseconds of a scan by each of [`READERS`].
fn scan_millis(path: &Path) -> [f64; 3] {
    let script = root().join("integration-tests/readers/scan_time.py");
    let output = std::process::Command::new(python()).arg(script).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let millis: Vec<f64> = text.split_whitespace().map(|millis| millis.parse().unwrap()).collect();
    millis.try_into().unwrap()
}

fn count(path: &Path, end: &str) -> usize {
    let names = std::fs::read_dir(path).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(end)).count()
}

/// Size of the last checkpoint.
fn checkpoint_kib(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path.join("_delta_log")).unwrap().flatten();
    let checkpoints = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with("checkpoint.parquet"));
    let last = checkpoints.max_by_key(|entry| entry.file_name());
    last.map_or(0, |last| last.metadata().unwrap().len() / 1024)
}
