//! What a running pipeline tells about itself, in a file that `sooner status` reads.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sooner_api::{Clock, Committed, Error, Fact, Side, SlotStanding, TableState, TakesPart, Telemetry};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use crate::clock::SystemClock;
use crate::journal::{Entry, Journal, Kind};
use crate::pulse::{Pulse, Standing};
use crate::standby;
pub use crate::table_status::{CopyStatus, TableStatus};
use crate::totals::Totals;

/// How often the status is written.
const SAVE_INTERVAL: Duration = Duration::from_millis(500);
/// The interval is at least so many times as long as writing takes.
const SAVE_SHARE: u32 = 50;

/// A pipeline's state at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Pipeline.
    pub pipeline: String,
    /// Process.
    pub pid: u32,
    /// When this was written, in microseconds since 1970.
    pub updated_micros: i64,
    /// Since when the loops have stood still although there is something to do, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still_since_micros: Option<i64>,
    /// Sides that rest, because somebody asked for it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub paused: BTreeSet<Side>,
    /// The sink has joined its consumer group, and waits for partitions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standby: bool,
    /// Why nothing moves at the moment, if so.
    pub trouble: Option<Error>,
    /// Where the source's log ends.
    pub server_end_lsn: Lsn,
    /// Up to where the stream has been read.
    pub received_lsn: Lsn,
    /// Up to where everything is in the lake.
    pub durable_lsn: Lsn,
    /// Up to where the slot has been confirmed.
    pub confirmed_flush_lsn: Lsn,
    /// How much log the slot makes Postgres keep; none before that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotStanding>,
    /// Tables by name.
    pub tables: BTreeMap<TableName, TableStatus>,
    /// Histories that keep more than they should, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub untrimmed: BTreeMap<TableName, Error>,
}

/// The status that all parts of a pipeline report to, and the journal of what happened.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    status: Status,
    journal: Journal,
    totals: Totals,
    pulse: Pulse,
}

impl Telemetry for StatusBoard {
    fn record(&self, fact: Fact<'_>) {
        self.lock().take(fact, SystemClock.now_micros());
    }
}

impl Board {
    fn take(&mut self, fact: Fact<'_>, now_micros: i64) {
        self.pulse.hear(&fact, self.status.standing(), now_micros);
        self.totals.hear(&fact, now_micros);
        let entry = match &fact {
            Fact::Paused(side, rests) if self.status.paused.contains(side) != *rests => {
                Some(Entry::of_pause(now_micros, *side, *rests))
            }
            Fact::Running if self.status.trouble.is_some() => {
                Some(Entry::new(now_micros, Kind::Recovered, "it goes on"))
            }
            fact => Entry::of_fact(now_micros, fact),
        };
        self.journal.extend(entry);
        let before = self.states_of(&fact);
        self.status.take(fact);
        for (table, was) in before {
            let is = self.status.tables.get(&table).map(|table| &table.state);
            let entry = is.and_then(|is| Entry::of_state(now_micros, &table, was.as_ref(), is));
            if let Some(code) = entry.as_ref().and_then(|entry| entry.code) {
                self.totals.failed(code);
            }
            self.journal.extend(entry);
        }
    }

    /// Works out what depends on the moment.
    fn refresh(&mut self, now_micros: i64) {
        let status = &mut self.status;
        status.updated_micros = now_micros;
        let is_copying = status.tables.values().any(|table| table.state == TableState::Copying);
        status.still_since_micros = self.pulse.still_since(status.standing(), is_copying, now_micros);
        status.tables.values_mut().for_each(|table| table.assess_copy(now_micros));
    }

    /// The states that a fact may change, as they are before it.
    fn states_of(&self, fact: &Fact<'_>) -> Vec<(TableName, Option<TableState>)> {
        let state = |table: &TableName| (table.clone(), self.status.tables.get(table).map(|known| known.state.clone()));
        match fact {
            Fact::State(_, table, _) => vec![state(table)],
            Fact::Tables(tables) => tables.iter().map(|part| state(part.table)).collect(),
            _ => Vec::new(),
        }
    }
}

impl Status {
    fn take(&mut self, fact: Fact<'_>) {
        match fact {
            Fact::Tables(tables) => self.has_tables(tables),
            Fact::State(side, table, state) => self.table(table).has_state(side, state),
            Fact::Shape(table, relation) => self.table(table).has_shape(relation),
            Fact::RowsCopied(table, rows, bytes) => self.table(table).copied(rows, bytes),
            Fact::CopyBegun(table, rows) => self.table(table).begins_copy(rows, SystemClock.now_micros()),
            Fact::Committed { table, committed, events, .. } => self.committed(table, committed, events),
            Fact::Size(table, size) => self.table(table).has_size(size),
            Fact::Coverage { now_micros, read, behind, apart } => self.covered(now_micros, read, &behind, &apart),
            Fact::ServerEnd(lsn) => self.server_end_lsn = self.server_end_lsn.max(lsn),
            Fact::Slot(standing) => self.slot = Some(standing.clone()),
            Fact::Received(lsn) => self.received_lsn = self.received_lsn.max(lsn),
            Fact::Durable(lsn) => self.durable_lsn = lsn,
            Fact::Confirmed(lsn) => self.confirmed_flush_lsn = self.confirmed_flush_lsn.max(lsn),
            Fact::Unread { table, messages, reading_micros, partitions } => {
                let table = self.table(table);
                table.lag_messages = Some(messages);
                table.unread_micros = reading_micros;
                table.partitions = partitions;
            }
            Fact::Topic(table, standing) => self.table(table).topic = Some(standing),
            Fact::Interrupted(error) => self.trouble = Some(error.clone()),
            Fact::Running => self.trouble = None,
            Fact::Standby(waits) => standby::take(&mut self.standby, &mut self.trouble, waits),
            Fact::Paused(side, true) => drop(self.paused.insert(side)),
            Fact::Paused(side, false) => drop(self.paused.remove(&side)),
            // These are counted.
            Fact::Changed(_) | Fact::Read(..) | Fact::Throttled(..) => {}
            Fact::Sent(_)
            | Fact::DeadLetters(_)
            | Fact::Memory { .. }
            | Fact::ReportMade(..)
            | Fact::ReportFailed(..) => {}
        }
    }

    fn standing(&self) -> Standing {
        Standing {
            server_end: self.server_end_lsn,
            received: self.received_lsn,
            durable: self.durable_lsn,
            confirmed: self.confirmed_flush_lsn,
            unconfirmed_bytes: self.slot.as_ref().map_or(0, |slot| slot.unconfirmed_bytes),
        }
    }

    fn table(&mut self, table: &TableName) -> &mut TableStatus {
        self.tables.entry(table.clone()).or_insert_with(|| TableStatus::new(TableState::Copying))
    }

    fn has_tables(&mut self, tables: Vec<TakesPart<'_>>) {
        let named: HashSet<_> = tables.iter().map(|part| part.table).collect();
        self.tables.retain(|known, _| named.contains(known));
        for TakesPart { table: name, state, estimated_rows, unsent } in tables {
            let table = self.tables.entry(name.clone()).or_insert_with(|| TableStatus::new(state.clone()));
            (table.rows_estimated, table.columns_not_sent) = (estimated_rows, unsent.to_vec());
            let was_told = table.source_state.as_ref().is_some_and(|former| !former.takes_events());
            // Whoever takes no events has no worker that would say so.
            if !state.takes_events() {
                table.has_state(Side::Source, state);
            } else if was_told {
                (table.source_state, table.sink_state) = (None, None);
                table.state = state.clone();
            }
        }
    }

    fn committed(&mut self, table: &TableName, committed: &Committed, events: u64) {
        let table = self.table(table);
        table.table_version = Some(committed.table_version);
        table.events += events;
    }

    fn covered(&mut self, now_micros: i64, read: Watermark, behind: &[(&TableName, Watermark)], apart: &[&TableName]) {
        let server_end = self.server_end_lsn;
        let behind: HashMap<_, _> = behind.iter().copied().collect();
        let apart: HashSet<_> = apart.iter().copied().collect();
        for (name, table) in &mut self.tables {
            if apart.contains(name) || table.sink_state.is_none() {
                continue;
            }
            // What is visible is as old as the last of it; or, where all that was read is, as what is being read.
            let (watermark, since) = match behind.get(name) {
                Some(watermark) => (*watermark, Some(watermark.commit_micros).filter(|micros| *micros > 0)),
                None => (read, table.unread_micros),
            };
            table.reached(watermark, server_end);
            table.is_as_old_as(since, now_micros);
        }
    }
}

impl StatusBoard {
    /// The status of a pipeline that runs in this process, and counts as stalled after so long.
    pub fn new(pipeline: &str, stalled_after: Duration) -> StatusBoard {
        let status = Status { pipeline: pipeline.to_owned(), pid: std::process::id(), ..Status::default() };
        let pulse = Pulse::new(SystemClock.now_micros(), stalled_after);
        StatusBoard(Arc::new(Mutex::new(Board { status, pulse, ..Board::default() })))
    }

    /// Notes that the process runs the pipeline from now on, and writes what happens to the journal of this folder.
    pub fn started(&self, state_dir: &Path) {
        let mut board = self.lock();
        board.journal = Journal::open(state_dir);
        let what = format!("sooner {}, process {}", env!("CARGO_PKG_VERSION"), board.status.pid);
        board.journal.write(Entry::new(SystemClock.now_micros(), Kind::Started, what));
    }

    /// Notes how the pipeline ended.
    pub fn ended(&self, error: Option<&Error>) {
        let mut board = self.lock();
        board.status.trouble = error.cloned();
        board.journal.write(Entry::of_end(SystemClock.now_micros(), error));
    }

    /// Writes an entry to the journal.
    pub fn note(&self, entry: Entry) {
        self.lock().journal.write(entry);
    }

    /// Notes why a table's history keeps more than it should, or that it does not; whether the reason is new.
    pub fn note_untrimmed(&self, table: &TableName, why: Option<Error>) -> bool {
        let (mut board, is_some) = (self.lock(), why.is_some());
        let known = match why.clone() {
            Some(why) => board.status.untrimmed.insert(table.clone(), why),
            None => board.status.untrimmed.remove(table),
        };
        is_some && known.map(|known| known.code) != why.map(|why| why.code)
    }

    /// A copy of the status.
    pub fn read(&self) -> Status {
        self.lock().status.clone()
    }

    /// A copy of the status as it is written to its file: of this moment, with how copies get on.
    pub fn read_now(&self) -> Status {
        self.look(Status::clone)
    }

    /// Lets somebody look at the status of this moment where it is: with very many tables, a copy of it costs more than
    /// what most want of it. Facts wait meanwhile.
    pub fn look<T>(&self, see: impl FnOnce(&Status) -> T) -> T {
        let mut board = self.lock();
        board.refresh(SystemClock.now_micros());
        see(&board.status)
    }

    /// What was counted since the process started.
    pub fn totals(&self) -> Totals {
        self.lock().totals.clone()
    }

    /// The last entries of the journal, the newest first.
    pub fn recent_entries(&self) -> Vec<Entry> {
        self.lock().journal.recent().rev().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tables that are being copied, each with how that gets on.
    pub fn copies(&self) -> Vec<(TableName, TableStatus)> {
        self.look(|status| {
            let copied = status.tables.iter().filter(|(_, table)| table.copy.is_some());
            copied.map(|(name, table)| (name.clone(), table.clone())).collect()
        })
    }

    /// Writes the status to its file, whole or not at all.
    pub fn save(&self, state_dir: &Path) -> std::io::Result<()> {
        let status = self.read_now();
        let path = file(state_dir);
        let beside = path.with_extension("json.new");
        std::fs::write(&beside, serde_json::to_vec_pretty(&status)?)?;
        std::fs::rename(beside, path)
    }

    /// Writes the status again and again. With very many tables, writing takes a bounded share of the time.
    pub async fn keep_saving(self, state_dir: PathBuf) {
        loop {
            let started = Instant::now();
            if let Err(error) = self.save(&state_dir) {
                tracing::debug!(%error, "cannot write the status");
            }
            tokio::time::sleep(SAVE_INTERVAL.max(started.elapsed() * SAVE_SHARE)).await;
        }
    }
}

/// The file of a state folder.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("status.json")
}

/// Reads the status that a process last wrote; none if none ever did.
pub fn load(state_dir: &Path) -> anyhow::Result<Option<Status>> {
    let path = file(state_dir);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|error| {
        anyhow::anyhow!(
            "cannot understand {}: {error}. To do: remove it; a running pipeline writes it again.",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use sooner_api::Code;

    use super::*;

    fn name(table: &str) -> TableName {
        TableName::new("public", table)
    }

    fn mark(lsn: u64, commit_micros: i64) -> Watermark {
        Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn), commit_micros }
    }

    fn streaming() -> TableState {
        TableState::Streaming { copied_lsn: None }
    }

    fn shown(status: &Status, table: &str) -> String {
        status.tables[&name(table)].state.name().to_owned()
    }

    #[test]
    fn the_source_has_the_say_until_a_table_streams_there() {
        let mut status = Status::default();
        let table = name("t");
        status.take(Fact::State(Side::Sink, &table, &streaming()));
        status.take(Fact::State(Side::Source, &table, &TableState::Copying));
        assert_eq!(shown(&status, "t"), "copying");
        status.take(Fact::State(Side::Source, &table, &streaming()));
        assert_eq!(shown(&status, "t"), "streaming");
        let error = Error::operator(Code::ShapeChanged, "w", "y", "r");
        status.take(Fact::State(Side::Sink, &table, &TableState::Parked { error, copied_lsn: None }));
        assert_eq!(shown(&status, "t"), "parked");
        assert!(status.tables[&table].reason().is_some());
    }

    #[test]
    fn lag_is_that_of_what_is_not_visible_and_unknown_before_anything_was_read() {
        let mut status = Status::default();
        let (behind, clean, copying) = (name("behind"), name("clean"), name("copying"));
        for table in [&behind, &clean, &copying] {
            status.take(Fact::State(Side::Sink, table, &streaming()));
        }
        let coverage = |read, behind| Fact::Coverage { now_micros: 9_000_000, read, behind, apart: vec![&copying] };
        status.take(coverage(Watermark::default(), Vec::new()));
        assert_eq!((status.tables[&clean].lag_bytes, status.tables[&clean].watermark_lsn), (None, None));
        status.take(Fact::ServerEnd(Lsn(100)));
        status.take(coverage(mark(100, 8_000_000), vec![(&behind, mark(40, 2_000_000))]));
        let table = &status.tables[&behind];
        assert_eq!((table.lag_bytes, table.lag_seconds), (Some(60), Some(7.0)));
        let table = &status.tables[&clean];
        assert_eq!((table.lag_bytes, table.lag_seconds, table.watermark_lsn), (Some(0), Some(0.0), Some(Lsn(100))));
        assert_eq!(status.tables[&copying].lag_bytes, None, "the watermark says nothing of it");
    }
}
