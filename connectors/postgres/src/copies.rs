//! Copies of several tables side by side, as steps: each table's start, rows and end, or why it stopped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sooner_api::{Class, EventBatch, Result, Rows, SchemaRegistry, SourceTable, Step};
use sooner_schemas::event::{TableEvents, Watermark};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::now_micros;
use crate::encoders::EncoderFactory;
use crate::options::ConnectOptions;
use crate::slot::ExportedSnapshot;
use crate::table_copy::{CopyConnection, SnapshotId};

/// Batches that a copy may be ahead of whoever takes them.
const QUEUE_BATCHES: usize = 2;

/// Running copies. Dropping them ends them.
pub struct Copies {
    batches: mpsc::Receiver<Result<EventBatch>>,
    _workers: JoinSet<()>,
    snapshot: ExportedSnapshot,
}

/// What all workers share.
struct Job<R> {
    options: ConnectOptions,
    snapshot: SnapshotId,
    encoders: Arc<EncoderFactory<R>>,
    waiting: Mutex<VecDeque<SourceTable>>,
    batches: mpsc::Sender<Result<EventBatch>>,
}

impl Copies {
    /// Starts to copy tables under a snapshot, so many at a time, on threads of a runtime.
    pub fn start<R: SchemaRegistry>(
        options: &ConnectOptions,
        snapshot: ExportedSnapshot,
        encoders: Arc<EncoderFactory<R>>,
        tables: Vec<SourceTable>,
        tables_at_once: usize,
        runtime: &Handle,
    ) -> Copies {
        tracing::info!(tables = tables.len(), lsn = %snapshot.id.consistent_lsn, "copying");
        let (sender, batches) = mpsc::channel(QUEUE_BATCHES * tables_at_once);
        let workers = tables_at_once.min(tables.len());
        let job = Arc::new(Job {
            options: options.clone(),
            snapshot: snapshot.id.clone(),
            encoders,
            waiting: Mutex::new(tables.into()),
            batches: sender,
        });
        let mut running = JoinSet::new();
        for _ in 0..workers {
            running.spawn_on(job.clone().work(), runtime);
        }
        Copies { batches, _workers: running, snapshot }
    }

    /// The snapshot that all tables are copied under.
    pub fn snapshot(&self) -> &SnapshotId {
        &self.snapshot.id
    }

    /// The next steps; none when all tables are done.
    pub async fn next(&mut self) -> Result<Option<EventBatch>> {
        self.batches.recv().await.transpose()
    }
}

impl<R: SchemaRegistry> Job<R> {
    async fn work(self: Arc<Job<R>>) {
        let mut connection = None;
        while let Some(table) = self.next_table() {
            let copied = self.copy(&table, &mut connection).await;
            let end = match copied {
                Ok(rows) => {
                    tracing::info!(table = %table.name(), rows, "copied");
                    Ok(Step::CopyEnd { table: table.name().clone(), watermark: self.watermark() })
                }
                Err(error) if error.class == Class::Operator => {
                    // Its transaction has failed with it.
                    connection = None;
                    Ok(Step::Stop { table: table.name().clone(), error })
                }
                Err(error) => Err(error),
            };
            let failed = end.is_err();
            // Nobody takes it any more only when the source is dropped.
            let sent = self.batches.send(end.map(batch_of)).await;
            if failed || sent.is_err() {
                return;
            }
        }
    }

    fn next_table(&self) -> Option<SourceTable> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Copies one table; returns the number of its rows.
    async fn copy(&self, table: &SourceTable, connection: &mut Option<CopyConnection>) -> Result<u64> {
        let connection = match connection {
            Some(connection) => connection,
            none => none.insert(CopyConnection::open(&self.options, self.snapshot.clone()).await?),
        };
        let mut copy = connection.start(table, &self.encoders).await?;
        self.send(copy.start_event()).await;
        let mut rows = 0;
        while let Some(events) = copy.next().await? {
            rows += events.events.len() as u64;
            self.send(events).await;
        }
        Ok(rows)
    }

    async fn send(&self, events: TableEvents) {
        // Nobody takes it any more only when the source is dropped, which ends this task.
        let _ = self.batches.send(Ok(batch_of(Rows::new(events).into_step()))).await;
    }

    /// What a table is complete to once it is copied.
    fn watermark(&self) -> Watermark {
        Watermark {
            commit_lsn: self.snapshot.last_commit_lsn(),
            end_lsn: self.snapshot.consistent_lsn,
            commit_micros: now_micros(),
        }
    }
}

fn batch_of(step: Step) -> EventBatch {
    EventBatch { steps: vec![step], ..EventBatch::default() }
}
