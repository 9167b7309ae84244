//! `sooner verify`: shows that the lake equals its source, or in what they differ; or so of a cut and histories.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use sooner_schemas::TableName;

use super::verifying::at_cut::verify_cut;
use super::verifying::pace::Pace;
use super::verifying::tables::{TablesWanted, verify_tables, with_repair};
use super::verifying::{Kind, Report, Verdict};
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::verifications::Repaired;

/// How tables are verified.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Names of tables: schema.table; all tables of the pipeline if none are named.
    tables: Vec<String>,
    /// Have rows that differ copied again; or the whole table, where that does not do: rows that only the lake has, too
    /// many rows, or a repair of rows that did not help.
    #[arg(long)]
    repair: bool,
    /// Verify tables of this cut instead: each is compared with its history as of the cut. One that has no history in
    /// the cut is not verified.
    #[arg(long, value_name = "CUT", conflicts_with_all = ["repair", "rate"])]
    at: Option<String>,
    /// Read so many bytes a second of the database, at most, such as 10MiB.
    #[arg(long)]
    rate: Option<bytesize::ByteSize>,
    /// How long the lake may take to get to where the source was looked at.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2m")]
    timeout: Duration,
    /// Print one JSON object a table.
    #[arg(long)]
    json: bool,
}

/// Runs `sooner verify`; false if a table differs, or could not be verified.
pub async fn run(config: &Config, asked: Asked) -> anyhow::Result<bool> {
    let act = Act::new("verification", json!({"tables": asked.tables, "repair": asked.repair, "at": asked.at}));
    recorded(config, act, verify_all(config, asked)).await
}

async fn verify_all(config: &Config, asked: Asked) -> anyhow::Result<(bool, Value)> {
    let tables = asked.tables.iter().map(|name| parse_name(name)).collect::<anyhow::Result<Vec<TableName>>>()?;
    let pace = Pace { bytes_per_second: asked.rate.map(|rate| rate.0), patience: asked.timeout };
    let wanted = TablesWanted { tables, repairs: asked.repair, pace };
    let tell = |report: &Report, repaired: Option<Repaired>| {
        match asked.json {
            true => print(&format!("{}\n", with_repair(report, repaired)?)),
            false => print(&text_of(report, repaired)),
        }
        Ok(())
    };
    match &asked.at {
        Some(cut) => verify_cut(config, cut, &wanted.tables, |report| tell(report, None)).await,
        None => verify_tables(config, &wanted, tell).await,
    }
}

fn text_of(report: &Report, repaired: Option<Repaired>) -> String {
    let Report { table, rows, millis, .. } = report;
    let lsn = report.lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
    match &report.verdict {
        Verdict::Equal => format!("{table}: equal, {rows} rows, at {lsn} ({millis} ms)\n"),
        Verdict::Unverified { why } => format!("{table}: not verified: {why}\n"),
        Verdict::Different { count, at_least, differences } => {
            let least = if *at_least { "at least " } else { "" };
            let mut text = format!("{table}: {least}{count} of {rows} rows differ, at {lsn}\n");
            for difference in differences {
                // Writing to a string cannot fail.
                let _ = match &difference.kind {
                    Kind::Missing => writeln!(text, "  {}: missing in the lake", difference.key),
                    Kind::Repeated => writeln!(text, "  {}: more than once in the lake", difference.key),
                    Kind::Extra => writeln!(text, "  {}: only in the lake", difference.key),
                    Kind::Values { columns } => {
                        writeln!(text, "  {}: differs in {}", difference.key, columns.join(", "))
                    }
                };
            }
            // Writing to a string cannot fail.
            let _ = match repaired {
                Some(Repaired::Rows) => writeln!(text, "  these rows are copied again"),
                Some(Repaired::Table) => writeln!(text, "  {table} is copied again"),
                None => Ok(()),
            };
            text
        }
    }
}
