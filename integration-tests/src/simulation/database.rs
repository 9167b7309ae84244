//! A simulated database in memory: a history of transactions, a replication slot, and the stream from that slot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use sooner_api::{Code, Error, Result, Source};
use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventBatch, EventSchema, TableEvents, Watermark};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

use super::lake::SimulatedLake;
use super::{Chance, draw};

/// Number of tables in every simulated database.
pub const TABLES: usize = 3;

/// Rows of all simulated tables: the value by table and key.
pub type Rows = BTreeMap<(usize, i64), i64>;

/// A change of one row to a new value; no value deletes the row.
#[derive(Clone, Debug)]
struct Change {
    table: usize,
    key: i64,
    value: Option<i64>,
}

#[derive(Clone, Debug)]
struct Transaction {
    commit_lsn: Lsn,
    end_lsn: Lsn,
    changes: Vec<Change>,
}

/// A simulated database: its history, the rows that it leads to, and the position of its slot.
pub struct Database {
    history: Vec<Transaction>,
    rows: Rows,
    confirmed: Mutex<Lsn>,
    encoders: Vec<Encoder>,
}

/// Name of the simulated table with this number.
pub fn table_name(table: usize) -> TableName {
    TableName::new("public", format!("t{table}"))
}

impl Database {
    /// A database with a random history of small and some large transactions, over so few keys that they recur.
    pub fn with_history(chance: &Chance) -> Database {
        let (mut history, mut rows, mut lsn) = (Vec::new(), Rows::new(), 1000u64);
        for _ in 0..draw(chance, |random| random.random_range(20..120)) {
            let count = draw(chance, |random| match random.random_ratio(1, 12) {
                true => random.random_range(100..400),
                false => random.random_range(1..8),
            });
            let changes: Vec<_> = (0..count).map(|_| change(chance)).collect();
            for change in &changes {
                match change.value {
                    Some(value) => rows.insert((change.table, change.key), value),
                    None => rows.remove(&(change.table, change.key)),
                };
            }
            // Now and then a commit record starts exactly where the last one ended.
            lsn += draw(chance, |random| random.random_range(0..3)) * 8;
            history.push(Transaction { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), changes });
            lsn += 8;
        }
        let encoders = (0..TABLES).map(encoder).collect();
        Database { history, rows, confirmed: Mutex::new(Lsn(1000)), encoders }
    }

    /// Rows of all tables after the whole history.
    pub fn rows(&self) -> Rows {
        self.rows.clone()
    }

    /// LSN up to which the slot is confirmed.
    pub fn confirmed(&self) -> Lsn {
        *self.confirmed.lock().expect("one thread")
    }

    /// LSN at which the history ends.
    pub fn end(&self) -> Lsn {
        self.history.last().map_or(Lsn(1000), |transaction| transaction.end_lsn)
    }
}

fn change(chance: &Chance) -> Change {
    draw(chance, |random| Change {
        table: random.random_range(0..TABLES),
        key: random.random_range(0..40),
        value: (!random.random_ratio(1, 4)).then(|| random.random()),
    })
}

fn encoder(table: usize) -> Encoder {
    let column = |name: &str, nullable| Column {
        name: name.to_owned(),
        column_type: ColumnType::Scalar(Scalar::Int8),
        nullable,
        has_default: false,
        default: None,
        number: None,
    };
    let columns = vec![column("id", false), column("value", false)];
    let relation = Relation { name: table_name(table), columns, key: vec![0] };
    let key = key_schema("sim", &relation).expect("has a key").to_string();
    let value = value_schema("sim", &relation).to_string();
    let schema = EventSchema::parse(relation.name.clone(), Some(&key), &value).expect("own schema parses");
    Encoder::new(&relation, Arc::new(schema), SchemaIds { key: Some(1), value: 2 }, "sim", "sim")
}

/// A source that streams from the slot in batches of random size and, unless it is calm, loses its connection at
/// times.
pub struct SimulatedSource {
    database: Arc<Database>,
    lake: SimulatedLake,
    chance: Chance,
    calm: bool,
    /// Index of the next transaction in the history, and of the next change in that transaction.
    next: (usize, usize),
}

impl SimulatedSource {
    /// Starts to stream at the slot's position: a transaction whose commit record starts exactly there is still sent.
    pub fn new(
        database: Arc<Database>,
        lake: SimulatedLake,
        chance: Chance,
        start: Lsn,
        calm: bool,
    ) -> SimulatedSource {
        let first = database.history.partition_point(|transaction| transaction.commit_lsn < start);
        SimulatedSource { database, lake, chance, calm, next: (first, 0) }
    }

    fn encode(&self, batch: &mut EventBatch, transaction: &Transaction, index: usize) {
        let change = &transaction.changes[index];
        let encoder = &self.database.encoders[change.table];
        let found = batch.tables.iter().rposition(|table| table.schema.table == table_name(change.table));
        // As after a schema change, a batch may hold several parts of one table.
        let apart = draw(&self.chance, |random| random.random_ratio(1, 20));
        let place = found.filter(|_| !apart).unwrap_or_else(|| {
            batch.tables.push(TableEvents::new(encoder.schema().clone()));
            batch.tables.len() - 1
        });
        let origin = Origin {
            position: Position { commit_lsn: transaction.commit_lsn, ordinal: index as u64 },
            lsn: transaction.commit_lsn,
            xid: 1,
            source_micros: 0,
            now_micros: 0,
            snapshot: Snapshot::No,
        };
        let (key, value) = (change.key.to_string(), change.value.unwrap_or_default().to_string());
        let row = [TupleValue::Text(key.as_bytes()), TupleValue::Text(value.as_bytes())];
        let out = &mut batch.tables[place];
        match change.value {
            Some(_) => encoder.update(out, &origin, None, &row).expect("holdable"),
            None => encoder.delete(out, &origin, &row, false).expect("holdable"),
        }
    }
}

impl Source for SimulatedSource {
    async fn next(&mut self) -> Result<EventBatch> {
        let (pause, lost) = draw(&self.chance, |random| (random.random_range(0..40), random.random_ratio(1, 60)));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if lost && !self.calm {
            return Err(Error::retry(Code::PostgresUnreachable, "lost the stream", "simulated", "nothing"));
        }
        let mut batch = EventBatch { server_end: self.database.end(), ..EventBatch::default() };
        let mut room = draw(&self.chance, |random| random.random_range(1..120));
        while let Some(transaction) = self.database.history.get(self.next.0) {
            let cut_before = self.next.1 > 0;
            while self.next.1 < transaction.changes.len() {
                if room == 0 {
                    batch.watermark = None;
                    return Ok(batch);
                }
                self.encode(&mut batch, transaction, self.next.1);
                self.next.1 += 1;
                room -= 1;
            }
            self.next = (self.next.0 + 1, 0);
            let Transaction { commit_lsn, end_lsn, .. } = *transaction;
            batch.watermark = Some(Watermark { commit_lsn, end_lsn, commit_micros: 0 });
            if room == 0 || cut_before {
                return Ok(batch);
            }
        }
        let end = self.database.end();
        let idle = Watermark { commit_lsn: Lsn(end.0 - 1), end_lsn: end, commit_micros: 0 };
        batch.watermark = Some(idle);
        Ok(batch)
    }

    /// Confirms the slot, and fails unless everything up to there is in the lake: the slot cannot send it again.
    fn confirm(&mut self, durable_lsn: Lsn) {
        let mut confirmed = self.database.confirmed.lock().expect("one thread");
        for transaction in self.database.history.iter().filter(|transaction| transaction.end_lsn <= durable_lsn) {
            for change in &transaction.changes {
                let applied = self.lake.applied(&table_name(change.table));
                assert!(
                    applied >= transaction.commit_lsn,
                    "{durable_lsn} was confirmed, but t{} is at {applied}",
                    change.table
                );
            }
        }
        *confirmed = durable_lsn.max(*confirmed);
    }
}
