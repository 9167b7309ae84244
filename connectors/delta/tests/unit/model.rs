//! Random histories of one table against a map of its rows: what is committed is what a reader finds.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::{LakeTable, Positions, Rows, Staged};
use sooner_delta::WrittenTable;
use sooner_schemas::encode::TupleValue;
use sooner_schemas::event::TableEvents;
use sooner_schemas::{Lsn, Position};
use tokio::time::timeout;

use crate::support::{Row, World, mark, origin, text};

const STEPS: usize = 70;
const KEYS: i64 = 12;
/// How long it is waited for files that may be being written again.
const PATIENCE: Duration = Duration::from_millis(20);

/// A table, and what it should hold.
struct Model {
    seed: u64,
    random: StdRng,
    world: World,
    table: WrittenTable,
    committed: BTreeMap<i64, Row>,
    staged: BTreeMap<i64, Row>,
    is_copy: bool,
    /// What is durable of a copy that has not ended.
    copied: Option<BTreeMap<i64, Row>>,
    lsn: u64,
    /// How often files were written again.
    maintained: u32,
}

/// A row as Postgres sends it: values that the change did not touch may be left out.
fn sent<'a>(id: &'a str, row: &'a Row, left_out: [bool; 2]) -> [TupleValue<'a>; 3] {
    let values = [row.0.as_deref().map_or(TupleValue::Null, text), text(&row.1)];
    let [a, b] = [0, 1].map(|index| if left_out[index] { TupleValue::Unavailable } else { values[index] });
    [text(id), a, b]
}

impl Model {
    async fn new(seed: u64, part_bytes: usize) -> Model {
        let world = World::new(part_bytes);
        let table = world.open().await;
        let (committed, staged) = (BTreeMap::new(), BTreeMap::new());
        let (random, copied) = (StdRng::seed_from_u64(seed), None);
        Model { seed, random, world, table, committed, staged, is_copy: false, copied, lsn: 0, maintained: 0 }
    }

    async fn step(&mut self) {
        match self.random.random_range(0..23) {
            0..=8 => self.stage_changes().await,
            9 => self.stage_what_was_taken_already().await,
            10 | 11 => self.rename_across_a_seal().await,
            12 | 13 => self.table.seal().await.unwrap(),
            14 => self.truncate().await,
            15 => self.copy().await,
            16 => self.discard(),
            17 => self.reopen().await,
            18..=20 => self.maintain().await,
            _ if self.is_copy && self.random.random() => self.end_copy().await,
            _ => self.commit().await,
        }
    }

    fn row(&mut self) -> Row {
        let a = self.random.random_bool(0.7).then(|| format!("a{}", self.random.random_range(0..1000)));
        (a, format!("b{}", self.random.random_range(0..1000)))
    }

    /// A row after a change, and which of its values are left out because they stayed.
    fn changed(&mut self, former: &Row) -> (Row, [bool; 2]) {
        let left_out = [self.random.random_bool(0.4), self.random.random_bool(0.4)];
        let mut row = self.row();
        if left_out[0] {
            row.0.clone_from(&former.0);
        }
        if left_out[1] {
            row.1.clone_from(&former.1);
        }
        (row, left_out)
    }

    fn empty(&self) -> TableEvents {
        TableEvents::new(self.world.encoder.schema().clone())
    }

    async fn stage(&mut self, events: TableEvents) {
        assert_eq!(self.table.stage(Rows::new(events)).await.unwrap(), Staged::Taken);
    }

    async fn stage_changes(&mut self) {
        self.lsn += 1;
        let mut events = self.empty();
        for _ in 0..self.random.random_range(1..8) {
            self.change(&mut events);
        }
        self.stage(events).await;
    }

    fn change(&mut self, events: &mut TableEvents) {
        let id = self.random.random_range(0..KEYS);
        let origin = origin(self.lsn, events.events.len() as u64);
        let Some(former) = self.staged.get(&id).cloned() else {
            let row = self.row();
            self.world.encoder.insert(events, &origin, &sent(&id.to_string(), &row, [false; 2])).unwrap();
            self.staged.insert(id, row);
            return;
        };
        match self.random.random_range(0..5) {
            0 => self.remove(events, id),
            1 => {
                self.remove(events, id);
                self.renamed(events, id, &former);
            }
            _ => {
                let (row, left_out) = self.changed(&former);
                self.world.encoder.update(events, &origin, None, &sent(&id.to_string(), &row, left_out)).unwrap();
                self.staged.insert(id, row);
            }
        }
    }

    fn remove(&mut self, events: &mut TableEvents, id: i64) {
        let origin = origin(self.lsn, events.events.len() as u64);
        let old = id.to_string();
        let old = [text(&old), TupleValue::Null, TupleValue::Null];
        self.world.encoder.delete(events, &origin, &old, false).unwrap();
        self.staged.remove(&id);
    }

    /// The row of a key that was just removed, under a key that is free.
    fn renamed(&mut self, events: &mut TableEvents, old: i64, former: &Row) {
        let free = (0..).filter(|id| *id != old && !self.staged.contains_key(id));
        let free: Vec<i64> = free.take(3).collect();
        let new = free[self.random.random_range(0..free.len())];
        let (row, left_out) = self.changed(former);
        let (old, id) = (old.to_string(), new.to_string());
        let old = [text(&old), TupleValue::Null, TupleValue::Null];
        let origin = origin(self.lsn, 1 + events.events.len() as u64);
        self.world.encoder.insert_renamed(events, &origin, &old, &sent(&id, &row, left_out)).unwrap();
        self.staged.insert(new, row);
    }

    /// What was in memory is sealed first; then the two events of a changed key are sealed one by one.
    async fn rename_across_a_seal(&mut self) {
        let Some((old, former)) = self.staged.iter().next().map(|(id, row)| (*id, row.clone())) else { return };
        self.lsn += 1;
        self.table.seal().await.unwrap();
        let mut gone = self.empty();
        self.remove(&mut gone, old);
        self.stage(gone).await;
        self.table.seal().await.unwrap();
        let mut renamed = self.empty();
        self.renamed(&mut renamed, old, &former);
        self.stage(renamed).await;
    }

    /// A batch that begins with an event that is in the table already, and a truncate that is.
    async fn stage_what_was_taken_already(&mut self) {
        let taken = self.table.positions().and_then(Positions::commit_lsn);
        let Some(Lsn(taken)) = taken.filter(|_| !self.is_copy) else { return };
        self.lsn += 1;
        let mut events = self.empty();
        let stale = (None, "stale".to_owned());
        self.world.encoder.insert(&mut events, &origin(taken, 0), &sent("99", &stale, [false; 2])).unwrap();
        self.change(&mut events);
        self.stage(events).await;
        let mut truncate = self.empty();
        self.world.encoder.truncate(&mut truncate, &origin(taken, 1));
        assert_eq!(self.table.truncate(Rows::new(truncate)).await.unwrap(), Staged::Taken);
    }

    async fn truncate(&mut self) {
        self.lsn += 1;
        let mut events = self.empty();
        self.world.encoder.truncate(&mut events, &origin(self.lsn, 0));
        assert_eq!(self.table.truncate(Rows::new(events)).await.unwrap(), Staged::Taken);
        self.staged.clear();
    }

    async fn copy(&mut self) {
        self.lsn += 1;
        let mut start = self.empty();
        self.world.encoder.copy_start(&mut start, &origin(self.lsn, Position::FIRST_COPIED + self.lsn));
        assert_eq!(self.table.begin_copy(Rows::new(start)).await.unwrap(), Staged::Taken);
        self.staged.clear();
        (self.is_copy, self.copied) = (true, None);
        for id in 0..self.random.random_range(0..KEYS) {
            let (row, mut events) = (self.row(), self.empty());
            let origin = origin(self.lsn, 1 + id as u64);
            self.world.encoder.read(&mut events, &origin, &sent(&id.to_string(), &row, [false; 2])).unwrap();
            self.staged.insert(id, row);
            self.stage(events).await;
        }
    }

    fn discard(&mut self) {
        self.table.discard();
        assert_eq!(self.table.staged_bytes(), 0);
        self.staged.clone_from(self.copied.as_ref().unwrap_or(&self.committed));
        self.is_copy = self.copied.is_some();
    }

    async fn reopen(&mut self) {
        let known = (self.table.version(), self.table.positions().cloned(), self.table.watermark());
        let copy = self.table.unfinished_copy();
        assert_eq!(copy.is_some(), self.copied.is_some(), "seed {}", self.seed);
        self.table = self.world.open().await;
        if self.random.random_bool(0.2) {
            // The copy is forgotten.
            self.copied = None;
        } else {
            let resumed = self.table.resume_copy(copy).await.unwrap();
            assert_eq!(resumed, copy.is_some(), "seed {}", self.seed);
        }
        if copy.is_some() && self.copied.is_none() {
            return self.discard();
        }
        let read = (self.table.version(), self.table.positions().cloned(), self.table.watermark());
        assert_eq!(read, known, "seed {}", self.seed);
        self.discard();
    }

    /// Files are written again, and committed at once or later: readers find the same rows.
    async fn maintain(&mut self) {
        if self.is_copy {
            return;
        }
        for _ in 0..3 {
            self.stage_changes().await;
            self.show().await;
        }
        if timeout(PATIENCE, self.table.maintenance_due()).await.is_err() || self.random.random() {
            return;
        }
        self.table.maintain().await.unwrap();
        self.maintained += 1;
        assert_eq!(self.world.rows().await, self.committed, "seed {}, at {}", self.seed, self.lsn);
    }

    /// During a copy, nobody sees what is committed.
    async fn commit(&mut self) {
        if !self.is_copy {
            return self.show().await;
        }
        self.table.commit(mark(self.lsn)).await.unwrap();
        self.copied = Some(self.staged.clone());
        assert!(self.table.unfinished_copy().is_some());
        assert_eq!(self.world.rows().await, self.committed, "seed {}, at {}", self.seed, self.lsn);
    }

    async fn end_copy(&mut self) {
        self.show().await;
        assert!(self.table.last_copy().is_some() && self.table.unfinished_copy().is_none());
    }

    /// Makes what is staged visible.
    async fn show(&mut self) {
        let before = self.committed.len() as u64;
        let committed = match self.is_copy {
            true => self.table.end_copy(mark(self.lsn)).await.unwrap(),
            false => self.table.commit(mark(self.lsn)).await.unwrap(),
        };
        self.committed.clone_from(&self.staged);
        (self.is_copy, self.copied) = (false, None);
        assert_eq!(self.world.rows().await, self.committed, "seed {}, at {}", self.seed, self.lsn);
        let after = before + committed.rows_written - committed.rows_removed;
        assert_eq!(after, self.committed.len() as u64, "seed {}: {committed:?}", self.seed);
        assert!(self.table.is_current().await.unwrap());
    }
}

async fn run(seed: u64, part_bytes: usize) -> u32 {
    let mut model = Model::new(seed, part_bytes).await;
    for _ in 0..STEPS {
        model.step().await;
    }
    model.show().await;
    model.maintained
}

#[tokio::test]
async fn live_rows_are_those_of_the_model() {
    let mut maintained = 0;
    for seed in 0..8 {
        maintained += run(seed, 1 << 20).await;
    }
    assert!(maintained >= 8, "files were written again {maintained} times");
}

#[tokio::test]
async fn live_rows_are_those_of_the_model_where_every_seal_writes_a_file() {
    for seed in 100..106 {
        run(seed, 1).await;
    }
}

/// The key of a row changes after one of its values has, and the two events of the changed key are sealed apart.
async fn value_after_a_split_rename(staged_in_memory: bool) -> Option<String> {
    let world = World::new(1 << 20);
    let mut table = world.open().await;
    table.stage(world.inserted(1, [1], "old")).await.unwrap();
    table.commit(mark(1)).await.unwrap();
    let update = |encoder: &sooner_schemas::encode::Encoder, out: &mut TableEvents| {
        encoder.update(out, &origin(2, 0), None, &[text("1"), TupleValue::Null, text("new")]).unwrap();
    };
    table.stage(world.events(update)).await.unwrap();
    if !staged_in_memory {
        table.seal().await.unwrap();
    }
    let old = [text("1"), TupleValue::Null, TupleValue::Null];
    let gone = world.events(|encoder, out| encoder.delete(out, &origin(3, 0), &old, false).unwrap());
    table.stage(gone).await.unwrap();
    table.seal().await.unwrap();
    let row = [text("2"), TupleValue::Null, TupleValue::Unavailable];
    let renamed = world.events(|encoder, out| encoder.insert_renamed(out, &origin(3, 1), &old, &row).unwrap());
    table.stage(renamed).await.unwrap();
    table.commit(mark(3)).await.unwrap();
    world.rows().await.remove(&2).map(|row| row.1)
}

#[tokio::test]
async fn a_value_that_was_sealed_before_its_rows_key_changed_is_the_last_one() {
    assert_eq!(value_after_a_split_rename(false).await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_value_that_was_in_memory_when_its_rows_key_changed_is_the_last_one() {
    assert_eq!(value_after_a_split_rename(true).await.as_deref(), Some("new"));
}
