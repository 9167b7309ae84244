//! The end of what histories keep no longer, as `keep_history` says: in a running pipeline, on a thread of its own,
//! about once a day for each table; and for `sooner vacuum`. The pipeline goes on meanwhile, whatever becomes of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sooner_api::{Clock, MemoryBudget, Result, TableState};
use sooner_delta::trim::{Manner, TrimOutcome, Trimmed, Trims, instant};
use sooner_delta::{DeltaLake, LakeStore, PartLimits};
use sooner_schemas::TableName;

use crate::audit::trail::{Act, recorded};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::journal::{Entry, Kind};
use crate::memory::MemoryShares;
use crate::reports::scheduler::moves;
use crate::side_thread::SideThread;
use crate::status::StatusBoard;

/// A history is trimmed so often, at most.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// One that keeps little is trimmed once in this part of that time.
const PARTS: u32 = 10;
/// Pause after a start, and after an error, at most.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest time for which nothing is looked at.
const REST: Duration = Duration::from_millis(500);

/// Trims histories beside the pipeline that runs in this process; none if all of them are kept for ever.
pub fn start(config: &Config, board: &StatusBoard) -> Result<Option<SideThread>> {
    if config.tables.kept_histories().next().is_none() {
        return Ok(None);
    }
    let settings = config.lake()?;
    let bytes = MemoryShares::of(config.memory_bytes).trimming_bytes;
    let limits = PartLimits { part_bytes: bytes, budget: MemoryBudget::new(bytes) };
    let lake = DeltaLake::new(LakeStore::open(&settings.url, &settings.s3)?, &config.name, limits);
    let mut scheduled = Scheduled { config: config.clone(), lake, board: board.clone(), histories: HashMap::new() };
    SideThread::start("histories", move || async move { scheduled.run().await }).map(Some)
}

struct Scheduled {
    config: Config,
    lake: DeltaLake,
    board: StatusBoard,
    histories: HashMap<TableName, Standing>,
}

/// How a history stands.
struct Standing {
    /// When it is trimmed next.
    due: Instant,
    /// What was told of holds.
    told: String,
}

impl Scheduled {
    async fn run(&mut self) {
        loop {
            if moves(&self.board) {
                for (table, keep) in self.kept() {
                    self.look(&table, keep).await;
                }
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Tables that are followed, and whose histories are not kept for ever.
    fn kept(&self) -> Vec<(TableName, Duration)> {
        let follows = |state: &TableState| matches!(state, TableState::Streaming { .. });
        let kept = |table: &TableName| Some((table.clone(), self.config.tables.ways(table).keep_history?));
        let status = self.board.read();
        let following = status.tables.iter().filter(|(_, known)| follows(&known.state));
        following.filter_map(|(table, _)| kept(table)).collect()
    }

    async fn look(&mut self, table: &TableName, keep: Duration) {
        let interval = (keep / PARTS).min(LONGEST_INTERVAL);
        let first = Standing { due: Instant::now() + interval.min(PAUSE), told: String::new() };
        let standing = self.histories.entry(table.clone()).or_insert(first);
        if standing.due > Instant::now() {
            return;
        }
        match trim_if_due(&self.lake, table, keep, interval).await {
            Ok(Next::In(rest)) => standing.due = Instant::now() + rest,
            Ok(Next::Trimmed(outcome)) => {
                standing.due = Instant::now() + interval;
                let told = text_of(&outcome);
                let has_gone = matches!(&outcome, TrimOutcome::Trimmed(trimmed) if trimmed.rows > 0);
                let is_held = held(&outcome).is_some_and(|held| held != standing.told);
                if has_gone || is_held {
                    tracing::info!(%table, "the history was looked at for what it keeps no longer: {told}");
                    let entry = Entry::new(SystemClock.now_micros(), Kind::HistoryTrimmed, told);
                    let details = Some(details(keep, &outcome));
                    self.board.note(Entry { details, ..entry.of_table(table) });
                }
                standing.told = held(&outcome).unwrap_or_default();
            }
            Err(error) => {
                tracing::warn!(%table, code = %error.code, %error, "the history is not trimmed yet");
                standing.due = Instant::now() + interval.min(PAUSE);
            }
        }
    }
}

/// What is done with a history next.
enum Next {
    /// Nothing, for so long.
    In(Duration),
    /// It was looked at.
    Trimmed(TrimOutcome),
}

/// Trims a history unless that was done lately, also by another process.
async fn trim_if_due(lake: &DeltaLake, table: &TableName, keep: Duration, interval: Duration) -> Result<Next> {
    let trims = Trims::of(lake);
    let Some(horizon) = trims.horizon(table).await? else { return Ok(Next::In(interval)) };
    if let Some(horizon) = horizon {
        let passed = SystemClock.now_micros() / 1000 - horizon.trimmed_millis;
        let passed = Duration::from_millis(passed.max(0).unsigned_abs());
        if passed < interval {
            return Ok(Next::In(interval - passed));
        }
    }
    let trimmed = trims.trim(table, keep, Manner::default()).await?;
    Ok(trimmed.map_or(Next::In(interval), Next::Trimmed))
}

/// Removes from a table's history what it keeps no longer, as somebody asks, or only finds out what would go; what is
/// said of it, if there is anything to say.
pub async fn trim(
    config: &Config,
    lake: &DeltaLake,
    table: &TableName,
    is_dry: bool,
) -> anyhow::Result<Option<String>> {
    let Some(keep) = config.tables.ways(table).keep_history else { return Ok(None) };
    let manner = Manner { is_dry: true, judges_all: true };
    let Some(found) = Trims::of(lake).trim(table, keep, manner).await? else { return Ok(None) };
    let goes = matches!(&found, TrimOutcome::Trimmed(trimmed) if trimmed.rows > 0);
    if is_dry || (!goes && held(&found).is_none()) {
        let would = if goes { "would go: " } else { "" };
        return Ok(Some(format!("{table}: history: {would}{}\n", text_of(&found))));
    }
    let asked = json!({"keep_history": humantime::format_duration(keep).to_string()});
    let work = async {
        let manner = Manner { is_dry: false, judges_all: true };
        let outcome = Trims::of(lake).trim(table, keep, manner).await?.unwrap_or(found);
        let result = details(keep, &outcome);
        anyhow::Ok((outcome, result))
    };
    let outcome = recorded(config, Act::new("history_trimmed", asked).of_table(table), work).await?;
    Ok(Some(format!("{table}: history: {}\n", text_of(&outcome))))
}

/// What became of a history, for a person.
fn text_of(outcome: &TrimOutcome) -> String {
    let TrimOutcome::Trimmed(Trimmed { rows, files, cutoff_micros, .. }) = outcome else {
        return held(outcome).unwrap_or_default();
    };
    let kept = held(outcome).map(|held| format!("; {held}")).unwrap_or_default();
    match rows {
        0 => format!("no rows that were superseded by {}{kept}", instant(*cutoff_micros)),
        _ => format!("{rows} rows of {files} files, superseded by {}{kept}", instant(*cutoff_micros)),
    }
}

/// What holds keep; none if they keep nothing.
fn held(outcome: &TrimOutcome) -> Option<String> {
    match outcome {
        TrimOutcome::Held(holds) => Some(format!("the legal hold(s) {} keep all of it", holds.join(", "))),
        TrimOutcome::Trimmed(Trimmed { held, .. }) if held.is_empty() => None,
        TrimOutcome::Trimmed(Trimmed { held, .. }) => {
            let each = held.iter().map(|(hold, rows)| format!("the legal hold {hold} keeps {rows} rows more"));
            Some(each.collect::<Vec<_>>().join(", "))
        }
    }
}

/// What became of a history, for the audit trail.
fn details(keep: Duration, outcome: &TrimOutcome) -> Value {
    let keep = humantime::format_duration(keep).to_string();
    match outcome {
        TrimOutcome::Held(holds) => json!({"keep_history": keep, "rows": 0, "held_by": holds}),
        TrimOutcome::Trimmed(trimmed) => json!({
            "keep_history": keep,
            "cutoff": instant(trimmed.cutoff_micros),
            "rows": trimmed.rows,
            "files": trimmed.files,
            "held": trimmed.held,
            "from": trimmed.horizon.map(|horizon| horizon.instant()),
            "from_lsn": trimmed.horizon.map(|horizon| horizon.lsn),
            "version": trimmed.version,
        }),
    }
}
