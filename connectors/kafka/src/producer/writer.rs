//! The event log's entrance: batches go to a thread of their own, which gathers them into Kafka transactions.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sooner_api::{
    Error, EventBatch, EventWriter, Fact, MemoryBudget, Positions, ProgressRecord, Result, Side, TableStart,
    TableState, Telemetry,
};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::oneshot;

use super::opening::Opening;
use super::recovery::watch_for_hanging;
use super::repartition::{Repartitions, standing};
use super::transaction_writer::TransactionWriter;
use crate::cluster::settings::KafkaSettings;
use crate::progress::record::TopicProgress;

/// Bytes of events that wait for the thread.
const QUEUE_BYTES: usize = 8 << 20;
/// How often an idle thread serves the connection.
const IDLE: Duration = Duration::from_millis(100);
/// How often it is told where tables' events are.
const TOPICS_INTERVAL: Duration = Duration::from_millis(500);
/// How often it is looked whether the thread has ended.
const END_POLL: Duration = Duration::from_millis(5);

/// The entrance: first it is opened, then a record is begun with, then steps are appended.
pub struct KafkaWriter<T> {
    settings: KafkaSettings,
    telemetry: T,
    stored: Option<ProgressRecord>,
    refused: Vec<(TableName, Error)>,
    keeps_columns: bool,
    opening: Option<(Opening, Repartitions)>,
    running: Option<Running>,
    /// Once it is finished: everything before this is durable.
    settled_lsn: Lsn,
}

/// The thread, once there is one.
struct Running {
    commands: Sender<Command>,
    room: MemoryBudget,
    shared: Arc<Shared>,
}

/// What the thread is told.
enum Command {
    /// Write these steps.
    Batch(EventBatch),
    /// Record that nothing is written before this watermark, then report it.
    StartFrom(Watermark, oneshot::Sender<()>),
    /// Commit everything, then report it.
    Settle(oneshot::Sender<()>),
}

/// What the thread reports.
struct Shared {
    durable: AtomicU64,
    progress: Mutex<TopicProgress>,
    failed: Mutex<Option<Error>>,
    ended: AtomicBool,
}

impl<T: Telemetry> KafkaWriter<T> {
    /// An entrance that is open: its predecessors are fenced, and nothing hangs on the topics.
    /// `keeps_columns` says whether sinks know columns by their numbers.
    pub fn new(
        settings: &KafkaSettings,
        opening: Opening,
        repartitions: Repartitions,
        keeps_columns: bool,
        telemetry: T,
    ) -> KafkaWriter<T> {
        let stored = opening.stored().cloned();
        let (settings, refused) = (settings.clone(), opening.refused.clone());
        let (opening, settled_lsn) = (Some((opening, repartitions)), Lsn::ZERO);
        KafkaWriter { settings, telemetry, stored, refused, keeps_columns, opening, running: None, settled_lsn }
    }

    fn start(&mut self, writer: TransactionWriter, repartitions: Repartitions) -> &Running {
        let progress = writer.progress().clone();
        let shared = Arc::new(Shared {
            durable: AtomicU64::new(progress.record.confirmed_lsn.0),
            progress: Mutex::new(progress),
            failed: Mutex::new(None),
            ended: AtomicBool::new(false),
        });
        let (commands, received) = channel();
        let (telemetry, told) = (self.telemetry.clone(), shared.clone());
        let thread =
            ProducerThread { writer, repartitions, commands: received, shared: told, telemetry, told_topics: None };
        thread::spawn(move || thread.run());
        self.running.insert(Running { commands, room: MemoryBudget::new(QUEUE_BYTES), shared })
    }

    fn running(&self) -> Result<&Running> {
        self.running.as_ref().ok_or_else(|| Error::internal("cannot write to Kafka", "no record was begun with"))
    }
}

impl Running {
    async fn ask(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> Result<()> {
        let (done, answered) = oneshot::channel();
        self.commands.send(command(done)).map_err(|_| self.shared.failure())?;
        match answered.await {
            Ok(()) => Ok(()),
            // A failing thread drops the question first, and tells its error as it ends.
            Err(_) => Err(self.shared.ended().await),
        }
    }
}

impl Shared {
    fn failure(&self) -> Error {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failed.unwrap_or_else(|| Error::internal("the writer to Kafka ended without a result", "its thread panicked"))
    }

    /// Waits until the thread has ended, and returns why.
    async fn ended(&self) -> Error {
        while !self.ended.load(Ordering::Acquire) {
            tokio::time::sleep(IDLE).await;
        }
        self.failure()
    }
}

impl<T: Telemetry> EventWriter for KafkaWriter<T> {
    fn stored(&self) -> Option<&ProgressRecord> {
        self.stored.as_ref()
    }

    fn keeps_columns(&self) -> bool {
        self.keeps_columns
    }

    fn refused(&self) -> &[(TableName, Error)] {
        &self.refused
    }

    async fn begin(&mut self, record: ProgressRecord) -> Result<Vec<TableStart>> {
        let Some((opening, repartitions)) = self.opening.take() else {
            return Err(Error::internal("cannot begin to write to Kafka", "a record was begun with already"));
        };
        let writer = opening.begin(record)?;
        let starts = writer.progress().record.tables.iter().map(|(table, progress)| TableStart {
            table: table.clone(),
            state: progress.state.clone(),
            covered: match &progress.copy {
                Some(_) => writer.progress().covered(),
                None => Positions::whole(progress.state.copied_lsn().unwrap_or_default()),
            },
            copy: progress.copy.as_ref().and_then(|copy| Some((copy.source.clone()?, writer.progress().reached()))),
        });
        let starts: Vec<_> = starts.collect();
        for start in &starts {
            self.telemetry.record(Fact::State(Side::Source, &start.table, &start.state));
        }
        self.start(writer, repartitions);
        Ok(starts)
    }

    async fn start_at(&mut self, slot_lsn: Lsn) -> Result<()> {
        // A transaction whose commit record starts right there is still to come.
        let before = Lsn(slot_lsn.0.saturating_sub(1));
        let watermark = Watermark { commit_lsn: before, end_lsn: slot_lsn, commit_micros: 0 };
        self.running()?.ask(|done| Command::StartFrom(watermark, done)).await
    }

    async fn append(&mut self, mut batch: EventBatch) -> Result<()> {
        let running = self.running()?;
        // The room is given back when the thread has written the batch, and drops it.
        batch.reserve(&running.room).await;
        running.commands.send(Command::Batch(batch)).map_err(|_| running.shared.failure())
    }

    fn durable_lsn(&self) -> Lsn {
        self.running.as_ref().map_or(Lsn::ZERO, |running| Lsn(running.shared.durable.load(Ordering::Acquire)))
    }

    fn broken(&self) -> impl Future<Output = Error> + Send + 'static {
        let shared = self.running.as_ref().map(|running| running.shared.clone());
        let settings = self.settings.clone();
        async move {
            let Some(shared) = shared else { return std::future::pending().await };
            let written = || shared.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
            tokio::select! {
                biased;
                error = shared.ended() => error,
                error = watch_for_hanging(settings, written) => error,
            }
        }
    }

    async fn finish(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        let settled = running.ask(Command::Settle).await;
        let Running { commands, shared, .. } = running;
        drop(commands);
        while !shared.ended.load(Ordering::Acquire) {
            tokio::time::sleep(END_POLL).await;
        }
        self.settled_lsn = Lsn(shared.durable.load(Ordering::Acquire));
        settled
    }

    async fn settle(self) -> Lsn {
        self.settled_lsn
    }
}

/// Reports that the thread has ended, also by a panic.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

struct ProducerThread<T> {
    writer: TransactionWriter,
    repartitions: Repartitions,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    telemetry: T,
    /// When it was last told where tables' events are.
    told_topics: Option<Instant>,
}

impl<T: Telemetry> ProducerThread<T> {
    fn run(mut self) {
        let _ended = Ended(self.shared.clone());
        if let Err(error) = self.work() {
            *self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    fn work(&mut self) -> Result<()> {
        self.publish();
        let mut is_busy = false;
        loop {
            let wait = match self.writer.due() {
                _ if is_busy => Duration::ZERO,
                Some(due) => due.saturating_duration_since(Instant::now()).min(IDLE),
                None => IDLE,
            };
            match self.commands.recv_timeout(wait) {
                Ok(Command::StartFrom(watermark, done)) => {
                    self.writer.start_from(watermark)?;
                    self.publish();
                    let _ = done.send(());
                }
                Ok(Command::Settle(done)) => {
                    self.writer.commit()?;
                    self.publish();
                    // Nobody waits any more only when the attempt was cancelled.
                    let _ = done.send(());
                }
                Ok(Command::Batch(batch)) => {
                    let appended = self.writer.append(batch);
                    self.publish();
                    appended?;
                    self.writer.tick(false)?;
                }
                Err(RecvTimeoutError::Timeout) => self.writer.tick(true)?,
                Err(RecvTimeoutError::Disconnected) => {
                    self.writer.commit()?;
                    self.publish();
                    return Ok(());
                }
            }
            is_busy = self.repartitions.turn(&mut self.writer)?;
            self.publish();
            self.tell_topics();
        }
    }

    /// Reports now and then where the events of tables are that move, or have moved, from topic to topic.
    fn tell_topics(&mut self) {
        if self.told_topics.is_some_and(|at| at.elapsed() < TOPICS_INTERVAL) {
            return;
        }
        self.told_topics = Some(Instant::now());
        let progress = self.writer.progress();
        for table in progress.lineages.keys() {
            if let Some(standing) = standing(progress, table) {
                self.telemetry.record(Fact::Topic(table, standing));
            }
        }
    }

    /// Reports what is durable. A record that is not committed yet is not reported.
    fn publish(&mut self) {
        for took in self.writer.take_durations() {
            self.telemetry.record(Fact::Sent(took));
        }
        if let Some(wait) = self.writer.throttled() {
            self.telemetry.record(Fact::Throttled(Side::Source, wait));
        }
        let Some(changed) = self.writer.committed() else { return };
        let progress = self.writer.progress();
        let durable = progress.record.confirmed_lsn;
        let former = self.shared.durable.fetch_max(durable.0, Ordering::AcqRel);
        assert!(former <= durable.0, "progress moves forward only");
        let states: BTreeMap<&TableName, &TableState> =
            changed.iter().filter_map(|table| Some((table, &progress.record.tables.get(table)?.state))).collect();
        for (table, state) in states {
            self.telemetry.record(Fact::State(Side::Source, table, state));
        }
        self.telemetry.record(Fact::Confirmed(durable));
        let mut shared = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        shared.record.confirmed_lsn = durable;
        for table in changed {
            if let Some(offsets) = progress.topics.get(&table) {
                shared.topics.insert(table, offsets.clone());
            }
        }
    }
}
