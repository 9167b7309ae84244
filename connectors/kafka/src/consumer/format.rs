//! How messages of topics are read. There is one format today: Debezium's envelope as Avro, with the schemas named in
//! any form that registries' serializers have.

use std::sync::Arc;

use sooner_api::Result;
use sooner_schemas::TableName;
use sooner_schemas::event::EventSchema;

use crate::message::topic_message::TopicMessage;
use crate::registry::reader::SchemaReader;
use crate::registry::schema_cache::SchemaCache;

/// A format of messages.
pub enum Format {
    /// Debezium's envelope as Avro.
    DebeziumAvro(SchemaCache),
}

impl Format {
    /// Debezium's envelope as Avro, with schemas from a registry.
    pub fn debezium_avro(registry: SchemaReader) -> Format {
        Format::DebeziumAvro(SchemaCache::new(registry))
    }

    /// Schemas of a message's event; none for a tombstone. May be cancelled and called again.
    pub async fn schema(&mut self, table: &TableName, message: &TopicMessage) -> Result<Option<Arc<EventSchema>>> {
        match self {
            Format::DebeziumAvro(schemas) => schemas.find(table, message).await,
        }
    }
}
