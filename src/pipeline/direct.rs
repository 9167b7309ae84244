//! Direct mode: both loops in one process, with a channel between them. Postgres' slot is the durable log.
//!
//! An attempt prepares, copies what has to be copied, and then streams. Whatever it leaves half done, the next one
//! finds in the lake and in the slot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::thread;

use sooner_api::{Class, Code, Error, Lake, LakeTable, Result, TablePhase};
use sooner_delta::{AppIds, DeltaLake, DeltaTable, LakeProgress, LakeStore};
use sooner_postgres::catalog::Table;
use sooner_postgres::encoders::EncoderFactory;
use sooner_postgres::slot;
use sooner_postgres::stream::{PostgresStream, StreamSettings};
use sooner_schemas::{Lsn, TableName};
use tokio::sync::{oneshot, watch};

use super::copy::CopyJob;
use super::copy_source::CopySource;
use super::prepare::{self, Prepared, in_phase};
use super::sink::{SinkEnd, SinkLoop, SinkSettings};
use super::worker::WorkerSettings;
use super::{CONFIRM_INTERVAL, End, attempts, control, halt_on_request, source};
use crate::budget::MemoryBudget;
use crate::clock::SystemClock;
use crate::config::{Config, LakeConfig, SourceConfig};
use crate::direct::{self, DirectWriter, LocalSchemas};
use crate::ledger::Ledger;
use crate::status::StatusBoard;

/// A pipeline with direct mode's event log.
pub struct DirectPipeline {
    config: Config,
    source: SourceConfig,
    lake_config: LakeConfig,
    lake: LakeStore,
    encoders: Arc<EncoderFactory<LocalSchemas>>,
    board: StatusBoard,
    recopy: bool,
    /// Tables that the last attempt left in good order, so that their key indexes need not be built again.
    open_tables: HashMap<TableName, DeltaTable>,
}

impl DirectPipeline {
    /// Sets a pipeline up; touches nothing yet.
    pub fn new(config: Config, recopy: bool, board: StatusBoard) -> Result<DirectPipeline> {
        let (source, lake_config) = (config.source()?.clone(), config.lake()?.clone());
        let encoders = EncoderFactory::new(LocalSchemas::default(), &config.name, &source.connect.database);
        Ok(DirectPipeline {
            lake: LakeStore::open(&lake_config.url, &lake_config.s3)?,
            encoders: Arc::new(encoders),
            board,
            recopy,
            open_tables: HashMap::new(),
            config,
            source,
            lake_config,
        })
    }

    /// Runs until told to stop. What passes by itself is tried again; what needs a person is returned.
    pub async fn run(&mut self, stop: watch::Receiver<bool>) -> Result<()> {
        let board = self.board.clone();
        attempts(&board, stop, async |stop| self.attempt(stop).await).await
    }

    async fn attempt(&mut self, mut stop: watch::Receiver<bool>) -> Result<End> {
        let resume = control::requested(&self.config.state_dir);
        let prepared = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
            prepared = prepare::prepare(&self.config.name, &self.source, &self.lake, &resume, self.recopy) => prepared?,
        };
        self.recopy = false;
        if let Err(error) = control::forget(&self.config.state_dir, &resume) {
            tracing::warn!(%error, "cannot remove a granted request; its table will be copied once more");
        }
        let Prepared { tables, mut ledger, start_lsn, snapshot } = prepared;
        self.board.show_tables(&ledger.record().tables, &tables);
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
        let app_ids = AppIds::direct(&self.config.name, &self.source.slot);
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
        let (encoders, board) = (self.encoders.clone(), self.board.clone());
        let job = CopyJob {
            from: CopySource::open(&self.source, snapshot, encoders, board, to_copy.len()).await?,
            seal_bytes: self.config.memory_bytes / 4 / self.source.copy_tables_at_once,
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
        let (writer, mut reader) = direct::open(budget.clone(), start_lsn);
        let settings = SinkSettings {
            worker: WorkerSettings { freshness: self.lake_config.freshness, seal_bytes: self.config.memory_bytes / 8 },
            confirm_interval: CONFIRM_INTERVAL,
            start_lsn,
        };
        let sink = SinkLoop::start(tables, settings, ledger, budget, self.board.clone(), SystemClock);
        let (halt, halted) = watch::channel(false);
        let source = self.start_source(applied, start_lsn, writer, halted);
        let watcher = tokio::spawn(halt_on_request(halt.clone(), stop.clone(), self.config.state_dir.clone()));
        let sunk = sink.run(&mut reader).await;
        drop(reader);
        halt.send_replace(true);
        watcher.abort();
        let sourced = source.await.unwrap_or_else(|_| {
            Err(Error::fatal(
                Code::Internal,
                "the source loop ended without a result",
                "its thread panicked",
                "report this",
            ))
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
        mut writer: DirectWriter,
        stop: watch::Receiver<bool>,
    ) -> oneshot::Receiver<Result<()>> {
        let (done, result) = oneshot::channel();
        let connect = self.source.connect.clone();
        let settings = StreamSettings {
            slot: self.source.slot.clone(),
            publication: self.source.publication.clone(),
            tables,
            start_lsn,
        };
        let encoders = self.encoders.clone();
        let work = async move {
            let mut stream = PostgresStream::start(&connect, settings, encoders).await?;
            tracing::info!(lsn = %start_lsn, "streaming");
            source::run(&mut stream, &mut writer, stop).await
        };
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let result = match runtime {
                Ok(runtime) => runtime.block_on(work),
                Err(error) => {
                    Err(Error::fatal(Code::Internal, "cannot start the source loop", error, "see the message"))
                }
            };
            // Nobody waits any more only when the process ends.
            let _ = done.send(result);
        });
        result
    }
}
