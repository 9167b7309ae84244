//! A simulated lake in memory, whose commits fail at times: before they have an effect, or after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use sooner_api::{
    Alteration, Code, Committed, Error, Feed, Lake, LakeCopy, LakePosition, LakeTable, Positions, Result, Rows, Staged,
    Standing, TableSize,
};
use sooner_schemas::event::{Op, Watermark};
use sooner_schemas::wire::{Reader, split_header};
use sooner_schemas::{Lsn, TableName};

use super::chance::{Chance, draw, happens, passing};
use super::history::{AllRows, TABLES, table_name};

/// Durable state of a simulated table, which survives a crash of the process.
#[derive(Clone, Debug, Default)]
struct Stored {
    version: u64,
    positions: Option<Positions>,
    watermark: Option<Lsn>,
    rows: BTreeMap<i64, i64>,
    /// The last copy that has ended.
    copied: Option<u64>,
    /// What is durable of a copy that has not.
    copy: Option<StoredCopy>,
}

/// Durable state of a copy that nobody sees.
#[derive(Clone, Debug)]
struct StoredCopy {
    state: LakeCopy,
    positions: Option<Positions>,
    watermark: Option<Lsn>,
    rows: BTreeMap<i64, i64>,
}

/// A simulated lake; its clones are the same one.
#[derive(Clone)]
pub struct SimulatedLake {
    tables: Arc<Mutex<HashMap<TableName, Stored>>>,
    calm: Arc<AtomicBool>,
    chance: Chance,
}

/// A simulated table as one process sees it: the version it is based on, and changes that are staged.
pub struct SimulatedTable {
    name: TableName,
    lake: SimulatedLake,
    base: Stored,
    next: Stored,
    is_staged: bool,
    staged_bytes: usize,
    /// What is staged replaces all that was there.
    is_copy: bool,
    /// The copy that what is staged belongs to.
    copy: Option<u64>,
}

impl SimulatedLake {
    /// A lake without tables.
    pub fn new(chance: Chance) -> SimulatedLake {
        SimulatedLake { tables: Arc::default(), calm: Arc::default(), chance }
    }

    /// Fails at times, or never.
    pub fn set_calm(&self, calm: bool) {
        self.calm.store(calm, Ordering::Relaxed);
    }

    /// What a table has taken; none before its first commit.
    pub fn positions(&self, table: &TableName) -> Option<Positions> {
        self.tables.lock().expect("one thread").get(table)?.positions.clone()
    }

    /// What an unfinished copy of a table has taken; none if nothing is durable of one.
    pub fn copied_positions(&self, table: &TableName) -> Option<Positions> {
        self.tables.lock().expect("one thread").get(table)?.copy.as_ref()?.positions.clone()
    }

    /// Committed rows of all tables.
    pub fn rows(&self) -> AllRows {
        let tables = self.tables.lock().expect("one thread");
        let of = |table: usize| tables.get(&table_name(table)).cloned().unwrap_or_default().rows;
        (0..TABLES).flat_map(|table| of(table).into_iter().map(move |(key, value)| ((table, key), value))).collect()
    }

    fn fails(&self, once_in: u32) -> bool {
        !self.calm.load(Ordering::Relaxed) && happens(&self.chance, once_in)
    }

    fn stored(&self, table: &TableName) -> Stored {
        self.tables.lock().expect("one thread").get(table).cloned().unwrap_or_default()
    }
}

impl Lake for SimulatedLake {
    type Table = SimulatedTable;

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    async fn open(&self, table: &TableName, _feed: &Feed) -> Result<SimulatedTable> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let base = self.stored(table);
        let next = base.clone();
        let lake = self.clone();
        let name = table.clone();
        Ok(SimulatedTable { name, lake, base, next, is_staged: false, staged_bytes: 0, is_copy: false, copy: None })
    }
}

impl SimulatedTable {
    /// What is durable of the copy that goes on.
    fn durable_copy(&self) -> Option<&StoredCopy> {
        self.base.copy.as_ref().filter(|copy| self.copy == Some(copy.state.id))
    }

    fn durable_positions(&self) -> Option<&Positions> {
        self.durable_copy().map_or(self.base.positions.as_ref(), |copy| copy.positions.as_ref())
    }

    /// Whether a step is already part of what this is based on. Rows of a copy are never repeated.
    fn has(&self, rows: &Rows) -> bool {
        if self.copy.is_some() && is_copied(rows) && !is_of_topic(rows) {
            return false;
        }
        match (self.durable_positions(), rows.positions()) {
            (Some(base), Some(rows)) => !self.is_copy && base.covers(&rows),
            _ => false,
        }
    }

    fn advance(&mut self, rows: &Rows) {
        let Some(taken) = rows.positions() else { return };
        match &mut self.next.positions {
            Some(positions) => {
                assert!(!positions.covers(&taken) || matches!(taken, Positions::Stream(_)), "a message comes once");
                // Copied rows stand after the last transaction, and a commit may have been for later than that.
                let is_ordered = taken.covers(positions) || is_copied(rows);
                assert!(matches!(taken, Positions::Topic { .. }) || is_ordered, "events are in order");
                positions.advance(&taken);
            }
            none => *none = Some(taken),
        }
        self.is_staged = true;
    }
}

impl LakeTable for SimulatedTable {
    fn name(&self) -> &TableName {
        &self.name
    }

    fn standing(&self) -> Standing {
        if self.base.version == 0 && self.durable_copy().is_none() { Standing::Absent } else { Standing::Follows }
    }

    fn positions(&self) -> Option<&Positions> {
        self.durable_positions()
    }

    fn watermark(&self) -> Option<Lsn> {
        self.durable_copy().map_or(self.base.watermark, |copy| copy.watermark)
    }

    fn version(&self) -> Option<u64> {
        (self.base.version > 0).then_some(self.base.version)
    }

    fn history_version(&self) -> Option<u64> {
        None
    }

    fn size(&self) -> Option<TableSize> {
        None
    }

    async fn altered_since(&self, stored: &LakePosition) -> Result<Option<Alteration>> {
        let is_back = self.base.version < stored.version;
        Ok(is_back.then(|| Alteration::SetBack("an earlier version".to_owned())))
    }

    async fn is_current(&self) -> Result<bool> {
        Ok(self.lake.stored(&self.name).version == self.base.version)
    }

    async fn inspect(&mut self) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(draw(&self.lake.chance, |random| random.random_range(1..20)))).await;
        if self.lake.fails(12) { Err(passing(Code::LakeUnreachable, "cannot inspect")) } else { Ok(()) }
    }

    async fn begin_copy(&mut self, start: Rows) -> Result<Staged> {
        self.copy = None;
        self.discard();
        self.is_copy = true;
        self.copy = Some(start.events.events[0].position.ordinal);
        self.next.rows.clear();
        self.next.positions = None;
        self.advance(&start);
        Ok(Staged::Taken)
    }

    async fn truncate(&mut self, truncate: Rows) -> Result<Staged> {
        if !self.has(&truncate) {
            self.next.rows.clear();
            self.advance(&truncate);
        }
        Ok(Staged::Taken)
    }

    async fn stage(&mut self, rows: Rows) -> Result<Staged> {
        if self.lake.fails(1000) {
            let error = Error::operator(Code::ShapeChanged, "cannot merge", "it is simulated", "resume the table");
            return if happens(&self.lake.chance, 2) { Err(error) } else { Ok(Staged::NeedsCopy(error)) };
        }
        if self.has(&rows) {
            return Ok(Staged::Taken);
        }
        let events = &rows.events;
        for event in &events.events {
            let (_, key) = split_header(&events.bytes[event.key.clone()]).expect("a key");
            let key = Reader::new(key).long().expect("a key of one number");
            match event.op {
                Op::Delete => self.next.rows.remove(&key),
                _ => self.next.rows.insert(key, value_of(&events.bytes[event.value.clone()])),
            };
        }
        self.staged_bytes += events.size_bytes();
        self.advance(&rows);
        Ok(Staged::Taken)
    }

    fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    async fn seal(&mut self) -> Result<()> {
        self.staged_bytes = 0;
        Ok(())
    }

    async fn commit(&mut self, watermark: Watermark) -> Result<Committed> {
        tokio::time::sleep(Duration::from_millis(draw(&self.lake.chance, |random| random.random_range(1..60)))).await;
        if !self.is_staged {
            return Ok(Committed { table_version: self.base.version, ..Committed::default() });
        }
        if let Some(Positions::Stream(last)) = &self.next.positions {
            assert!(last.commit_lsn <= watermark.commit_lsn, "a commit ends between transactions");
        }
        if self.lake.fails(12) {
            return Err(passing(Code::LakeUnreachable, "cannot commit"));
        }
        let stored = self.lake.stored(&self.name);
        let version = |stored: &Stored| (stored.version, stored.copy.as_ref().map(|copy| copy.state));
        if version(&stored) != version(&self.base) {
            return Err(passing(Code::CommitUndecided, "another sink has committed"));
        }
        self.next.watermark = Some(watermark.commit_lsn);
        let mut base = match self.copy {
            Some(id) => {
                let version = self.durable_copy().map_or(0, |copy| copy.state.version + 1);
                let Stored { positions, watermark, rows, .. } = self.next.clone();
                let copy = Some(StoredCopy { state: LakeCopy { id, version }, positions, watermark, rows });
                Stored { copy, ..self.base.clone() }
            }
            None => Stored { version: self.base.version + 1, copy: None, ..self.next.clone() },
        };
        base.copied = self.next.copied;
        self.lake.tables.lock().expect("one thread").insert(self.name.clone(), base.clone());
        self.base = base;
        (self.is_staged, self.is_copy, self.staged_bytes) = (false, false, 0);
        if self.lake.fails(12) {
            return Err(passing(Code::CommitUndecided, "the answer was lost"));
        }
        Ok(Committed { table_version: self.base.version, ..Committed::default() })
    }

    async fn end_copy(&mut self, watermark: Watermark) -> Result<Committed> {
        if let Some(copy) = self.copy.take() {
            self.next.copied = Some(copy);
            self.is_staged = true;
        }
        self.commit(watermark).await
    }

    fn expect_copy(&mut self) {}

    fn keeps_copies(&self) -> bool {
        self.copy.is_some()
    }

    async fn resume_copy(&mut self, copy: Option<LakeCopy>) -> Result<bool> {
        let found = self.base.copy.as_ref().map(|copy| copy.state);
        let is_there = |copy: &LakeCopy| found.is_some_and(|it| it.id == copy.id && it.version >= copy.version);
        self.copy = copy.filter(is_there).map(|copy| copy.id);
        self.discard();
        Ok(self.copy.is_some())
    }

    fn unfinished_copy(&self) -> Option<LakeCopy> {
        self.durable_copy().map(|copy| copy.state)
    }

    fn last_copy(&self) -> Option<u64> {
        self.base.copied
    }

    fn discard(&mut self) {
        self.next = self.base.clone();
        match self.durable_copy().cloned() {
            Some(StoredCopy { positions, watermark, rows, .. }) => {
                self.next = Stored { positions, watermark, rows, ..self.base.clone() };
            }
            None => self.copy = None,
        }
        (self.is_staged, self.is_copy, self.staged_bytes) = (false, false, 0);
    }
}

fn is_copied(rows: &Rows) -> bool {
    rows.events.events.iter().all(|event| event.op == Op::Read)
}

fn is_of_topic(rows: &Rows) -> bool {
    matches!(rows.positions(), Some(Positions::Topic { .. }))
}

/// Decodes a value message, and returns the second column of its row after the change.
fn value_of(message: &[u8]) -> i64 {
    let (_, datum) = split_header(message).expect("a value");
    let mut reader = Reader::new(datum);
    assert_eq!(reader.long().expect("before"), 0, "no row before");
    assert_eq!(reader.long().expect("after"), 1, "a row after");
    reader.long().expect("the key");
    reader.long().expect("the value")
}
