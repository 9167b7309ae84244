//! The source of a simulated database: copies first, then the stream, in batches of random size.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use sooner_api::{Code, Coverage, Error, EventBatch, Positions, Result, Rows, Source, SourcePlan, SourceTable, Step};
use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventSchema, TableEvents, Watermark};
use sooner_schemas::{Lsn, Position, TableName};

use super::chance::{draw, passing};
use super::database::{SimulatedDatabase, relation};
use super::history::{Change, TABLES, end_of, rows_after, table_name};

/// A source of a simulated database.
pub struct SimulatedSource {
    database: SimulatedDatabase,
    encoders: Vec<Encoder>,
    /// Steps of copies that wait.
    copies: VecDeque<Step>,
    /// What each table's consumer has already.
    covered: BTreeMap<TableName, Positions>,
    /// Index of the next transaction in the history, and of the next change in that transaction.
    next: (usize, usize),
}

/// Encoders of all simulated tables.
pub fn encoders() -> Vec<Encoder> {
    (0..TABLES).map(encoder).collect()
}

fn encoder(table: usize) -> Encoder {
    let relation = relation(table);
    let key = key_schema("sim", &relation).expect("has a key").to_string();
    let value = value_schema("sim", &relation).to_string();
    let schema = EventSchema::parse(relation.name.clone(), Some(&key), &value).expect("own schema parses");
    Encoder::new(&relation, Arc::new(schema), SchemaIds { key: Some(1), value: 2 }, "sim", "sim")
}

fn origin(position: Position, snapshot: Snapshot) -> Origin {
    Origin { position, lsn: position.commit_lsn, xid: 1, source_micros: 0, now_micros: 0, snapshot }
}

impl SimulatedSource {
    /// Starts to read; copies see what is committed before `snapshot`.
    pub fn new(database: SimulatedDatabase, plan: SourcePlan<Lsn>, snapshot: Lsn) -> SimulatedSource {
        let next = (database.history().first_from(plan.start_lsn), 0);
        let mut source = SimulatedSource {
            database,
            encoders: encoders(),
            copies: VecDeque::new(),
            covered: plan.stream.into_iter().map(|it| (it.table.name().clone(), it.covered)).collect(),
            next,
        };
        for table in plan.copy {
            source.copy(&table, snapshot);
        }
        source
    }

    /// Prepares the steps of a table's copy: its start, its rows in random portions, and its end.
    fn copy(&mut self, table: &SourceTable, snapshot: Lsn) {
        let number = number_of(table.name());
        let encoder = &self.encoders[number];
        let last = Lsn(snapshot.0 - 1);
        let mut ordinal = 0;
        let mut at = || {
            ordinal += 1;
            origin(Position { commit_lsn: last, ordinal: ordinal - 1 }, Snapshot::Yes)
        };
        let before = self.database.history().first_from(snapshot);
        let rows = rows_after(&self.database.committed()[..before], number);
        let mut events = TableEvents::new(encoder.schema().clone());
        encoder.copy_start(&mut events, &at());
        let mut steps = vec![Rows::new(events).into_step()];
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let portion = draw(self.database.chance(), |random| random.random_range(1..20));
            let mut events = TableEvents::new(encoder.schema().clone());
            for (key, value) in rows.by_ref().take(portion) {
                let (key, value) = (key.to_string(), value.to_string());
                let row = [TupleValue::Text(key.as_bytes()), TupleValue::Text(value.as_bytes())];
                encoder.read(&mut events, &at(), &row).expect("holdable");
            }
            steps.push(Rows::new(events).into_step());
        }
        let table = table.name().clone();
        if self.database.fails(12) {
            steps.push(Step::Stop { table, error: unholdable() });
        } else {
            let watermark = Watermark { commit_lsn: last, end_lsn: snapshot, commit_micros: 0 };
            steps.push(Step::CopyEnd { table, watermark });
        }
        self.copies.extend(steps);
    }

    /// The next change as a step; none if its table does not follow the stream, or has it.
    fn encode(&mut self, commit_lsn: Lsn, ordinal: usize, table: usize, change: Change) -> Option<Step> {
        let position = Position { commit_lsn, ordinal: ordinal as u64 };
        let name = table_name(table);
        if self.covered.get(&name).is_none_or(|covered| covered.covers_event(position)) {
            return None;
        }
        if self.database.fails(2000) {
            self.covered.remove(&name);
            return Some(Step::Stop { table: name, error: unholdable() });
        }
        if self.database.fails(2000) {
            self.covered.remove(&name);
            return Some(Step::Stop { table: name, error: rewritten() });
        }
        let encoder = &self.encoders[table];
        let mut out = TableEvents::new(encoder.schema().clone());
        let origin = origin(position, Snapshot::No);
        let (key, value) = match change {
            Change::Put(key, value) => (key.to_string(), value.to_string()),
            Change::Delete(key) => (key.to_string(), String::new()),
            Change::Truncate => Default::default(),
        };
        let row = [TupleValue::Text(key.as_bytes()), TupleValue::Text(value.as_bytes())];
        match change {
            Change::Put(..) => encoder.update(&mut out, &origin, None, &row).expect("holdable"),
            Change::Delete(_) => {
                let row = [TupleValue::Text(key.as_bytes()), TupleValue::Null];
                encoder.delete(&mut out, &origin, &row, false).expect("holdable");
            }
            Change::Truncate => encoder.truncate(&mut out, &origin),
        }
        Some(Rows::new(out).into_step())
    }

    fn take_copies(&mut self, room: usize) -> Vec<Step> {
        let count = room.min(self.copies.len());
        let steps: Vec<_> = self.copies.drain(..count).collect();
        for step in &steps {
            if let Step::CopyEnd { table, watermark } = step {
                self.covered.insert(table.clone(), Positions::whole(watermark.commit_lsn));
            }
        }
        steps
    }

    fn stream(&mut self, mut room: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        let database = self.database.clone();
        let committed = database.committed();
        while let Some(transaction) = committed.get(self.next.0) {
            while let Some(&(table, change)) = transaction.changes.get(self.next.1) {
                if room == 0 {
                    return steps;
                }
                steps.extend(self.encode(transaction.commit_lsn, self.next.1, table, change));
                self.next.1 += 1;
                room -= 1;
            }
            self.next = (self.next.0 + 1, 0);
            steps.push(complete(transaction.commit_lsn, transaction.end_lsn));
        }
        let end = end_of(committed);
        steps.push(complete(Lsn(end.0 - 1), end));
        steps
    }
}

fn complete(commit_lsn: Lsn, end_lsn: Lsn) -> Step {
    Step::Complete(Coverage::all(Watermark { commit_lsn, end_lsn, commit_micros: 0 }))
}

fn unholdable() -> Error {
    Error::operator(Code::ValueUnholdable, "cannot encode a row", "it is simulated", "resume the table")
}

fn rewritten() -> Error {
    Error::retry(Code::CopyNeeded, "the table is copied again", "its rows were written again", "nothing")
}

fn number_of(table: &TableName) -> usize {
    table.table[1..].parse().expect("a simulated table")
}

impl Source for SimulatedSource {
    async fn next(&mut self) -> Result<EventBatch> {
        let (pause, room) =
            draw(self.database.chance(), |random| (random.random_range(0..40), random.random_range(1..120)));
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if self.database.fails(60) {
            return Err(passing(Code::PostgresUnreachable, "lost the stream"));
        }
        let steps = if self.copies.is_empty() { self.stream(room) } else { self.take_copies(room) };
        Ok(EventBatch { steps, server_end: end_of(self.database.committed()) })
    }

    fn confirm(&mut self, durable_lsn: Lsn) {
        self.database.confirm(durable_lsn);
    }
}
