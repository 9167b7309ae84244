//! The registry that the schemas of messages are read from: one that speaks Confluent's API, or AWS Glue's.

use std::sync::Arc;

use sooner_api::{Code, Error, Result};

use super::client::{Registry, RegistrySettings};
use super::glue::{Glue, GlueSettings};
use super::schema_id::SchemaId;

/// Which registry a pipeline has, and how to reach it.
#[derive(Clone)]
pub enum RegistryKind {
    /// One that speaks Confluent's API.
    Confluent(RegistrySettings),
    /// AWS Glue's, which the sink reads from; the source does not write to it.
    Glue(GlueSettings),
}

impl RegistryKind {
    /// Settings of a registry that schemas can be registered in; an operator error for one that is only read.
    pub fn writable(&self) -> Result<&RegistrySettings> {
        match self {
            RegistryKind::Confluent(settings) => Ok(settings),
            RegistryKind::Glue(_) => Err(Error::operator(
                Code::RegistryMisconfigured,
                "cannot register schemas",
                "type of [registry] is \"glue\", which is only read",
                "name a registry with Confluent's API for the source",
            )),
        }
    }
}

/// Reads schemas from a pipeline's registry.
pub enum SchemaReader {
    /// From one that speaks Confluent's API.
    Confluent(Registry),
    /// From AWS Glue's.
    Glue(Glue),
}

impl SchemaReader {
    /// Sets up a client; sends no request yet.
    pub fn new(kind: &RegistryKind) -> Result<SchemaReader> {
        match kind {
            RegistryKind::Confluent(settings) => Registry::new(settings.clone()).map(SchemaReader::Confluent),
            RegistryKind::Glue(settings) => Glue::new(settings.clone()).map(SchemaReader::Glue),
        }
    }

    /// Schema with an identifier, as JSON text. An identifier that the registry does not know, or of another kind of
    /// registry, is an error for the operator.
    pub async fn schema(&self, id: SchemaId) -> Result<Arc<str>> {
        match (self, id) {
            (SchemaReader::Glue(glue), SchemaId::GlueVersion(version)) => glue.schema(&version).await,
            (SchemaReader::Confluent(registry), SchemaId::Number(_) | SchemaId::Guid(_)) => registry.schema(id).await,
            (SchemaReader::Confluent(_), SchemaId::GlueVersion(_)) => {
                Err(of_another_kind(id, "AWS Glue's", "set type = \"glue\" and region in [registry]"))
            }
            (SchemaReader::Glue(_), SchemaId::Number(_) | SchemaId::Guid(_)) => {
                Err(of_another_kind(id, "one with Confluent's API", "set type = \"confluent\" and url in [registry]"))
            }
        }
    }
}

fn of_another_kind(id: SchemaId, written_with: &str, remedy: &str) -> Error {
    Error::operator(
        Code::SchemaUnknown,
        format!("cannot read an event with {id}"),
        format!("it was written with a registry of another kind than [registry] names: {written_with}"),
        format!("{remedy}; or set dead_letter_topic of [kafka] to set such messages aside"),
    )
}
