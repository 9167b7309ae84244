//! `sooner backfill`: runs of a report for times that have passed, from the histories of its tables.

use serde_json::json;
use sooner_api::{Clock, Result};

use super::print;
use super::report::{named, told};
use crate::audit::trail::{Act, recorded};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::report_settings::ReportSettings;
use crate::reports::backfill::Backfill;
use crate::reports::making::Maker;
use crate::reports::manifest::Manifest;
use crate::reports::turn::Turn;
use crate::schedule::{Due, parse_moment};

/// Runs that are made by one command at most.
const RUNS_AT_MOST: usize = 10_000;

/// What is to be filled.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Name of the report. Its tables need histories.
    report: String,
    /// The first day by the report's time zone, such as 2026-01-31, or a UTC time such as 2026-01-31T22:00:00Z.
    #[arg(long)]
    from: String,
    /// The last day, or a UTC time.
    #[arg(long)]
    to: String,
    /// Print one JSON object a line: the manifest of each run, or the error.
    #[arg(long)]
    json: bool,
}

/// What became of a backfill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Filled {
    /// Runs that were made.
    pub made: usize,
    /// Runs that were complete already.
    pub complete: usize,
    /// Runs that could not be made.
    pub failed: usize,
}

/// Makes each run that was due in that time and is not complete; false if one could not be made.
pub async fn run(config: &Config, asked: Asked) -> anyhow::Result<bool> {
    let Asked { report, from, to, json } = &asked;
    let settings = named(config, report)?;
    let store = Maker::new(config)?.runs(settings)?;
    let each = |due: Due, outcome: Result<Manifest>| match outcome {
        Ok(manifest) => print(&line_of(told(&manifest, &store, *json), *json)),
        Err(error) => print(&match json {
            true => format!("{}\n", json!({ "due": due.to_string(), "error": error })),
            false => format!("{due}: FAILED: {error}\n"),
        }),
    };
    let filling = async {
        let filled = fill(config, settings, (from, to), each).await?;
        let Filled { made, complete, failed } = filled;
        if !json {
            print(&format!("{made} runs were made, {complete} were complete already, {failed} could not be made\n"));
        }
        Ok((failed == 0, json!(filled)))
    };
    recorded(config, act(report, from, to), filling).await
}

/// What the audit trail is told of who asks for a backfill.
pub fn act(report: &str, from: &str, to: &str) -> Act {
    Act::new("backfill", json!({"report": report, "from": from, "to": to}))
}

/// The moments between which a report is filled, as a person wrote them by its time zone.
pub fn span(settings: &ReportSettings, from: &str, to: &str) -> anyhow::Result<(Due, Due)> {
    let moment = |key: &str, text: &str, is_end| {
        parse_moment(text, settings.schedule.zone, is_end).map_err(|why| anyhow::anyhow!("--{key}: {why}"))
    };
    Ok((moment("from", from, false)?, moment("to", to, true)?))
}

/// Makes runs between two moments, and hands each to `each`.
pub async fn fill(
    config: &Config,
    settings: &ReportSettings,
    (from, to): (&str, &str),
    mut each: impl FnMut(Due, Result<Manifest>),
) -> anyhow::Result<Filled> {
    let (from, to) = span(settings, from, to)?;
    // What is due later is made when it is due.
    let to = to.min(Due::of_micros(SystemClock.now_micros()));
    let dues = settings.schedule.between(from, to, RUNS_AT_MOST + 1);
    anyhow::ensure!(!dues.is_empty(), "the report '{}' was never due from {from} to {to}", settings.name);
    anyhow::ensure!(
        dues.len() <= RUNS_AT_MOST,
        "the report '{}' was due more than {RUNS_AT_MOST} times. To do: fill it in several steps",
        settings.name
    );
    let maker = Maker::new(config)?;
    let store = maker.runs(settings)?;
    let runs = store.list().await?;
    let (complete, missing): (Vec<_>, Vec<_>) =
        dues.into_iter().partition(|due| runs.get(&due.name()).is_some_and(|files| files.made));
    let turn = Turn::wait(&config.state_dir).await?;
    let mut failed = 0;
    let counted = |due, outcome: Result<Manifest>| {
        failed += usize::from(outcome.is_err());
        each(due, outcome);
    };
    Backfill { maker: &maker, settings, store: &store, takes_unproven: true }.run(&missing, &turn, counted).await?;
    Ok(Filled { made: missing.len() - failed, complete: complete.len(), failed })
}

/// A manifest as one line, where a program reads it.
fn line_of(told: anyhow::Result<String>, json: bool) -> String {
    let text = told.unwrap_or_else(|error| format!("{error:#}\n"));
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) if json => format!("{value}\n"),
        _ => text,
    }
}
