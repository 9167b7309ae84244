//! `sooner trace`: why is a row old? Follows one row from Postgres to its file in the lake.

use std::time::Duration;

use clap::Args;

use super::status::is_running;
use super::{parse_name, print};
use crate::config::Config;
use crate::status::load;
use crate::trace::gather::{Question, Seen, trace};
use crate::trace::render::render;
use crate::trace::report::Outcome;

/// Arguments of the command.
#[derive(Args, Debug)]
pub struct TraceArguments {
    /// Name of the table: schema.table
    table: String,
    /// The row's key: 42, or for several columns 7,42 or tenant=7,id=42. Put names and values that have commas, equal
    /// signs or blanks at their ends in double quotes; a double quote is written twice there.
    key: String,
    /// Also show the row's values, in Postgres and in the lake.
    #[arg(long)]
    values: bool,
    /// How long topic and files may be searched, such as 5m.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print what was found as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints what is known of the row at each hop; true if it is up to date.
pub async fn run(config: &Config, arguments: TraceArguments) -> anyhow::Result<bool> {
    let TraceArguments { table, key, values, timeout, json } = arguments;
    let question = Question { table: parse_name(&table)?, key, with_values: values, limit: timeout };
    // A status that cannot be read is said to be so, once; later it counts as none.
    load(&config.state_dir)?;
    let see = || {
        let status = load(&config.state_dir).ok().flatten();
        Seen { is_running: status.as_ref().is_some_and(is_running), status }
    };
    let report = trace(config, &question, see).await?;
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&report)?)),
        false => print(&render(&report)),
    }
    Ok(report.verdict.outcome == Outcome::UpToDate)
}
