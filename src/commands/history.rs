//! `sooner history`: queries of a table's history, to paste into DuckDB or Spark; and what is known of its chain, by
//! [`history_chain`](super::history_chain).

use serde_json::json;
use sooner_delta::audit::chain::Head;

use super::history_chain::{print_head, verify};
use super::upkeep::open_lake;
use super::wait::{Until, parse_until};
use super::{parse_name, print};
use crate::config::Config;
use crate::history_query::{HistoryEngine, history_query};

/// What is asked of a history.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Name of the table: schema.table
    table: String,
    /// The table as of now, of a UTC time such as 2026-01-31T22:00:00Z, or of an LSN such as 0/16B3748.
    #[arg(long, value_parser = parse_until, conflicts_with_all = ["verify", "head"])]
    as_of: Option<Until>,
    /// Whose SQL.
    #[arg(long, value_enum, default_value = "duckdb")]
    engine: HistoryEngine,
    /// Check every row of a chained history: its hash, its number, and that none is missing.
    #[arg(long)]
    verify: bool,
    /// Print the end of the chain as SEQUENCE:HASH. Kept elsewhere and given with --verify, it shows later that the row
    /// is there still, so that nothing was cut off or written anew.
    #[arg(long, value_name = "SEQUENCE:HASH", num_args = 0..=1)]
    head: Option<Option<Head>>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `sooner history`; false if the history is not as it was written.
pub async fn run(config: &Config, asked: Asked) -> anyhow::Result<bool> {
    let table = parse_name(&asked.table)?;
    match (asked.verify, asked.head) {
        (true, Some(None)) => {
            anyhow::bail!("--head needs SEQUENCE:HASH with --verify. To do: give what it printed once")
        }
        (true, head) => return verify(config, &table, head.flatten(), asked.json).await,
        (false, Some(Some(_))) => anyhow::bail!("--head SEQUENCE:HASH is checked with --verify. To do: add it"),
        (false, Some(None)) => return print_head(config, &table, asked.json).await.map(|()| true),
        (false, None) => {}
    }
    let (location, query) = history_query(&open_lake(config)?, &table, asked.as_of, asked.engine).await?;
    match asked.json {
        true => print(&format!("{}\n", json!({ "table": table, "location": location, "sql": query }))),
        false => print(&query),
    }
    Ok(true)
}
