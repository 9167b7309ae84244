//! `sooner verify`: shows that the lake equals its source, or in what they differ.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use sooner_api::CopyRequest;
use sooner_schemas::TableName;

use super::upkeep::open_lake;
use super::verifying::notes::Notes;
use super::verifying::pace::Pace;
use super::verifying::source::SourceRows;
use super::verifying::{Kind, Report, Verdict, verify};
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::control::Requests;

/// How tables are verified.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Names of tables: schema.table; all tables of the pipeline if none are named.
    tables: Vec<String>,
    /// Have tables that differ copied again.
    #[arg(long)]
    repair: bool,
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
    let act = Act::new("verification", json!({"tables": asked.tables, "repair": asked.repair}));
    recorded(config, act, verify_all(config, asked)).await
}

/// Returns whether all tables are equal, and what the audit trail is told of each.
async fn verify_all(config: &Config, asked: Asked) -> anyhow::Result<(bool, Value)> {
    let lake = open_lake(config)?;
    let names = asked.tables.iter().map(|name| parse_name(name)).collect::<anyhow::Result<Vec<TableName>>>()?;
    let mut tables = SourceRows::tables(config).await?;
    let mut notes = Notes::new(config, tables.iter().map(|table| table.name().clone()).collect());
    tables.retain(|table| table.blocked.is_none());
    if let Some(unknown) = names.iter().find(|name| !tables.iter().any(|table| table.name() == *name)) {
        anyhow::bail!("there is no table '{unknown}' in this pipeline. To do: see `sooner status`");
    }
    tables.retain(|table| names.is_empty() || names.contains(table.name()));
    let pace = Pace { bytes_per_second: asked.rate.map(|rate| rate.0), patience: asked.timeout };
    let (mut all_equal, mut verified) = (true, Vec::new());
    for table in tables {
        let report = verify(config, &lake, table, pace).await?;
        notes.take(&report);
        all_equal &= report.verdict == Verdict::Equal;
        verified.push(of_audit(&report));
        match asked.json {
            true => print(&format!("{}\n", serde_json::to_string(&report)?)),
            false => print(&text_of(&report)),
        }
        if asked.repair && matches!(report.verdict, Verdict::Different { .. }) {
            let request = CopyRequest { table: report.table.clone(), condition: None };
            Requests::new(&config.state_dir).ask(&request)?;
            if !asked.json {
                print(&format!("  {} is copied again\n", report.table));
            }
        }
    }
    notes.store();
    Ok((all_equal, json!({"all_equal": all_equal, "tables": verified})))
}

/// What the audit trail is told of a table: no keys, which are values of rows.
fn of_audit(report: &Report) -> Value {
    let Report { table, rows, lsn, verdict, .. } = report;
    let (verdict, why, differences) = match verdict {
        Verdict::Equal => ("equal", None, 0),
        Verdict::Unverified { why } => ("unverified", Some(why), 0),
        Verdict::Different { count, .. } => ("different", None, *count),
    };
    json!({"table": table.to_string(), "verdict": verdict, "lsn": lsn, "rows": rows, "differences": differences, "why": why})
}

fn text_of(report: &Report) -> String {
    let Report { table, rows, millis, .. } = report;
    let lsn = report.lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
    match &report.verdict {
        Verdict::Equal => format!("{table}: equal, {rows} rows, at {lsn} ({millis} ms)\n"),
        Verdict::Unverified { why } => format!("{table}: not verified: {why}\n"),
        Verdict::Different { count, differences } => {
            let mut text = format!("{table}: {count} of {rows} rows differ, at {lsn}\n");
            for difference in differences {
                // Writing to a string cannot fail.
                let _ = match &difference.kind {
                    Kind::Missing => writeln!(text, "  {}: missing in the lake", difference.key),
                    Kind::Extra => writeln!(text, "  {}: only in the lake", difference.key),
                    Kind::Values { columns } => {
                        writeln!(text, "  {}: differs in {}", difference.key, columns.join(", "))
                    }
                };
            }
            text
        }
    }
}
