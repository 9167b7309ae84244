//! The source of a simulated database: the stream, and copies beside it, in batches of random size.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use sooner_api::{
    Code, CopyAnswer, CopyProgress, CopyRequest, CopyRest, Coverage, Error, EventBatch, GoesOn, Positions, Result,
    Rows, Source, SourcePlan, Step, TableToCopy,
};
use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventSchema, TableEvents, Watermark};
use sooner_schemas::{Lsn, Position, TableName};
use tokio::sync::mpsc::UnboundedReceiver;

use super::chance::{draw, passing};
use super::database::{SimulatedDatabase, relation};
use super::history::{Change, KEYS, TABLES, end_of, rows_after, table_name};

/// A source of a simulated database.
pub struct SimulatedSource {
    database: SimulatedDatabase,
    encoders: Vec<Encoder>,
    /// Copies that run, by number of the table.
    copies: BTreeMap<usize, SimulatedCopy>,
    /// Steps that come next.
    ready: VecDeque<Step>,
    /// What each table's consumer has already.
    covered: BTreeMap<TableName, Positions>,
    /// Index of the next transaction in the history, and of the next change in that transaction.
    next: (usize, usize),
    /// What has been handed on in whole transactions.
    emitted: Watermark,
    next_ordinal: u64,
    /// Tables that took no part at the start: nobody takes their rows.
    apart: Vec<TableName>,
    /// All tables have to be inspected first.
    starts_over: bool,
    requests: UnboundedReceiver<CopyRequest>,
    /// What became of requests.
    answers: Vec<CopyAnswer>,
}

/// How far a copy is.
struct SimulatedCopy {
    /// Tells it from others; zero if rows are copied over those that are there.
    id: u64,
    /// Nothing is read before the stream has got here.
    from: Lsn,
    /// The request for it, if its rows are copied over those that are there.
    in_place: Option<CopyRequest>,
    /// The first key that has not been read.
    next_key: i64,
    /// Transactions that its last portion has seen.
    seen: usize,
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
    /// Starts to read.
    pub fn new(database: SimulatedDatabase, plan: SourcePlan<()>) -> SimulatedSource {
        let next = (database.history().first_from(plan.start_lsn), 0);
        let emitted = Watermark { commit_lsn: Lsn(plan.start_lsn.0 - 1), end_lsn: plan.start_lsn, commit_micros: 0 };
        let database_started = database.elapsed_micros() * 16;
        let mut source = SimulatedSource {
            database,
            encoders: encoders(),
            copies: BTreeMap::new(),
            ready: VecDeque::new(),
            covered: plan.stream.into_iter().map(|it| (it.table.name().clone(), it.covered)).collect(),
            next,
            emitted,
            next_ordinal: Position::FIRST_COPIED + database_started,
            apart: plan.apart.iter().map(|table| table.name().clone()).collect(),
            starts_over: false,
            requests: plan.requests,
            answers: Vec::new(),
        };
        for TableToCopy { table, goes_on } in plan.copy {
            match goes_on {
                None => source.begin_copy(number_of(table.name())),
                Some(goes_on) => source.resume_copy(goes_on),
            }
        }
        source
    }

    fn copied_origin(&mut self) -> Origin {
        self.next_ordinal += 1;
        origin(Position { commit_lsn: self.emitted.commit_lsn, ordinal: self.next_ordinal }, Snapshot::Yes)
    }

    /// Begins to copy a table, or begins again.
    fn begin_copy(&mut self, number: usize) {
        let mut events = TableEvents::new(self.encoders[number].schema().clone());
        let origin = self.copied_origin();
        self.encoders[number].copy_start(&mut events, &origin);
        self.ready.push_back(Rows::new(events).into_step());
        let (id, from) = (origin.position.ordinal, Lsn::ZERO);
        self.copies.insert(number, SimulatedCopy { id, from, in_place: None, next_key: 0, seen: 0 });
        self.covered.insert(table_name(number), Positions::whole(self.emitted.commit_lsn));
    }

    /// Goes on with a copy that was broken off.
    fn resume_copy(&mut self, GoesOn { progress, followed, reached }: GoesOn) {
        let CopyProgress { id, rest: CopyRest { blocks, snapshot_lsn, .. }, .. } = progress;
        let next_key = blocks.first().map_or(KEYS, |blocks| blocks.start.into());
        let seen = self.database.history().first_from(snapshot_lsn);
        let from = Lsn(reached.0 + 1);
        self.copies
            .insert(number_of(followed.table.name()), SimulatedCopy { id, from, in_place: None, next_key, seen });
        self.covered.insert(followed.table.name().clone(), followed.covered);
    }

    /// How far a copy is.
    fn report(&mut self, number: usize) {
        let copy = &self.copies[&number];
        if copy.in_place.is_some() {
            return;
        }
        let rest = u32::try_from(copy.next_key.min(KEYS)).expect("few")..u32::try_from(KEYS).expect("few");
        let snapshot_lsn = end_of(&self.database.committed()[..copy.seen]);
        let rest = CopyRest { blocks: vec![rest], snapshot_lsn, ..CopyRest::default() };
        let progress = Some(Box::new(CopyProgress { id: copy.id, rows: 1, rest }));
        let watermark = Some(self.emitted);
        self.ready.push_back(Step::CopyProgress { table: table_name(number), progress, watermark });
    }

    /// Begins what somebody has asked for, unless another copy of the table does it, too.
    fn take_requests(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            let number = number_of(&request.table);
            if self.apart.contains(&request.table) && request.condition.is_none() {
                self.starts_over = true;
            } else if !self.covered.contains_key(&request.table) && request.condition.is_some() {
                self.answers.push(CopyAnswer::Refused(request, unholdable()));
            } else if request.condition.is_none() {
                self.begin_copy(number);
            } else {
                let new = SimulatedCopy { id: 0, from: Lsn::ZERO, in_place: Some(request), next_key: 0, seen: 0 };
                self.copies.entry(number).or_insert(new);
            }
        }
    }

    /// The rows of the next few keys of some copy, as they are now: the stream may not have got there yet.
    fn copy_portion(&mut self) {
        let chance = self.database.chance().clone();
        let which = draw(&chance, |random| random.random_range(0..self.copies.len()));
        let number = *self.copies.keys().nth(which).expect("there are so many");
        if self.copies[&number].from > self.emitted.end_lsn {
            return;
        }
        let width = draw(&chance, |random| random.random_range(1..KEYS));
        let database = self.database.clone();
        let committed = database.committed();
        let first = self.copies[&number].next_key;
        let mut events = TableEvents::new(self.encoders[number].schema().clone());
        for (key, value) in rows_after(committed, number).range(first..first + width) {
            let origin = self.copied_origin();
            let (key, value) = (key.to_string(), value.to_string());
            let row = [TupleValue::Text(key.as_bytes()), TupleValue::Text(value.as_bytes())];
            self.encoders[number].read(&mut events, &origin, &row).expect("holdable");
        }
        if !events.events.is_empty() {
            self.ready.push_back(Rows::new(events).into_step());
        }
        let copy = self.copies.get_mut(&number).expect("it is copied");
        (copy.next_key, copy.seen) = (first + width, committed.len());
        self.report(number);
        if self.database.fails(12) {
            self.copies.remove(&number);
            self.covered.remove(&table_name(number));
            self.ready.push_back(Step::Stop { table: table_name(number), error: unholdable() });
        }
    }

    /// Ends the copies whose keys have all been read, once the stream has got to what they have seen.
    fn end_copies(&mut self) {
        let (read, watermark) = (self.next.0, self.emitted);
        let complete = self
            .copies
            .iter()
            .filter(|(_, copy)| copy.next_key >= KEYS && copy.seen <= read && copy.from <= watermark.end_lsn);
        for number in complete.map(|(number, _)| *number).collect::<Vec<_>>() {
            match self.copies.remove(&number).and_then(|copy| copy.in_place) {
                Some(request) => self.answers.push(CopyAnswer::HandedOn(request)),
                None => self.ready.push_back(Step::CopyEnd { table: table_name(number), watermark }),
            }
        }
    }

    /// The next change as a step; none if its table does not follow the stream, or has it.
    fn encode(&mut self, commit_lsn: Lsn, ordinal: usize, table: usize, change: Change) -> Option<Step> {
        let position = Position { commit_lsn, ordinal: ordinal as u64 };
        let name = table_name(table);
        if self.covered.get(&name).is_none_or(|covered| covered.covers_event(position)) {
            return None;
        }
        for error in [unholdable(), rewritten()] {
            if self.database.fails(2000) {
                self.covered.remove(&name);
                self.copies.remove(&table);
                return Some(Step::Stop { table: name, error });
            }
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

    fn complete(&mut self, commit_lsn: Lsn, end_lsn: Lsn) -> Step {
        if end_lsn >= self.emitted.end_lsn {
            self.emitted = Watermark { commit_lsn, end_lsn, commit_micros: 0 };
        }
        Step::Complete(Coverage::all(self.emitted))
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
            steps.push(self.complete(transaction.commit_lsn, transaction.end_lsn));
        }
        let end = end_of(committed);
        steps.push(self.complete(Lsn(end.0 - 1), end));
        steps
    }
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
        let is_between = self.next.1 == 0;
        if is_between {
            self.take_requests();
        }
        if self.starts_over {
            return Err(passing(Code::TablesChanged, "the tables are inspected again"));
        }
        if is_between && self.database.fails(400) {
            let table = draw(self.database.chance(), |random| random.random_range(0..TABLES));
            if self.covered.contains_key(&table_name(table)) {
                self.begin_copy(table);
            }
        }
        if is_between && !self.copies.is_empty() && draw(self.database.chance(), |random| random.random()) {
            self.copy_portion();
        }
        if is_between {
            self.end_copies();
        }
        let steps = match self.ready.is_empty() {
            true => self.stream(room),
            false => self.ready.drain(..).collect(),
        };
        let answers = if self.ready.is_empty() { std::mem::take(&mut self.answers) } else { Vec::new() };
        Ok(EventBatch { steps, answers, server_end: end_of(self.database.committed()), changes: Vec::new() })
    }

    fn confirm(&mut self, durable_lsn: Lsn) {
        self.database.confirm(durable_lsn);
    }

    async fn finish(self, durable_lsn: Lsn) {
        self.database.confirm(durable_lsn);
    }
}
