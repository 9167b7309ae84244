//! The batch that is being filled from topics: each table's events one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{Coverage, Error, EventBatch, NextOffsets, Result, Rows, Step, WholeTable};
use sooner_schemas::event::{EventSchema, TableEvents, Watermark};
use sooner_schemas::{Lsn, Position, TableName};

use super::topic::Topic;
use crate::message::events::append;
use crate::message::topic_message::TopicMessage;

/// Size of events from which a batch goes out.
const BATCH_BYTES: usize = 512 << 10;
/// What an event takes beside its bytes, about.
const EVENT_BYTES: usize = 64;

/// A batch, and where in it each table's events go.
#[derive(Default)]
pub struct Assembly {
    rows: Vec<Rows>,
    /// For each table, the index of the entry that its events are appended to.
    open: HashMap<TableName, usize>,
    /// Steps after those events.
    ends: Vec<Step>,
    stops_table: bool,
    bytes: usize,
    /// Number of events over all batches: it stands for a position where a writer gave none.
    arrived: u64,
    written_micros: Option<i64>,
}

impl Assembly {
    /// Whether the batch should go out before more is read: it is large, or stops a table, which comes before what
    /// follows.
    pub fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.stops_table
    }

    /// Whether there are events.
    pub fn has_events(&self) -> bool {
        !self.rows.is_empty()
    }

    /// The position and time of the last event, for topics whose writer gives no positions.
    pub fn arrival_watermark(&self) -> Watermark {
        let lsn = Lsn(self.arrived);
        Watermark { commit_lsn: lsn, end_lsn: lsn, commit_micros: self.written_micros.unwrap_or_default() }
    }

    /// Appends the event of a topic's message, if it was not handed on before. A tombstone has no schema.
    pub fn append(
        &mut self,
        topic: &Topic,
        message: &TopicMessage,
        schema: Option<Arc<EventSchema>>,
        repeated: bool,
    ) -> Result<()> {
        let Some(index) = self.entry(topic, message, schema) else { return Ok(()) };
        let out = &mut self.rows[index].events;
        let before = out.bytes.len();
        self.written_micros = message.written_micros.or(self.written_micros);
        if !repeated {
            append(out, message, self.arrived + 1)?;
            self.arrived += 1;
        }
        self.bytes += out.bytes.len() - before + EVENT_BYTES;
        Ok(())
    }

    /// Advances the table's next offsets past a message that was read: in its own partition, and in those that held
    /// copies of it.
    pub fn pass(&mut self, topic: &mut Topic, message: &TopicMessage, copies: &[(i32, i64)]) {
        let Some(&index) = self.open.get(&topic.table) else { return };
        let rows = &mut self.rows[index];
        let passed = || [(message.partition, message.offset + 1)].into_iter().chain(copies.iter().copied());
        if message.is_of_whole_table() {
            rows.whole = WholeTable {
                opens_topic: passed().all(|(partition, next)| topic.opens_at(partition) == Some(next - 1)),
                is_repeated: passed().count() < topic.merge.partitions(),
                lacks_first: passed().all(|(partition, _)| partition != 0),
            };
        }
        for (partition, next) in passed() {
            rows.next_offsets.insert(topic.tell_offset(partition, next), next);
        }
    }

    /// A topic is read to its end, after which another one goes on: the table is complete up to a watermark. `ends` are
    /// offsets that its lake table has not been told, `schema` is that of its rows.
    pub fn end_topic(
        &mut self,
        topic: &Topic,
        ends: NextOffsets,
        schema: Option<Arc<EventSchema>>,
        watermark: Watermark,
    ) {
        if let Some(schema) = schema.filter(|_| !ends.is_empty()) {
            let since = Position { commit_lsn: watermark.commit_lsn, ordinal: u64::MAX };
            let (generation, told_at) = (topic.generation, Some(since));
            let rows = Rows { generation, told_at, next_offsets: ends, ..Rows::new(TableEvents::new(schema)) };
            self.ends.push(rows.into_step());
        }
        self.end_copy(topic.table.clone(), watermark);
    }

    /// Index of the entry that a message belongs to. None for a message without a schema whose table has no events in
    /// this batch.
    fn entry(&mut self, topic: &Topic, message: &TopicMessage, schema: Option<Arc<EventSchema>>) -> Option<usize> {
        let open = self.open.get(&topic.table).copied();
        let Some(schema) = schema else { return open };
        // An event of the whole table opens a new entry: what it does to the table comes before what follows.
        let fits = |index: &usize| message.key().is_some() && Arc::ptr_eq(&self.rows[*index].events.schema, &schema);
        if let Some(index) = open.filter(fits) {
            return Some(index);
        }
        self.rows.push(Rows { generation: topic.generation, ..Rows::new(TableEvents::new(schema)) });
        let index = self.rows.len() - 1;
        self.open.insert(topic.table.clone(), index);
        Some(index)
    }

    /// After what is here, a table has the columns of these schemas from a position on, whether or not events come.
    pub fn tell(&mut self, generation: Option<i64>, schema: Arc<EventSchema>, since: Position) {
        let told = Rows { generation, told_at: Some(since), ..Rows::new(TableEvents::new(schema)) };
        self.ends.push(told.into_step());
    }

    /// Stops a table after its events in this batch.
    pub fn stop(&mut self, table: TableName, error: Error) {
        self.stops_table = true;
        self.ends.push(Step::Stop { table, error });
    }

    /// A table's copy ends with what is here.
    pub fn end_copy(&mut self, table: TableName, watermark: Watermark) {
        self.ends.push(Step::CopyEnd { table, watermark });
    }

    /// Whole transactions end with what is here.
    pub fn complete(&mut self, coverage: Coverage) {
        self.ends.push(Step::Complete(coverage));
    }

    /// Takes the batch and begins an empty one; none if there is nothing in it.
    pub fn take(&mut self) -> Option<EventBatch> {
        let (rows, ends) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.ends));
        (self.bytes, self.stops_table) = (0, false);
        self.open.clear();
        let steps: Vec<_> = rows.into_iter().map(Rows::into_step).chain(ends).collect();
        let mut batch = EventBatch { steps, server_end: Lsn::ZERO, ..EventBatch::default() };
        batch.server_end = batch.coverage().map_or(Lsn::ZERO, |coverage| coverage.watermark.end_lsn);
        (!batch.steps.is_empty()).then_some(batch)
    }
}
