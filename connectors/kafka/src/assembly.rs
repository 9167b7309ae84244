//! The batch that is being filled: each table's events, one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::Result;
use sooner_schemas::TableName;
use sooner_schemas::event::{EventBatch, EventSchema, Poisoned, TableEvents};

use crate::events::{advance, append};
use crate::record::Record;

/// A batch of this size goes out.
const BATCH_BYTES: usize = 512 << 10;
/// What an event takes beside its bytes, about.
const EVENT_BYTES: usize = 64;

/// A batch, and where in it each table's events go.
#[derive(Default)]
pub struct Assembly {
    /// What is there so far.
    pub batch: EventBatch,
    bytes: usize,
    open: HashMap<TableName, usize>,
    /// Events whose writer gave them no position so far.
    arrived: u64,
    written_micros: Option<i64>,
}

impl Assembly {
    /// The batch should go out before more is read: it is large, or stops a table, which comes before what follows.
    pub fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || !self.batch.poisoned.is_empty()
    }

    /// When the last event was written, in microseconds since 1970.
    pub fn written_micros(&self) -> Option<i64> {
        self.written_micros
    }

    /// Number of events so far, over all batches.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Appends a message's event, if it was not handed on before. A tombstone has no schema.
    pub fn append(
        &mut self,
        table: &TableName,
        record: &Record,
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

    /// Notes that a message was read, in its own partition and where its copies stood.
    pub fn pass(&mut self, table: &TableName, record: &Record, copies: &[(i32, i64)]) {
        if let Some(&index) = self.open.get(table) {
            let out = &mut self.batch.tables[index];
            advance(out, record.partition, record.offset + 1);
            copies.iter().for_each(|(partition, next)| advance(out, *partition, *next));
        }
    }

    /// Where a message goes; nowhere if nothing is known of its table yet.
    fn place(&mut self, table: &TableName, record: &Record, schema: Option<Arc<EventSchema>>) -> Option<usize> {
        let open = self.open.get(table).copied();
        let Some(schema) = schema else { return open };
        // An event of the whole table stands alone: what it does to the table comes before what follows.
        let fits = |index: &usize| record.key().is_some() && Arc::ptr_eq(&self.batch.tables[*index].schema, &schema);
        if let Some(index) = open.filter(fits) {
            return Some(index);
        }
        self.batch.tables.push(TableEvents::new(schema));
        let index = self.batch.tables.len() - 1;
        self.open.insert(table.clone(), index);
        Some(index)
    }

    /// Stops a table.
    pub fn poison(&mut self, table: TableName, reason: String) {
        self.batch.poisoned.push(Poisoned { table, reason });
    }

    /// Takes the batch.
    pub fn take(&mut self) -> EventBatch {
        self.bytes = 0;
        self.open.clear();
        std::mem::take(&mut self.batch)
    }
}
