//! A log whose two ends note what they are asked.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sooner_api::{
    Applied, AppliedTable, Assigned, Error, EventBatch, EventLog, EventReader, EventWriter, KnownNames, Opened,
    Positions, ProgressChange, ProgressRecord, ProgressStore, Result, TableStart, WriterRequest,
};
use sooner_schemas::{Lsn, TableName};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::support::{Steps, name};

/// What a sink has stored, in order.
#[derive(Clone, Default)]
pub struct Stored(Arc<Mutex<Vec<Applied>>>);

impl Stored {
    pub fn all(&self) -> Vec<Applied> {
        self.0.lock().unwrap().clone()
    }

    /// What was confirmed last.
    pub fn confirmed(&self) -> u64 {
        self.all().last().and_then(|applied| applied.confirmed_lsn).unwrap_or_default().0
    }

    /// Every report of a table.
    pub fn of(&self, table: &str) -> Vec<AppliedTable> {
        self.all().into_iter().filter_map(|mut applied| applied.tables.remove(&name(table))).collect()
    }
}

/// Where a test puts what is read.
pub type Batches = UnboundedSender<Result<EventBatch>>;

/// An exit.
pub struct FakeReader {
    pub steps: Steps,
    /// What is assigned, one round after the other.
    pub rounds: VecDeque<Vec<Assigned>>,
    pub stored: Stored,
    batches: UnboundedReceiver<Result<EventBatch>>,
}

impl FakeReader {
    pub fn new(steps: Steps) -> (Batches, FakeReader) {
        let (sender, batches) = unbounded_channel();
        (sender, FakeReader { steps, rounds: VecDeque::new(), stored: Stored::default(), batches })
    }
}

impl EventReader for FakeReader {
    async fn assigned(&mut self) -> Result<Option<Vec<Assigned>>> {
        self.steps.reach("assigned").await?;
        Ok(self.rounds.pop_front())
    }

    async fn start(&mut self, tables: Vec<Opened>) -> Result<()> {
        let shown = |opened: &Opened| match &opened.error {
            Some(error) => format!(" {} ({})", opened.table.table, error.code),
            None => format!(" {}", opened.table.table),
        };
        let text: String = tables.iter().map(shown).collect();
        self.steps.reach(&format!("start{text}")).await
    }

    async fn next(&mut self) -> Result<Option<EventBatch>> {
        self.batches.recv().await.transpose()
    }

    async fn store(&mut self, applied: Applied) -> Result<()> {
        self.steps.reach("store").await?;
        self.stored.0.lock().unwrap().push(applied);
        Ok(())
    }
}

/// An entrance. What was appended is durable but for its last byte.
pub struct FakeWriter {
    steps: Steps,
    stored: Option<ProgressRecord>,
    /// The record that it was begun with.
    begun: Arc<Mutex<Option<ProgressRecord>>>,
    broken: watch::Receiver<Option<Error>>,
    durable: AtomicU64,
}

impl FakeWriter {
    pub fn new(steps: Steps, broken: watch::Receiver<Option<Error>>) -> FakeWriter {
        FakeWriter { steps, stored: None, begun: Arc::default(), broken, durable: AtomicU64::new(0) }
    }
}

impl EventWriter for FakeWriter {
    fn keeps_columns(&self) -> bool {
        true
    }

    fn refused(&self) -> &[(TableName, Error)] {
        &[]
    }

    fn stored(&self) -> Option<&ProgressRecord> {
        self.stored.as_ref()
    }

    async fn begin(&mut self, record: ProgressRecord) -> Result<Vec<TableStart>> {
        self.steps.reach("begin").await?;
        let start = |(table, state)| TableStart { table, state, covered: Positions::whole(Lsn(7)), copy: None };
        let states = record.tables.iter().map(|(table, progress)| (table.clone(), progress.state.clone()));
        let starts = states.map(start).collect();
        *self.begun.lock().unwrap() = Some(record);
        Ok(starts)
    }

    async fn start_at(&mut self, slot_lsn: Lsn) -> Result<()> {
        self.steps.reach(&format!("start_at {}", slot_lsn.0)).await
    }

    async fn append(&mut self, batch: EventBatch) -> Result<()> {
        let end = batch.server_end.0;
        drop(batch);
        self.steps.reach(&format!("append {end}")).await?;
        self.durable.store(end.saturating_sub(1), Ordering::SeqCst);
        Ok(())
    }

    fn durable_lsn(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::SeqCst))
    }

    fn broken(&self) -> impl Future<Output = Error> + Send + 'static {
        let mut broken = self.broken.clone();
        async move {
            let error = broken.wait_for(Option::is_some).await.ok().and_then(|error| (*error).clone());
            match error {
                Some(error) => error,
                None => std::future::pending().await,
            }
        }
    }

    async fn finish(&mut self) -> Result<()> {
        self.steps.reach("finish").await
    }

    async fn settle(self) -> Lsn {
        self.durable_lsn()
    }
}

/// A log with such an entrance.
pub struct FakeLog {
    steps: Steps,
    stored: Option<ProgressRecord>,
    begun: Arc<Mutex<Option<ProgressRecord>>>,
    broken: watch::Receiver<Option<Error>>,
    /// Tells that the log is broken.
    pub breaks: watch::Sender<Option<Error>>,
}

impl FakeLog {
    pub fn new(steps: Steps, stored: Option<ProgressRecord>) -> FakeLog {
        let (breaks, broken) = watch::channel(None);
        FakeLog { steps, stored, begun: Arc::default(), broken, breaks }
    }

    /// The record that the entrance was begun with.
    pub fn begun(&self) -> Option<ProgressRecord> {
        self.begun.lock().unwrap().clone()
    }
}

impl EventLog for FakeLog {
    type Writer = FakeWriter;
    type Reader = FakeReader;

    async fn known_names(&mut self) -> Result<KnownNames> {
        Ok(KnownNames::new())
    }

    async fn open_writer(&mut self, request: WriterRequest<'_>) -> Result<FakeWriter> {
        let slot = if request.slot_exists { "slot" } else { "no slot" };
        let recopy = if request.recopy { ", recopy" } else { "" };
        self.steps.reach(&format!("open_writer {slot}{recopy}")).await?;
        let stored = self.stored.clone().filter(|_| !request.recopy);
        let writer = FakeWriter::new(self.steps.clone(), self.broken.clone());
        Ok(FakeWriter { stored, begun: self.begun.clone(), ..writer })
    }

    async fn open_reader(&mut self) -> Result<FakeReader> {
        Ok(FakeReader::new(self.steps.clone()).1)
    }
}

/// A progress store; its clones share the record.
#[derive(Clone, Default)]
pub struct FakeStore {
    pub steps: Steps,
    pub record: Arc<Mutex<Option<ProgressRecord>>>,
}

impl FakeStore {
    pub fn record(&self) -> ProgressRecord {
        self.record.lock().unwrap().clone().unwrap_or_default()
    }
}

impl ProgressStore for FakeStore {
    async fn load(&mut self) -> Result<Option<ProgressRecord>> {
        Ok(self.record.lock().unwrap().clone())
    }

    async fn save(&mut self, record: &ProgressRecord) -> Result<()> {
        self.steps.reach("save").await?;
        *self.record.lock().unwrap() = Some(record.clone());
        Ok(())
    }

    async fn save_change(&mut self, change: &ProgressChange) -> Result<()> {
        let confirmed = change.confirmed_lsn.map_or("-".to_owned(), |lsn| lsn.0.to_string());
        self.steps.reach(&format!("change {confirmed}, {} tables", change.tables.len())).await?;
        self.record.lock().unwrap().get_or_insert_default().apply(change.clone());
        Ok(())
    }
}
