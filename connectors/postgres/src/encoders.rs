//! From what the catalog says of a relation to what writes its events: schemas generated, registered and compiled.

use std::sync::Arc;

use sooner_api::{Result, SchemaRegistry};
use sooner_schemas::Relation;
use sooner_schemas::avro::Schema;
use sooner_schemas::encode::{Encoder, SchemaIds};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::EventSchema;
use sooner_schemas::naming::{Part, SubjectStrategy, TopicPattern};

/// Makes the encoder of a relation: schemas generated, registered and compiled.
pub struct EncoderFactory<R> {
    /// Gives schemas their ids.
    pub registry: R,
    /// The `name` of the source block.
    pub prefix: String,
    /// Names topics.
    pub topics: TopicPattern,
    /// Names the schemas' subjects.
    pub subjects: SubjectStrategy,
    /// The database's name.
    pub database: String,
}

impl<R: SchemaRegistry> EncoderFactory<R> {
    /// With Debezium's names for topics, and subjects by topic.
    pub fn new(registry: R, prefix: &str, database: &str) -> EncoderFactory<R> {
        EncoderFactory {
            registry,
            prefix: prefix.to_owned(),
            topics: TopicPattern::debezium(prefix),
            subjects: SubjectStrategy::default(),
            database: database.to_owned(),
        }
    }

    /// Builds the encoder of one relation.
    pub async fn build(&self, relation: &Relation) -> Result<Encoder> {
        let topic = self.topics.topic(&relation.name);
        let key = key_schema(&topic, relation).map(|schema| schema.to_string());
        let value = value_schema(&topic, relation).to_string();
        let mut schema = EventSchema::parse(relation.name.clone(), key.as_deref(), &value)
            .map_err(|error| crate::errors::protocol(format!("cannot describe {}", relation.name), error))?;
        let with_default = relation.columns.iter().filter(|column| column.has_default);
        schema.columns_with_default = with_default.map(|column| column.name.clone()).collect();
        schema.column_numbers = relation.columns.iter().map(|column| column.number).collect();
        let key_id = match (&key, &schema.key) {
            (Some(text), Some(key)) => Some(self.register(&topic, Part::Key, key, text).await?),
            _ => None,
        };
        let ids = SchemaIds { key: key_id, value: self.register(&topic, Part::Value, &schema.value, &value).await? };
        Ok(Encoder::new(relation, Arc::new(schema), ids, &self.prefix, &self.database))
    }

    async fn register(&self, topic: &str, part: Part, schema: &Schema, text: &str) -> Result<u32> {
        let record = schema.as_record().map_or("", |record| record.name.as_str());
        self.registry.register(&self.subjects.subject(topic, part, record), text).await
    }
}
