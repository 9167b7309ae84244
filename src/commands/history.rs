//! `sooner history`: queries of a table's history, to paste into DuckDB or Spark.

use std::time::SystemTime;

use serde_json::json;
use sooner_delta::history::views::{AsOf, Engine};
use sooner_delta::trim::{Moment, check_within};

use super::upkeep::open_lake;
use super::wait::Until;
use super::{parse_name, print};
use crate::config::Config;

/// Whose SQL is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum For {
    /// DuckDB, with its extension delta.
    Duckdb,
    /// Spark, with Delta Lake.
    Spark,
}

/// Prints a query: of the table as of a position or a moment, or, without one, of each state of each row.
pub async fn run(config: &Config, table: &str, as_of: Option<Until>, engine: For, json: bool) -> anyhow::Result<()> {
    let table = parse_name(table)?;
    let Some(history) = open_lake(config)?.describe_history(&table).await? else {
        anyhow::bail!(
            "there is no history of {table} in the lake. To do: give it write = [\"mirror\", \"history\"] in a [[table]] \
             block; it begins with a copy"
        );
    };
    let engine = match engine {
        For::Duckdb => Engine::DuckDb,
        For::Spark => Engine::Spark,
    };
    let query = match as_of {
        None => history.slowly_changing(engine),
        Some(Until::Lsn(lsn)) => {
            check_within(&table, history.horizon, &Moment::Lsn(lsn.0))?;
            history.as_of(engine, &AsOf::Lsn(lsn.0))
        }
        Some(Until::Time(time)) => {
            let time = rfc3339(time);
            check_within(&table, history.horizon, &Moment::Time(&time))?;
            history.as_of(engine, &AsOf::Time(time))
        }
    };
    let Some(query) = query else {
        anyhow::bail!(
            "{table} has no key, so its rows cannot be told apart as of a moment. To do: query the events themselves, at {}",
            history.url
        );
    };
    match json {
        true => print(&format!("{}\n", json!({ "table": table, "location": history.url, "sql": query }))),
        false => print(&query),
    }
    Ok(())
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}
