//! The history of a simulated database: transactions, and the rows that they lead to.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use sooner_schemas::{Lsn, TableName};

use super::chance::{Chance, draw};

/// Number of tables in every simulated database.
pub const TABLES: usize = 3;
/// Keys of a table's rows are below this.
pub const KEYS: i64 = 40;
/// Where every history starts.
pub const START: Lsn = Lsn(1000);

/// Rows of all simulated tables: the value by table and key.
pub type AllRows = BTreeMap<(usize, i64), i64>;

/// A change of a table.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// A row gets a value.
    Put(i64, i64),
    /// A row is deleted.
    Delete(i64),
    /// All rows are removed.
    Truncate,
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// Where that ends.
    pub end_lsn: Lsn,
    /// When it is committed, since the world's start.
    pub at: Duration,
    /// Its changes, each with its table.
    pub changes: Vec<(usize, Change)>,
}

/// All transactions of a world.
pub struct History(Vec<Transaction>);

/// Name of the simulated table with this number.
pub fn table_name(table: usize) -> TableName {
    TableName::new("public", format!("t{table}"))
}

impl History {
    /// A random history of small and some large transactions, over so few keys that they recur.
    pub fn random(chance: &Chance) -> History {
        let (mut transactions, mut lsn, mut at) = (Vec::new(), START.0, Duration::ZERO);
        for _ in 0..draw(chance, |random| random.random_range(20..100)) {
            let count = draw(chance, |random| match random.random_ratio(1, 12) {
                true => random.random_range(100..300),
                false => random.random_range(1..8),
            });
            let changes = (0..count).map(|_| change(chance)).collect();
            // Now and then a commit record starts exactly where the last one ended.
            lsn += draw(chance, |random| random.random_range(0..3)) * 8;
            at += Duration::from_millis(draw(chance, |random| random.random_range(0..150)));
            transactions.push(Transaction { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), at, changes });
            lsn += 8;
        }
        History(transactions)
    }

    /// The transactions that are committed at a moment.
    pub fn committed(&self, at: Duration) -> &[Transaction] {
        &self.0[..self.0.partition_point(|transaction| transaction.at <= at)]
    }

    /// Index of the first transaction that a stream from this LSN sends: one whose commit record starts exactly there
    /// is still to come.
    pub fn first_from(&self, start: Lsn) -> usize {
        self.0.partition_point(|transaction| transaction.commit_lsn < start)
    }

    /// Where the history ends.
    pub fn end(&self) -> Lsn {
        end_of(&self.0)
    }

    /// Rows of all tables after the whole history.
    pub fn rows(&self) -> AllRows {
        let of = |table| rows_after(&self.0, table).into_iter().map(move |(key, value)| ((table, key), value));
        (0..TABLES).flat_map(of).collect()
    }

    /// Commit LSN of a table's last change at or before an LSN.
    pub fn last_change(&self, table: usize, until: Lsn) -> Option<Lsn> {
        let before = self.0.iter().filter(|transaction| transaction.end_lsn <= until);
        before.filter(|t| t.changes.iter().any(|(of, _)| *of == table)).map(|t| t.commit_lsn).next_back()
    }
}

/// Where transactions end.
pub fn end_of(transactions: &[Transaction]) -> Lsn {
    transactions.last().map_or(START, |transaction| transaction.end_lsn)
}

/// A table's rows after transactions.
pub fn rows_after(transactions: &[Transaction], table: usize) -> BTreeMap<i64, i64> {
    let mut rows = BTreeMap::new();
    for (_, change) in transactions.iter().flat_map(|transaction| &transaction.changes).filter(|(of, _)| *of == table) {
        match change {
            Change::Put(key, value) => drop(rows.insert(*key, *value)),
            Change::Delete(key) => drop(rows.remove(key)),
            Change::Truncate => rows.clear(),
        }
    }
    rows
}

fn change(chance: &Chance) -> (usize, Change) {
    draw(chance, |random| {
        let (table, key) = (random.random_range(0..TABLES), random.random_range(0..KEYS));
        let change = match random.random_range(0..100) {
            0 => Change::Truncate,
            1..25 => Change::Delete(key),
            _ => Change::Put(key, random.random()),
        };
        (table, change)
    })
}
