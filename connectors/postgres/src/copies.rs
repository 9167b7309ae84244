//! Copies of tables beside the stream: several workers read chunks, and what they read joins the stream between its
//! transactions.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use sooner_api::{Class, Code, CopyProgress, CopyRequest, Rows, Step};
use sooner_schemas::encode::{Origin, Snapshot};
use sooner_schemas::event::{TableEvents, Watermark};
use sooner_schemas::{Lsn, Position, TableName};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::chunk::{ChunkSnapshot, CopiedRows, CopiedTable, HEAD_BYTES};
use crate::clock::now_micros;
use crate::copy_workers::{Failure, Message, Shared, State};
use crate::joining::{Ended, Joined, Joining, has_shape_of};
use crate::pace::Pace;
use crate::schedule::{Chunk, Schedule};
use crate::settings::CopySettings;
use crate::touched::Touched;
use crate::tracked::PartialRow;
use crate::unseen::Unseen;
use crate::visibility::Visibility;

/// Batches of rows that all workers together may be ahead of whoever takes them, for each worker.
const QUEUE_BATCHES: usize = 4;
/// The stream is behind, so that fewer parts are copied at the same time, if this much log is unread.
const LAG_BYTES: u64 = 64 << 20;
const HALF_LAG_BYTES: u64 = LAG_BYTES / 2;
/// How often a condition may take too long before its request is refused.
const CONDITION_TRIES: u32 = 8;
/// Ordinals for each microsecond: those of a later copy are higher than those of one that was broken off.
const ORDINALS_PER_MICROSECOND: u64 = 16;

/// Copies that run. Dropping them ends them.
pub struct Copies {
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Message>,
    joining: HashMap<u32, Joining>,
    /// Chunks whose rows cannot join: they are read again.
    rejected: HashSet<u64>,
    /// What a new slot's first transactions come after: snapshots must see it.
    must_see: Option<Visibility>,
    /// Ordinal of the next event.
    next_ordinal: u64,
    run: String,
    _workers: JoinSet<()>,
}

impl Copies {
    /// Starts so many workers on threads of a runtime. `latest` is a snapshot that was taken just now.
    pub fn start(settings: CopySettings, latest: Visibility) -> Copies {
        let CopySettings { connect, workers, bytes_per_second, limits, before_slot: must_see, runtime, run, .. } =
            settings;
        let (sender, messages) = mpsc::channel(QUEUE_BATCHES * workers);
        let state = State {
            schedule: Schedule::at_pace(bytes_per_second),
            tables: HashMap::new(),
            latest: Arc::new(latest),
            in_use: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            options: connect,
            limits,
            state: Mutex::new(state),
            wake: Notify::new(),
            pace: Pace::new(bytes_per_second),
        });
        let mut running = JoinSet::new();
        for _ in 0..workers {
            running.spawn_on(shared.clone().work(sender.clone()), &runtime);
        }
        let (joining, rejected) = (HashMap::new(), HashSet::new());
        let next_ordinal = Position::FIRST_COPIED + now_micros().unsigned_abs() * ORDINALS_PER_MICROSECOND;
        Copies { shared, messages, joining, rejected, must_see, next_ordinal, run, _workers: running }
    }

    /// The step that announces a table's copy, and the copy's id: all of its rows come again.
    pub fn announce(&mut self, copied: &CopiedTable, emitted: Lsn) -> (Step, u64) {
        let origin = self.origin(emitted, emitted, now_micros());
        let mut start = TableEvents::new(copied.encoder.schema().clone());
        copied.encoder.copy_start(&mut start, &origin);
        (Rows::new(start).into_step(), origin.position.ordinal)
    }

    /// Begins to copy a table that was announced, or rows that are asked for. From here on the stream hands on the
    /// table's changes of every transaction after `emitted`.
    pub fn begin(&mut self, copied: CopiedTable, id: u64, emitted: Lsn, in_place: Option<CopyRequest>) {
        let table = copied.table.name();
        tracing::info!(%table, estimate = copied.table.estimated_rows, "copying");
        self.join_in(copied, |copied| Joining::new(copied, id, in_place, emitted), |schedule, oid| schedule.begin(oid));
    }

    /// Goes on with a copy that was broken off, once it is released. The stream hands on the table's changes already.
    pub fn resume(&mut self, copied: CopiedTable, progress: &CopyProgress) {
        let CopyProgress { id, rows, rest } = progress;
        tracing::info!(table = %copied.table.name(), rows, "the copy goes on");
        let joining = |copied| Joining::resumed(copied, *id, *rows);
        self.join_in(copied, joining, |schedule, oid| schedule.resume(oid, rest));
    }

    fn join_in(
        &mut self,
        copied: CopiedTable,
        joining: impl FnOnce(Arc<CopiedTable>) -> Joining,
        schedules: impl FnOnce(&mut Schedule, u32),
    ) {
        let (oid, copied) = (copied.table.relation.oid, Arc::new(copied));
        self.joining.insert(oid, joining(copied.clone()));
        let mut state = self.shared.state();
        state.tables.insert(oid, copied);
        schedules(&mut state.schedule, oid);
        self.shared.wake.notify_waiters();
    }

    /// The rest of a copy that goes on may be read: what the stream hands on comes after `emitted`.
    pub fn release(&mut self, oid: u32, emitted: Lsn) {
        if let Some(joining) = self.joining.get_mut(&oid) {
            joining.touched = Touched::since(Lsn(emitted.0 + 1));
            self.shared.state().schedule.release(oid);
            self.shared.wake.notify_waiters();
        }
    }

    /// The step that says how far a table's copy is, now and then, or if it `must`. The watermark is none inside a
    /// transaction.
    pub fn progress(&mut self, oid: u32, watermark: Option<Watermark>, must: bool) -> Option<Step> {
        let joining = self.joining.get_mut(&oid)?;
        let mut progress = joining.report(&self.shared.state().schedule, must)?.map(Box::new);
        if let Some(progress) = &mut progress {
            progress.rest.run.clone_from(&self.run);
        }
        Some(Step::CopyProgress { table: joining.copied.table.name().clone(), progress, watermark })
    }

    /// Whether a break would cost much of a copy.
    pub fn are_fragile(&self) -> bool {
        let state = self.shared.state();
        self.joining.values().any(|joining| joining.is_fragile(&state.schedule))
    }

    /// A table is not copied any more; returns its name.
    pub fn abandon(&mut self, oid: u32) -> Option<TableName> {
        let joining = self.joining.remove(&oid)?;
        let mut state = self.shared.state();
        state.tables.remove(&oid);
        state.schedule.remove(oid);
        Some(joining.copied.table.name().clone())
    }

    /// Gives up copying rows over those of a table; returns what was asked for. None if the table is not copied so.
    pub fn abandon_in_place(&mut self, oid: u32) -> Option<CopyRequest> {
        let request = self.joining.get(&oid)?.in_place.clone()?;
        self.abandon(oid);
        Some(request)
    }

    /// Whether a table is copied.
    pub fn copies(&self, oid: u32) -> bool {
        self.joining.contains_key(&oid)
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

    /// Takes note of steps of the stream that are handed on: a table that stops is not copied on. Returns tables whose
    /// changes have another shape than the rows that are copied: their copies have to start over.
    pub fn note(&mut self, steps: &[Step]) -> Vec<u32> {
        for step in steps {
            if let Step::Stop { table, .. } = step {
                let stopped = self.joining.iter().find(|(_, joining)| joining.copied.table.name() == table);
                let stopped = stopped.map(|(oid, _)| *oid);
                stopped.and_then(|oid| self.abandon(oid));
            }
        }
        let mut altered = Vec::new();
        for rows in steps.iter().filter_map(Step::rows) {
            let Some(relation) = &rows.events.schema.relation else { continue };
            let Some(joining) = self.joining.get_mut(&relation.oid) else { continue };
            joining.touched.note(&rows.events);
            let copied = joining.copied.encoder.schema().relation.as_ref();
            if !copied.is_some_and(|copied| has_shape_of(relation, copied)) && !altered.contains(&relation.oid) {
                altered.push(relation.oid);
            }
        }
        altered
    }

    /// Copies give way to a stream that is so many bytes behind the end of the server's log.
    pub fn give_way(&mut self, lag_bytes: u64) {
        let at_once = match lag_bytes {
            LAG_BYTES.. => 1,
            // Not back and forth.
            HALF_LAG_BYTES.. => return,
            _ => usize::MAX,
        };
        if self.shared.state().schedule.limit(at_once) {
            let what = if at_once == 1 { "copies give way to the stream" } else { "copies go on" };
            tracing::info!(lag_bytes, "{what}");
            self.shared.wake.notify_waiters();
        }
    }

    /// Rows of which the stream has handed on a part only: they are read by their keys. Returns their tables.
    pub fn complete(&mut self, rows: Vec<PartialRow>) -> Vec<u32> {
        let mut tables = Vec::new();
        for PartialRow { table, key, is_renamed } in rows {
            if self.shared.state().schedule.add_key(table, key, is_renamed) {
                self.shared.wake.notify_waiters();
                if !tables.contains(&table) {
                    tables.push(table);
                }
            }
        }
        tables
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

    /// What a report means, between two transactions of the stream, the last of which is `emitted`.
    pub fn join(&mut self, message: Message, unseen: &Unseen, emitted: Lsn) -> Joined {
        match message {
            Message::Rows(chunk, snapshot, rows) => {
                if !self.admits(&chunk, &snapshot, unseen) {
                    self.rejected.insert(chunk.id);
                }
                if self.rejected.contains(&chunk.id) || !self.shared.state().schedule.counts(&chunk) {
                    return Joined::Nothing;
                }
                match self.finish(&chunk, &snapshot, rows, unseen, emitted) {
                    None => Joined::Nothing,
                    Some(events) => Joined::Rows(Rows::new(events).into_step()),
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
                self.shared.wake.notify_waiters();
                if is_rejected { Joined::Nothing } else { Joined::Part(chunk.table) }
            }
            Message::Failed(chunk, failure) => self.fail(&chunk, failure),
        }
    }

    /// Copies whose rows have all been handed on, each with the table's object id; the stream has got to `emitted`.
    pub fn ends(&mut self, emitted: Watermark) -> Vec<(u32, Ended)> {
        let complete = self.shared.state().schedule.take_complete(emitted.end_lsn);
        let mut ended = Vec::new();
        for oid in complete {
            self.shared.state().tables.remove(&oid);
            let Some(Joining { copied, rows, in_place, .. }) = self.joining.remove(&oid) else { continue };
            let table = copied.table.name().clone();
            tracing::info!(%table, rows, "copied");
            let whole = || Ended::Whole(Step::CopyEnd { table, watermark: emitted });
            ended.push((oid, in_place.map_or_else(whole, Ended::InPlace)));
        }
        ended
    }

    /// Whether a table only waits for the stream to get to where its last snapshot was.
    pub fn waits_for_stream(&self) -> bool {
        self.shared.state().schedule.waits_for_stream()
    }

    /// The events of copied rows; none if all of them have been changed since.
    fn finish(
        &mut self,
        chunk: &Chunk,
        snapshot: &ChunkSnapshot,
        mut rows: CopiedRows,
        unseen: &Unseen,
        emitted: Lsn,
    ) -> Option<TableEvents> {
        let mut origin = self.origin(emitted, snapshot.lsn, snapshot.taken_micros);
        let joining = self.joining.get_mut(&chunk.table)?;
        joining.touched.keep_current(&mut rows, &snapshot.sees, unseen);
        let encoder = &joining.copied.encoder;
        let mut events = TableEvents::new(encoder.schema().clone());
        events.bytes.reserve(rows.bytes.len() + rows.rows.len() * HEAD_BYTES);
        events.events.reserve(rows.rows.len());
        for row in rows.rows {
            encoder.finish_from(&rows.bytes, row, &mut events, &origin);
            origin.position.ordinal += 1;
        }
        joining.rows += events.events.len() as u64;
        self.next_ordinal = origin.position.ordinal;
        (!events.events.is_empty()).then_some(events)
    }

    /// Origin of copied rows that are handed on after a transaction.
    fn origin(&mut self, emitted: Lsn, lsn: Lsn, source_micros: i64) -> Origin {
        self.next_ordinal += 1;
        Origin {
            position: Position { commit_lsn: emitted, ordinal: self.next_ordinal },
            lsn,
            xid: 0,
            source_micros,
            now_micros: now_micros(),
            snapshot: Snapshot::Yes,
        }
    }

    fn admits(&self, chunk: &Chunk, snapshot: &ChunkSnapshot, unseen: &Unseen) -> bool {
        let sees_slot = self.must_see.as_ref().is_none_or(|slot| snapshot.sees.sees_all_of(slot));
        let joining = self.joining.get(&chunk.table);
        sees_slot && joining.is_none_or(|joining| joining.touched.admits(&snapshot.sees, unseen))
    }

    fn fail(&mut self, chunk: &Chunk, failure: Failure) -> Joined {
        self.rejected.remove(&chunk.id);
        // Limits of the role or of the server, or somebody who cancels what takes long.
        let took_too_long = match &failure {
            Failure::Error(error) => error.why.contains("SQLSTATE 57014"),
            Failure::Congested => true,
            Failure::UnexpectedNull(_) => false,
        };
        let mut state = self.shared.state();
        state.in_use.remove(&chunk.id);
        let counts = state.schedule.counts(chunk);
        state.schedule.failed(chunk, took_too_long, Instant::now());
        drop(state);
        self.shared.wake.notify_waiters();
        let Some(joining) = self.joining.get_mut(&chunk.table).filter(|_| counts) else { return Joined::Nothing };
        let error = match failure {
            Failure::UnexpectedNull(column) => return Joined::UnexpectedNull(chunk.table, column),
            Failure::Congested => return Joined::Nothing,
            Failure::Error(error) => error,
        };
        joining.timeouts += u32::from(took_too_long);
        let is_refused = error.code == Code::PostgresError || joining.timeouts > CONDITION_TRIES;
        match error.class {
            // The condition's fault.
            _ if joining.in_place.is_some() && is_refused => Joined::Stopped(chunk.table, error),
            _ if error.code == Code::TableAlteredDuringCopy => Joined::Altered(chunk.table),
            Class::Operator => Joined::Stopped(chunk.table, error),
            Class::Fatal => Joined::Failed(error),
            Class::Retry => {
                if !std::mem::replace(&mut joining.is_told, true) {
                    tracing::warn!(table = %joining.copied.table.name(), code = %error.code, %error, "the copy waits");
                }
                Joined::Nothing
            }
        }
    }
}
