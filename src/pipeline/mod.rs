//! A running pipeline. This is its front door, which knows connectors; behind it, the loops know ports only.
//!
//! [`attempts`] makes attempts until the pipeline is told to stop. [`source_side`] and [`sink_side`] are the two halves
//! of one; their loops are [`source`] and [`sink`], whose tables have a [`lane`] and a [`worker`] each.

pub mod asking;
pub mod attempts;
pub mod changes;
pub mod continuity;
pub mod cutting;
pub mod kept_copy;
pub mod lane;
pub mod messages;
pub mod next_record;
pub mod sink;
pub mod sink_side;
pub mod source;
pub mod source_side;
pub mod worker;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sooner_api::{Error, EventLog, Fact, Lake, MemoryBudget, Result, SchemaRegistry, Side, Telemetry};
use sooner_delta::cut_lease::CutLease;
use sooner_delta::{
    DeltaLake, IndexSettings, LakeProgress, LakeStore, PartLimits, SortColumns, WaysToWrite, WrittenTable,
};
use sooner_kafka::KafkaLog;
use sooner_kafka::producer::repartition_rules::RepartitionDesk;
use sooner_kafka::registry::client::Registry;
use sooner_postgres::encoders::EncoderFactory;
use sooner_postgres::guard::SlotLimit;
use sooner_postgres::memory::ReadLimits;
use sooner_postgres::{DatabaseSettings, PostgresDatabase};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::clock::SystemClock;
use crate::config::{Config, KafkaConfig, LakeConfig, SourceConfig};
use crate::control::Requests;
use crate::cut_desk::serve_cuts;
use crate::direct::{DirectLog, LocalSchemas};
use crate::memory::MemoryShares;
use crate::repartitions::RepartitionRequests;
use crate::sink_record::RecordedReader;
use crate::status::StatusBoard;
use crate::turns::Turns;
use attempts::{End, attempts, halt_on_request, rest_while_paused};
use cutting::CutDesk;
use sink::{SinkEnd, SinkSettings};
use sink_side::{KnownTables, SinkSide};
use source_side::SourceSide;
use worker::WorkerSettings;

/// How often progress is stored and the slot confirmed, at most.
const STORE_INTERVAL: Duration = Duration::from_secs(5);
/// How long copied rows may wait before they are durable.
const COPY_FRESHNESS: Duration = Duration::from_secs(5);
/// How often it is looked what others have done to a table that nothing happens to.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(15);
/// Commits of all tables at the same time.
const COMMITS_AT_ONCE: usize = 32;

/// The sink's half of a pipeline: a lake, and what its loop is set up with.
struct SinkParts {
    store: LakeStore,
    lake: DeltaLake,
    settings: SinkSettings,
    known: KnownTables<WrittenTable>,
}

impl SinkParts {
    fn new(config: &Config, lake: &LakeConfig, board: &StatusBoard) -> Result<SinkParts> {
        let shares = MemoryShares::of(config.memory_bytes);
        let store = LakeStore::open(&lake.url, &lake.s3)?;
        let limits = PartLimits { part_bytes: shares.part_bytes, budget: MemoryBudget::new(shares.parts_bytes) };
        let settings = SinkSettings {
            worker: WorkerSettings {
                freshness: lake.freshness,
                copy_freshness: lake.freshness.max(COPY_FRESHNESS),
                seal_bytes: shares.seal_bytes,
                commits: Arc::new(Semaphore::new(COMMITS_AT_ONCE)),
                inspection_interval: INSPECTION_INTERVAL,
            },
            tables: config.tables.clone(),
            store_interval: STORE_INTERVAL,
            budget: MemoryBudget::new(shares.events_bytes),
            cuts: CutDesk::closed(),
        };
        let (tables, ways) = (config.tables.clone(), config.tables.clone());
        let indexes = IndexSettings::new(Some(config.state_dir.join("index")), lake.index_memory_bytes);
        let lake = DeltaLake::new(store.clone(), &config.name, limits)
            .with_retention(lake.retention)
            .with_column_mapping(lake.maps_columns)
            .with_sort_columns(SortColumns::new(move |table| tables.sort_columns(table)))
            .with_ways(WaysToWrite::new(move |table| ways.ways(table)))
            .with_indexes(&indexes);
        let settings = SinkSettings { cuts: serve_cuts(&config.state_dir, lake.clone(), board.clone()), ..settings };
        Ok(SinkParts { store, lake, settings, known: KnownTables::new() })
    }
}

fn database<R: SchemaRegistry>(
    source: &SourceConfig,
    shares: MemoryShares,
    encoders: EncoderFactory<R>,
    board: &StatusBoard,
    runtime: Handle,
) -> Arc<PostgresDatabase<R>> {
    let board = board.clone();
    let settings = DatabaseSettings {
        connect: source.connect.clone(),
        slot: source.slot.clone(),
        publication: source.publication.clone(),
        selects: source.filter(),
        copy_tables_at_once: source.copy_tables_at_once,
        copy_bytes_per_second: source.copy_bytes_per_second.map(|bytes| bytes as u64),
        limits: ReadLimits { row_bytes: shares.row_bytes, copies: MemoryBudget::new(shares.copies_bytes) },
        slot_limit: SlotLimit {
            max_retained_bytes: source.max_retained_wal.map(|bytes| bytes as u64),
            gives_up: source.copies_when_slot_is_lost,
            observer: Arc::new(move |standing| board.record(Fact::Slot(standing))),
        },
        survives_failover: source.failover,
    };
    Arc::new(PostgresDatabase::new(settings, Arc::new(encoders), runtime))
}

/// The sides of a process without a broker.
const BOTH: [Side; 2] = [Side::Source, Side::Sink];

/// Runs a pipeline without a broker: both sides in one process, with a channel between them.
pub async fn run_direct(
    config: Config,
    recopy: &AtomicBool,
    board: StatusBoard,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let (source, lake_config) = (config.source()?.clone(), config.lake()?.clone());
    let mut encoders = EncoderFactory::new(LocalSchemas::default(), &config.name, &source.connect.database);
    encoders.policies = source.policies_of_lake();
    let database = database(&source, MemoryShares::of(config.memory_bytes), encoders, &board, Handle::current());
    let mut sink = SinkParts::new(&config, &lake_config, &board)?;
    let requests = Requests::new(&config.state_dir);
    attempts(&board.clone(), stop, async |stop| {
        rest_while_paused(&board, stop.clone(), &requests, &BOTH, async || database.look_at_slot().await).await;
        if *stop.borrow() {
            return Ok(End::Stopped);
        }
        // Before a slot is created, which keeps log from then on. While it fails, nobody else looks at the slot.
        if let Err(error) = sink.lake.probe().await {
            database.look_at_slot().await;
            return Err(error);
        }
        let progress = LakeProgress::new(sink.store.clone(), &config.name);
        let log = DirectLog::new(progress, &source.slot, sink.settings.budget.clone());
        let mut log = log.with_columns_kept(lake_config.maps_columns);
        let mut reader = log.open_reader().await?;
        let (halt, halted) = watch::channel(false);
        let asks = halt_on_request(halt.clone(), stop.clone(), requests.clone(), &BOTH, false);
        let watcher = tokio::spawn(asks);
        let (database, source) = (database.clone(), source.clone());
        let copies_all = recopy.load(Ordering::Relaxed);
        let (facts, asked) = (board.clone(), requests.clone());
        let sourced = on_a_runtime(async move {
            let side = source_side(&*database, &source, true, &asked, &facts);
            let mut recopy = copies_all;
            let end = side.attempt(&mut log, &mut recopy, halted).await;
            (end, recopy)
        });
        let side = SinkSide { lake: &sink.lake, settings: &sink.settings, clock: SystemClock, telemetry: &board };
        // The log's end tells the sink when to stop, so that it takes what is on the way.
        let (_never, unhalted) = watch::channel(false);
        let sunk = side.attempt(&mut reader, &mut sink.known, unhalted).await;
        drop(reader);
        halt.send_replace(true);
        watcher.abort();
        let (sourced, still_recopy) = sourced.await.unwrap_or_else(|_| (Err(panicked("the source loop")), copies_all));
        recopy.store(still_recopy, Ordering::Relaxed);
        if sunk? == SinkEnd::CopyNeeded {
            return Ok(End::Again);
        }
        sourced?;
        Ok(if *stop.borrow() { End::Stopped } else { End::Again })
    })
    .await
}

/// Runs the source's side of a pipeline with Kafka.
pub async fn run_kafka_source(
    config: Config,
    recopy: &AtomicBool,
    board: StatusBoard,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let (source, kafka) = (config.source()?.clone(), config.kafka()?.clone());
    let registry = Registry::new(kafka.registry.writable()?.clone())?;
    let encoders = kafka.encoders(registry, &source.connect.database, source.policies());
    let database = database(&source, MemoryShares::of(config.memory_bytes), encoders, &board, Handle::current());
    let requests = Requests::new(&config.state_dir);
    let mut log = kafka_log(&config, &kafka, &board);
    log.repartitions = RepartitionRequests::new(&config.state_dir).desk();
    attempts(&board.clone(), stop, async |stop| {
        rest_while_paused(&board, stop.clone(), &requests, &[Side::Source], async || database.look_at_slot().await)
            .await;
        if *stop.borrow() {
            return Ok(End::Stopped);
        }
        let (halt, halted) = watch::channel(false);
        let watcher = tokio::spawn(halt_on_request(halt, stop.clone(), requests.clone(), &[Side::Source], true));
        let side = source_side(&*database, &source, false, &requests, &board);
        let mut copies_all = recopy.load(Ordering::Relaxed);
        let ended = side.attempt(&mut log, &mut copies_all, halted).await;
        recopy.store(copies_all, Ordering::Relaxed);
        watcher.abort();
        if ended.is_err() {
            // While attempts fail, nobody else looks at the slot.
            database.look_at_slot().await;
        }
        ended?;
        Ok(if *stop.borrow() { End::Stopped } else { End::Again })
    })
    .await
}

/// Runs the sink's side of a pipeline with Kafka.
pub async fn run_kafka_sink(config: Config, board: StatusBoard, stop: watch::Receiver<bool>) -> Result<()> {
    let (kafka, lake_config) = (config.kafka()?.clone(), config.lake()?.clone());
    let mut sink = SinkParts::new(&config, &lake_config, &board)?;
    let mut log = kafka_log(&config, &kafka, &board);
    log.budget = sink.settings.budget.clone();
    let requests = Requests::new(&config.state_dir);
    // In one process with a source, requests are the source's: it copies the table again, and the copy's start lets the
    // table go on here, too.
    let own_requests = config.source.is_none();
    let lease = CutLease::new(&sink.lake, format!("{:032x}", rand::random::<u128>()));
    let turns = Turns::start(lease, &sink.settings.cuts, &config.state_dir);
    attempts(&board.clone(), stop, async |stop| {
        rest_while_paused(&board, stop.clone(), &requests, &[Side::Sink], async || ()).await;
        turns.rest(stop.clone()).await;
        if *stop.borrow() {
            return Ok(End::Stopped);
        }
        sink.lake.probe().await?;
        let resumed = requests.pending();
        let reader = log.open_reader().await?;
        let mut reader = RecordedReader::open(reader, LakeProgress::shared(sink.store.clone(), &config.name)).await?;
        if own_requests {
            requests.forget(&resumed);
        }
        let (halt, halted) = watch::channel(false);
        let gives_way = tokio::spawn(turns.clone().halt_for_others(halt.clone()));
        let watcher = tokio::spawn(halt_on_request(halt, stop.clone(), requests.clone(), &[Side::Sink], own_requests));
        let side = SinkSide { lake: &sink.lake, settings: &sink.settings, clock: SystemClock, telemetry: &board };
        let ended = side.attempt(&mut reader, &mut sink.known, halted).await;
        watcher.abort();
        gives_way.abort();
        ended?;
        Ok(if *stop.borrow() { End::Stopped } else { End::Again })
    })
    .await
}

fn source_side<'a, D>(
    database: &'a D,
    source: &'a SourceConfig,
    takes_whole_tables: bool,
    requests: &'a Requests,
    telemetry: &'a StatusBoard,
) -> SourceSide<'a, D, StatusBoard> {
    let copies_when_slot_is_gone = source.copies_when_slot_is_lost;
    SourceSide { database, slot: &source.slot, copies_when_slot_is_gone, takes_whole_tables, requests, telemetry }
}

fn kafka_log(config: &Config, kafka: &KafkaConfig, board: &StatusBoard) -> KafkaLog<StatusBoard> {
    KafkaLog {
        settings: kafka.settings.clone(),
        registry: kafka.registry.clone(),
        topics: kafka.topics.clone(),
        subjects: kafka.subjects,
        written_by: kafka.written_by,
        keeps_columns: config.lake.as_ref().is_none_or(|lake| lake.maps_columns),
        budget: MemoryBudget::new(MemoryShares::of(config.memory_bytes).events_bytes),
        repartitions: RepartitionDesk::closed(),
        telemetry: board.clone(),
    }
}

/// Runs the source on a thread and a runtime of its own, so that merging never delays reading, nor feedback.
fn on_a_runtime<O: Send + 'static>(
    work: impl Future<Output = (Result<End>, O)> + Send + 'static,
) -> oneshot::Receiver<(Result<End>, O)> {
    let (done, result) = oneshot::channel();
    thread::spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            // Nobody waits any more only when the process ends.
            let _ = done.send(runtime.block_on(work));
        }
    });
    result
}

/// The error of a thread that ended without a result.
pub fn panicked(what: &str) -> Error {
    Error::internal(format!("{what} ended without a result"), "its thread panicked")
}
