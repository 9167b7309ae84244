//! Verifies the tables of a pipeline one after the other, leaves what was found where the listener reads it, and asks
//! for repairs.

use serde_json::{Value, json};
use sooner_schemas::TableName;

use super::notes::Notes;
use super::pace::Pace;
use super::repair::ask;
use super::source::SourceRows;
use super::{Report, Verdict, verify};
use crate::commands::upkeep::open_lake;
use crate::config::Config;
use crate::verifications::Repaired;

/// Which tables are verified, and how.
#[derive(Clone, Debug)]
pub struct TablesWanted {
    /// Their names; all of the pipeline if none are named.
    pub tables: Vec<TableName>,
    /// Whether what differs is repaired.
    pub repairs: bool,
    /// How their rows are looked at.
    pub pace: Pace,
}

/// Verifies tables, and hands each report to `tell`, with how the table is repaired. Returns whether all are equal, and
/// what the audit trail is told of each.
pub async fn verify_tables(
    config: &Config,
    wanted: &TablesWanted,
    mut tell: impl FnMut(&Report, Option<Repaired>) -> anyhow::Result<()>,
) -> anyhow::Result<(bool, Value)> {
    let (lake, names) = (open_lake(config)?, &wanted.tables);
    let mut tables = SourceRows::tables(config).await?;
    let mut notes = Notes::new(config, tables.iter().map(|table| table.name().clone()).collect());
    if let Some(unknown) = names.iter().find(|name| !tables.iter().any(|table| table.name() == *name)) {
        anyhow::bail!("there is no table '{unknown}' in this pipeline. To do: see `sooner status`");
    }
    tables.retain(|table| names.is_empty() || names.contains(table.name()));
    anyhow::ensure!(
        !tables.is_empty(),
        "the pipeline has no table, so nothing is verified. To do: see `sooner check` for what include and exclude leave"
    );
    let (mut all_equal, mut verified) = (true, Vec::new());
    for table in tables {
        let report = match &table.blocked {
            Some(error) => Report::unverified(table.name(), &format!("the pipeline does not follow it: {error}")),
            None => verify(config, &lake, table, wanted.pace).await?,
        };
        let repair = report.repair.as_ref().filter(|_| wanted.repairs);
        let repaired = repair.map(|repair| ask(config, &report.table, repair)).transpose()?;
        notes.take(&report, repaired);
        all_equal &= report.verdict == Verdict::Equal;
        verified.push(of_audit(&report, repaired));
        tell(&report, repaired)?;
    }
    notes.store();
    Ok((all_equal, json!({"all_equal": all_equal, "tables": verified})))
}

/// A report as JSON, with how its table is repaired.
pub fn with_repair(report: &Report, repaired: Option<Repaired>) -> serde_json::Result<Value> {
    let mut told = serde_json::to_value(report)?;
    if let Some(repaired) = repaired {
        told["repair"] = json!(repaired);
    }
    Ok(told)
}

/// What the audit trail is told of a table: no keys, which are values of rows.
pub(super) fn of_audit(report: &Report, repaired: Option<Repaired>) -> Value {
    let Report { table, rows, lsn, verdict, .. } = report;
    let (verdict, why, differences) = match verdict {
        Verdict::Equal => ("equal", None, 0),
        Verdict::Unverified { why } => ("unverified", Some(why), 0),
        Verdict::Different { count, .. } => ("different", None, *count),
    };
    json!({
        "table": table.to_string(), "verdict": verdict, "lsn": lsn, "rows": rows, "differences": differences,
        "why": why, "repair": repaired,
    })
}
