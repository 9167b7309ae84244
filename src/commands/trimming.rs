//! The end of what histories keep no longer, as `keep_history` says: in a running pipeline, on a thread of its own,
//! about once a day for each table; and for `sooner vacuum`. The pipeline goes on meanwhile, whatever becomes of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sooner_api::{Class, Clock, MemoryBudget, Result, TableState};
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
use crate::status::{StatusBoard, load};

/// A history is trimmed so often, at most.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// One that keeps little is trimmed once in this part of that time.
const PARTS: u32 = 10;
/// Pause after a start, and after an error, at most.
const PAUSE: Duration = Duration::from_secs(60);
/// Tables that take part no more are looked for so often.
const LEFT_INTERVAL: Duration = Duration::from_secs(3600);
/// The longest time for which nothing is looked at.
const REST: Duration = Duration::from_millis(500);

/// Trims histories beside the pipeline that runs in this process; none if all of them are kept for ever.
pub fn start(config: &Config, board: &StatusBoard) -> Result<Option<SideThread>> {
    // What no configuration says any more is no trouble.
    for table in board.read().untrimmed.keys().filter(|table| config.tables.ways(table).keep_history.is_none()) {
        board.note_untrimmed(table, None);
    }
    if config.tables.kept_histories().next().is_none() {
        return Ok(None);
    }
    let settings = config.lake()?;
    let bytes = MemoryShares::of(config.memory_bytes).trimming_bytes;
    let limits = PartLimits { part_bytes: bytes, budget: MemoryBudget::new(bytes) };
    let lake = DeltaLake::new(LakeStore::open(&settings.url, &settings.s3)?, &config.name, limits);
    let (config, board) = (config.clone(), board.clone());
    let mut scheduled = Scheduled { config, lake, board, histories: HashMap::new(), left: (None, Vec::new()) };
    SideThread::start("histories", move || async move { scheduled.run().await }).map(Some)
}

struct Scheduled {
    config: Config,
    lake: DeltaLake,
    board: StatusBoard,
    histories: HashMap<TableName, Standing>,
    /// Tables of the lake that take part in the pipeline no more, and when that was looked for.
    left: (Option<Instant>, Vec<TableName>),
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
                for (table, keep, doubts_copies) in self.kept().await {
                    self.look(&table, keep, doubts_copies).await;
                }
            }
            tokio::time::sleep(REST).await;
        }
    }

    /// Tables whose histories are not kept for ever, with how long that is, and whether their last copy may not have
    /// ended; also those that have stopped, and that take part no more. Those that wait or are being copied are left
    /// out.
    async fn kept(&mut self) -> Vec<(TableName, Duration, bool)> {
        let status = self.board.read();
        // With Kafka, what this process does not know may be another sink's.
        let is_alone = self.config.kafka.is_none();
        if is_alone && self.left.0.is_none_or(|looked| looked.elapsed() > LEFT_INTERVAL) {
            match self.lake.tables().await {
                Ok(tables) => self.left.1 = tables,
                Err(error) => tracing::debug!(%error, "the tables of the lake cannot be listed yet"),
            }
            self.left.0 = Some(Instant::now());
        }
        let rests = |state: &TableState| !matches!(state, TableState::Waiting { .. } | TableState::Copying);
        let following = status.tables.iter().filter(|(_, known)| rests(&known.state)).map(|(table, _)| table);
        let left = self.left.1.iter().filter(|table| !status.tables.contains_key(*table));
        let doubts = |table: &TableName| doubts_copies(status.tables.get(table).map(|known| &known.state));
        let kept =
            |table: &TableName| Some((table.clone(), self.config.tables.ways(table).keep_history?, doubts(table)));
        following.chain(left).filter_map(kept).collect()
    }

    async fn look(&mut self, table: &TableName, keep: Duration, doubts_copies: bool) {
        let interval = (keep / PARTS).min(LONGEST_INTERVAL);
        let first = Standing { due: Instant::now() + interval.min(PAUSE), told: String::new() };
        let standing = self.histories.entry(table.clone()).or_insert(first);
        if standing.due > Instant::now() {
            return;
        }
        match trim_if_due(&self.lake, table, (keep, doubts_copies), interval).await {
            Ok(Next::In(rest)) => {
                self.board.note_untrimmed(table, None);
                standing.due = Instant::now() + rest;
            }
            Ok(Next::Trimmed(outcome)) => {
                self.board.note_untrimmed(table, None);
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
                let entry = Entry::of_error(SystemClock.now_micros(), Kind::HistoryKept, &error);
                if error.class != Class::Retry && self.board.note_untrimmed(table, Some(error)) {
                    self.board.note(entry.of_table(table));
                }
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
async fn trim_if_due(
    lake: &DeltaLake,
    table: &TableName,
    (keep, doubts_copies): (Duration, bool),
    interval: Duration,
) -> Result<Next> {
    let trims = Trims::of(lake);
    let Some(horizon) = trims.horizon(table).await? else { return Ok(Next::In(interval)) };
    if let Some(horizon) = horizon {
        let passed = SystemClock.now_micros() / 1000 - horizon.trimmed_millis;
        let passed = Duration::from_millis(passed.max(0).unsigned_abs());
        if passed < interval {
            return Ok(Next::In(interval - passed));
        }
    }
    let trimmed = trims.trim(table, keep, Manner { doubts_copies, ..Manner::default() }).await?;
    Ok(trimmed.map_or(Next::In(interval), Next::Trimmed))
}

/// Whether the last copy of a table in this state may not have ended. While it runs, its history has a part of it.
fn doubts_copies(state: Option<&TableState>) -> bool {
    !matches!(state, Some(TableState::Streaming { .. } | TableState::Parked { copied_lsn: Some(_), .. }))
}

/// How somebody asks for a history to be trimmed.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// It is only found out what would go.
    pub is_dry: bool,
    /// Through the listener of a running process.
    pub through_http: bool,
}

/// What is said of a history that was looked at.
#[derive(Clone, Debug)]
pub struct TrimTold {
    /// For a person: a line.
    pub line: String,
    /// For a program.
    pub figures: Value,
}

/// Removes from a table's history what it keeps no longer, as somebody asks, or only finds out what would go; none if
/// the table's history is kept for ever, or there is none.
pub async fn trim(
    config: &Config,
    lake: &DeltaLake,
    table: &TableName,
    Asked { is_dry, through_http }: Asked,
) -> anyhow::Result<Option<TrimTold>> {
    let Some(keep) = config.tables.ways(table).keep_history else { return Ok(None) };
    let status = load(&config.state_dir)?;
    let state = status.as_ref().and_then(|status| status.tables.get(table)).map(|known| &known.state);
    let doubts_copies = doubts_copies(state);
    let manner = Manner { is_dry: true, judges_all: true, doubts_copies };
    let Some(found) = Trims::of(lake).trim(table, keep, manner).await? else { return Ok(None) };
    let goes = matches!(&found, TrimOutcome::Trimmed(trimmed) if trimmed.rows > 0);
    if is_dry || (!goes && held(&found).is_none()) {
        let (would, mut figures) = (if goes { "would go: " } else { "" }, details(keep, &found));
        figures["deleted"] = json!(!is_dry);
        return Ok(Some(TrimTold { line: format!("{table}: history: {would}{}\n", text_of(&found)), figures }));
    }
    let asked = json!({"keep_history": humantime::format_duration(keep).to_string()});
    let work = async {
        let manner = Manner { is_dry: false, judges_all: true, doubts_copies };
        let outcome = Trims::of(lake).trim(table, keep, manner).await?.unwrap_or(found);
        let result = details(keep, &outcome);
        anyhow::Ok((outcome, result))
    };
    let act = Act::new("history_trimmed", asked).of_table(table);
    let outcome = recorded(config, if through_http { act.through_http() } else { act }, work).await?;
    let mut figures = details(keep, &outcome);
    figures["deleted"] = json!(true);
    Ok(Some(TrimTold { line: format!("{table}: history: {}\n", text_of(&outcome)), figures }))
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
