//! A simulated lake in memory, whose commits fail at times: before they have an effect, or after it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use sooner_api::{Code, Committed, Error, Lake, LakeTable, Result, Staged};
use sooner_schemas::event::{EventSchema, Op, TableEvents, Watermark};
use sooner_schemas::wire::{Reader, split_header};
use sooner_schemas::{Lsn, TableName};

use super::database::{Rows, TABLES, table_name};
use super::{Chance, draw};

/// Faults of commits: each occurs at random, once in so many commits on average, or never if it is none.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    fails_before: Option<u32>,
    answer_lost: Option<u32>,
}

impl Faults {
    /// No faults.
    pub fn none() -> Faults {
        Faults { fails_before: None, answer_lost: None }
    }

    /// Every kind of fault, each in one of twelve commits on average.
    pub fn some() -> Faults {
        Faults { fails_before: Some(12), answer_lost: Some(12) }
    }
}

/// Durable state of a simulated table, which survives a crash of the process.
#[derive(Clone, Debug, Default)]
struct Stored {
    version: u64,
    applied: Lsn,
    rows: BTreeMap<i64, i64>,
}

/// A simulated lake; its clones share the same tables and faults.
#[derive(Clone)]
pub struct SimulatedLake {
    tables: Arc<Mutex<HashMap<TableName, Stored>>>,
    faults: Arc<Mutex<Faults>>,
    chance: Chance,
}

/// A simulated table as one process sees it: the version it is based on, and changes that are staged.
pub struct SimulatedTable {
    name: TableName,
    lake: SimulatedLake,
    base: Stored,
    staged: Vec<(i64, Option<i64>)>,
    staged_bytes: usize,
    last: Lsn,
}

impl SimulatedLake {
    /// A lake of empty tables, without faults.
    pub fn new(chance: Chance) -> SimulatedLake {
        SimulatedLake { tables: Arc::default(), faults: Arc::new(Mutex::new(Faults::none())), chance }
    }

    /// Sets the faults of all commits from now on.
    pub fn set_faults(&self, faults: Faults) {
        *self.faults.lock().expect("one thread") = faults;
    }

    /// Commit LSN up to which a table's events are committed; zero if it has none.
    pub fn applied(&self, table: &TableName) -> Lsn {
        self.tables.lock().expect("one thread").get(table).map_or(Lsn::ZERO, |stored| stored.applied)
    }

    /// Committed rows of all tables.
    pub fn rows(&self) -> Rows {
        let tables = self.tables.lock().expect("one thread");
        let of = |table: usize| tables.get(&table_name(table)).cloned().unwrap_or_default().rows;
        (0..TABLES).flat_map(|table| of(table).into_iter().map(move |(key, value)| ((table, key), value))).collect()
    }

    fn happens(&self, once_in: impl Fn(&Faults) -> Option<u32>) -> bool {
        let once_in = once_in(&self.faults.lock().expect("one thread"));
        once_in.is_some_and(|count| draw(&self.chance, |random| random.random_ratio(1, count)))
    }
}

impl Lake for SimulatedLake {
    type Table = SimulatedTable;

    async fn open(&self, table: &TableName) -> Result<SimulatedTable> {
        let base = self.tables.lock().expect("one thread").get(table).cloned().unwrap_or_default();
        let last = base.applied;
        Ok(SimulatedTable { name: table.clone(), lake: self.clone(), base, staged: Vec::new(), staged_bytes: 0, last })
    }
}

impl LakeTable for SimulatedTable {
    fn name(&self) -> &TableName {
        &self.name
    }

    fn applied_lsn(&self) -> Option<Lsn> {
        Some(self.base.applied)
    }

    fn table_version(&self) -> Option<u64> {
        Some(self.base.version)
    }

    async fn begin_copy(&mut self, _schema: Arc<EventSchema>) -> Result<()> {
        self.discard();
        Ok(())
    }

    async fn stage(&mut self, events: TableEvents) -> Result<Staged> {
        for event in events.events.iter().filter(|event| event.position.commit_lsn > self.base.applied) {
            assert!(event.position.commit_lsn >= self.last, "events of a table are in commit order");
            self.last = event.position.commit_lsn;
            let (_, key) = split_header(&events.bytes[event.key.clone()]).expect("a key");
            let key = Reader::new(key).long().expect("a key of one number");
            let value = (event.op != Op::Delete).then(|| value_of(&events.bytes[event.value.clone()]));
            self.staged.push((key, value));
        }
        self.staged_bytes += events.size_bytes();
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
        if self.staged.is_empty() {
            return Ok(Committed { table_version: self.base.version, ..Committed::default() });
        }
        assert!(self.last <= watermark.commit_lsn, "a commit ends between transactions");
        if self.lake.happens(|faults| faults.fails_before) {
            return Err(Error::retry(Code::LakeUnreachable, "cannot commit", "simulated", "nothing"));
        }
        let mut next = self.base.clone();
        for (key, value) in self.staged.drain(..) {
            match value {
                Some(value) => next.rows.insert(key, value),
                None => next.rows.remove(&key),
            };
        }
        (next.version, next.applied) = (next.version + 1, self.last);
        let former = self.lake.tables.lock().expect("one thread").insert(self.name.clone(), next.clone());
        assert_eq!(former.map_or(0, |former| former.version), self.base.version, "a zombie has committed");
        self.base = next;
        self.staged_bytes = 0;
        if self.lake.happens(|faults| faults.answer_lost) {
            return Err(Error::retry(Code::CommitUndecided, "cannot commit", "the answer was lost", "nothing"));
        }
        Ok(Committed { table_version: self.base.version, ..Committed::default() })
    }

    fn discard(&mut self) {
        self.staged.clear();
        self.staged_bytes = 0;
        self.last = self.base.applied;
    }
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
