//! Measures the key index by itself, with generated keys: how fast it is built, opened and asked, and what it takes.

use std::path::Path;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_delta::IndexSettings;
use sooner_delta::index::index_store::IndexStore;
use sooner_delta::index::key_index::RowAddress;
use sooner_delta::index::manifest::Described;
use sooner_delta::index::table_index::TableIndex;
use sooner_schemas::TableName;

use crate::Line;
use crate::usage::peak_memory_mib;

const RUN: u64 = 512 << 10;
const MEMORY_BYTES: usize = 64 << 20;

/// Measures indexes of 5 and of 50 million keys; of more with `SOONER_BENCH_KEYS`, in millions.
pub async fn run() -> Vec<Line> {
    let more = std::env::var("SOONER_BENCH_KEYS").ok().and_then(|keys| keys.parse::<u64>().ok());
    let mut lines = Vec::new();
    let mut small = None;
    for millions in [5, 50].into_iter().chain(more) {
        let folder = tempfile::tempdir().unwrap();
        measure(millions, folder.path(), &mut small, &mut lines).await;
    }
    lines
}

async fn measure(millions: u64, folder: &Path, small: &mut Option<f64>, lines: &mut Vec<Line>) {
    let keys = millions * 1_000_000;
    let (store, table) = (IndexStore::new(&settings(folder)), TableName::new("public", "keys"));
    let mut index = TableIndex::new(&store, &table);
    let started = Instant::now();
    for first in (0..keys).step_by(RUN as usize) {
        let run = (first..keys.min(first + RUN)).map(|number| (key(number), row(number)));
        index.build(run.collect()).await;
    }
    index.compact().await;
    let built = started.elapsed().as_secs_f64();
    index.settle(described).await;
    drop(index);
    let bytes: u64 = walk(folder);
    let started = Instant::now();
    let store = IndexStore::new(&settings(folder));
    let index = TableIndex::open(&store, &table, store.load(&table).unwrap()).unwrap();
    let opened = started.elapsed().as_secs_f64();
    let what = |what: &str| format!("(i) {millions} M keys: {what}");
    let rate = keys as f64 / built / 1e6;
    lines.push(Line {
        what: what("built"),
        ours: format!("{rate:.1} M keys/s"),
        peer: String::new(),
        ratio: None,
        wanted: "≥ 2 M",
        notes: format!(
            "{:.1} bytes a key on disk (wanted ≤ 24); opened in {:.1} ms",
            bytes as f64 / keys as f64,
            opened * 1e3
        ),
    });
    let mut random = StdRng::seed_from_u64(millions);
    for asked in [1_000u64, 100_000] {
        let mut best = f64::MAX;
        for _ in 0..5 {
            let wanted: Vec<_> = (0..asked).map(|_| key(random.random_range(0..keys))).collect();
            let started = Instant::now();
            let found = index.locate(wanted).await.unwrap();
            best = best.min(started.elapsed().as_secs_f64());
            assert!(found.len() as u64 > asked * 9 / 10);
        }
        let ratio = small.filter(|_| asked == 100_000).map(|small| best / small);
        if asked == 100_000 {
            small.get_or_insert(best);
        }
        lines.push(Line {
            what: what(&format!("{asked} rows located")),
            ours: format!("{:.2} ms", best * 1e3),
            peer: if ratio.is_some() { "the same among 5 M".to_owned() } else { String::new() },
            ratio,
            wanted: "",
            notes: format!("best of 5; peak memory {} MiB", peak_memory_mib("self").unwrap_or_default()),
        });
    }
}

fn settings(folder: &Path) -> IndexSettings {
    IndexSettings::new(Some(folder.to_owned()), MEMORY_BYTES)
}

/// The hash of a key, as if it were one.
fn key(number: u64) -> u128 {
    let high = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let high = (high ^ high >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    u128::from(high ^ high >> 29) << 64 | u128::from(high.wrapping_mul(0x94D0_49BB_1331_11EB))
}

fn row(number: u64) -> RowAddress {
    RowAddress { file: (number / 1_000_000) as u32, row: (number % 1_000_000) as u32 }
}

fn described() -> Described {
    let (table_id, key) = ("bench".to_owned(), "key".to_owned());
    Described {
        table_id,
        version: 0,
        commit: uuid::Uuid::nil(),
        secret: (1, 2),
        key,
        last_file: 1000,
        files: Vec::new(),
    }
}

fn walk(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
}
