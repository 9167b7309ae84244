//! How the events of one pair of schemas are read: rows, keys, and the key columns' hash.

use std::sync::Arc;

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use sooner_schemas::event::{EventSchema, TableEvents};

use crate::index::key::{KeyHash, KeyPlan};
use crate::rows::columns::{LakeColumn, columns_of};
use crate::rows::reader::RowReader;

/// Reads the events of one pair of schemas.
pub struct EventPlan {
    /// The schemas.
    pub schema: Arc<EventSchema>,
    /// Columns of the rows.
    pub columns: Vec<LakeColumn>,
    /// Reads rows.
    pub rows: RowReader,
    /// Reads and hashes keys.
    pub keys: KeyPlan,
}

impl EventPlan {
    /// Compiles the plan. A table without a key cannot be merged.
    pub fn new(schema: &Arc<EventSchema>, secret: (u64, u64)) -> Result<EventPlan> {
        let table = &schema.table;
        let Some(key) = &schema.key else {
            return Err(Error::operator(
                Code::KeyMissing,
                format!("cannot merge {table} into the lake"),
                "the table has neither a primary key nor a replica identity index, so its rows cannot be told apart",
                format!("ALTER TABLE {table} ADD PRIMARY KEY (…), or leave the table out (exclude)"),
            ));
        };
        let keys = KeyPlan::new(table, key, secret)?;
        let columns = columns_of(schema)?;
        Ok(EventPlan { schema: schema.clone(), columns, rows: RowReader::new(schema)?, keys })
    }

    /// Whether this plan reads events of these schemas.
    pub fn reads(&self, schema: &Arc<EventSchema>) -> bool {
        Arc::ptr_eq(&self.schema, schema)
    }

    /// Which of the events' columns one of the table is, that stands at `place` there: events may be older than the
    /// table's columns. None if they do not have it.
    pub fn place_of(&self, column: &LakeColumn, place: usize) -> Option<usize> {
        match self.columns.get(place) {
            Some(same) if same.is_same(column) => Some(place),
            _ => self.columns.iter().position(|own| own.is_same(column)),
        }
    }

    /// Key of an event's row, and the key that the row had before, if that changed.
    pub fn keys_of(
        &self,
        table: &TableName,
        events: &TableEvents,
        index: usize,
        scratch: &mut Vec<u8>,
    ) -> Result<(KeyHash, Option<KeyHash>)> {
        let malformed = |why| {
            let what = format!("cannot read the key of an event of {table}");
            Error::operator(Code::MessageUnreadable, what, why, copy_again(table))
        };
        let event = &events.events[index];
        let key = self.keys.hash_message(&events.bytes[event.key.clone()], scratch).map_err(malformed)?;
        let old_key = event.old_key.clone().map(|range| self.keys.hash_message(&events.bytes[range], scratch));
        Ok((key, old_key.transpose().map_err(malformed)?))
    }
}

/// The remedy that works for every table: its rows come again.
pub fn copy_again(table: &TableName) -> String {
    format!("`sooner resume {table}` copies the table again")
}
