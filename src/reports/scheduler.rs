//! The scheduler of a running pipeline: on a thread of its own, it makes the runs that are due, one at a time, those
//! that were due first before the others. A run that fails is tried again, then noted as failed; the pipeline goes on
//! meanwhile, whatever becomes of reports.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use sooner_api::{Class, Clock, Code, Fact, Result, Side, Telemetry};

use super::backfill::Backfill;
use super::making::{Maker, Run, cut_name, unusable};
use super::manifest::Manifest;
use super::runs::{Progress, RunStore};
use super::turn::Turn;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::journal::{Entry, Kind};
use crate::report_settings::{CUT_PREFIX, Format, ReportSettings};
use crate::schedule::{CatchUp, Due};
use crate::side_thread::SideThread;
use crate::status::StatusBoard;

/// How often a run is tried before it counts as failed.
const TRIES: u32 = 3;
/// Pauses before it is tried again; the last one also where the lake or the pipeline have to come back first.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];
/// A run that is made later than this after it was due is late, also in a process that ran all the while.
const LATE_MICROS: i64 = 300_000_000;
/// The longest time for which nothing is looked at: the clock may be set.
const LONGEST_REST: Duration = Duration::from_secs(5);
/// While the pipeline does not move, or somebody else makes a run.
const SHORT_REST: Duration = Duration::from_millis(500);

/// Makes the reports of a configuration beside the pipeline that runs in this process; none if there are none.
pub fn start(config: &Config, board: &StatusBoard) -> Result<Option<SideThread>> {
    if config.reports.is_empty() {
        return Ok(None);
    }
    let mut scheduler = Scheduler::new(config, board)?;
    SideThread::start("reports", move || async move { scheduler.run().await }).map(Some)
}

/// A report, as far as it is known.
#[derive(Debug)]
struct Scheduled {
    settings: ReportSettings,
    store: RunStore,
    /// Where it stands; none before the store was asked.
    progress: Option<Progress>,
    trouble: Option<Trouble>,
}

/// A run that could not be made yet.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    tries: u32,
    not_before: Instant,
}

#[derive(Debug)]
struct Scheduler {
    maker: Maker,
    board: StatusBoard,
    reports: Vec<Scheduled>,
    /// Runs that were due before this were missed.
    started: Due,
    /// Whether cuts of runs that are complete were looked for.
    has_swept: bool,
}

impl Scheduler {
    fn new(config: &Config, board: &StatusBoard) -> Result<Scheduler> {
        let maker = Maker::new(config)?;
        let mut reports = Vec::new();
        for settings in &config.reports {
            let store = maker.runs(settings)?;
            reports.push(Scheduled { settings: settings.clone(), store, progress: None, trouble: None });
        }
        Ok(Scheduler { maker, board: board.clone(), reports, started: now(), has_swept: false })
    }

    async fn run(&mut self) {
        loop {
            let rest = match self.step().await {
                Ok(rest) => rest,
                Err(error) => {
                    tracing::warn!(code = %error.code, %error, "reports wait");
                    PAUSES[1]
                }
            };
            tokio::time::sleep(rest).await;
        }
    }

    /// Makes the run that is due first, if one is; returns for how long nothing has to be done.
    async fn step(&mut self) -> Result<Duration> {
        let now = now();
        for report in &mut self.reports {
            report.learn(now, &self.board).await;
        }
        let wanted = |report: &Scheduled| report.wanted(now);
        let first = (0..self.reports.len()).filter_map(|at| Some((wanted(&self.reports[at])?, at))).min();
        let Some((due, at)) = first else { return Ok(self.rest(now)) };
        if !moves(&self.board) {
            return Ok(SHORT_REST);
        }
        let turn = Turn::take(&self.maker.state_dir).map_err(|error| unusable(&self.maker.state_dir, error))?;
        let Some(turn) = turn else { return Ok(SHORT_REST) };
        // Not before it is known of all what they still need.
        if !self.has_swept && self.reports.iter().all(|report| report.progress.is_some()) {
            self.sweep().await?;
            self.has_swept = true;
        }
        let is_late = due < self.started || SystemClock.now_micros() - due.micros() > LATE_MICROS;
        self.reports[at].make((due, is_late), &self.maker, &turn, &self.board).await?;
        // Whoever waits for the turn gets it, also where runs wait here.
        Ok(SHORT_REST)
    }

    /// Until the next run is due, at most.
    fn rest(&self, now: Due) -> Duration {
        let next = self.reports.iter().filter_map(|report| report.settings.schedule.next_after(now)).min();
        let until = next.map_or(i64::MAX, |next| next.micros() - SystemClock.now_micros());
        Duration::from_micros(until.max(10_000).unsigned_abs()).min(LONGEST_REST)
    }

    /// Drops cuts that were made for runs that are complete or given up: their process died before it did so. Whoever
    /// makes a run has the turn, so none of them is in use.
    async fn sweep(&self) -> Result<()> {
        let unfinished = |report: &Scheduled| {
            let progress = report.progress.as_ref();
            let dues = progress.into_iter().flat_map(|progress| progress.unfinished.iter());
            dues.map(|due| cut_name(&report.settings, &due.name())).collect::<Vec<_>>()
        };
        let needed: BTreeSet<_> = self.reports.iter().flat_map(unfinished).collect();
        // Also of reports that are configured no more.
        let of_report = |cut: &str| {
            let run = cut.strip_prefix(CUT_PREFIX).and_then(|cut| Some(cut.rsplit_once('.')?.1));
            let due = run.map(|run| ["asked-", "backfill-"].iter().fold(run, |run, word| run.trim_start_matches(word)));
            due.is_some_and(|due| Due::of_name(due).is_some())
        };
        for cut in self.maker.lake.cuts().await? {
            if of_report(&cut.name) && cut.until_millis.is_none() && !needed.contains(&cut.name) {
                tracing::info!(cut = cut.name, "dropping the cut of a report that needs it no more");
                match self.maker.lake.drop_cut(&cut.name).await {
                    Err(error) if error.code == Code::Held => tracing::info!(cut = cut.name, %error, "the cut stays"),
                    dropped => drop(dropped?),
                }
            }
        }
        Ok(())
    }
}

impl Scheduled {
    /// Looks where it stands, once. A report whose results cannot be read does not keep the others from being made.
    async fn learn(&mut self, now: Due, board: &StatusBoard) {
        if self.progress.is_some() || self.rests() {
            return;
        }
        match standing(self, now, board).await {
            Ok(progress) => (self.progress, self.trouble) = (Some(progress), None),
            Err(error) => {
                tracing::warn!(report = self.settings.name, code = %error.code, %error, "a report waits");
                self.trouble = Some(Trouble { tries: 0, not_before: Instant::now() + PAUSES[1] });
            }
        }
    }

    fn rests(&self) -> bool {
        self.trouble.is_some_and(|trouble| trouble.not_before > Instant::now())
    }

    /// The run that is to be made now.
    fn wanted(&self, now: Due) -> Option<Due> {
        let progress = self.progress.as_ref()?;
        if self.rests() {
            return None;
        }
        let new = || self.settings.schedule.wanted(progress.handled, now, self.settings.catch_up);
        progress.unfinished.first().copied().or_else(new)
    }

    /// Makes a run, and notes what became of it. An error if that cannot be noted.
    async fn make(
        &mut self,
        (due, is_late): (Due, bool),
        maker: &Maker,
        turn: &Turn,
        board: &StatusBoard,
    ) -> Result<()> {
        let Some(progress) = &mut self.progress else { return Ok(()) };
        if progress.unfinished.insert(due) {
            if let Err(error) = self.store.begin(due, now()).await {
                progress.unfinished.remove(&due);
                return Err(error);
            }
            progress.handled = progress.handled.max(due);
        }
        let (name, report) = (due.name(), self.settings.name.clone());
        let run = Run { settings: &self.settings, store: &self.store, name: &name, due };
        match made(run, is_late, maker, turn).await {
            Ok(manifest) => self.made(due, &manifest, board),
            Err(error) => {
                let tries = self.trouble.map_or(0, |trouble| trouble.tries);
                let (tries, pause) = match error.class {
                    Class::Retry => (tries, PAUSES[1]),
                    _ => (tries + 1, PAUSES[(tries as usize).min(PAUSES.len() - 1)]),
                };
                tracing::warn!(report, due = %due, tries, code = %error.code, %error, "a report was not made");
                if tries < TRIES {
                    self.trouble = Some(Trouble { tries, not_before: Instant::now() + pause });
                } else {
                    self.store.fail(&name, &error).await?;
                    maker.release(&cut_name(&self.settings, &name), &self.settings).await;
                    board.record(Fact::ReportFailed(&report, &error));
                    self.settled(due);
                }
            }
        }
        Ok(())
    }

    fn made(&mut self, due: Due, manifest: &Manifest, board: &StatusBoard) {
        let (report, late) = (&manifest.report, manifest.late_seconds);
        tracing::info!(report, due = %due, rows = manifest.rows, late_seconds = late, "made a report");
        let now = SystemClock.now_micros();
        board.record(Fact::ReportMade(report, now));
        let entry =
            Entry::new(now, Kind::ReportMade, format!("the report '{report}' was made, its run {}", manifest.run));
        let details = json!({
            "report": report, "run": manifest.run, "late_seconds": late, "rows": manifest.rows, "files": manifest.files,
        });
        board.note(Entry { lsn: Some(manifest.cut.lsn), details: Some(details), ..entry });
        self.settled(due);
    }

    fn settled(&mut self, due: Due) {
        self.trouble = None;
        if let Some(progress) = &mut self.progress {
            progress.unfinished.remove(&due);
        }
    }
}

/// Makes a run: one that is late of histories, as of when it was due, where they tell that for certain; any other of a
/// cut that is made now, or was made for it by an attempt before.
async fn made(run: Run<'_>, is_late: bool, maker: &Maker, turn: &Turn) -> Result<Manifest> {
    let is_made_of_rows = run.settings.format != Format::Views;
    if is_late && is_made_of_rows && maker.lake.cut(&cut_name(run.settings, run.name)).await?.is_none() {
        let (mut outcome, settings) = (None, run.settings);
        let filling = Backfill { maker, settings, store: run.store, takes_unproven: false };
        let filled = filling.run(&[run.due], turn, |_, made| outcome = Some(made)).await;
        match filled.and(outcome.transpose()) {
            Ok(Some(manifest)) => return Ok(manifest),
            Ok(None) => {}
            Err(error) => {
                let (report, due) = (&settings.name, run.due);
                tracing::info!(report, %due, %error, "a late report has what is there now: histories do not tell more");
            }
        }
    }
    maker.make(run, turn).await
}

/// Where a report stands when the process starts, and when it was last made.
async fn standing(report: &Scheduled, now: Due, board: &StatusBoard) -> Result<Progress> {
    let mut progress = report.store.progress(now).await?;
    if report.settings.catch_up == CatchUp::Never {
        progress.handled = progress.handled.max(now);
    }
    let runs = report.store.list().await?;
    let last = runs.iter().rev().find(|(run, files)| files.made && Due::of_name(run).is_some());
    if let Some((run, _)) = last
        && let Some(manifest) = report.store.manifest(run).await?
        && let Ok(finished) = humantime::parse_rfc3339(&manifest.finished)
    {
        let since = finished.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let micros = i64::try_from(since.as_micros()).unwrap_or_default();
        board.record(Fact::ReportMade(&report.settings.name, micros));
    }
    Ok(progress)
}

fn now() -> Due {
    Due::of_micros(SystemClock.now_micros())
}

/// Whether the pipeline can make cuts: otherwise another process does, or nothing moves.
pub fn moves(board: &StatusBoard) -> bool {
    let status = board.read();
    let rests = status.standby || status.trouble.is_some() || status.paused.contains(&Side::Sink);
    !rests && !status.tables.is_empty()
}
