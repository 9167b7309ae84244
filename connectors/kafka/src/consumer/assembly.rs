//! The batch that is being filled: the events of each table, in order within the table.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::Result;
use sooner_schemas::TableName;
use sooner_schemas::event::{EventBatch, EventSchema, Poisoned, TableEvents};

use crate::message::events::{advance, append};
use crate::message::topic_message::TopicMessage;

/// Size from which a batch is handed on, in bytes.
const BATCH_BYTES: usize = 512 << 10;
/// Approximate size of an event beside its bytes in the batch.
const EVENT_BYTES: usize = 64;

/// A batch being filled, with the place in it where each table's next events go.
#[derive(Default)]
pub struct Assembly {
    /// The batch as filled so far.
    pub batch: EventBatch,
    bytes: usize,
    open: HashMap<TableName, usize>,
    /// Messages appended so far, over all batches: numbers events whose writer gave them no position.
    arrived: u64,
    written_micros: Option<i64>,
}

impl Assembly {
    /// Whether the batch should be handed on before more is read: it is large, or it stops a table, which has to
    /// take effect before the events that follow.
    pub fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || !self.batch.poisoned.is_empty()
    }

    /// Timestamp of the last message that had one, in microseconds since 1970; none before the first.
    pub fn written_micros(&self) -> Option<i64> {
        self.written_micros
    }

    /// Number of messages appended so far, over all batches, without repeated ones.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Appends a message's event; one that is `repeated` was handed on before and is left out. `schema` is none for
    /// a tombstone.
    pub fn append(
        &mut self,
        table: &TableName,
        record: &TopicMessage,
        schema: Option<Arc<EventSchema>>,
        repeated: bool,
    ) -> Result<()> {
        let Some(index) = self.place(table, record, schema) else { return Ok(()) };
        let out = &mut self.batch.tables[index];
        let before = out.bytes.len();
        self.written_micros = record.written_micros.or(self.written_micros);
        if !repeated {
            append(out, record, self.arrived + 1)?;
            self.arrived += 1;
        }
        self.bytes += out.bytes.len() - before + EVENT_BYTES;
        Ok(())
    }

    /// Advances the table's next offsets past a message that was read: in its own partition, and in those that held
    /// copies of it. `copies` are partitions, each with the offset after its copy.
    pub fn pass(&mut self, table: &TableName, record: &TopicMessage, copies: &[(i32, i64)]) {
        if let Some(&index) = self.open.get(table) {
            let out = &mut self.batch.tables[index];
            advance(out, record.partition, record.offset + 1);
            copies.iter().for_each(|(partition, next)| advance(out, *partition, *next));
        }
    }

    /// Index in the batch of the table's events that a message belongs to. None for a message without a schema
    /// whose table has no events in this batch.
    fn place(&mut self, table: &TableName, record: &TopicMessage, schema: Option<Arc<EventSchema>>) -> Option<usize> {
        let open = self.open.get(table).copied();
        let Some(schema) = schema else { return open };
        // An event of the whole table opens a new entry: what it does to the table comes before what follows.
        let fits = |index: &usize| record.key().is_some() && Arc::ptr_eq(&self.batch.tables[*index].schema, &schema);
        if let Some(index) = open.filter(fits) {
            return Some(index);
        }
        self.batch.tables.push(TableEvents::new(schema));
        let index = self.batch.tables.len() - 1;
        self.open.insert(table.clone(), index);
        Some(index)
    }

    /// Marks a table as stopped after its events in this batch; `reason` is for a person.
    pub fn poison(&mut self, table: TableName, reason: String) {
        self.batch.poisoned.push(Poisoned { table, reason });
    }

    /// Takes the batch and begins an empty one.
    pub fn take(&mut self) -> EventBatch {
        self.bytes = 0;
        self.open.clear();
        std::mem::take(&mut self.batch)
    }
}
