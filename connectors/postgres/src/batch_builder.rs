//! The batch that the stream fills: each relation's events one after the other, then tables that stop or are known
//! anew, then how far whole transactions have been read.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{Coverage, Error, EventBatch, Rows, Step, TableNote};
use sooner_schemas::event::{EventSchema, TableEvents, Watermark};
use sooner_schemas::{Lsn, TableName};

/// Memory that events may have taken and not filled, before it is given back.
const SPARE_BYTES: usize = 1 << 20;

/// A batch that is being filled.
#[derive(Default)]
pub struct BatchBuilder {
    steps: Vec<Step>,
    /// For each relation, the index of the step that its events are appended to.
    open: HashMap<u32, usize>,
    /// Stops and notes: they come after all events.
    ends: Vec<Step>,
    watermark: Option<Watermark>,
    server_end: Lsn,
    bytes: usize,
}

impl BatchBuilder {
    /// Where events of a relation are appended.
    pub fn events(&mut self, oid: u32, schema: &Arc<EventSchema>) -> Option<&mut TableEvents> {
        let index = *self.open.entry(oid).or_insert_with(|| {
            self.steps.push(Step::Rows(Rows::new(TableEvents::new(schema.clone()))));
            self.steps.len() - 1
        });
        self.steps[index].rows_mut().map(|rows| &mut rows.events)
    }

    /// Counts bytes that were appended.
    pub fn grew(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Events of a relation that follow do not go where its former ones went.
    pub fn close(&mut self, oid: u32) {
        self.open.remove(&oid);
    }

    /// Appends events that are a step of their own.
    pub fn push(&mut self, oid: u32, events: TableEvents) {
        self.close(oid);
        self.steps.push(Rows::new(events).into_step());
    }

    /// Stops a table after the events that are here.
    pub fn stop(&mut self, table: &TableName, error: Error) {
        self.ends.push(Step::Stop { table: table.clone(), error });
    }

    /// Says what is known of a table after the events that are here.
    pub fn note(&mut self, note: TableNote) {
        self.ends.push(Step::Note(Box::new(note)));
    }

    /// The batch ends between transactions, at this watermark; or inside one.
    pub fn set_watermark(&mut self, watermark: Option<Watermark>) {
        self.watermark = watermark;
    }

    /// The server's log ends here at least.
    pub fn note_server_end(&mut self, lsn: Lsn) {
        self.server_end = self.server_end.max(lsn);
    }

    /// Bytes of events.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it holds no events, stops or notes.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.ends.is_empty()
    }

    /// Takes the batch; none if there is nothing to hand on.
    pub fn take(&mut self) -> Option<EventBatch> {
        let BatchBuilder { mut steps, ends, watermark, server_end, .. } = std::mem::take(self);
        // The first change of a table may have been refused.
        steps.retain(|step| step.rows().is_none_or(|rows| !rows.events.events.is_empty()));
        steps.iter_mut().filter_map(Step::rows_mut).for_each(|rows| give_back_spare(&mut rows.events.bytes));
        steps.extend(ends);
        steps.extend(watermark.map(|watermark| Step::Complete(Coverage::all(watermark))));
        (!steps.is_empty()).then_some(EventBatch { steps, server_end, ..EventBatch::default() })
    }
}

fn give_back_spare(bytes: &mut Vec<u8>) {
    if bytes.capacity() - bytes.len() > SPARE_BYTES {
        bytes.shrink_to_fit();
    }
}
