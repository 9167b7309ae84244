//! Measures inserts into tables that are written in other ways, beside the same inserts into a mirror.

use std::time::Instant;

use sooner_api::{Feed, Lake, LakeTable, MemoryBudget, Rows};
use sooner_delta::{Deletes, DeltaLake, IndexSettings, LakeStore, OnChange, PartLimits, S3Settings, Ways, WaysToWrite};
use sooner_schemas::TableName;
use sooner_schemas::event::Op;

use crate::Line;
use crate::merge::{copy_rows, encoder, events, watermark};

/// Rows that both tables have before.
const ROWS: u64 = 2_000_000;
/// Rows of a transaction, and number of transactions.
const INSERTS: u64 = 100_000;
const TRANSACTIONS: u64 = 5;

/// Measures all ways in one run.
pub async fn run() -> Vec<Line> {
    let append = Ways { mirror: false, append: Some(OnChange::Park), ..Ways::default() };
    let soft = Ways { deletes: Deletes::Soft, ..Ways::default() };
    let both = Ways { history: true, ..Ways::default() };
    let chained = Ways { history: true, chain: true, ..Ways::default() };
    let (mirror, mirror_bytes) = inserts(Ways::default()).await;
    let mut lines = Vec::new();
    for (name, ways) in
        [("appended", append), ("with soft deletes", soft), ("with history", both), ("with chained history", chained)]
    {
        let (seconds, bytes) = inserts(ways).await;
        lines.push(Line {
            what: format!("{INSERTS} inserts {name}, {} M rows", ROWS / 1_000_000),
            ours: format!("{:.1} ms", seconds * 1e3),
            peer: format!("into a mirror {:.1} ms", mirror * 1e3),
            ratio: Some(mirror / seconds),
            wanted: "-",
            notes: format!("best of {TRANSACTIONS}; index on disk {bytes} and {mirror_bytes} bytes"),
        });
    }
    lines
}

/// Seconds of the best transaction, and bytes of the index on disk, of a table that is written in these ways.
async fn inserts(ways: Ways) -> (f64, u64) {
    let (folder, (encoder, schema)) = (tempfile::tempdir().unwrap(), encoder());
    let store = LakeStore::open(&folder.path().join("lake").display().to_string(), &S3Settings::default()).unwrap();
    let limits = PartLimits { part_bytes: 32 << 20, budget: MemoryBudget::new(32 << 20) };
    let indexes = IndexSettings::new(Some(folder.path().join("index")), 64 << 20);
    let lake = DeltaLake::new(store, "bench", limits).with_indexes(&indexes).with_ways(WaysToWrite::new(move |_| ways));
    let mut table = lake.open(&TableName::new("public", "rows"), &Feed::Slot("bench".to_owned())).await.unwrap();
    copy_rows(&mut table, &encoder, &schema, ROWS).await;
    let mut best = f64::MAX;
    for number in 0..TRANSACTIONS {
        let lsn = 100 + number;
        let ids: Vec<_> = (0..INSERTS).map(|id| ROWS + number * INSERTS + id).collect();
        let staged = inserted(events(&encoder, &schema, &ids, lsn, false));
        let started = Instant::now();
        table.stage(staged).await.unwrap();
        table.commit(watermark(lsn)).await.unwrap();
        best = best.min(started.elapsed().as_secs_f64());
    }
    (best, table.size().unwrap().index_bytes)
}

/// The same events as those of an INSERT. Both ways go by what the event is, the envelope's letter is read of others.
fn inserted(mut rows: Rows) -> Rows {
    rows.events.events.iter_mut().for_each(|event| event.op = Op::Create);
    rows
}
