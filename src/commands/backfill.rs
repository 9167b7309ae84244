//! `sooner backfill`: runs of a report for times that have passed, from the histories of its tables.

use serde_json::json;
use sooner_api::Clock;

use super::print;
use super::report::{named, told};
use crate::audit::trail::{Act, recorded};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::reports::backfill::Backfill;
use crate::reports::making::Maker;
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

/// Makes each run that was due in that time and is not complete; false if one could not be made.
pub async fn run(config: &Config, asked: Asked) -> anyhow::Result<bool> {
    let span = json!({"report": asked.report, "from": asked.from, "to": asked.to});
    let filling = fill(config, asked);
    let filled = async { filling.await.map(|(made, failed)| (failed == 0, json!({"made": made, "failed": failed}))) };
    recorded(config, Act::new("backfill", span), filled).await
}

/// Returns how many runs were made, and how many could not be made.
async fn fill(config: &Config, asked: Asked) -> anyhow::Result<(usize, usize)> {
    let settings = named(config, &asked.report)?;
    let moment = |key: &str, text: &str, is_end| {
        parse_moment(text, settings.schedule.zone, is_end).map_err(|why| anyhow::anyhow!("--{key}: {why}"))
    };
    let (from, to) = (moment("from", &asked.from, false)?, moment("to", &asked.to, true)?);
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
    let (made, missing): (Vec<_>, Vec<_>) =
        dues.into_iter().partition(|due| runs.get(&due.name()).is_some_and(|files| files.made));
    let turn = Turn::wait(&config.state_dir).await?;
    let mut failed = 0;
    let backfill = Backfill { maker: &maker, settings, store: &store };
    let each = |due, outcome| match outcome {
        Ok(manifest) => print(&line_of(told(&manifest, &store, asked.json), asked.json)),
        Err(error) => {
            failed += 1;
            print(&match asked.json {
                true => format!("{}\n", json!({ "due": Due::to_string(&due), "error": error })),
                false => format!("{due}: FAILED: {error}\n"),
            });
        }
    };
    backfill.run(&missing, &turn, each).await?;
    let count = missing.len() - failed;
    if !asked.json {
        print(&format!("{count} runs were made, {} were complete already, {failed} could not be made\n", made.len()));
    }
    Ok((count, failed))
}

/// A manifest as one line, where a program reads it.
fn line_of(told: anyhow::Result<String>, json: bool) -> String {
    let text = told.unwrap_or_else(|error| format!("{error:#}\n"));
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) if json => format!("{value}\n"),
        _ => text,
    }
}
