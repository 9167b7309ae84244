//! Tables of a cut: the database cannot be read as it was then, so each is compared with its history as of the cut. One
//! without a history is unverified.

use std::time::Instant;

use serde_json::{Value, json};
use sooner_delta::DeltaLake;
use sooner_delta::cut_check::{CutChecked, CutDifferenceKind, check_cut};
use sooner_delta::cuts::Cut;
use sooner_schemas::TableName;

use super::tables::of_audit;
use super::{Difference, Kind, Report, Verdict};
use crate::commands::upkeep::open_lake;
use crate::config::Config;

/// Verifies tables of a cut, all if none are named, and hands each report to `tell`. Returns whether all are equal, and
/// what the audit trail is told of each.
pub async fn verify_cut(
    config: &Config,
    name: &str,
    named: &[TableName],
    mut tell: impl FnMut(&Report) -> anyhow::Result<()>,
) -> anyhow::Result<(bool, Value)> {
    let lake = open_lake(config)?;
    let cut = lake.cut(name).await?.ok_or_else(|| {
        anyhow::anyhow!(
            "there is no cut '{name}'. To do: see `sooner cut list`; the pipeline's name is part of its place"
        )
    })?;
    if let Some(other) = named.iter().find(|table| !cut.tables.contains_key(table)) {
        anyhow::bail!("the cut '{name}' does not have {other}. To do: see `sooner cut show {name}`");
    }
    let (mut all_equal, mut verified) = (true, Vec::new());
    for table in cut.tables.keys().filter(|table| named.is_empty() || named.contains(table)) {
        let report = verified_table(&lake, &cut, table).await;
        all_equal &= report.verdict == Verdict::Equal;
        verified.push(of_audit(&report, None));
        tell(&report)?;
    }
    Ok((all_equal, json!({"cut": name, "all_equal": all_equal, "tables": verified})))
}

async fn verified_table(lake: &DeltaLake, cut: &Cut, table: &TableName) -> Report {
    let started = Instant::now();
    let (rows, verdict) = match check_cut(lake, cut, table).await {
        Ok(checked) => (checked.rows, verdict_of(checked)),
        Err(error) => (0, Verdict::Unverified { why: error.to_string() }),
    };
    Report {
        table: table.clone(),
        verdict,
        rows,
        lsn: Some(cut.lsn),
        version: cut.tables.get(table).and_then(|versions| versions.mirror.as_ref()).map(|mirror| mirror.version),
        looks: 1,
        rows_read: 0,
        millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        tells_values: false,
        repair: None,
    }
}

fn verdict_of(checked: CutChecked) -> Verdict {
    let CutChecked { count, differences, unproven, .. } = checked;
    if count > 0 {
        let differences = differences.into_iter().map(|difference| Difference {
            key: difference.key,
            kind: match difference.kind {
                CutDifferenceKind::Missing => Kind::Missing,
                CutDifferenceKind::Extra => Kind::Extra,
                CutDifferenceKind::Values(columns) => Kind::Values { columns },
            },
        });
        return Verdict::Different { count, at_least: false, differences: differences.collect() };
    }
    match unproven {
        0 => Verdict::Equal,
        _ => Verdict::Unverified {
            why: format!(
                "{unproven} rows have values that no event of the history has: their keys changed while large values \
                 stayed. To do: give the table REPLICA IDENTITY FULL for cuts to come"
            ),
        },
    }
}
