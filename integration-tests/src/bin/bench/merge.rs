//! Measures merging changes into a table of five million rows, beside a MERGE of as many updates by deltalake
//! and by Spark.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use integration_tests::{python, root};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::{Feed, Lake, LakeTable, MemoryBudget, Rows};
use sooner_delta::{DeltaLake, IndexSettings, LakeStore, PartLimits, S3Settings, WrittenTable};
use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventSchema, TableEvents, Watermark};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

use crate::Line;
use crate::usage::peak_memory_mib;

const ROWS: u64 = 5_000_000;
const BATCH: u64 = 10_000;

/// What a batch does to rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Batch {
    Updates,
    Inserts,
    Deletes,
    /// A third of each.
    Mixed,
}

impl Batch {
    fn name(self) -> &'static str {
        match self {
            Batch::Updates => "random updates",
            Batch::Inserts => "inserts",
            Batch::Deletes => "random deletes",
            Batch::Mixed => "random changes, a third of each kind",
        }
    }
}

/// Seconds that a peer takes for 1,000 and for 100,000 updates.
struct Peer {
    name: &'static str,
    small: f64,
    large: f64,
}

/// A table that is merged into.
struct Subject {
    folder: tempfile::TempDir,
    encoder: Encoder,
    schema: Arc<EventSchema>,
    rows: u64,
    lsn: u64,
}

/// Measures merges of 1,000 and of 100,000 changes into five million rows, beside peers; and into
/// `SOONER_BENCH_ROWS` million, beside those into five.
pub async fn run() -> Vec<Line> {
    let folder = tempfile::tempdir().unwrap();
    let peers = [
        peer("deltalake", "merge_peer.py", &folder.path().join("deltalake")),
        peer("Spark", "merge_peer_spark.py", &folder.path().join("spark")),
    ];
    drop(folder);
    let (mut subject, mut lines) = (Subject::new(ROWS), Vec::new());
    let mut table = subject.open().await;
    copy_rows(&mut table, &subject.encoder, &subject.schema, ROWS).await;
    let mut updates = Vec::new();
    for (changes, batch, wanted) in [
        (1_000usize, Batch::Updates, "≥ 300×"),
        (100_000, Batch::Updates, "≥ 20×"),
        (100_000, Batch::Inserts, "-"),
        (100_000, Batch::Deletes, "-"),
        (100_000, Batch::Mixed, "-"),
    ] {
        let best = subject.measure(&mut table, changes, batch).await;
        if batch == Batch::Updates {
            updates.push((changes, best));
        }
        for peer in &peers {
            let seconds = if changes > 1_000 { peer.large } else { peer.small };
            let against = format!("{} MERGE {seconds:.1} s", peer.name);
            lines.push(line(subject.what(changes, batch), best, against, seconds / best, wanted));
        }
    }
    drop(table);
    if let Some(millions) = std::env::var("SOONER_BENCH_ROWS").ok().and_then(|text| text.parse::<u64>().ok()) {
        lines.extend(more_rows(millions, &updates).await);
    }
    lines
}

fn line(what: String, seconds: f64, peer: String, ratio: f64, wanted: &'static str) -> Line {
    let notes =
        format!("best of 3; peak memory with the key index {} MiB", peak_memory_mib("self").unwrap_or_default());
    Line { what, ours: format!("{:.1} ms", seconds * 1e3), peer, ratio: Some(ratio), wanted, notes }
}

/// The same updates of a table with so many million rows, and the start with its index.
async fn more_rows(millions: u64, few: &[(usize, f64)]) -> Vec<Line> {
    let mut subject = Subject::new(millions * 1_000_000);
    let mut table = subject.open().await;
    copy_rows(&mut table, &subject.encoder, &subject.schema, subject.rows).await;
    let mut lines = Vec::new();
    for &(changes, best_of_few) in few {
        let best = subject.measure(&mut table, changes, Batch::Updates).await;
        let peer = format!("into {} M {:.1} ms", ROWS / 1_000_000, best_of_few * 1e3);
        lines.push(line(subject.what(changes, Batch::Updates), best, peer, best / best_of_few, "≤ 1.2×"));
    }
    drop(table);
    let started = Instant::now();
    let mut table = subject.open().await;
    let staged = events(&subject.encoder, &subject.schema, &[7, 8, 9], subject.lsn + 1, false);
    table.stage(staged).await.unwrap();
    table.commit(watermark(subject.lsn + 1)).await.unwrap();
    let took = started.elapsed().as_secs_f64();
    lines.push(line(
        format!("(b) start with {millions} M rows, until the first commit"),
        took,
        "1 s".to_owned(),
        1.0 / took,
        "≥ 1.00×",
    ));
    lines
}

impl Subject {
    fn new(rows: u64) -> Subject {
        let (encoder, schema) = encoder();
        Subject { folder: tempfile::tempdir().unwrap(), encoder, schema, rows, lsn: 100 }
    }

    async fn open(&self) -> WrittenTable {
        let url = self.folder.path().join("lake").display().to_string();
        let store = LakeStore::open(&url, &S3Settings::default()).unwrap();
        let limits = PartLimits { part_bytes: 32 << 20, budget: MemoryBudget::new(32 << 20) };
        let indexes = IndexSettings::new(Some(self.folder.path().join("index")), 64 << 20);
        let lake = DeltaLake::new(store, "bench", limits).with_indexes(&indexes);
        lake.open(&TableName::new("public", "rows"), &Feed::Slot("bench".to_owned())).await.unwrap()
    }

    fn what(&self, changes: usize, batch: Batch) -> String {
        format!("(b) {changes} {} into {} M rows", batch.name(), self.rows / 1_000_000)
    }

    /// Seconds of the best of three merges.
    async fn measure(&mut self, table: &mut WrittenTable, changes: usize, batch: Batch) -> f64 {
        let mut random = StdRng::seed_from_u64(self.lsn);
        let mut best = f64::MAX;
        for _ in 0..3 {
            self.lsn += 1;
            let ids: Vec<_> = (0..changes).map(|_| random.random_range(0..self.rows)).collect();
            let staged = batch_of(batch, &self.encoder, &self.schema, &ids, self.lsn);
            let started = Instant::now();
            table.stage(staged).await.unwrap();
            table.commit(watermark(self.lsn)).await.unwrap();
            best = best.min(started.elapsed().as_secs_f64());
        }
        best
    }
}

/// Events of one transaction that changes rows of these ids.
fn batch_of(batch: Batch, encoder: &Encoder, schema: &Arc<EventSchema>, ids: &[u64], lsn: u64) -> Rows {
    let mut rows = match batch {
        Batch::Inserts => {
            let new: Vec<_> = (0..ids.len() as u64).map(|number| ROWS * lsn + number).collect();
            events(encoder, schema, &new, lsn, false)
        }
        Batch::Updates | Batch::Mixed => events(encoder, schema, ids, lsn, false),
        Batch::Deletes => Rows::new(TableEvents::new(schema.clone())),
    };
    let deleted = match batch {
        Batch::Deletes => ids,
        Batch::Mixed => &ids[..ids.len() / 3],
        Batch::Updates | Batch::Inserts => &[],
    };
    if batch == Batch::Mixed {
        rows.events.events.truncate(ids.len() / 3 * 2);
    }
    let first = rows.events.events.len() as u64;
    for (ordinal, id) in (first..).zip(deleted) {
        let id = id.to_string();
        let mut row = [TupleValue::Null; 6];
        row[0] = TupleValue::Text(id.as_bytes());
        encoder.delete(&mut rows.events, &origin(lsn, ordinal, Snapshot::No), &row, false).unwrap();
    }
    rows
}

/// Copies so many rows into a table.
pub async fn copy_rows(table: &mut WrittenTable, encoder: &Encoder, schema: &Arc<EventSchema>, rows: u64) {
    table.begin_copy(copy_start(encoder, schema)).await.unwrap();
    for start in (0..rows).step_by(BATCH as usize) {
        let ids: Vec<_> = (start..start + BATCH).collect();
        table.stage(events(encoder, schema, &ids, 1, true)).await.unwrap();
        if table.staged_bytes() > 16 << 20 {
            table.seal().await.unwrap();
        }
    }
    table.end_copy(watermark(1)).await.unwrap();
}

/// Runs a peer's script, which makes a table of as many rows in a folder and merges into it.
fn peer(name: &'static str, script: &str, folder: &std::path::Path) -> Peer {
    let script = root().join("integration-tests/readers").join(script);
    let output = Command::new(python()).arg(script).arg(folder).arg(ROWS.to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seconds: Vec<f64> = text.split_whitespace().map(|seconds| seconds.parse().unwrap()).collect();
    // Before the last two, a peer may have warmed up.
    let [.., small, large] = seconds[..] else { panic!("{name} printed {text}") };
    Peer { name, small, large }
}

/// A watermark at an LSN.
pub fn watermark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn), commit_micros: 0 }
}

/// Encodes events of a table with six columns, whose key is the first.
pub fn encoder() -> (Encoder, Arc<EventSchema>) {
    let column = |name, scalar| Column::new(name, ColumnType::Scalar(scalar));
    let columns = vec![
        column("id", Scalar::Int8),
        column("customer", Scalar::Int8),
        column("amount", Scalar::Float8),
        column("state", Scalar::Text),
        column("placed", Scalar::Timestamp(6)),
        column("note", Scalar::Text),
    ];
    let relation = Relation::new(TableName::new("public", "rows"), columns, vec![0]);
    let key = key_schema("bench", &relation).unwrap().to_string();
    let value = value_schema("bench", &relation).to_string();
    let schema = Arc::new(EventSchema::parse(relation.name.clone(), Some(&key), &value).unwrap());
    (Encoder::new(&relation, schema.clone(), SchemaIds { key: Some(1), value: 2 }, "bench", "bench"), schema)
}

fn origin(lsn: u64, ordinal: u64, snapshot: Snapshot) -> Origin {
    let position = Position { commit_lsn: Lsn(lsn), ordinal };
    Origin { position, lsn: Lsn(lsn), xid: 1, source_micros: 0, now_micros: 0, snapshot }
}

fn copy_start(encoder: &Encoder, schema: &Arc<EventSchema>) -> Rows {
    let mut out = TableEvents::new(schema.clone());
    encoder.copy_start(&mut out, &origin(1, 0, Snapshot::Yes));
    Rows::new(out)
}

/// Events of one transaction: rows of these ids, copied or updated.
pub fn events(encoder: &Encoder, schema: &Arc<EventSchema>, ids: &[u64], lsn: u64, copied: bool) -> Rows {
    let mut out = TableEvents::new(schema.clone());
    for (ordinal, id) in ids.iter().enumerate() {
        let customer = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let amount = (id * 7 + lsn) as f64 / 100.0;
        let state = ["new", "paid", "shipped", "returned"][(id % 4) as usize];
        let placed = format!("2026-01-{:02} {:02}:{:02}:{:02}", 1 + id % 28, id % 24, id % 60, id * 7 % 60);
        let texts = [
            id.to_string(),
            customer.to_string(),
            amount.to_string(),
            state.to_owned(),
            placed,
            format!("order {id}, {customer:x}"),
        ];
        let row: Vec<_> = texts.iter().map(|text| TupleValue::Text(text.as_bytes())).collect();
        let origin = origin(lsn, ordinal as u64, if copied { Snapshot::Yes } else { Snapshot::No });
        let written =
            if copied { encoder.read(&mut out, &origin, &row) } else { encoder.update(&mut out, &origin, None, &row) };
        written.unwrap();
    }
    Rows::new(out)
}
