//! What commands record: who asked for what, and what became of it. One entry each, written when the command has done
//! its work; of what cannot be undone another one before.

use std::future::Future;

use serde_json::{Map, Value, json};
use sooner_api::{Clock, Error};
use sooner_delta::LakeStore;
use sooner_delta::audit::chain::{AuditEntry, canonical};
use sooner_delta::audit::table::AuditTable;
use sooner_schemas::TableName;

use super::actor;
use crate::clock::SystemClock;
use crate::config::Config;

/// Something that somebody asks for.
#[derive(Clone, Debug)]
pub struct Act {
    kind: &'static str,
    table: Option<TableName>,
    asked: Value,
    is_through_http: bool,
}

impl Act {
    /// Something of a kind, with how it was asked for.
    pub fn new(kind: &'static str, asked: Value) -> Act {
        Act { kind, table: None, asked, is_through_http: false }
    }

    /// The same, asked for through the listener of a running process.
    pub fn through_http(self) -> Act {
        Act { is_through_http: true, ..self }
    }

    /// The same, for one table.
    pub fn of_table(self, table: &TableName) -> Act {
        Act { table: Some(table.clone()), ..self }
    }

    /// That it begins, as something of another kind: for what cannot be undone, and may be broken off.
    pub fn begun(&self, kind: &'static str) -> Act {
        Act { kind, ..self.clone() }
    }

    fn entry(self, outcome: Result<&Value, &anyhow::Error>) -> AuditEntry {
        let mut entry = Map::from_iter([("asked".to_owned(), self.asked)]);
        match outcome {
            Ok(Value::Null) => {}
            Ok(result) => drop(entry.insert("result".to_owned(), result.clone())),
            Err(error) => drop(entry.insert("error".to_owned(), json!(format!("{error:#}")))),
        }
        AuditEntry {
            at_micros: SystemClock.now_micros(),
            side: if self.is_through_http { "http" } else { "command" }.to_owned(),
            kind: self.kind.to_owned(),
            table: self.table.map(|table| table.to_string()),
            actor: actor::user(),
            entry: canonical(&Value::Object(entry)),
        }
    }
}

/// The pipeline's audit trail, whose entries are signed with the key of `[audit]`. An operator error without a lake.
pub fn table_of(config: &Config) -> Result<AuditTable, Error> {
    let lake = config.lake()?;
    let key = config.audit.as_ref().and_then(|audit| audit.signing_key.clone());
    Ok(AuditTable::new(&LakeStore::open(&lake.url, &lake.s3)?, &config.name, key))
}

/// Does what somebody asks for, and records it with what it returns beside its value, or why it failed. Where the trail
/// is required and cannot be reached, nothing is done; where it is not, a warning says so. Without `[audit]` nothing is
/// recorded.
pub async fn recorded<T>(
    config: &Config,
    act: Act,
    work: impl Future<Output = anyhow::Result<(T, Value)>>,
) -> anyhow::Result<T> {
    let Some(settings) = &config.audit else { return work.await.map(|(value, _)| value) };
    if settings.required {
        let reached = async { table_of(config)?.head().await };
        reached.await.map_err(|error| not_recorded(&error, "nothing was done"))?;
    }
    let done = work.await;
    let entry = act.entry(done.as_ref().map(|(_, result)| result));
    let written = async { table_of(config)?.append(&[entry], None).await };
    match written.await {
        Err(error) if settings.required => Err(not_recorded(&error, &became(&done))),
        Err(error) => {
            tracing::warn!(code = %error.code, %error, "this is not in the audit trail");
            done.map(|(value, _)| value)
        }
        Ok(_) => done.map(|(value, _)| value),
    }
}

/// Records that something begins. Where the trail is required and cannot be reached, it is not to begin.
pub async fn announced(config: &Config, begun: Act) -> anyhow::Result<()> {
    let Some(settings) = &config.audit else { return Ok(()) };
    let entry = begun.entry(Ok(&Value::Null));
    let written = async { table_of(config)?.append(&[entry], None).await };
    match written.await {
        Ok(_) => Ok(()),
        Err(error) if settings.required => Err(not_recorded(&error, "nothing was done")),
        Err(error) => {
            tracing::warn!(code = %error.code, %error, "that this begins is not in the audit trail");
            Ok(())
        }
    }
}

fn became<T>(done: &anyhow::Result<(T, Value)>) -> String {
    match done {
        Ok(_) => "what was asked for was done, and is not in the audit trail".to_owned(),
        Err(error) => format!("what was asked for failed, too: {error:#}"),
    }
}

fn not_recorded(error: &Error, became: &str) -> anyhow::Error {
    anyhow::anyhow!("cannot write the audit trail, which is required: {became}. {error}")
}
