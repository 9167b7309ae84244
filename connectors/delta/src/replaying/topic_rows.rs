//! Rows of a history, made of events that come from elsewhere, such as a topic.

use std::sync::Arc;

use arrow_array::RecordBatch;
use sooner_api::Result;
use sooner_schemas::TableName;
use sooner_schemas::event::{EventSchema, TableEvents};

use crate::history::columns::extended;
use crate::history::reader::HistoryReader;
use crate::rows::columns::LakeColumn;

/// Makes rows of events. The columns grow with what events have.
pub struct TopicRows {
    table: TableName,
    columns: Vec<LakeColumn>,
    reader: Option<(HistoryReader, Vec<usize>)>,
}

impl TopicRows {
    /// Of a table, whose events have no more than these columns; empty if that is not known.
    pub fn new(table: TableName, columns: Vec<LakeColumn>) -> TopicRows {
        TopicRows { table, columns, reader: None }
    }

    /// All columns that events have had.
    pub fn columns(&self) -> &[LakeColumn] {
        &self.columns
    }

    /// The rows of some events.
    pub fn of(&mut self, events: &TableEvents) -> Result<Option<RecordBatch>> {
        self.adopt(&events.schema)?;
        let Some((reader, places)) = &mut self.reader else { return Ok(None) };
        for event in &events.events {
            reader.append(event, &events.bytes[event.value.clone()])?;
        }
        reader.take(&self.columns, places)
    }

    fn adopt(&mut self, schema: &Arc<EventSchema>) -> Result<()> {
        if self.reader.as_ref().is_some_and(|(reader, _)| Arc::ptr_eq(&reader.schema, schema)) {
            return Ok(());
        }
        let reader = HistoryReader::new(schema)?;
        let (columns, places) = extended(&self.table, &self.columns, &reader.columns, false)?;
        self.columns = columns;
        self.reader = Some((reader, places));
        Ok(())
    }
}
