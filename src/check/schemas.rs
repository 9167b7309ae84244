//! Compares the schemas of the source's tables with the registry's: what would happen if they were registered now.

use std::sync::{Mutex, PoisonError};

use sooner_api::{Code, Error, Result, SchemaRegistry, SourceTable};
use sooner_kafka::registry::client::{Registry, SchemaState};
use sooner_postgres::Client;
use sooner_postgres::client::Mode;
use sooner_postgres::inspection::eligible_tables;

use super::Finding;
use crate::config::{KafkaConfig, SourceConfig};

/// A registry that registers nothing: `register` only notes what would become of the schema, and returns the id 0.
struct Examiner {
    registry: Registry,
    found: Mutex<Vec<SchemaState>>,
}

impl SchemaRegistry for Examiner {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let state = self.registry.examine(subject, schema).await?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        Ok(0)
    }
}

/// Checks the schemas of each selected table. If the database cannot be reached there are no findings: the source's
/// own check reports that.
pub async fn inspect(kafka: &KafkaConfig, source: &SourceConfig) -> Vec<Finding> {
    let Ok(tables) = tables(source).await else { return Vec::new() };
    let registry = match kafka.registry.writable().and_then(|settings| Registry::new(settings.clone())) {
        Ok(registry) => registry,
        Err(error) => return vec![Finding::error("schemas", &error)],
    };
    let examiner = Examiner { registry, found: Mutex::default() };
    let encoders = kafka.encoders(examiner, &source.connect.database, source.policies());
    let mut findings = Vec::new();
    for table in &tables {
        if let Err(error) = encoders.build(&table.relation).await {
            findings.push(Finding::error(format!("{} schemas", table.name()), &error));
        }
    }
    let found = encoders.registry.found.lock().unwrap_or_else(PoisonError::into_inner);
    findings.push(Finding::ok("schemas", summary(&found)));
    findings
}

async fn tables(source: &SourceConfig) -> Result<Vec<SourceTable>> {
    let mut client = Client::connect(&source.connect, Mode::Sql).await?;
    let mut tables = eligible_tables(&mut client, &source.publication, &source.filter()).await?;
    let can_be_read = |error: &Error| error.code == Code::TableUnpublished;
    tables.retain(|table| table.blocked.as_ref().is_none_or(can_be_read));
    Ok(tables)
}

fn summary(found: &[SchemaState]) -> String {
    let count = |state| found.iter().filter(|found| **found == state).count();
    format!(
        "{} registered, {} that would follow a compatible one, {} the first of their subject",
        count(SchemaState::Registered),
        count(SchemaState::Compatible),
        count(SchemaState::First)
    )
}
