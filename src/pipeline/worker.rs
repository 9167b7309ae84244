//! One table's part of the sink: stages its events, and commits them in time.
//!
//! A commit happens only between transactions, when the oldest staged event is about to become older than the
//! freshness allows. What is committed of a copy is durable, but becomes visible only when the copy is complete. Memory
//! goes earlier: into sealed files, whenever it is short.

use std::sync::Arc;
use std::time::Duration;

use super::messages::{CommitReport, CutVersions, TableCommand, TableReport};
use sooner_api::{
    Class, Code, Error, Fact, LakeTable, MemoryBudget, Result, Rows, Staged, Step, TableState, Telemetry,
};
use sooner_schemas::event::Watermark;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

/// How long a table does nothing for itself after the lake could not be reached.
const MAINTENANCE_PAUSE: Duration = Duration::from_secs(60);

/// A worker's settings.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// How long an event may wait before it is visible.
    pub freshness: Duration,
    /// How long copied rows may wait before they are durable.
    pub copy_freshness: Duration,
    /// Bytes of events that a table may hold before they are sealed.
    pub seal_bytes: usize,
    /// Commits of all tables at the same time.
    pub commits: Arc<Semaphore>,
    /// How often it is looked what others have done to a table that nothing happens to.
    pub inspection_interval: Duration,
}

/// A table with its staged events.
pub struct TableWorker<L, T> {
    table: L,
    number: usize,
    settings: WorkerSettings,
    reports: UnboundedSender<(usize, TableReport)>,
    budget: MemoryBudget,
    telemetry: T,
    /// When what is staged should be committed.
    due: Option<Instant>,
    /// The watermark, while the staged events end between transactions.
    complete: Option<Watermark>,
    staged_events: u64,
    /// Steps with events that it was told.
    steps: u64,
    last_commit: Duration,
    /// The table is complete up to here.
    visible: Watermark,
    /// So it was when its log was last looked at.
    inspected: Watermark,
    last_look: Instant,
    /// Until then the table does nothing for itself: the lake could not be reached.
    rests_until: Instant,
    is_copying: bool,
    is_stopped: bool,
}

impl<L: LakeTable, T: Telemetry> TableWorker<L, T> {
    /// A worker for a table in this state, known by a number to whom it reports.
    pub fn new(
        mut table: L,
        state: &TableState,
        number: usize,
        settings: WorkerSettings,
        reports: UnboundedSender<(usize, TableReport)>,
        budget: MemoryBudget,
        telemetry: T,
    ) -> TableWorker<L, T> {
        let is_copying = *state == TableState::Copying;
        if is_copying {
            table.expect_copy();
        }
        TableWorker {
            table,
            number,
            settings,
            reports,
            budget,
            telemetry,
            due: None,
            complete: None,
            staged_events: 0,
            steps: 0,
            last_commit: Duration::ZERO,
            visible: Watermark::default(),
            inspected: Watermark::default(),
            last_look: Instant::now(),
            rests_until: Instant::now(),
            is_copying,
            is_stopped: !state.takes_events(),
        }
    }

    /// Works until there are no more commands. What takes much memory while it goes on takes none in between: most of
    /// many tables are idle. Then commits what is complete, and hands the table back. `None` after an
    /// error: what the lake then holds has to be read again.
    pub async fn run(mut self: Box<Self>, mut commands: UnboundedReceiver<TableCommand>) -> Option<L> {
        loop {
            let due = self.due.filter(|_| self.complete.is_some());
            let may_maintain = self.may_maintain();
            let is_idle = self.due.is_none() && !self.is_copying && !self.is_stopped;
            let done = tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Box::pin(self.commit()).await,
                command = commands.recv() => match command {
                    Some(command) => Box::pin(self.obey(command)).await,
                    None => break,
                },
                () = sleep_until(self.last_look + self.settings.inspection_interval), if is_idle => {
                    Box::pin(self.inspect()).await
                }
                () = self.budget.pressed(), if self.table.staged_bytes() > 0 => {
                    Box::pin(self.table.seal()).await
                }
                () = self.table.maintenance_due(), if may_maintain => Box::pin(self.maintain()).await,
            };
            if let Err(error) = done
                && !self.handle(error)
            {
                return None;
            }
        }
        if let Err(error) = Box::pin(self.finish()).await
            && !self.handle(error)
        {
            return None;
        }
        self.table.discard();
        Some(self.table)
    }

    /// Commits what is complete, and looks at the log where that is news.
    async fn finish(&mut self) -> Result<()> {
        self.commit().await?;
        if self.visible != self.inspected { self.inspect().await } else { Ok(()) }
    }

    async fn obey(&mut self, command: TableCommand) -> Result<()> {
        match command {
            TableCommand::Step(step) => self.take(*step).await?,
            TableCommand::Complete(watermark) if !self.is_copying || self.table.keeps_copies() => {
                self.complete = self.due.map(|_| watermark);
            }
            TableCommand::Complete(_) => {}
            TableCommand::CopyComplete(watermark) => self.complete_copy(watermark).await?,
            TableCommand::Inspect => self.inspect().await?,
            TableCommand::Cut(watermark) => self.cut(watermark).await?,
            TableCommand::Stop(error) if error.code == Code::CopyNeeded => self.stop(TableReport::CopyNeeded(*error)),
            TableCommand::Stop(error) => self.stop(TableReport::Stopped(*error)),
        }
        Ok(())
    }

    async fn take(&mut self, step: Step) -> Result<()> {
        self.steps += 1;
        match step {
            Step::CopyStart(start) => {
                (self.is_stopped, self.is_copying) = (false, true);
                self.report(TableReport::CopyBegun);
                let staged = self.table.begin_copy(start).await?;
                self.note_staged(0, staged);
            }
            // A stopped table drops its events, and with them the memory that they hold.
            _ if self.is_stopped => {}
            Step::Truncate(truncate) => {
                let staged = self.table.truncate(truncate).await?;
                self.note_staged(1, staged);
            }
            Step::Rows(rows) => self.stage(rows).await?,
            _ => {}
        }
        Ok(())
    }

    async fn stage(&mut self, rows: Rows) -> Result<()> {
        let events = rows.events.events.len() as u64;
        let staged = self.table.stage(rows).await?;
        self.note_staged(events, staged);
        if self.table.staged_bytes() >= self.settings.seal_bytes {
            self.table.seal().await?;
        }
        Ok(())
    }

    fn note_staged(&mut self, events: u64, staged: Staged) {
        if let Staged::NeedsCopy(why) = staged {
            return self.stop(TableReport::CopyNeeded(why));
        }
        self.staged_events += events;
        self.complete = None;
        if self.due.is_none() {
            let WorkerSettings { freshness, copy_freshness, .. } = self.settings;
            let freshness = if self.is_copying { copy_freshness } else { freshness };
            // A commit takes about as long as the last one did; the event should be visible in time, not on its way.
            let wait = freshness.saturating_sub(self.last_commit).max(freshness / 4);
            self.due = Some(Instant::now() + wait);
        }
    }

    /// Looks what others have done to the table. While the lake cannot be reached, nothing is known.
    async fn inspect(&mut self) -> Result<()> {
        self.last_look = Instant::now();
        if self.is_stopped {
            return Ok(());
        }
        match self.table.inspect().await {
            Ok(()) => {
                self.inspected = self.visible;
                self.report(TableReport::Inspected(self.visible));
            }
            Err(error) if error.code == Code::LakeUnreachable => {
                tracing::debug!(table = %self.table.name(), %error, "cannot look at the table's log");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the table may do something for itself.
    fn may_maintain(&self) -> bool {
        !self.is_copying && !self.is_stopped && Instant::now() >= self.rests_until
    }

    /// Lets the table do what it does for itself, as one of the commits at the same time. While the lake cannot be
    /// reached, that can wait.
    async fn maintain(&mut self) -> Result<()> {
        let _permit = self.settings.commits.clone().acquire_owned().await.ok();
        let maintained = self.table.maintain().await;
        self.record_size();
        match maintained {
            Err(error) if error.code == Code::LakeUnreachable => {
                tracing::debug!(table = %self.table.name(), %error, "cannot maintain the table");
                self.rests_until = Instant::now() + MAINTENANCE_PAUSE;
                Ok(())
            }
            maintained => maintained,
        }
    }

    /// All of a copy is here: it becomes visible at once.
    async fn complete_copy(&mut self, watermark: Watermark) -> Result<()> {
        if self.is_stopped {
            return Ok(());
        }
        if !self.is_copying {
            self.complete = self.due.map(|_| watermark);
            return Ok(());
        }
        self.complete = Some(watermark);
        self.commit_as(true).await?;
        self.is_copying = false;
        self.report(TableReport::CopyEnded(watermark));
        Ok(())
    }

    /// Commits what is there, which ends with the watermark, and reports the version.
    async fn cut(&mut self, watermark: Watermark) -> Result<()> {
        if self.is_stopped || self.is_copying {
            self.report(TableReport::Cut(watermark, None));
            return Ok(());
        }
        self.complete = self.due.map(|_| watermark);
        self.commit().await?;
        let versions = (self.table.mirror_version(), self.table.history_version());
        if versions == (None, None) {
            self.report(TableReport::Cut(watermark, None));
            return Ok(());
        }
        let found = CutVersions { versions, is_whole: self.table.knows_watermark() };
        self.report(TableReport::Cut(watermark, Some(found)));
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        self.commit_as(false).await
    }

    async fn commit_as(&mut self, ends_copy: bool) -> Result<()> {
        let Some(watermark) = self.complete else { return Ok(()) };
        // The semaphore is never closed.
        let _permit = self.settings.commits.clone().acquire_owned().await.ok();
        let started = Instant::now();
        let committed = match ends_copy {
            true => self.table.end_copy(watermark).await?,
            false => self.table.commit(watermark).await?,
        };
        self.last_commit = started.elapsed();
        self.due = None;
        self.complete = None;
        self.visible = watermark;
        let events = std::mem::take(&mut self.staged_events);
        let is_of_stream = events > 0 && !self.is_copying && watermark.commit_micros > 0;
        self.telemetry.record(Fact::Committed {
            table: self.table.name(),
            committed: &committed,
            events,
            took: self.last_commit,
            commit_micros: is_of_stream.then_some(watermark.commit_micros),
        });
        self.record_size();
        self.report(TableReport::Committed(CommitReport {
            committed,
            positions: self.table.positions().cloned(),
            watermark,
            steps: self.steps,
            copy: self.table.unfinished_copy(),
        }));
        Ok(())
    }

    fn record_size(&self) {
        if let Some(size) = self.table.size() {
            self.telemetry.record(Fact::Size(self.table.name(), size));
        }
    }

    /// Stops the table, or reports that the pipeline cannot go on.
    fn handle(&mut self, error: Error) -> bool {
        if error.code == Code::CopyNeeded {
            self.stop(TableReport::CopyNeeded(error));
            return true;
        }
        if error.class == Class::Operator {
            self.stop(TableReport::Stopped(error));
            return true;
        }
        self.report(TableReport::Failed(error));
        false
    }

    fn stop(&mut self, report: TableReport) {
        if std::mem::replace(&mut self.is_stopped, true) {
            return;
        }
        self.table.discard();
        (self.due, self.complete) = (None, None);
        self.staged_events = 0;
        self.report(report);
    }

    fn report(&self, report: TableReport) {
        // Nobody listens any more only when the pipeline ends.
        let _ = self.reports.send((self.number, report));
    }
}
