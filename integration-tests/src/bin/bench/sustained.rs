//! Random updates of five million rows without a pause, with all that the table does for itself beside: how many a
//! second are decoded, collapsed, located, written and committed, and whether it stays so.

use std::time::{Duration, Instant};

use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::{Feed, Lake, LakeTable, MemoryBudget, Rows};
use sooner_delta::{DeltaLake, IndexSettings, LakeStore, PartLimits, RetentionSettings, S3Settings};
use sooner_schemas::event::TableEvents;
use sooner_schemas::{Lsn, TableName};

use crate::Line;
use crate::merge::{copy_rows, encoder, events, watermark};
use crate::usage::{cpu_seconds, memory_mib};

const ROWS: u64 = 5_000_000;
/// Events that are staged at once, as a batch of the stream is.
const BATCH: usize = 10_000;
/// Batches that are encoded beforehand, and staged in turn.
const BATCHES: usize = 40;
/// Batches of a commit.
const BATCHES_PER_COMMIT: usize = 10;
const STAGES: u32 = 4;

/// Updates rows for a minute, or `SOONER_BENCH_SECONDS`, and says what each quarter of it was like.
pub async fn run() -> Vec<Line> {
    let seconds = std::env::var("SOONER_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let folder = tempfile::tempdir().unwrap();
    let (encoder, schema) = encoder();
    let store = LakeStore::open(&folder.path().join("lake").display().to_string(), &S3Settings::default()).unwrap();
    let limits = PartLimits { part_bytes: 24 << 20, budget: MemoryBudget::new(24 << 20) };
    let indexes = IndexSettings::new(Some(folder.path().join("index")), 64 << 20);
    let retention = RetentionSettings { deleted_files: Some(Duration::from_secs(10)), log: None };
    let lake = DeltaLake::new(store, "bench", limits).with_indexes(&indexes).with_retention(retention);
    let mut table = lake.open(&TableName::new("public", "rows"), &Feed::Slot("bench".to_owned())).await.unwrap();
    copy_rows(&mut table, &encoder, &schema, ROWS).await;
    let mut random = StdRng::seed_from_u64(1);
    let batches: Vec<Rows> = (0..BATCHES)
        .map(|_| {
            let ids: Vec<_> = (0..BATCH).map(|_| random.random_range(0..ROWS)).collect();
            events(&encoder, &schema, &ids, 1, false)
        })
        .collect();
    let (mut lsn, mut next, mut lines) = (100, batches.iter().cycle(), Vec::new());
    for stage in 1..=STAGES {
        let (started, cpu) = (Instant::now(), cpu_seconds("self").unwrap_or_default());
        let (mut merged, mut merging, mut worst_files) = (0, Duration::ZERO, 0);
        while started.elapsed() < Duration::from_secs(seconds) / STAGES {
            lsn += 1;
            let began = Instant::now();
            for batch in next.by_ref().take(BATCHES_PER_COMMIT) {
                table.stage(at(batch, lsn)).await.unwrap();
                if table.staged_bytes() > 16 << 20 {
                    table.seal().await.unwrap();
                }
            }
            table.commit(watermark(lsn)).await.unwrap();
            merging += began.elapsed();
            merged += BATCHES_PER_COMMIT * BATCH;
            // Beside, as a worker would.
            if table.maintenance_due().now_or_never().is_some() {
                table.maintain().await.unwrap();
            }
            worst_files = worst_files.max(table.size().unwrap().files);
        }
        let took = started.elapsed().as_secs_f64();
        let cpu = cpu_seconds("self").unwrap_or_default() - cpu;
        lines.push(Line {
            what: format!("(u) updates without a pause, quarter {stage}"),
            ours: format!("{:.0} k/s", merged as f64 / took / 1e3),
            peer: "150 k/s".to_owned(),
            ratio: Some(merged as f64 / took / 150e3),
            wanted: "≥ 1.00×",
            notes: format!(
                "{:.0} % of the time merging, {:.1} of two cores, {worst_files} files at most, {} MiB of memory",
                merging.as_secs_f64() / took * 100.0,
                cpu / took,
                memory_mib("self").unwrap_or_default()
            ),
        });
    }
    lines
}

/// The same events in another transaction.
fn at(batch: &Rows, lsn: u64) -> Rows {
    let mut events = TableEvents::new(batch.events.schema.clone());
    events.bytes.clone_from(&batch.events.bytes);
    events.events.clone_from(&batch.events.events);
    events.events.iter_mut().for_each(|event| event.position.commit_lsn = Lsn(lsn));
    Rows::new(events)
}
