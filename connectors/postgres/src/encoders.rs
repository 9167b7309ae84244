//! Builds the encoder of a relation: generates and registers its schemas, and compiles its plan.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sooner_api::{Error, Result, SchemaRegistry};
use sooner_schemas::avro::Schema;
use sooner_schemas::encode::{Encoder, Masking, SchemaIds};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::EventSchema;
use sooner_schemas::fingerprint::Fingerprints;
use sooner_schemas::naming::{Part, SubjectStrategy, TopicPattern};
use sooner_schemas::policy::ValuePolicy;
use sooner_schemas::{Column, Relation, TableName};

/// What becomes of a column's values that their target cannot hold.
pub type ValuePolicies = Arc<dyn Fn(&TableName, &Column) -> ValuePolicy + Send + Sync>;

/// Builds encoders of relations for one pipeline.
pub struct EncoderFactory<R> {
    /// Registry that assigns schema ids.
    pub registry: R,
    /// Prefix of the pipeline: the `name` in the `source` block.
    pub prefix: String,
    /// Pattern of topic names.
    pub topics: TopicPattern,
    /// Strategy for the names of schema subjects.
    pub subjects: SubjectStrategy,
    /// Name of the source database.
    pub database: String,
    /// What becomes of values that their target cannot hold.
    pub policies: ValuePolicies,
    /// Schemas in use, by fingerprints of topic and value schema: the same relation has the same ones wherever it is
    /// met.
    pub known: Mutex<HashMap<u128, Weak<EventSchema>>>,
    /// Fingerprints of this factory.
    pub fingerprints: Fingerprints,
}

impl<R: SchemaRegistry> EncoderFactory<R> {
    /// Creates a factory with Debezium's topic names and with subjects named by topic.
    pub fn new(registry: R, prefix: &str, database: &str) -> EncoderFactory<R> {
        EncoderFactory {
            registry,
            prefix: prefix.to_owned(),
            topics: TopicPattern::debezium(prefix),
            subjects: SubjectStrategy::default(),
            database: database.to_owned(),
            policies: Arc::new(|_, _| ValuePolicy::default()),
            known: Mutex::default(),
            fingerprints: Fingerprints::default(),
        }
    }

    /// Builds the encoder of one relation, as its source has it; registers its schemas first.
    pub async fn build(&self, relation: &Relation) -> Result<Encoder> {
        let masking = Masking::of(relation)
            .map_err(|error| Error::internal(format!("cannot mask rows of {}", relation.name), error.to_string()))?;
        let relation = relation.without_omitted();
        let relation = &relation.under_policies(|column| (self.policies)(&relation.name, column));
        let topic = self.topics.topic(&relation.name);
        let key = key_schema(&topic, relation).map(|schema| schema.to_string());
        let value = value_schema(&topic, relation).to_string();
        let schema = EventSchema::parse(relation.name.clone(), key.as_deref(), &value)
            .map_err(|error| crate::errors::protocol(format!("cannot describe {}", relation.name), error))?;
        let key_id = match (&key, &schema.key) {
            (Some(text), Some(key)) => Some(self.register(&topic, Part::Key, key, text).await?),
            _ => None,
        };
        let ids = SchemaIds { key: key_id, value: self.register(&topic, Part::Value, &schema.value, &value).await? };
        let schema = self.shared(self.fingerprints.of(&(topic, value)), schema);
        Ok(Encoder::masked(relation, masking, schema, ids, (&self.prefix, &self.database)))
    }

    fn shared(&self, fingerprint: u128, schema: EventSchema) -> Arc<EventSchema> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, schema| schema.strong_count() > 0);
        let found = known.get(&fingerprint).and_then(Weak::upgrade);
        found.unwrap_or_else(|| {
            let schema = Arc::new(schema);
            known.insert(fingerprint, Arc::downgrade(&schema));
            schema
        })
    }

    async fn register(&self, topic: &str, part: Part, schema: &Schema, text: &str) -> Result<u32> {
        let record = schema.as_record().map_or("", |record| record.name.as_str());
        self.registry.register(&self.subjects.subject(topic, part, record), text).await
    }
}
