//! Verifications of a running pipeline: on a thread of its own, when a schedule says so, and when the listener is
//! asked. What was due while it did not run is made up for once. The pipeline goes on meanwhile, whatever becomes of
//! them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sooner_api::{Clock, Result};

use super::Verdict;
use super::pace::Pace;
use super::tables::{TablesWanted, verify_tables};
use crate::audit::trail::{Act, recorded};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::reports::scheduler::moves;
use crate::schedule::{CatchUp, Due};
use crate::side_thread::SideThread;
use crate::status::StatusBoard;
use crate::verify_request::{VerifyRequest, VerifyRequests};
use crate::verify_settings::VerifySettings;

/// How often a run is tried that comes to no end, such as while the database is away.
const TRIES: u32 = 3;
/// Pause before it is tried again.
const PAUSE: Duration = Duration::from_secs(15);
/// The longest time for which nothing is looked at: the clock may be set.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// While the pipeline does not move.
const SHORT_REST: Duration = Duration::from_millis(500);

/// Where rows differ, and nobody copies them again.
const NO_REPAIR: &str = "rows differ, and are not repaired: they are copied where the source's side runs. To do: \
                         `sooner verify --repair` there";

/// How long the lake may take to get to where the source was looked at, unless that is configured.
const PATIENCE: Duration = Duration::from_secs(120);

/// Verifies tables beside the pipeline that runs in this process, as its configuration says and as the listener is
/// asked; none if it does neither. `can_repair` where the source's side runs here, which copies rows again.
pub fn start(config: &Config, board: &StatusBoard, can_repair: bool) -> Result<Option<SideThread>> {
    let can_be_asked = config.source.is_some() && config.http.as_ref().is_some_and(|http| http.allow_control);
    if config.verify.is_none() && !can_be_asked {
        return Ok(None);
    }
    let requests = VerifyRequests::new(&config.state_dir);
    let (config, settings, board) = (config.clone(), config.verify.clone(), board.clone());
    let scheduled = Scheduled { config, settings, requests, board, can_repair };
    SideThread::start("verify", move || async move { scheduled.run().await }).map(Some)
}

struct Scheduled {
    config: Config,
    settings: Option<VerifySettings>,
    requests: VerifyRequests,
    board: StatusBoard,
    can_repair: bool,
}

impl Scheduled {
    async fn run(&self) {
        let mut tries = 0;
        loop {
            self.see_to_request().await;
            match self.step().await {
                Ok(rest) => {
                    tries = 0;
                    tokio::time::sleep(rest).await;
                }
                Err(error) => {
                    tries += 1;
                    tracing::warn!(tries, error = format!("{error:#}"), "tables were not verified");
                    if tries >= TRIES {
                        tries = 0;
                        self.note(now());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Makes what the listener was asked for.
    async fn see_to_request(&self) {
        let Some(request) = self.requests.pending().filter(|_| moves(&self.board)) else { return };
        let VerifyRequest { tables, repair } = request;
        let asked = json!({"tables": tables, "repair": repair});
        let pace = Pace { bytes_per_second: None, patience: PATIENCE };
        let pace = self.settings.as_ref().map_or(pace, pace_of);
        let wanted = TablesWanted { tables, repairs: repair && self.can_repair, pace };
        let mut tries = 1;
        let failure = loop {
            match self.verify(&wanted, Act::new("verification", asked.clone()).through_http()).await {
                Ok(true) if repair && !self.can_repair => break Some(NO_REPAIR.to_owned()),
                Ok(_) => break None,
                Err(error) if tries >= TRIES => break Some(format!("{error:#}")),
                Err(error) => tracing::warn!(tries, error = format!("{error:#}"), "tables were not verified"),
            }
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        };
        if let Some(why) = &failure {
            tracing::error!(why, "tables that the listener was asked for were not verified");
        }
        if let Err(error) = self.requests.answer(failure.as_deref()) {
            tracing::warn!(%error, "cannot note that tables were verified, which are verified again");
        }
    }

    /// Makes the run that is due, if one is; returns for how long nothing has to be done.
    async fn step(&self) -> anyhow::Result<Duration> {
        let Some(settings) = &self.settings else { return Ok(SHORT_REST) };
        let (now, schedule) = (now(), &settings.schedule);
        let Some(handled) = handled(&self.config.state_dir) else {
            // What was due before anybody asked for it is not missed.
            self.note(now);
            return Ok(SHORT_REST);
        };
        let Some(due) = schedule.wanted(handled, now, CatchUp::Last) else {
            let until = schedule.next_after(now).map_or(i64::MAX, |next| next.micros() - SystemClock.now_micros());
            return Ok(Duration::from_micros(until.max(10_000).unsigned_abs()).min(LONGEST_REST));
        };
        if !moves(&self.board) {
            return Ok(SHORT_REST);
        }
        let VerifySettings { tables, repairs, .. } = settings;
        let repairs_here = *repairs && self.can_repair;
        let wanted = TablesWanted { tables: tables.clone(), repairs: repairs_here, pace: pace_of(settings) };
        let asked = json!({"tables": tables, "repair": repairs, "scheduled": due.to_string()});
        let differs = self.verify(&wanted, Act::new("verification", asked)).await?;
        if differs && *repairs && !self.can_repair {
            tracing::warn!("{NO_REPAIR}");
        }
        self.note(due);
        Ok(SHORT_REST)
    }

    /// Whether something differs.
    async fn verify(&self, wanted: &TablesWanted, act: Act) -> anyhow::Result<bool> {
        let mut differs = false;
        let tell = |report: &super::Report, repaired| {
            let (table, rows) = (&report.table, report.rows);
            match &report.verdict {
                Verdict::Equal => tracing::info!(%table, rows, "verified: equal"),
                Verdict::Different { count, .. } => {
                    differs = true;
                    tracing::warn!(%table, rows, count, ?repaired, "rows differ");
                }
                Verdict::Unverified { why } => tracing::warn!(%table, why, "not verified"),
            }
            Ok(())
        };
        recorded(&self.config, act, verify_tables(&self.config, wanted, tell)).await?;
        Ok(differs)
    }

    /// Everything that was due up to a moment is done. Where that cannot be noted, it is done again after a start.
    fn note(&self, handled: Due) {
        if let Err(error) = store(&self.config.state_dir, handled) {
            let folder = self.config.state_dir.display();
            tracing::warn!(%error, "cannot note in {folder} that tables were verified");
        }
    }
}

fn pace_of(settings: &VerifySettings) -> Pace {
    Pace { bytes_per_second: settings.bytes_per_second, patience: settings.patience }
}

/// What is known of runs, as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Handled {
    /// Everything that was due up to here is done, in seconds since 1970.
    until: i64,
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("verify_schedule.json")
}

/// Up to when everything that was due is done; none where that is not known.
fn handled(state_dir: &Path) -> Option<Due> {
    let text = std::fs::read(file(state_dir)).ok()?;
    serde_json::from_slice(&text).ok().map(|Handled { until }| Due(until))
}

fn store(state_dir: &Path, handled: Due) -> io::Result<()> {
    let beside = file(state_dir).with_extension("json.new");
    std::fs::write(&beside, serde_json::to_vec(&Handled { until: handled.0 })?)?;
    std::fs::rename(beside, file(state_dir))
}

fn now() -> Due {
    Due::of_micros(SystemClock.now_micros())
}
