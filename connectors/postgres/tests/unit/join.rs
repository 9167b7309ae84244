//! The join of a copy with the stream, against a model of a table whose transactions become visible in another order
//! than they are in the log: whatever comes when, the copy ends with the rows that the table has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use sooner_postgres::chunk::CopiedRows;
use sooner_postgres::touched::Touched;
use sooner_postgres::unseen::{Ended, Unseen};
use sooner_postgres::visibility::Visibility;
use sooner_schemas::encode::Images;
use sooner_schemas::event::{Event, EventSchema, Op, TableEvents};
use sooner_schemas::{Lsn, Position, TableName};

const KEYS: u8 = 6;
const FIRST_XID: usize = 100;

/// Rows: the value of each key.
type State = BTreeMap<u8, usize>;

#[derive(Clone, Copy, Debug)]
enum Change {
    Put(u8),
    Delete(u8),
    Truncate,
}

/// Something that happens next.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// A transaction commits with this change.
    Commit(Change),
    /// A transaction that has committed becomes visible: its standby has answered.
    Show(usize),
    /// The stream hands the next transaction on.
    Stream,
    /// A chunk is read, of the keys from here on.
    Read(u8, u8),
    /// A chunk that was read joins the stream.
    Join(usize),
    /// What all snapshots see is forgotten.
    Forget,
}

struct Transaction {
    change: Change,
    is_visible: bool,
}

/// A chunk on its way.
struct Chunk {
    sees: Visibility,
    rows: State,
    keys: (u8, u8),
}

#[derive(Default)]
struct World {
    transactions: Vec<Transaction>,
    /// Transactions that the stream has handed on.
    emitted: usize,
    chunks: Vec<Chunk>,
    /// Keys of which no chunk has joined.
    missing: BTreeSet<u8>,
    unseen: Unseen,
    touched: Option<Touched>,
    /// What the consumer makes of all that.
    lake: State,
}

fn apply(rows: &mut State, change: Change, value: usize) {
    match change {
        Change::Put(key) => drop(rows.insert(key, value)),
        Change::Delete(key) => drop(rows.remove(&key)),
        Change::Truncate => rows.clear(),
    }
}

fn lsn_of(number: usize) -> Lsn {
    Lsn(1000 + number as u64 * 10)
}

fn schema() -> Arc<EventSchema> {
    let value = r#"{"type":"record","name":"Envelope","fields":[]}"#;
    Arc::new(EventSchema::parse(TableName::new("public", "t"), None, value).unwrap())
}

/// The event of a change, of which the join looks at the key, the operation and the position.
fn event_of(number: usize, change: Change) -> TableEvents {
    let mut events = TableEvents::new(schema());
    let (op, key) = match change {
        Change::Put(key) => (Op::Update, Some(key)),
        Change::Delete(key) => (Op::Delete, Some(key)),
        Change::Truncate => (Op::Truncate, None),
    };
    events.bytes.extend(key);
    let position = Position { commit_lsn: lsn_of(number), ordinal: 0 };
    let key = 0..events.bytes.len();
    events.events.push(Event { position, op, key, value: 0..0, unavailable: Box::default(), old_key: None });
    events
}

impl World {
    /// A table with some rows and transactions on their way, whose copy begins.
    fn begun(before: Vec<Change>) -> World {
        let mut world = World { missing: (0..KEYS).collect(), ..World::default() };
        for change in before {
            world.commit(change);
        }
        // What the stream has handed on before is not known to the copy by its keys.
        while world.emitted < world.transactions.len() {
            world.stream();
        }
        world.touched = Some(Touched::since(lsn_of(world.emitted)));
        world.lake.clear();
        world
    }

    /// Keys that a transaction which nobody sees yet keeps locked.
    fn is_locked(&self, change: Change) -> bool {
        self.transactions.iter().filter(|transaction| !transaction.is_visible).any(|waiting| {
            match (waiting.change, change) {
                (Change::Truncate, _) | (_, Change::Truncate) => true,
                (Change::Put(mine) | Change::Delete(mine), Change::Put(key) | Change::Delete(key)) => mine == key,
            }
        })
    }

    fn commit(&mut self, change: Change) {
        if !self.is_locked(change) {
            self.transactions.push(Transaction { change, is_visible: false });
        }
    }

    fn sees(&self) -> Visibility {
        let waiting = self.transactions.iter().enumerate().filter(|(_, transaction)| !transaction.is_visible);
        let waiting: Vec<_> = waiting.map(|(number, _)| (FIRST_XID + number).to_string()).collect();
        let end = FIRST_XID + self.transactions.len();
        Visibility::parse(&format!("{FIRST_XID}:{end}:{}", waiting.join(","))).unwrap()
    }

    /// The rows of all transactions, or of those that are visible.
    fn rows(&self, only_visible: bool) -> State {
        let mut rows = State::new();
        let counted = self.transactions.iter().enumerate().filter(|(_, it)| it.is_visible || !only_visible);
        for (number, transaction) in counted {
            apply(&mut rows, transaction.change, number);
        }
        rows
    }

    fn stream(&mut self) {
        let Some(transaction) = self.transactions.get(self.emitted) else { return };
        let (number, change) = (self.emitted, transaction.change);
        let ended = Ended { commit_lsn: lsn_of(number), xid: (FIRST_XID + number) as u32 };
        self.unseen.extend([ended]).unwrap();
        if let Some(touched) = &mut self.touched {
            touched.note(&event_of(number, change));
        }
        apply(&mut self.lake, change, number);
        self.emitted += 1;
    }

    fn read(&mut self, from: u8, to: u8) {
        // TRUNCATE waits for its standby with the table locked: nobody reads it then.
        let is_locked = |it: &Transaction| !it.is_visible && matches!(it.change, Change::Truncate);
        if self.transactions.iter().any(is_locked) {
            return;
        }
        let rows = self.rows(true).range(from..to).map(|(key, value)| (*key, *value)).collect();
        self.chunks.push(Chunk { sees: self.sees(), rows, keys: (from, to) });
    }

    fn join(&mut self, which: usize) {
        if self.chunks.is_empty() {
            return;
        }
        let chunk = self.chunks.swap_remove(which % self.chunks.len());
        let touched = self.touched.as_ref().unwrap();
        if !touched.admits(&chunk.sees, &self.unseen) {
            return;
        }
        let mut rows = CopiedRows::default();
        for key in chunk.rows.keys() {
            let start = rows.bytes.len();
            rows.bytes.push(*key);
            let key = start..start + 1;
            rows.rows.push(Images { op: Op::Read, key, old_key: None, value: 0..0, unavailable: Box::default() });
        }
        touched.keep_current(&mut rows, &chunk.sees, &self.unseen);
        for row in &rows.rows {
            let key = rows.bytes[row.key.start];
            self.lake.insert(key, chunk.rows[&key]);
        }
        self.missing.retain(|key| !(chunk.keys.0..chunk.keys.1).contains(key));
    }

    fn forget(&mut self) {
        let latest = self.sees();
        let in_use = self.chunks.iter().map(|chunk| &chunk.sees).chain([&latest]);
        self.unseen.forget(in_use);
        if let Some(touched) = &mut self.touched {
            touched.forget(&self.unseen);
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Commit(change) => self.commit(change),
            Act::Show(which) => {
                let waiting = self.transactions.iter_mut().filter(|transaction| !transaction.is_visible);
                let waiting: Vec<_> = waiting.collect();
                let count = waiting.len();
                if let Some(transaction) = waiting.into_iter().nth(which % count.max(1)) {
                    transaction.is_visible = true;
                }
            }
            Act::Stream => self.stream(),
            Act::Read(from, to) => self.read(from.min(to), from.max(to)),
            Act::Join(which) => self.join(which),
            Act::Forget => self.forget(),
        }
    }

    /// Everything becomes visible, the rest is copied, and the stream gets to the end.
    fn finish(&mut self) {
        self.transactions.iter_mut().for_each(|transaction| transaction.is_visible = true);
        while !self.chunks.is_empty() {
            self.join(0);
        }
        for key in self.missing.clone() {
            self.read(key, key + 1);
            self.join(0);
        }
        while self.emitted < self.transactions.len() {
            self.stream();
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..KEYS).prop_map(Change::Put),
        3 => (0..KEYS).prop_map(Change::Delete),
        1 => Just(Change::Truncate),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => change().prop_map(Act::Commit),
        3 => any::<usize>().prop_map(Act::Show),
        4 => Just(Act::Stream),
        2 => (0..KEYS, 0..=KEYS).prop_map(|(from, to)| Act::Read(from, to)),
        2 => any::<usize>().prop_map(Act::Join),
        1 => Just(Act::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn a_copy_ends_with_the_rows_of_its_table(
        before in prop::collection::vec(change(), 0..8),
        acts in prop::collection::vec(act(), 0..80),
    ) {
        let mut world = World::begun(before);
        for act in acts {
            world.act(act);
        }
        world.finish();
        prop_assert_eq!(&world.lake, &world.rows(false));
    }
}
