//! A running pipeline: attempts, one after the other, until it is told to stop or a person is needed.
//!
//! An attempt prepares, copies what has to be copied, and then streams. Whatever it leaves half done, the next one
//! finds in the lake and in the slot.

pub mod control;
pub mod copy;
pub mod prepare;
pub mod sink;
pub mod source;
pub mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sooner_api::{Class, Clock, Error, Lake, LakeTable, Result, TablePhase};
use sooner_delta::{AppIds, DeltaLake, DeltaTable, LakeProgress, LakeStore};
use sooner_postgres::catalog::Table;
use sooner_postgres::decode::EncoderFactory;
use sooner_postgres::slot;
use sooner_postgres::stream::{PostgresStream, StreamSettings};
use sooner_schemas::{Lsn, TableName};
use tokio::sync::{oneshot, watch};

use crate::budget::MemoryBudget;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::direct::{self, DirectWriter, LocalSchemas};
use crate::ledger::Ledger;
use crate::status::StatusBoard;
use copy::CopyJob;
use prepare::{Prepared, in_phase};
use sink::{SinkEnd, SinkLoop, SinkSettings};
use worker::WorkerSettings;

/// How often the slot is confirmed, at most: each time the progress record is stored first.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);
/// How often requests are looked for, and the status is written.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// An attempt of this length counts as success: the next pause is short again.
const GOOD_ATTEMPT: Duration = Duration::from_secs(30);

/// How an attempt ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    /// A table has to be copied.
    Again,
}

/// A pipeline with direct mode's event log.
pub struct Pipeline {
    config: Config,
    lake: LakeStore,
    encoders: Arc<EncoderFactory<LocalSchemas>>,
    board: StatusBoard,
    recopy: bool,
    /// Tables that the last attempt left in good order, so that their key indexes need not be built again.
    open_tables: HashMap<TableName, DeltaTable>,
}

impl Pipeline {
    /// Sets a pipeline up; touches nothing yet.
    pub fn new(config: Config, recopy: bool) -> Result<Pipeline> {
        let lake = LakeStore::open(&config.lake.url, &config.lake.s3)?;
        let encoders = EncoderFactory {
            registry: LocalSchemas::default(),
            prefix: config.name.clone(),
            database: config.source.connect.database.clone(),
        };
        let board = StatusBoard::default();
        board.update(|status| {
            status.pipeline.clone_from(&config.name);
            status.pid = std::process::id();
        });
        Ok(Pipeline { config, lake, encoders: Arc::new(encoders), board, recopy, open_tables: HashMap::new() })
    }

    /// Its status.
    pub fn board(&self) -> StatusBoard {
        self.board.clone()
    }

    /// Runs until told to stop. What passes by itself is tried again; what needs a person is returned.
    pub async fn run(&mut self, mut stop: watch::Receiver<bool>) -> Result<()> {
        let saver = tokio::spawn(save_status(self.board.clone(), self.config.state_dir.clone()));
        let result = self.run_attempts(&mut stop).await;
        saver.abort();
        self.board.update(|status| status.trouble = result.as_ref().err().map(ToString::to_string));
        // The status is for people; that it cannot be written is no reason to fail.
        let _ = self.board.save(&self.config.state_dir, SystemClock.now_micros());
        result
    }

    async fn run_attempts(&mut self, stop: &mut watch::Receiver<bool>) -> Result<()> {
        let mut pause = Duration::from_millis(500);
        while !*stop.borrow() {
            let started = Instant::now();
            match self.attempt(stop.clone()).await {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Again) => pause = Duration::from_millis(500),
                Err(error) if error.class == Class::Retry => {
                    if started.elapsed() > GOOD_ATTEMPT {
                        pause = Duration::from_millis(500);
                    }
                    tracing::warn!(%error, "interrupted; trying again in {:.1} s", pause.as_secs_f64());
                    self.board.update(|status| status.trouble = Some(error.to_string()));
                    tokio::select! {
                        _ = stop.wait_for(|stop| *stop) => {}
                        () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn attempt(&mut self, mut stop: watch::Receiver<bool>) -> Result<End> {
        let resume = control::requested(&self.config.state_dir);
        let prepared = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
            prepared = prepare::prepare(&self.config, &self.lake, &resume, self.recopy) => prepared?,
        };
        self.recopy = false;
        if let Err(error) = control::forget(&self.config.state_dir, &resume) {
            tracing::warn!(%error, "cannot remove a granted request; its table will be copied once more");
        }
        let Prepared { tables, mut ledger, start_lsn, snapshot } = prepared;
        self.show_tables(&ledger, &tables);
        let copied = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
            copied = self.copy(&tables, &mut ledger, snapshot) => copied?,
        };
        self.board.update(|status| status.trouble = None);
        self.stream(copied, &tables, ledger, start_lsn, stop).await
    }

    /// Opens all tables, and copies those that need it.
    async fn copy(
        &mut self,
        tables: &[Table],
        ledger: &mut Ledger<LakeProgress>,
        snapshot: Option<slot::ExportedSnapshot>,
    ) -> Result<Vec<DeltaTable>> {
        let app_ids = AppIds::direct(&self.config.name, &self.config.source.slot);
        let lake = DeltaLake::new(self.lake.clone(), app_ids, self.config.memory_bytes / 4);
        let (mut ready, mut to_copy) = (Vec::new(), Vec::new());
        for table in tables {
            let name = &table.relation.name;
            if ledger.phase(name) == TablePhase::Parked {
                continue;
            }
            let known = match self.open_tables.remove(name) {
                Some(known) if known.is_current().await? => Some(known),
                _ => None,
            };
            let opened = match known {
                Some(known) => Ok(known),
                None => lake.open(name).await,
            };
            match opened {
                Ok(open) if ledger.phase(name) == TablePhase::Copying || open.applied_lsn().is_none() => {
                    to_copy.push((table.clone(), open));
                }
                Ok(open) => ready.push(open),
                Err(error) if error.class == Class::Operator => self.park(ledger, name, &error).await?,
                Err(error) => return Err(error),
            }
        }
        if to_copy.is_empty() {
            return Ok(ready);
        }
        let snapshot = match snapshot {
            Some(snapshot) => snapshot,
            None => slot::snapshot(&self.config.source.connect).await?,
        };
        tracing::info!(tables = to_copy.len(), lsn = %snapshot.consistent_lsn, "copying");
        let job = CopyJob {
            connect: self.config.source.connect.clone(),
            snapshot,
            encoders: self.encoders.clone(),
            seal_bytes: self.config.memory_bytes / 4 / self.config.source.copy_tables_at_once,
            tables_at_once: self.config.source.copy_tables_at_once,
            board: self.board.clone(),
        };
        ready.extend(job.run(to_copy, ledger).await?);
        Ok(ready)
    }

    async fn park(&self, ledger: &mut Ledger<LakeProgress>, table: &TableName, error: &Error) -> Result<()> {
        tracing::error!(%table, %error, "the table stopped");
        ledger.set_phase(table, TablePhase::Parked, Some(error.to_string())).await?;
        self.board.table(table, |status| {
            status.phase = TablePhase::Parked;
            status.reason = Some(error.to_string());
        });
        Ok(())
    }

    /// Runs both loops until one ends.
    async fn stream(
        &mut self,
        tables: Vec<DeltaTable>,
        catalog: &[Table],
        ledger: Ledger<LakeProgress>,
        start_lsn: Lsn,
        stop: watch::Receiver<bool>,
    ) -> Result<End> {
        let streaming: HashSet<_> = in_phase(ledger.record(), catalog, TablePhase::Streaming).into_iter().collect();
        let tables: Vec<_> = tables.into_iter().filter(|table| streaming.contains(table.name())).collect();
        let applied = tables.iter().map(|table| (table.name().clone(), table.applied_lsn().unwrap_or_default()));
        let applied: HashMap<_, _> = applied.collect();
        let budget = MemoryBudget::new(self.config.memory_bytes / 2);
        let (writer, reader) = direct::open(budget.clone(), start_lsn);
        let settings = SinkSettings {
            worker: WorkerSettings { freshness: self.config.lake.freshness, seal_bytes: self.config.memory_bytes / 8 },
            confirm_interval: CONFIRM_INTERVAL,
            start_lsn,
        };
        let sink = SinkLoop::start(tables, settings, ledger, budget, self.board.clone(), SystemClock);
        let (halt, halted) = watch::channel(false);
        let source = self.start_source(applied, start_lsn, writer, halted);
        let watcher = tokio::spawn(halt_on_request(halt.clone(), stop.clone(), self.config.state_dir.clone()));
        let sunk = sink.run(reader).await;
        halt.send_replace(true);
        watcher.abort();
        let sourced = source.await.unwrap_or_else(|_| {
            Err(Error::fatal("the source loop ended without a result", "its thread panicked", "report this"))
        });
        let (end, tables) = sunk?;
        self.open_tables = tables.into_iter().map(|table| (table.name().clone(), table)).collect();
        if end == SinkEnd::NeedsCopy {
            return Ok(End::Again);
        }
        sourced?;
        Ok(if *stop.borrow() { End::Stopped } else { End::Again })
    }

    /// Starts the source loop on a thread of its own, so that merging never delays reading, nor feedback.
    fn start_source(
        &self,
        tables: HashMap<TableName, Lsn>,
        start_lsn: Lsn,
        writer: DirectWriter,
        stop: watch::Receiver<bool>,
    ) -> oneshot::Receiver<Result<()>> {
        let (done, result) = oneshot::channel();
        let connect = self.config.source.connect.clone();
        let settings = StreamSettings {
            slot: self.config.source.slot.clone(),
            publication: self.config.source.publication.clone(),
            tables,
            start_lsn,
        };
        let encoders = self.encoders.clone();
        let work = async move {
            let stream = PostgresStream::start(&connect, settings, encoders).await?;
            tracing::info!(lsn = %start_lsn, "streaming");
            source::run(stream, writer, stop).await
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = match runtime {
                Ok(runtime) => runtime.block_on(work),
                Err(error) => Err(Error::fatal("cannot start the source loop", error, "see the message")),
            };
            // Nobody waits any more only when the process ends.
            let _ = done.send(result);
        });
        result
    }

    fn show_tables(&self, ledger: &Ledger<LakeProgress>, tables: &[Table]) {
        self.board.update(|status| {
            status.tables.retain(|name, _| ledger.record().tables.contains_key(name));
        });
        for table in tables {
            let known = ledger.record().tables.get(&table.relation.name.to_string());
            self.board.table(&table.relation.name, |status| {
                status.rows_estimated = table.estimated_rows;
                if let Some(known) = known {
                    status.phase = known.phase;
                    status.reason.clone_from(&known.reason);
                }
                if status.phase == TablePhase::Copying {
                    status.rows_copied = 0;
                }
            });
        }
    }
}

/// Ends the attempt when the pipeline is told to stop, or a table is to be resumed.
async fn halt_on_request(halt: watch::Sender<bool>, mut stop: watch::Receiver<bool>, state_dir: std::path::PathBuf) {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(LOOK_INTERVAL) => {
                if !control::requested(&state_dir).is_empty() {
                    break;
                }
            }
        }
    }
    halt.send_replace(true);
}

async fn save_status(board: StatusBoard, state_dir: std::path::PathBuf) {
    loop {
        if let Err(error) = board.save(&state_dir, SystemClock.now_micros()) {
            tracing::debug!(%error, "cannot write the status");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
