//! One table's part of the sink: stages its events, and commits them in time.
//!
//! A commit happens only between transactions, when the oldest staged event is about to become older than the
//! freshness allows. Memory goes earlier: into sealed files, whenever it is short.

use std::time::Duration;

use sooner_api::{Class, Error, LakeTable, Result, Staged, TablePhase};
use sooner_schemas::event::{Op, TableEvents, Watermark};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

use crate::budget::MemoryBudget;
use crate::status::StatusBoard;

/// What a worker is told.
pub enum Order {
    /// Events, and whether they end between transactions: then every event of the table up to the watermark is in.
    Events(TableEvents, Option<Watermark>),
    /// The last events' transaction has ended.
    Complete(Watermark),
    /// The table cannot go on.
    Stop(String),
}

/// What a worker tells.
pub enum Report {
    /// Everything up to the watermark is visible.
    Committed(Watermark),
    /// The table stopped, in this phase, for this reason; further events are dropped.
    Stopped(TablePhase, String),
    /// The table goes on: all its rows come again.
    Resumed,
    /// The pipeline cannot go on.
    Failed(Error),
}

fn starts_copy(events: &TableEvents) -> bool {
    events.events.first().is_some_and(|event| event.op == Op::CopyStart)
}

/// A worker's settings.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    /// How long an event may wait before it is visible.
    pub freshness: Duration,
    /// Bytes of events that a table may hold before they are sealed.
    pub seal_bytes: usize,
}

/// A table with its staged events.
pub struct Worker<T> {
    table: T,
    number: usize,
    settings: WorkerSettings,
    reports: UnboundedSender<(usize, Report)>,
    budget: MemoryBudget,
    board: StatusBoard,
    /// When what is staged should be committed.
    due: Option<Instant>,
    /// The watermark, while the staged events end between transactions.
    complete: Option<Watermark>,
    reserved_bytes: usize,
    staged_events: u64,
    last_commit: Duration,
    stopped: bool,
}

impl<T: LakeTable> Worker<T> {
    /// A worker for a table, known by a number to whom it reports.
    pub fn new(
        table: T,
        number: usize,
        settings: WorkerSettings,
        reports: UnboundedSender<(usize, Report)>,
        budget: MemoryBudget,
        board: StatusBoard,
    ) -> Worker<T> {
        Worker {
            table,
            number,
            settings,
            reports,
            budget,
            board,
            due: None,
            complete: None,
            reserved_bytes: 0,
            staged_events: 0,
            last_commit: Duration::ZERO,
            stopped: false,
        }
    }

    /// Works until there are no more orders; then commits what is complete, and hands the table back. `None` after an
    /// error: what the lake then holds is to be looked up again.
    pub async fn run(mut self, mut orders: UnboundedReceiver<Order>) -> Option<T> {
        loop {
            let due = self.due.filter(|_| self.complete.is_some());
            let step = tokio::select! {
                biased;
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.commit().await,
                order = orders.recv() => match order {
                    Some(order) => self.take(order).await,
                    None => break,
                },
                () = self.budget.pressed(), if self.reserved_bytes > 0 => self.seal().await,
            };
            if let Err(error) = step
                && !self.handle(error)
            {
                return None;
            }
        }
        if self.complete.is_some()
            && let Err(error) = self.commit().await
            && !self.handle(error)
        {
            return None;
        }
        self.table.discard();
        self.release();
        Some(self.table)
    }

    async fn take(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Events(events, watermark) if self.stopped && starts_copy(&events) => {
                self.stopped = false;
                self.report(Report::Resumed);
                self.stage(events, watermark).await?;
            }
            Order::Events(events, _) if self.stopped => self.budget.release_events(&events),
            Order::Events(events, watermark) => self.stage(events, watermark).await?,
            Order::Complete(watermark) => self.complete = self.due.map(|_| watermark),
            Order::Stop(reason) => self.stop(TablePhase::Parked, reason),
        }
        Ok(())
    }

    async fn stage(&mut self, events: TableEvents, watermark: Option<Watermark>) -> Result<()> {
        self.reserved_bytes += events.reserved_bytes;
        self.staged_events += events.events.len() as u64;
        self.complete = watermark;
        if self.due.is_none() {
            // A commit takes about as long as the last one did; the event should be visible in time, not on its way.
            let wait = self.settings.freshness.saturating_sub(self.last_commit).max(self.settings.freshness / 4);
            self.due = Some(Instant::now() + wait);
        }
        if let Staged::NeedsCopy(why) = self.table.stage(events).await? {
            self.stop(TablePhase::Copying, why);
        } else if self.table.staged_bytes() >= self.settings.seal_bytes {
            self.seal().await?;
        }
        Ok(())
    }

    async fn seal(&mut self) -> Result<()> {
        self.table.seal().await?;
        self.release();
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        let Some(watermark) = self.complete else { return Ok(()) };
        let started = Instant::now();
        let committed = self.table.commit(watermark).await?;
        self.last_commit = started.elapsed();
        self.due = None;
        self.complete = None;
        self.release();
        let events = std::mem::take(&mut self.staged_events);
        self.board.table(self.table.name(), |table| {
            table.table_version = Some(committed.table_version);
            table.events += events;
        });
        self.report(Report::Committed(watermark));
        Ok(())
    }

    /// Stops the table, or says that the pipeline cannot go on.
    fn handle(&mut self, error: Error) -> bool {
        if error.class == Class::Operator {
            self.stop(TablePhase::Parked, error.to_string());
            return true;
        }
        self.release();
        self.report(Report::Failed(error));
        false
    }

    fn stop(&mut self, phase: TablePhase, reason: String) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        self.table.discard();
        self.due = None;
        self.complete = None;
        self.release();
        self.report(Report::Stopped(phase, reason));
    }

    fn release(&mut self) {
        self.budget.release(std::mem::take(&mut self.reserved_bytes));
    }

    fn report(&self, report: Report) {
        // Nobody listens any more only when the pipeline ends.
        let _ = self.reports.send((self.number, report));
    }
}
