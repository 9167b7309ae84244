//! A simulated event log of topics, one for each table, with several readers between which the topics move. What was
//! written is durable: a process that dies loses only transactions that it had not handed over whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sooner_api::{
    Applied, Assigned, Code, Coverage, Error, EventBatch, EventLog, EventReader, EventWriter, Feed, KnownNames, Opened,
    Positions, ProgressRecord, Result, Rows, Step, TableFact, TableStart, TableState, UnfinishedCopy, WriterRequest,
};
use sooner_schemas::event::{Op, TableEvents, Watermark};
use sooner_schemas::{Lsn, TableName};

use super::chance::passing;
use super::entry::Entry;

/// Partitions of each topic.
const PARTITIONS: i32 = 2;
/// Entries that a reader hands on at once, at most.
const PORTION: usize = 50;

/// All topics, with what their writer stored.
#[derive(Clone, Default)]
pub struct Topics(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Number of the writer that may write.
    writer: u64,
    record: Option<ProgressRecord>,
    watermark: Watermark,
    topics: BTreeMap<TableName, Vec<Entry>>,
    /// Transactions that were written: the watermark after each, and the length of each topic.
    committed: Vec<(Watermark, BTreeMap<TableName, usize>)>,
    /// Which reader has each topic.
    owners: BTreeMap<TableName, usize>,
    /// Counts changes of the owners.
    generation: u64,
    /// What sinks have stored of copies that have not ended.
    kept: BTreeMap<TableName, UnfinishedCopy>,
}

impl Topics {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("one thread")
    }

    /// What its writer stored last.
    pub fn stored(&self) -> Option<ProgressRecord> {
        self.lock().record.clone()
    }

    /// Everything before this LSN is on the topics.
    pub fn durable_lsn(&self) -> Lsn {
        self.lock().record.as_ref().map_or(Lsn::ZERO, |record| record.confirmed_lsn)
    }

    /// Gives a table to a reader.
    pub fn give(&self, table: &TableName, reader: usize) {
        let mut state = self.lock();
        state.owners.insert(table.clone(), reader);
        state.generation += 1;
    }

    /// Next offsets of a table's topic.
    pub fn ends(&self, table: &TableName) -> BTreeMap<i32, i64> {
        let mut ends = BTreeMap::new();
        for entry in self.lock().topics.get(table).into_iter().flatten() {
            if let Entry::Event { partition, offset, .. } = entry {
                ends.insert(*partition, offset + 1);
            }
        }
        ends
    }

    /// The log as the reader with this number sees it.
    pub fn log(&self, reader: usize) -> TopicLog {
        TopicLog { topics: self.clone(), reader }
    }
}

impl State {
    fn append(&mut self, rows: &Rows) {
        let topic = self.topics.entry(rows.table().clone()).or_default();
        let TableEvents { schema, bytes, events } = &rows.events;
        for event in events {
            // Rows go where their key says; what is of the whole table goes to the first partition.
            let key = &bytes[event.key.clone()];
            let partition = i32::from(key.last().copied().unwrap_or_default()) % PARTITIONS;
            let same = |entry: &&Entry| matches!(entry, Entry::Event { partition: of, .. } if *of == partition);
            let offset = topic.iter().filter(same).count() as i64;
            let (schema, bytes, event) = (schema.clone(), bytes.clone(), event.clone());
            topic.push(Entry::Event { partition, offset, schema, bytes, event });
        }
    }

    fn step(&mut self, table: &TableName, fact: TableFact) {
        let known = self.record.as_mut().and_then(|record| record.tables.get_mut(table));
        if let Some(progress) = known {
            progress.step(fact);
        }
    }

    fn commit(&mut self, watermark: Watermark) {
        // A source that copies all tables again may repeat what it had not confirmed.
        if watermark.commit_lsn >= self.watermark.commit_lsn {
            self.watermark = watermark;
        }
        let watermark = self.watermark;
        let lengths = self.topics.iter().map(|(table, topic)| (table.clone(), topic.len())).collect();
        self.committed.push((watermark, lengths));
        if let Some(record) = &mut self.record {
            record.confirmed_lsn = record.confirmed_lsn.max(watermark.end_lsn);
        }
    }
}

/// The log, for one writer or one reader.
pub struct TopicLog {
    topics: Topics,
    reader: usize,
}

impl EventLog for TopicLog {
    type Writer = TopicWriter;
    type Reader = TopicReader;

    async fn known_names(&mut self) -> Result<KnownNames> {
        Ok(KnownNames::new())
    }

    async fn open_writer(&mut self, request: WriterRequest<'_>) -> Result<TopicWriter> {
        let mut state = self.topics.lock();
        state.writer += 1;
        let stored = state.record.clone().filter(|_| !request.recopy);
        Ok(TopicWriter { topics: self.topics.clone(), number: state.writer, stored, pending: Vec::new() })
    }

    async fn open_reader(&mut self) -> Result<TopicReader> {
        Ok(TopicReader {
            topics: self.topics.clone(),
            number: self.reader,
            generation: None,
            cursors: BTreeMap::new(),
            next_commit: 0,
        })
    }
}

/// The entrance.
pub struct TopicWriter {
    topics: Topics,
    number: u64,
    stored: Option<ProgressRecord>,
    /// Changes of a transaction that has not ended.
    pending: Vec<Rows>,
}

impl TopicWriter {
    fn state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.topics.lock();
        match state.writer == self.number {
            true => Ok(state),
            false => Err(passing(Code::PipelineTakenOver, "another writer has taken over")),
        }
    }

    fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Rows(rows) if rows.events.events.iter().any(|event| event.op != Op::Read) => self.pending.push(rows),
            Step::Truncate(rows) => self.pending.push(rows),
            Step::Rows(rows) => self.state()?.append(&rows),
            Step::CopyStart(start) => {
                let mut state = self.state()?;
                state.step(start.table(), TableFact::CopyBegun);
                state.append(&start);
            }
            Step::CopyEnd { table, watermark } => {
                let mut state = self.state()?;
                state.topics.entry(table.clone()).or_default().push(Entry::CopyEnd(watermark));
                state.step(&table, TableFact::CopyEnded(watermark.commit_lsn));
            }
            Step::Stop { table, error } if error.code == Code::CopyNeeded => {
                self.state()?.step(&table, TableFact::CopyNeeded);
                return Err(error);
            }
            Step::Stop { table, error } => self.state()?.step(&table, TableFact::Failed(error)),
            Step::CopyProgress { table, progress, .. } => {
                assert!(self.pending.is_empty(), "a copy joins the stream between transactions");
                let mut state = self.state()?;
                let known = state.record.as_mut().and_then(|record| record.tables.get_mut(&table));
                if let Some(known) = known.filter(|known| known.state == TableState::Copying) {
                    let source = progress.map(|progress| *progress);
                    known.copy = Some(UnfinishedCopy { source, lake: None, complete_lsn: Lsn::ZERO });
                }
            }
            Step::Note(_) => {}
            Step::Complete(Coverage { watermark, .. }) => {
                let pending = std::mem::take(&mut self.pending);
                let mut state = self.state()?;
                pending.iter().for_each(|rows| state.append(rows));
                state.commit(watermark);
            }
        }
        Ok(())
    }
}

impl EventWriter for TopicWriter {
    fn keeps_columns(&self) -> bool {
        true
    }

    fn refused(&self) -> &[(TableName, Error)] {
        &[]
    }

    fn stored(&self) -> Option<&ProgressRecord> {
        self.stored.as_ref()
    }

    async fn begin(&mut self, mut record: ProgressRecord) -> Result<Vec<TableStart>> {
        let mut state = self.state()?;
        // What is on the topics stays written, also when everything is copied again.
        record.confirmed_lsn = record.confirmed_lsn.max(state.watermark.end_lsn);
        let starts = record.tables.iter().map(|(table, progress)| TableStart {
            table: table.clone(),
            state: progress.state.clone(),
            covered: Positions::whole(match &progress.copy {
                Some(_) => state.watermark.commit_lsn,
                None => progress.state.copied_lsn().unwrap_or_default(),
            }),
            copy: progress.copy.as_ref().and_then(|copy| Some((copy.source.clone()?, state.watermark.commit_lsn))),
        });
        let starts = starts.collect();
        state.record = Some(record);
        state.generation += 1;
        Ok(starts)
    }

    async fn start_at(&mut self, slot_lsn: Lsn) -> Result<()> {
        let before = Lsn(slot_lsn.0 - 1);
        let mut state = self.state()?;
        let watermark = Watermark { commit_lsn: before, end_lsn: slot_lsn, commit_micros: 0 };
        if watermark.commit_lsn > state.watermark.commit_lsn {
            state.commit(watermark);
        }
        Ok(())
    }

    async fn append(&mut self, batch: EventBatch) -> Result<()> {
        batch.steps.into_iter().try_for_each(|step| self.take(step))
    }

    fn durable_lsn(&self) -> Lsn {
        self.topics.durable_lsn()
    }

    fn broken(&self) -> impl Future<Output = Error> + Send + 'static {
        std::future::pending()
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    async fn settle(self) -> Lsn {
        self.durable_lsn()
    }
}

/// The exit, for one of several sinks.
pub struct TopicReader {
    topics: Topics,
    number: usize,
    /// The owners that it goes by.
    generation: Option<u64>,
    /// Index of the next entry of each table that it has.
    cursors: BTreeMap<TableName, usize>,
    /// Index of the next transaction that it has not handed on whole.
    next_commit: usize,
}

impl TopicReader {
    fn portion(&mut self) -> EventBatch {
        let state = self.topics.lock();
        let mut batch = EventBatch { server_end: state.watermark.end_lsn, ..EventBatch::default() };
        while let Some((watermark, lengths)) = state.committed.get(self.next_commit) {
            for (table, cursor) in &mut self.cursors {
                let until = lengths.get(table).copied().unwrap_or_default();
                if !read(&state, table, cursor, until, &mut batch.steps) {
                    return batch;
                }
            }
            batch.steps.push(Step::Complete(Coverage::all(*watermark)));
            self.next_commit += 1;
        }
        // What is left is of copies, which have ends of their own.
        for (table, cursor) in &mut self.cursors {
            let until = state.topics.get(table).map_or(0, Vec::len);
            read(&state, table, cursor, until, &mut batch.steps);
        }
        batch
    }
}

impl TopicReader {
    /// What this sink reads, if that has changed.
    fn newly_assigned(&mut self) -> Option<Vec<Assigned>> {
        let state = self.topics.lock();
        let record = state.record.as_ref().filter(|_| self.generation != Some(state.generation))?;
        let mine = state.owners.iter().filter(|(_, owner)| **owner == self.number).map(|(table, _)| table);
        let assigned = mine.map(|table| Assigned {
            table: table.clone(),
            feed: Feed::Topic {
                topic: table.to_string(),
                generation: Some(1),
                partitions: PARTITIONS,
                assigned: BTreeSet::from_iter(0..PARTITIONS),
                in_commit_order: true,
            },
            state: record.state(table),
            lake: None,
            copy: state.kept.get(table).cloned(),
        });
        self.generation = Some(state.generation);
        Some(assigned.collect())
    }
}

/// Hands entries of a table on, up to an index; false if there are too many for one batch.
fn read(state: &State, table: &TableName, cursor: &mut usize, until: usize, steps: &mut Vec<Step>) -> bool {
    while *cursor < until {
        if steps.len() >= PORTION {
            return false;
        }
        steps.push(state.topics[table][*cursor].clone().into_step(table));
        *cursor += 1;
    }
    true
}

impl EventReader for TopicReader {
    async fn assigned(&mut self) -> Result<Option<Vec<Assigned>>> {
        loop {
            if let Some(assigned) = self.newly_assigned() {
                return Ok(Some(assigned));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Goes on after the last event that each table has.
    async fn start(&mut self, tables: Vec<Opened>) -> Result<()> {
        let state = self.topics.lock();
        let cursor = |opened: &Opened| {
            let entries = state.topics.get(&opened.table).map_or(&[][..], Vec::as_slice);
            let has = |entry: &Entry| match (entry, &opened.positions) {
                (Entry::Event { partition, offset, .. }, Some(taken)) => taken.covers_offset(*partition, *offset),
                _ => false,
            };
            entries.iter().rposition(has).map_or(0, |last| last + 1)
        };
        self.cursors = tables.iter().map(|opened| (opened.table.clone(), cursor(opened))).collect();
        let is_new = |(_, lengths): &(Watermark, BTreeMap<TableName, usize>)| {
            self.cursors.iter().any(|(table, cursor)| lengths.get(table).is_some_and(|length| length > cursor))
        };
        let last = state.committed.len().saturating_sub(1);
        self.next_commit = state.committed.iter().position(is_new).unwrap_or(last);
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<EventBatch>> {
        loop {
            if self.generation != Some(self.topics.lock().generation) {
                return Ok(None);
            }
            let batch = self.portion();
            if !batch.steps.is_empty() {
                return Ok(Some(batch));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn store(&mut self, applied: Applied) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut state = self.topics.lock();
        for (table, applied) in applied.tables {
            match applied.copy {
                Some(copy) => state.kept.insert(table, copy),
                None => state.kept.remove(&table),
            };
        }
        Ok(())
    }
}
