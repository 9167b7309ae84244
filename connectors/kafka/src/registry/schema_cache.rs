//! Cache of the schemas that events were written under, found by the ids in their messages.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{Class, Code, Error, Result};
use sooner_schemas::TableName;
use sooner_schemas::event::EventSchema;
use tokio::task::JoinHandle;

use crate::message::events::ON_WITHOUT_IT;
use crate::message::topic_message::TopicMessage;
use crate::registry::plain::schema_ids;
use crate::registry::reader::SchemaReader;
use crate::registry::schema_id::SchemaId;

/// Schema ids of a message's key, if it has one, and value.
type Ids = (Option<SchemaId>, SchemaId);

/// Event schemas by table and schema ids. Events with the same table and ids share one instance.
pub struct SchemaCache {
    registry: Arc<SchemaReader>,
    known: HashMap<(TableName, Ids), Arc<EventSchema>>,
    /// Requests in flight, by schema id. A caller may be cancelled and ask again; the registry is asked once.
    under_way: HashMap<SchemaId, JoinHandle<Result<Arc<str>>>>,
}

impl SchemaCache {
    /// An empty cache of schemas from a registry.
    pub fn new(registry: SchemaReader) -> SchemaCache {
        SchemaCache { registry: Arc::new(registry), known: HashMap::new(), under_way: HashMap::new() }
    }

    /// Schemas of a message's event; none for a tombstone. May be cancelled and called again.
    pub async fn find(&mut self, table: &TableName, record: &TopicMessage) -> Result<Option<Arc<EventSchema>>> {
        let Some(ids) = schema_ids(record)? else { return Ok(None) };
        let (key_id, value_id) = ids;
        if let Some(schema) = self.known.get(&(table.clone(), ids)) {
            return Ok(Some(schema.clone()));
        }
        let key = match key_id {
            Some(id) => Some(self.fetch(id, record).await?),
            None => None,
        };
        let value = self.fetch(value_id, record).await?;
        let parsed = EventSchema::parse(table.clone(), key.as_deref(), &value).map_err(|why| {
            Error::operator(
                Code::MessageUnreadable,
                format!("cannot read the message at {}", record.place()),
                format!("its {value_id} cannot be read: {why}"),
                ON_WITHOUT_IT,
            )
        })?;
        let schema = Arc::new(parsed);
        self.known.insert((table.clone(), ids), schema.clone());
        Ok(Some(schema))
    }

    /// Fetches a schema by its id. An error for the operator names the message that has the id.
    async fn fetch(&mut self, id: SchemaId, record: &TopicMessage) -> Result<Arc<str>> {
        let registry = self.registry.clone();
        let asked = self.under_way.entry(id).or_insert_with(|| tokio::spawn(async move { registry.schema(id).await }));
        let answer = asked.await;
        self.under_way.remove(&id);
        let answer = answer
            .unwrap_or_else(|panic| Err(Error::fatal(Code::Internal, "cannot read a schema", panic, "report this")));
        answer.map_err(|error| match error.class {
            Class::Operator => Error::operator(
                error.code,
                format!("cannot read the message at {}", record.place()),
                format!("{}: {}", error.what, error.why),
                error.remedy,
            ),
            _ => error,
        })
    }
}
