//! Measures streaming a million rows into encoded events, beside pg_recvlogical into `/dev/null`; both over TCP.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use integration_tests::postgres::{Postgres, Version};
use sooner::direct::LocalSchemas;
use sooner_api::{FollowedTable, MemoryBudget, Positions};
use sooner_postgres::client::Mode;
use sooner_postgres::encoders::EncoderFactory;
use sooner_postgres::guard::SlotLimit;
use sooner_postgres::inspection::{TableFilter, eligible_tables};
use sooner_postgres::memory::ReadLimits;
use sooner_postgres::settings::StreamSettings;
use sooner_postgres::stream::{Next, PostgresStream};
use sooner_postgres::{Client, ConnectOptions};
use sooner_schemas::Lsn;

use crate::Line;
use crate::usage::cpu_seconds;

const ROWS: u64 = 1_000_000;

struct Measured {
    seconds: f64,
    client_cpu: f64,
    walsender_cpu: f64,
}

/// Measures pg_recvlogical and the stream in turn, twice each, and takes the faster run of each.
pub async fn run() -> Vec<Line> {
    let postgres =
        Postgres::start_with(Version::V15, &["wal_level=logical", "max_wal_size=4GB", "shared_buffers=512MB"]).await;
    postgres
        .sql("CREATE TABLE rows (id bigint PRIMARY KEY, a integer, b text, c timestamptz); CREATE PUBLICATION p FOR TABLE rows")
        .await;
    for slot in ["peer_1", "ours_1", "peer_2", "ours_2"] {
        postgres.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    }
    for part in 0..10 {
        let (low, high) = (part * ROWS / 10 + 1, (part + 1) * ROWS / 10);
        postgres
            .sql(&format!("INSERT INTO rows SELECT i, i % 1000, 'row number ' || i, now() FROM generate_series({low}, {high}) AS i"))
            .await;
    }
    let end = postgres.end_lsn().await;
    postgres.sql("INSERT INTO rows VALUES (0, 0, 'the end', now())").await;
    let mut peer: Option<Measured> = None;
    let mut ours: Option<Measured> = None;
    for round in 1..=2 {
        let better =
            |old: Option<Measured>, new: Measured| Some(old.filter(|old| old.seconds < new.seconds).unwrap_or(new));
        peer = better(peer, recvlogical(&postgres, &format!("peer_{round}"), end).await);
        ours = better(ours, decode(&postgres, &format!("ours_{round}"), end).await);
    }
    let (peer, ours) = (peer.unwrap(), ours.unwrap());
    let micros = |cpu: f64| cpu * 1e6 / ROWS as f64;
    vec![Line {
        what: "(a) stream to encoded events, TCP".to_owned(),
        ours: format!("{:.0} k rows/s", ROWS as f64 / ours.seconds / 1e3),
        peer: format!("pg_recvlogical {:.0} k rows/s", ROWS as f64 / peer.seconds / 1e3),
        ratio: Some(peer.seconds / ours.seconds),
        wanted: "≥ 1.5×",
        notes: format!(
            "CPU per row: sooner {:.2} µs, its walsender {:.2} µs; pg_recvlogical {:.2} µs, its walsender {:.2} µs",
            micros(ours.client_cpu),
            micros(ours.walsender_cpu),
            micros(peer.client_cpu),
            micros(peer.walsender_cpu)
        ),
    }]
}

async fn recvlogical(postgres: &Postgres, slot: &str, end: Lsn) -> Measured {
    let watch = WalsenderWatch::start(postgres, slot).await;
    let started = Instant::now();
    let mut child = postgres
        .program("pg_recvlogical")
        .args(["-h", "127.0.0.1", "-p", &postgres.port.to_string(), "-U", "postgres", "-d", "shop", "-S", slot])
        .args(["--start", "-f", "/dev/null", "-o", "proto_version=1", "-o", "publication_names=p", "-n"])
        .args(["--endpos", &end.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    let mut client_cpu = 0.0;
    while child.try_wait().unwrap().is_none() {
        client_cpu = cpu_seconds(&pid).filter(|cpu| *cpu > 0.0).unwrap_or(client_cpu);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Measured { seconds: started.elapsed().as_secs_f64(), client_cpu, walsender_cpu: watch.finish().await }
}

async fn decode(postgres: &Postgres, slot: &str, end: Lsn) -> Measured {
    let options = ConnectOptions::parse(&format!("{}?sslmode=disable", postgres.url())).unwrap();
    let encoders = EncoderFactory::new(LocalSchemas::default(), "bench", "shop");
    let selects = TableFilter::new(|table| table.table == "rows");
    let mut client = Client::connect(&options, Mode::Sql).await.unwrap();
    let tables = eligible_tables(&mut client, "p", &selects).await.unwrap();
    let followed = |table| FollowedTable { table, written: None, covered: Positions::whole(Lsn::ZERO) };
    let settings = StreamSettings {
        keeps_columns: true,
        slot: slot.into(),
        slot_limit: SlotLimit::none(),
        limits: ReadLimits { row_bytes: 32 << 20, copies: MemoryBudget::new(16 << 20) },
        publication: "p".into(),
        selects,
        follow: tables.into_iter().map(followed).collect(),
        copy: Vec::new(),
        apart: Vec::new(),
        start_lsn: Lsn::ZERO,
    };
    let watch = WalsenderWatch::start(postgres, slot).await;
    let (seconds, client_cpu) = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let before = cpu_seconds("thread-self").unwrap();
            let started = Instant::now();
            let mut stream = PostgresStream::start(&options, settings, Arc::new(encoders)).await.unwrap();
            let mut events = 0;
            loop {
                let Next::Batch(batch) = stream.next_or(std::future::pending::<()>()).await.unwrap() else { continue };
                events += batch.event_count();
                if batch.coverage().is_some_and(|coverage| coverage.watermark.end_lsn >= end) {
                    break;
                }
            }
            assert!(events as u64 >= ROWS, "{events} events");
            (started.elapsed().as_secs_f64(), cpu_seconds("thread-self").unwrap() - before)
        })
    })
    .join()
    .unwrap();
    Measured { seconds, client_cpu, walsender_cpu: watch.finish().await }
}

/// A task that samples the CPU time of the walsender that serves a slot, until it is finished.
struct WalsenderWatch {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<f64>,
}

impl WalsenderWatch {
    async fn start(postgres: &Postgres, slot: &str) -> WalsenderWatch {
        let mut client = postgres.connect("shop").await;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, sql) =
            (stop.clone(), format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'"));
        let task = tokio::spawn(async move {
            let (mut pid, mut cpu) = (None, 0.0f64);
            while !stopped.load(Ordering::Relaxed) {
                if pid.is_none() {
                    pid = client.query_value(&sql).await.unwrap();
                }
                cpu = pid.as_deref().and_then(cpu_seconds).unwrap_or(0.0).max(cpu);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            cpu
        });
        WalsenderWatch { stop, task }
    }

    async fn finish(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
