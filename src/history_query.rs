//! Queries of histories, for whoever pastes them into an engine.

use std::time::SystemTime;

use serde::Deserialize;
use sooner_api::{Code, Error, Result};
use sooner_delta::DeltaLake;
use sooner_delta::history::views::{AsOf, Engine};
use sooner_delta::replaying::knowledge::history_knowledge;
use sooner_delta::trim::{Moment, check_within};
use sooner_schemas::TableName;

use crate::until::Until;

/// Whose SQL a query is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryEngine {
    /// DuckDB, with its extension delta.
    #[default]
    Duckdb,
    /// Spark, with Delta Lake.
    Spark,
}

/// Where the history of a table lies, and the query that reads the table as of then; without a moment, each state of
/// each row with the time in which it was so.
pub async fn history_query(
    lake: &DeltaLake,
    table: &TableName,
    as_of: Option<Until>,
    engine: HistoryEngine,
) -> Result<(String, String)> {
    let history = lake.describe_history(table).await?.ok_or_else(|| {
        let remedy = "give it write = [\"mirror\", \"history\"] in a [[table]] block; it begins with a copy";
        no_query(table, "there is no history of it in the lake", remedy)
    })?;
    let engine = match engine {
        HistoryEngine::Duckdb => Engine::DuckDb,
        HistoryEngine::Spark => Engine::Spark,
    };
    let time = match as_of {
        Some(Until::Time(time)) => rfc3339(time),
        _ => String::new(),
    };
    let moment = as_of.map(|as_of| match as_of {
        Until::Lsn(lsn) => Moment::Lsn(lsn.0),
        Until::Time(_) => Moment::Time(&time),
    });
    if let Some(moment) = &moment {
        check_within(table, history.horizon, moment)?;
    }
    if let Some(knowledge) = history_knowledge(lake, table).await? {
        knowledge.check(table, moment.as_ref())?;
    }
    let query = match as_of {
        None => history.slowly_changing(engine),
        Some(Until::Lsn(lsn)) => history.as_of(engine, &AsOf::Lsn(lsn.0)),
        Some(Until::Time(_)) => history.as_of(engine, &AsOf::Time(time)),
    };
    let query = query.ok_or_else(|| {
        let remedy = format!("query the events themselves, at {}", history.url);
        no_query(table, "it has no key, so its rows cannot be told apart as of a moment", &remedy)
    })?;
    Ok((history.url, query))
}

fn no_query(table: &TableName, why: &str, remedy: &str) -> Error {
    Error::operator(Code::KeyMissing, format!("cannot write a query of the history of {table}"), why, remedy)
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}
