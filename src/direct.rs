//! The event log without a broker: a bounded channel inside the process. Postgres' slot is the durable log; what the
//! lake has applied is what may be confirmed.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sooner_api::{
    Applied, AppliedTable, Assigned, Code, Error, EventBatch, EventLog, EventReader, EventWriter, Feed, KnownNames,
    MemoryBudget, Opened, Positions, ProgressRecord, ProgressStore, Result, SchemaRegistry, Standing, TableFact,
    TableProgress, TableStart, WriterRequest,
};
use sooner_schemas::fingerprint::Fingerprints;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};

/// The log of one attempt.
pub struct DirectLog<P> {
    writer: Option<DirectWriter<P>>,
    reader: Option<DirectReader<P>>,
}

/// The progress record, and where it is stored.
struct Ledger<P> {
    store: P,
    record: ProgressRecord,
}

type SharedLedger<P> = Arc<AsyncMutex<Ledger<P>>>;

/// The entrance.
pub struct DirectWriter<P> {
    ledger: SharedLedger<P>,
    stored: Option<ProgressRecord>,
    budget: MemoryBudget,
    keeps_columns: bool,
    durable: Arc<AtomicU64>,
    /// Where the reader waits for the record to be begun with.
    begun: Option<oneshot::Sender<()>>,
    /// Where the reader says what it has of each table.
    starts: Option<oneshot::Receiver<Vec<TableStart>>>,
    /// None once the log is finished.
    sender: Option<mpsc::UnboundedSender<EventBatch>>,
    /// Ends with the reader.
    reader_ends: oneshot::Receiver<()>,
}

/// The exit.
pub struct DirectReader<P> {
    ledger: SharedLedger<P>,
    slot: String,
    durable: Arc<AtomicU64>,
    begun: Option<oneshot::Receiver<()>>,
    starts: Option<oneshot::Sender<Vec<TableStart>>>,
    receiver: mpsc::UnboundedReceiver<EventBatch>,
    /// Dropped with the reader, which the writer hears of.
    _ends: oneshot::Sender<()>,
}

impl<P: ProgressStore> DirectLog<P> {
    /// A log from a slot, that holds as much as the budget allows.
    pub fn new(store: P, slot: &str, budget: MemoryBudget) -> DirectLog<P> {
        let ledger = Arc::new(AsyncMutex::new(Ledger { store, record: ProgressRecord::default() }));
        let durable = Arc::new(AtomicU64::new(0));
        let (begin, begun) = oneshot::channel();
        let (start, starts) = oneshot::channel();
        let (ends, reader_ends) = oneshot::channel();
        // The channel counts batches without bound; their bytes are bounded by the budget.
        let (sender, receiver) = mpsc::unbounded_channel();
        let writer = DirectWriter {
            ledger: ledger.clone(),
            stored: None,
            budget,
            keeps_columns: true,
            durable: durable.clone(),
            begun: Some(begin),
            starts: Some(starts),
            sender: Some(sender),
            reader_ends,
        };
        let (slot, starts) = (slot.to_owned(), Some(start));
        let reader = DirectReader { ledger, slot, durable, begun: Some(begun), starts, receiver, _ends: ends };
        DirectLog { writer: Some(writer), reader: Some(reader) }
    }

    /// The same log, whose reader knows columns by their numbers, or by their names alone.
    pub fn with_columns_kept(mut self, keeps_columns: bool) -> DirectLog<P> {
        if let Some(writer) = &mut self.writer {
            writer.keeps_columns = keeps_columns;
        }
        self
    }
}

impl<P: ProgressStore> EventLog for DirectLog<P> {
    type Writer = DirectWriter<P>;
    type Reader = DirectReader<P>;

    async fn known_names(&mut self) -> Result<KnownNames> {
        let Some(writer) = &self.writer else { return Ok(KnownNames::new()) };
        let stored = writer.ledger.lock().await.store.load().await?;
        Ok(stored.map(|record| record.known_names()).unwrap_or_default())
    }

    async fn open_writer(&mut self, request: WriterRequest<'_>) -> Result<DirectWriter<P>> {
        let opened_twice = || Error::internal("cannot write to the log", "it has been opened already");
        let mut writer = self.writer.take().ok_or_else(opened_twice)?;
        let stored = writer.ledger.lock().await.store.load().await?;
        writer.stored = stored.filter(|_| !request.recopy);
        Ok(writer)
    }

    async fn open_reader(&mut self) -> Result<DirectReader<P>> {
        let opened_twice = || Error::internal("cannot read from the log", "it has been opened already");
        self.reader.take().ok_or_else(opened_twice)
    }
}

fn sink_has_stopped() -> Error {
    Error::retry(Code::PeerEnded, "cannot hand events over", "the sink has stopped", "see its own error")
}

impl<P: ProgressStore> EventWriter for DirectWriter<P> {
    fn stored(&self) -> Option<&ProgressRecord> {
        self.stored.as_ref()
    }

    fn keeps_columns(&self) -> bool {
        self.keeps_columns
    }

    fn refused(&self) -> &[(TableName, Error)] {
        &[]
    }

    /// The reader opens the tables, so that it is known what they have.
    async fn begin(&mut self, record: ProgressRecord) -> Result<Vec<TableStart>> {
        let mut ledger = self.ledger.lock().await;
        ledger.store.save(&record).await?;
        self.durable.store(record.confirmed_lsn.0, Ordering::Release);
        ledger.record = record;
        drop(ledger);
        let begun = self.begun.take().is_some_and(|begun| begun.send(()).is_ok());
        match self.starts.take().filter(|_| begun) {
            Some(starts) => starts.await.map_err(|_| sink_has_stopped()),
            None => Err(sink_has_stopped()),
        }
    }

    async fn start_at(&mut self, slot_lsn: Lsn) -> Result<()> {
        let applied = Applied { confirmed_lsn: Some(slot_lsn), ..Applied::default() };
        self.ledger.lock().await.store(applied, &self.durable).await
    }

    async fn append(&mut self, mut batch: EventBatch) -> Result<()> {
        batch.reserve(&self.budget).await;
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(batch).is_ok());
        if sent { Ok(()) } else { Err(sink_has_stopped()) }
    }

    fn durable_lsn(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    fn broken(&self) -> impl Future<Output = Error> + Send + 'static {
        // The reader's end shows itself when something is appended.
        std::future::pending()
    }

    async fn finish(&mut self) -> Result<()> {
        self.sender = None;
        Ok(())
    }

    async fn settle(self) -> Lsn {
        // Nothing is ever sent.
        let _ = self.reader_ends.await;
        Lsn(self.durable.load(Ordering::Acquire))
    }
}

impl<P: ProgressStore> EventReader for DirectReader<P> {
    async fn assigned(&mut self) -> Result<Option<Vec<Assigned>>> {
        let Some(begun) = &mut self.begun else { return Ok(None) };
        if begun.await.is_err() {
            return Ok(None);
        }
        self.begun = None;
        let ledger = self.ledger.lock().await;
        let taking_part = ledger.record.tables.iter().filter(|(_, progress)| progress.state.takes_events());
        let assigned = taking_part.map(|(table, progress)| Assigned {
            table: table.clone(),
            feed: Feed::Slot(self.slot.clone()),
            state: progress.state.clone(),
            lake: progress.lake.clone(),
            copy: progress.copy.clone(),
        });
        Ok(Some(assigned.collect()))
    }

    async fn start(&mut self, tables: Vec<Opened>) -> Result<()> {
        let mut ledger = self.ledger.lock().await;
        let mut applied = Applied::default();
        let forked_at = ledger.record.forked_at;
        for table in &tables {
            let Some(progress) = ledger.record.tables.get(&table.table) else { continue };
            let Some(fact) = fact_of(table, progress, forked_at) else { continue };
            let mut progress = progress.clone();
            progress.step(fact);
            let TableProgress { state, copy, .. } = progress;
            applied.tables.insert(table.table.clone(), AppliedTable { state, lake: None, note: None, copy });
        }
        if !applied.tables.is_empty() || forked_at.is_some() {
            ledger.store(applied, &self.durable).await?;
        }
        let positions: HashMap<_, _> =
            tables.into_iter().filter_map(|table| Some((table.table, table.positions?))).collect();
        let starts = ledger.record.tables.iter().map(|(name, progress)| {
            let taken = positions.get(name).cloned().unwrap_or(Positions::whole(Lsn::ZERO));
            let reached = taken.commit_lsn().unwrap_or_default();
            let copy = progress.copy.as_ref().and_then(|copy| Some((copy.source.clone()?, reached)));
            // The lake may have more than that of a copy, but not what the source says of it: that comes again.
            let told = progress.copy.as_ref().filter(|_| copy.is_some()).map(|copy| copy.complete_lsn.last_before());
            let covered = told.map_or(taken, Positions::whole);
            TableStart { table: name.clone(), state: progress.state.clone(), covered, copy }
        });
        let starts = starts.collect();
        // A writer that is gone ends the log, too.
        let _ = self.starts.take().map(|waiting| waiting.send(starts));
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<EventBatch>> {
        Ok(self.receiver.recv().await)
    }

    async fn store(&mut self, applied: Applied) -> Result<()> {
        self.ledger.lock().await.store(applied, &self.durable).await
    }
}

/// What happened to a table since its progress was stored, judged by what it is in the lake; none if it goes on.
fn fact_of(table: &Opened, progress: &TableProgress, forked_at: Option<Lsn>) -> Option<TableFact> {
    if let Some(error) = &table.error {
        return Some(TableFact::Failed(error.clone()));
    }
    let reached = table.positions.as_ref().and_then(Positions::commit_lsn).max(table.watermark);
    let is_beyond = forked_at.is_some_and(|fork| reached.is_none_or(|reached| reached >= fork));
    let follows = table.standing == Standing::Follows && !table.needs_copy && !is_beyond;
    // Nothing of it is in the lake, whatever the record says, or something else than was written.
    let copy_needed = Some(TableFact::CopyNeeded).filter(|_| progress.state.takes_events());
    match &progress.copy {
        _ if !follows => copy_needed,
        None => None,
        Some(copy) if table.copy.is_some() && copy.source.is_some() => None,
        // It had just ended.
        Some(copy) if table.copied.is_some() && table.copied == copy.lake.map(|lake| lake.id) => {
            table.watermark.map(TableFact::CopyEnded)
        }
        Some(_) => copy_needed,
    }
}

impl<P: ProgressStore> Ledger<P> {
    /// Stores what was applied; only then may the slot be confirmed to there. The first report after a failover says
    /// what becomes of tables that are beyond it.
    async fn store(&mut self, applied: Applied, durable: &AtomicU64) -> Result<()> {
        let mut change = self.record.change_by(applied);
        change.is_fork_settled = self.record.forked_at.is_some();
        change.confirmed_lsn = change.confirmed_lsn.filter(|lsn| *lsn > self.record.confirmed_lsn);
        for (name, progress) in &mut change.tables {
            // It was not held back for a copy before that was stored, and may lack what was confirmed meanwhile.
            let is_kept = self.record.tables.get(name).is_some_and(|known| known.copy.is_some());
            let confirmed = self.record.confirmed_lsn;
            progress.copy.take_if(|copy| copy.source.is_none() || !is_kept && copy.complete_lsn < confirmed);
        }
        change.tables.retain(|name, progress| self.record.tables.get(name) != Some(progress));
        if change.is_empty() {
            return Ok(());
        }
        self.store.save_change(&change).await?;
        self.record.apply(change);
        durable.fetch_max(self.record.confirmed_lsn.0, Ordering::AcqRel);
        Ok(())
    }
}

/// Schema ids for a log that nobody else reads.
#[derive(Debug, Default)]
pub struct LocalSchemas {
    /// By fingerprints of subject and schema.
    ids: Mutex<HashMap<u128, u32>>,
    fingerprints: Fingerprints,
}

impl SchemaRegistry for LocalSchemas {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ids.len() as u32 + 1;
        Ok(*ids.entry(self.fingerprints.of(&(subject, schema))).or_insert(next))
    }
}
