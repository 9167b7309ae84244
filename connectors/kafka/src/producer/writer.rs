//! Writing side of the event log: batches go to a thread of their own, which gathers them into Kafka transactions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sooner_api::{Code, Error, EventWriter, Result};
use sooner_schemas::Lsn;
use sooner_schemas::event::EventBatch;
use tokio::sync::{Semaphore, oneshot};

use crate::producer::transaction_writer::TransactionWriter;
use crate::progress::record::TopicProgress;

/// Bound of the events that wait for the thread, in bytes.
const QUEUE_BYTES: usize = 8 << 20;
/// Bytes per permit of the semaphore that bounds the queue, which counts in 32 bits.
const UNIT_BYTES: usize = 1024;
/// How often an idle thread polls the producer's connection.
const IDLE: Duration = Duration::from_millis(100);

/// Writes batches to Kafka through a thread. An appended batch waits in a bounded queue, and is durable once
/// committed. Once the thread has failed, appending and waiting return its error.
pub struct KafkaWriter {
    commands: Sender<Command>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

enum Command {
    /// Events to append, and the number of permits that they take.
    Batch(EventBatch, u32),
    /// Commit everything appended so far, then report it to the sender.
    Settle(oneshot::Sender<()>),
}

struct Shared {
    durable: AtomicU64,
    progress: Mutex<TopicProgress>,
    failed: Mutex<Option<Error>>,
}

/// Handle to the progress that the writer has committed, for display and checks.
#[derive(Clone)]
pub struct WriterProgress(Arc<Shared>);

impl WriterProgress {
    /// The last committed progress record.
    pub fn read(&self) -> TopicProgress {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl KafkaWriter {
    /// Starts the writer's thread. Once the writer is dropped, the thread commits what was appended and ends.
    pub fn start(mut producer: TransactionWriter) -> KafkaWriter {
        let progress = producer.committed().unwrap_or_else(|| producer.progress().clone());
        let shared = Arc::new(Shared {
            durable: AtomicU64::new(progress.record.confirmed_lsn.0),
            progress: Mutex::new(progress),
            failed: Mutex::new(None),
        });
        let room = Arc::new(Semaphore::new(QUEUE_BYTES / UNIT_BYTES));
        let (commands, received) = channel();
        let thread = ProducerThread { producer, commands: received, room: room.clone(), shared: shared.clone() };
        thread::spawn(move || thread.run());
        KafkaWriter { commands, room, shared }
    }

    /// Handle to the progress that is committed.
    pub fn progress(&self) -> WriterProgress {
        WriterProgress(self.shared.clone())
    }

    /// Waits until everything appended so far is committed. Fails if the thread has ended.
    pub async fn settled(&self) -> Result<()> {
        let (done, settled) = oneshot::channel();
        self.commands.send(Command::Settle(done)).map_err(|_| self.failure())?;
        settled.await.map_err(|_| self.failure())
    }

    /// Commits what was appended, and waits until the thread has ended.
    pub async fn finish(self) -> Result<()> {
        let settled = self.settled().await;
        let KafkaWriter { commands, room, .. } = self;
        drop(commands);
        // The thread closes the semaphore when it ends.
        while !room.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        settled
    }

    fn failure(&self) -> Error {
        let failed = self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failed.unwrap_or_else(|| {
            Error::fatal(
                Code::Internal,
                "the writer to Kafka ended without a result",
                "its thread panicked",
                "report this",
            )
        })
    }
}

impl EventWriter for KafkaWriter {
    async fn append(&mut self, batch: EventBatch) -> Result<()> {
        let units = batch.size_bytes().div_ceil(UNIT_BYTES).min(QUEUE_BYTES / UNIT_BYTES) as u32;
        // The semaphore is closed when the thread ends.
        match self.room.acquire_many(units).await {
            Ok(permits) => permits.forget(),
            Err(_) => return Err(self.failure()),
        }
        self.commands.send(Command::Batch(batch, units)).map_err(|_| self.failure())
    }

    fn durable_lsn(&self) -> Lsn {
        Lsn(self.shared.durable.load(Ordering::Acquire))
    }
}

/// Closes the semaphore when the thread ends, also by a panic, which wakes whoever waits for room.
struct Ended(Arc<Semaphore>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct ProducerThread {
    producer: TransactionWriter,
    commands: Receiver<Command>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

impl ProducerThread {
    fn run(mut self) {
        let _ended = Ended(self.room.clone());
        if let Err(error) = self.work() {
            *self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    }

    fn work(&mut self) -> Result<()> {
        loop {
            let wait = match self.producer.due() {
                Some(due) => due.saturating_duration_since(Instant::now()).min(IDLE),
                None => IDLE,
            };
            match self.commands.recv_timeout(wait) {
                Ok(Command::Settle(done)) => {
                    self.producer.commit()?;
                    self.publish();
                    // The receiver is gone only if the caller was cancelled.
                    let _ = done.send(());
                }
                Ok(Command::Batch(batch, units)) => {
                    let appended = self.producer.append(batch);
                    self.room.add_permits(units as usize);
                    self.publish();
                    appended?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.producer.commit()?;
                    self.publish();
                    return Ok(());
                }
            }
            self.producer.tick()?;
            self.publish();
        }
    }

    /// Publishes the last committed progress record, if it is new. One that is not committed yet is not published.
    fn publish(&mut self) {
        if let Some(progress) = self.producer.committed() {
            let durable = progress.record.confirmed_lsn.0;
            let former = self.shared.durable.fetch_max(durable, Ordering::AcqRel);
            assert!(former <= durable, "progress moves forward only");
            *self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        }
    }
}
