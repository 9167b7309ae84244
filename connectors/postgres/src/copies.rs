//! Copies of tables beside the stream: several workers read chunks, and what they read joins the stream between its
//! transactions.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sooner_api::{Class, Code, Error, Rows, Step};
use sooner_schemas::encode::{Origin, Snapshot};
use sooner_schemas::event::{TableEvents, Watermark};
use sooner_schemas::{Lsn, Position, TableName};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::chunk::{ChunkOrigin, ChunkReader, ChunkSnapshot, CopiedTable};
use crate::clock::now_micros;
use crate::options::ConnectOptions;
use crate::schedule::{Chunk, ChunkEnd, KeyTexts, Part, Schedule};
use crate::touched::Touched;
use crate::tracked::PartialRow;
use crate::unseen::Unseen;
use crate::visibility::Visibility;

/// Batches of rows that all workers together may be ahead of whoever takes them, for each worker.
const QUEUE_BATCHES: usize = 4;
/// First ordinal of copied rows: they follow all changes of the transaction that their position names.
const FIRST_ORDINAL: u64 = 1 << 40;
/// Rows that were read by their keys, of which it is remembered.
const FETCHED_LIMIT: usize = 100_000;

/// Copies that run. Dropping them ends them.
pub struct Copies {
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Message>,
    joining: HashMap<u32, Joining>,
    /// Chunks whose rows cannot join: they are read again.
    rejected: HashSet<u64>,
    /// What a new slot's first transactions come after: snapshots must see it.
    must_see: Option<Visibility>,
    _workers: JoinSet<()>,
}

/// A table whose copy joins the stream.
struct Joining {
    copied: Arc<CopiedTable>,
    touched: Touched,
    rows: u64,
    /// Rows that were read by their keys.
    fetched: HashSet<KeyTexts>,
    /// It was said what it waits for.
    is_told: bool,
}

/// What all workers share.
struct Shared {
    options: ConnectOptions,
    ordinals: AtomicU64,
    state: Mutex<State>,
    /// There may be something to read.
    wake: Notify,
}

struct State {
    schedule: Schedule,
    tables: HashMap<u32, Arc<CopiedTable>>,
    /// A snapshot that was taken lately.
    latest: Arc<Visibility>,
    /// Snapshots of chunks on their way: for one that is not known yet, an earlier one.
    in_use: HashMap<u64, Arc<Visibility>>,
    /// The last transaction that was handed on.
    emitted: Lsn,
}

/// What workers report.
pub enum Message {
    /// Rows were read.
    Rows(Arc<Chunk>, Arc<ChunkSnapshot>, TableEvents),
    /// All rows of a chunk were read.
    Ended(Arc<Chunk>, Arc<ChunkSnapshot>, ChunkEnd),
    /// A chunk could not be read.
    Failed(Arc<Chunk>, Failure),
}

/// Why a chunk could not be read.
#[derive(Debug)]
pub enum Failure {
    /// For this reason.
    Error(Error),
    /// This column is NOT NULL, and holds a NULL that is older than the constraint.
    UnexpectedNull(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

/// What a report means for the stream.
#[derive(Debug)]
pub enum Joined {
    /// Nothing is to be handed on.
    Nothing,
    /// Rows join the stream.
    Rows(Step),
    /// The table, by its object id, has changed: its copy starts over.
    Altered(u32),
    /// A column of the table may be NULL, whatever the catalog says: its copy starts over.
    UnexpectedNull(u32, String),
    /// The table cannot be copied before a person has done something.
    Stopped(u32, Error),
    /// Nothing can be copied.
    Failed(Error),
}

impl Copies {
    /// Starts so many workers on threads of a runtime. `latest` is a snapshot that was taken just now.
    pub fn start(
        options: &ConnectOptions,
        latest: Visibility,
        must_see: Option<Visibility>,
        workers: usize,
        runtime: &Handle,
    ) -> Copies {
        let (sender, messages) = mpsc::channel(QUEUE_BATCHES * workers);
        let state = State {
            schedule: Schedule::default(),
            tables: HashMap::new(),
            latest: Arc::new(latest),
            in_use: HashMap::new(),
            emitted: Lsn::ZERO,
        };
        let shared = Arc::new(Shared {
            options: options.clone(),
            ordinals: AtomicU64::new(FIRST_ORDINAL),
            state: Mutex::new(state),
            wake: Notify::new(),
        });
        let mut running = JoinSet::new();
        for _ in 0..workers {
            running.spawn_on(shared.clone().work(sender.clone()), runtime);
        }
        let (joining, rejected) = (HashMap::new(), HashSet::new());
        Copies { shared, messages, joining, rejected, must_see, _workers: running }
    }

    /// Begins to copy a table, or begins again; what came of its former copy does not count. The stream hands on the
    /// table's changes of every transaction after `emitted`. Returns the step that begins it.
    pub fn begin(&mut self, copied: CopiedTable, emitted: Lsn) -> Step {
        let oid = copied.table.relation.oid;
        tracing::info!(table = %copied.table.name(), rows = copied.table.estimated_rows, "copying");
        let ordinal = self.shared.ordinals.fetch_add(1, Ordering::Relaxed);
        let now = now_micros();
        let origin = Origin {
            position: Position { commit_lsn: emitted, ordinal },
            lsn: emitted,
            xid: 0,
            source_micros: now,
            now_micros: now,
            snapshot: Snapshot::Yes,
        };
        let mut start = TableEvents::new(copied.encoder.schema().clone());
        copied.encoder.copy_start(&mut start, &origin);
        let copied = Arc::new(copied);
        let touched = Touched::since(Lsn(emitted.0 + 1));
        let joining = Joining { copied: copied.clone(), touched, rows: 0, fetched: HashSet::new(), is_told: false };
        self.joining.insert(oid, joining);
        let mut state = self.shared.state();
        state.tables.insert(oid, copied);
        state.schedule.begin(oid);
        state.emitted = state.emitted.max(emitted);
        self.shared.wake.notify_waiters();
        Rows::new(start).into_step()
    }

    /// A table is not copied any more; returns its name.
    pub fn abandon(&mut self, oid: u32) -> Option<TableName> {
        let joining = self.joining.remove(&oid)?;
        let mut state = self.shared.state();
        state.tables.remove(&oid);
        state.schedule.remove(oid);
        Some(joining.copied.table.name().clone())
    }

    /// Whether nothing is copied.
    pub fn is_empty(&self) -> bool {
        self.joining.is_empty()
    }

    /// Waits for the next report; none if none comes until a moment. Cancelling loses nothing.
    pub async fn next_or_pause(&mut self, until: Option<Instant>) -> Option<Message> {
        tokio::select! {
            biased;
            // Workers end only when this is dropped.
            Some(message) = self.messages.recv() => Some(message),
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => None,
            else => std::future::pending().await,
        }
    }

    /// The next report, if there is one.
    pub fn try_next(&mut self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// Takes note of steps of the stream that are handed on.
    pub fn note(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Rows(rows) | Step::Truncate(rows) => {
                    let Some(relation) = &rows.events.schema.relation else { continue };
                    if let Some(joining) = self.joining.get_mut(&relation.oid) {
                        joining.touched.note(&rows.events);
                    }
                }
                Step::Complete(coverage) => self.shared.state().emitted = coverage.watermark.commit_lsn,
                _ => {}
            }
        }
    }

    /// Rows of which the stream has handed on a part only: they are read by their keys.
    pub fn complete(&mut self, rows: Vec<PartialRow>) {
        for PartialRow { table, key, is_renamed } in rows {
            let Some(joining) = self.joining.get_mut(&table) else { continue };
            // A row that was read by its key is known whole, unless another one takes the key.
            if is_renamed || !joining.fetched.contains(&key) {
                joining.fetched.remove(&key);
                self.shared.state().schedule.add_keys(table, vec![key]);
                self.shared.wake.notify_waiters();
            }
        }
    }

    /// Forgets what all snapshots see, given the latest.
    pub fn forget(&mut self, latest: Visibility, unseen: &mut Unseen) {
        let mut state = self.shared.state();
        state.latest = Arc::new(latest);
        let in_use = state.in_use.values().chain([&state.latest]).map(Arc::as_ref);
        unseen.forget(in_use);
        for joining in self.joining.values_mut() {
            joining.touched.forget(unseen);
        }
    }

    /// What a report means, between two transactions of the stream.
    pub fn join(&mut self, message: Message, unseen: &Unseen) -> Joined {
        match message {
            Message::Rows(chunk, snapshot, mut events) => {
                if !self.admits(&chunk, &snapshot, unseen) {
                    self.rejected.insert(chunk.id);
                }
                let Some(joining) = self.joining.get_mut(&chunk.table) else { return Joined::Nothing };
                if self.rejected.contains(&chunk.id) || !self.shared.state().schedule.counts(&chunk) {
                    return Joined::Nothing;
                }
                joining.touched.keep_current(&mut events, &snapshot.sees, unseen);
                joining.rows += events.events.len() as u64;
                match events.events.is_empty() {
                    true => Joined::Nothing,
                    false => Joined::Rows(Rows::new(events).into_step()),
                }
            }
            Message::Ended(chunk, snapshot, end) => {
                let is_rejected = self.rejected.remove(&chunk.id) || !self.admits(&chunk, &snapshot, unseen);
                let mut state = self.shared.state();
                state.in_use.remove(&chunk.id);
                match is_rejected {
                    true => state.schedule.failed(&chunk, false, Instant::now()),
                    false => state.schedule.ended(&chunk, end),
                }
                drop(state);
                if let (Part::Keys(keys), Some(joining)) = (&chunk.part, self.joining.get_mut(&chunk.table)) {
                    if joining.fetched.len() > FETCHED_LIMIT {
                        joining.fetched.clear();
                    }
                    joining.fetched.extend(keys.iter().cloned());
                }
                self.shared.wake.notify_waiters();
                Joined::Nothing
            }
            Message::Failed(chunk, failure) => self.fail(&chunk, failure),
        }
    }

    /// Steps that end the copies whose rows have all been handed on, each with the table's object id; the stream has
    /// got to this watermark.
    pub fn ends(&mut self, emitted: Watermark) -> Vec<(u32, Step)> {
        let complete = self.shared.state().schedule.take_complete(emitted.end_lsn);
        let mut steps = Vec::new();
        for oid in complete {
            self.shared.state().tables.remove(&oid);
            let Some(Joining { copied, rows, .. }) = self.joining.remove(&oid) else { continue };
            let table = copied.table.name().clone();
            tracing::info!(%table, rows, "copied");
            steps.push((oid, Step::CopyEnd { table, watermark: emitted }));
        }
        steps
    }

    /// Whether a table only waits for the stream to get to where its last snapshot was.
    pub fn waits_for_stream(&self) -> bool {
        self.shared.state().schedule.waits_for_stream()
    }

    fn admits(&self, chunk: &Chunk, snapshot: &ChunkSnapshot, unseen: &Unseen) -> bool {
        let sees_slot = self.must_see.as_ref().is_none_or(|slot| snapshot.sees.sees_all_of(slot));
        let joining = self.joining.get(&chunk.table);
        sees_slot && joining.is_none_or(|joining| joining.touched.admits(&snapshot.sees, unseen))
    }

    fn fail(&mut self, chunk: &Chunk, failure: Failure) -> Joined {
        self.rejected.remove(&chunk.id);
        // Limits of the role or of the server, or somebody who cancels what takes long.
        let took_too_long = matches!(&failure, Failure::Error(error) if error.why.contains("SQLSTATE 57014"));
        let mut state = self.shared.state();
        state.in_use.remove(&chunk.id);
        let counts = state.schedule.counts(chunk);
        state.schedule.failed(chunk, took_too_long, Instant::now());
        drop(state);
        let Some(joining) = self.joining.get_mut(&chunk.table).filter(|_| counts) else { return Joined::Nothing };
        let error = match failure {
            Failure::UnexpectedNull(column) => return Joined::UnexpectedNull(chunk.table, column),
            Failure::Error(error) => error,
        };
        match error.class {
            _ if error.code == Code::TableAlteredDuringCopy => Joined::Altered(chunk.table),
            Class::Operator => Joined::Stopped(chunk.table, error),
            Class::Fatal => Joined::Failed(error),
            Class::Retry => {
                if !std::mem::replace(&mut joining.is_told, true) {
                    tracing::warn!(table = %joining.copied.table.name(), code = %error.code, %error, "the copy waits");
                }
                self.shared.wake.notify_waiters();
                Joined::Nothing
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self: Arc<Shared>, messages: mpsc::Sender<Message>) {
        let mut reader = None;
        loop {
            let (chunk, copied, emitted) = self.next_chunk().await;
            let read = self.read(&chunk, &copied, emitted, &mut reader, &messages).await;
            let message = match read {
                Ok((snapshot, end)) => Message::Ended(chunk, snapshot, end),
                Err(failure) => {
                    // Its transaction has failed with it.
                    reader = None;
                    Message::Failed(chunk, failure)
                }
            };
            // Nobody takes it any more only when the source is dropped.
            if messages.send(message).await.is_err() {
                return;
            }
        }
    }

    async fn next_chunk(&self) -> (Arc<Chunk>, Arc<CopiedTable>, Lsn) {
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            let (found, rests_until) = self.take_chunk();
            match (found, rests_until) {
                (Some(found), _) => return found,
                (None, None) => woken.await,
                (None, Some(until)) => tokio::select! {
                    () = woken => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    fn take_chunk(&self) -> (Option<(Arc<Chunk>, Arc<CopiedTable>, Lsn)>, Option<Instant>) {
        let mut state = self.state();
        let Some(chunk) = state.schedule.next(Instant::now()) else { return (None, state.schedule.rests_until()) };
        let latest = state.latest.clone();
        state.in_use.insert(chunk.id, latest);
        let copied = state.tables.get(&chunk.table).cloned();
        (copied.map(|copied| (Arc::new(chunk), copied, state.emitted)), None)
    }

    async fn read(
        &self,
        chunk: &Arc<Chunk>,
        copied: &CopiedTable,
        commit_lsn: Lsn,
        reader: &mut Option<ChunkReader>,
        messages: &mpsc::Sender<Message>,
    ) -> Result<(Arc<ChunkSnapshot>, ChunkEnd), Failure> {
        let reader = match reader {
            Some(reader) => reader,
            none => none.insert(ChunkReader::open(&self.options).await?),
        };
        let started = Instant::now();
        let origin = ChunkOrigin { commit_lsn, ordinals: &self.ordinals };
        let mut rows = reader.start(copied, &chunk.part, origin).await?;
        let snapshot = rows.snapshot.clone();
        if let Some(earlier) = self.state().in_use.get_mut(&chunk.id) {
            *earlier = Arc::new(snapshot.sees.clone());
        }
        loop {
            let events = match rows.next().await {
                Ok(Some(events)) => events,
                Ok(None) => break,
                Err(error) => {
                    return Err(rows.unexpected_null.take().map_or(Failure::Error(error), Failure::UnexpectedNull));
                }
            };
            // Nobody takes it any more only when the source is dropped, which ends this task.
            let _ = messages.send(Message::Rows(chunk.clone(), snapshot.clone(), events)).await;
        }
        let blocks = rows.blocks;
        rows.end().await?;
        Ok((snapshot.clone(), ChunkEnd { snapshot_lsn: snapshot.lsn, blocks, took: started.elapsed() }))
    }
}
