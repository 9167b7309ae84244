//! The schemas that events were written under, found by the ids in their messages.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{Error, Result};
use sooner_schemas::TableName;
use sooner_schemas::event::EventSchema;
use sooner_schemas::wire::split_header;

use crate::record::Record;
use crate::registry::Registry;

/// Ids of key and value.
type Ids = (Option<u32>, u32);

/// Schemas by table and ids. Events of the same schemas share one.
pub struct SchemaCache {
    registry: Registry,
    known: HashMap<(TableName, Ids), Arc<EventSchema>>,
}

impl SchemaCache {
    /// Nothing known yet.
    pub fn new(registry: Registry) -> SchemaCache {
        SchemaCache { registry, known: HashMap::new() }
    }

    /// The schemas of an event; none for a tombstone.
    pub async fn find(&mut self, table: &TableName, record: &Record) -> Result<Option<Arc<EventSchema>>> {
        let Some(value) = record.value() else { return Ok(None) };
        let id = |message| {
            split_header(message).map(|(id, _)| id).map_err(|why| {
                Error::operator(
                    format!("cannot read the message at {}", record.place()),
                    why,
                    "let nothing but events in Avro with schema ids go to this topic",
                )
            })
        };
        let value_id = id(value)?;
        // An event of the whole table has none.
        let key_id = record.key().map(id).transpose()?;
        let ids = (key_id, value_id);
        if let Some(schema) = self.known.get(&(table.clone(), ids)) {
            return Ok(Some(schema.clone()));
        }
        let key = match key_id {
            Some(id) => Some(self.registry.schema(id).await?),
            None => None,
        };
        let value = self.registry.schema(value_id).await?;
        let parsed = EventSchema::parse(table.clone(), key.as_deref(), &value).map_err(|why| {
            Error::operator(
                format!("cannot read the message at {}", record.place()),
                format!("its schema (id {value_id}) cannot be read: {why}"),
                "let nothing but events in Debezium's envelope go to this topic",
            )
        })?;
        let schema = Arc::new(parsed);
        self.known.insert((table.clone(), ids), schema.clone());
        Ok(Some(schema))
    }
}
