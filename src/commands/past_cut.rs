//! Cuts at positions that have passed. The tables' logs have them, so no pipeline has to make them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sooner_api::{Clock, TableState};
use sooner_delta::DeltaLake;
use sooner_delta::cuts::Cut;
use sooner_delta::past_cuts::PastCuts;
use sooner_schemas::TableName;

use super::wait::{Standing, reached};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::past_cut_request::{Past, PastCutRequest};
use crate::status::load;

/// How long the lake may take to get to where the source was, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a cut; an error if a table has no version that is exactly there, nor a history to make one of. What is
/// committed at the source and not in the lake yet is waited for as long as time is `left`.
pub async fn make(
    config: &Config,
    lake: &DeltaLake,
    request: &PastCutRequest,
    left: impl Fn() -> Option<Duration>,
) -> anyhow::Result<Cut> {
    let (known, asked) = (known(config)?, Instant::now());
    let left = || left().or(Some(PATIENCE.saturating_sub(asked.elapsed())));
    let tables = match request.tables.is_empty() {
        false => request.tables.clone(),
        true if !known.is_empty() => known.iter().cloned().collect(),
        true => lake.tables().await?,
    };
    let lsn = match request.at {
        Past::Lsn(lsn) => lsn,
        Past::Micros(micros) => PastCuts::of(lake).position_at(&tables, micros).await?.ok_or_else(|| {
            anyhow::anyhow!(
                "no table's log or history knows a position at or before that moment. To do: choose a later one; \
                 log_retention of [lake] says how long versions are known, and histories begin with their first copy"
            )
        })?,
    };
    let mut complete = Vec::new();
    for table in tables {
        // What another process writes is complete as far as its log says.
        let is_complete = known.contains(&table) && reached(config, &table, lsn, &left).await? == Standing::Complete;
        complete.push((table, is_complete));
    }
    let past = PastCuts::of(lake).past_cut(lsn, &complete).await?;
    let cut = Cut {
        name: request.name.clone(),
        lsn,
        commit_micros: past.commit_micros,
        made_micros: SystemClock.now_micros(),
        until_millis: request.until_millis,
        tables: Default::default(),
    };
    let cut = PastCuts::of(lake).make_past_cut(cut, &past).await?;
    if let Err(error) = PastCuts::of(lake).check_held(&cut).await {
        lake.drop_cut(&cut.name).await?;
        return Err(error.into());
    }
    Ok(cut)
}

/// Tables that the process of this state folder writes.
fn known(config: &Config) -> anyhow::Result<BTreeSet<TableName>> {
    let tables = load(&config.state_dir)?.map(|status| status.tables).unwrap_or_default();
    let takes_part = tables.into_iter().filter(|(_, table)| !matches!(table.state, TableState::Gone));
    Ok(takes_part.map(|(name, _)| name).collect())
}
