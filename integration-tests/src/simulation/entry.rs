//! What is on a simulated topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use sooner_api::{Rows, Step};
use sooner_schemas::TableName;
use sooner_schemas::event::{Event, EventSchema, TableEvents, Watermark};

/// Something on a topic.
#[derive(Clone)]
pub enum Entry {
    /// An event at an offset of a partition.
    #[allow(missing_docs, reason = "what they are called is what they are")]
    Event { partition: i32, offset: i64, schema: Arc<EventSchema>, bytes: Vec<u8>, event: Event },
    /// A copy has ended.
    CopyEnd(Watermark),
}

impl Entry {
    /// The step that it is to a reader.
    pub fn into_step(self, table: &TableName) -> Step {
        match self {
            Entry::CopyEnd(watermark) => Step::CopyEnd { table: table.clone(), watermark },
            Entry::Event { partition, offset, schema, bytes, event } => {
                let events = TableEvents { schema, bytes, events: vec![event] };
                let next_offsets = BTreeMap::from([(partition, offset + 1)]);
                Rows { next_offsets, generation: Some(1), ..Rows::new(events) }.into_step()
            }
        }
    }
}
