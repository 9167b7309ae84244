//! The sink loop: hands events to their tables' workers, and works out what is durable.

use std::collections::HashMap;
use std::time::Duration;

use sooner_api::{Clock, Code, Error, EventReader, LakeTable, ProgressStore, Result, TablePhase};
use sooner_schemas::event::{EventBatch, Watermark};
use sooner_schemas::{Lsn, TableName};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::worker::{Order, Report, Worker, WorkerSettings};
use crate::budget::MemoryBudget;
use crate::ledger::Ledger;
use crate::status::StatusBoard;

/// How often lag is worked out.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What the sink loop is set up with.
pub struct SinkSettings {
    /// For each table's worker.
    pub worker: WorkerSettings,
    /// How often the slot is confirmed, at most.
    pub confirm_interval: Duration,
    /// Up to where everything was durable before.
    pub start_lsn: Lsn,
}

/// Why the loop ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkEnd {
    /// The log ended.
    Drained,
    /// A table has to be copied again.
    NeedsCopy,
}

/// A table as the loop sees it.
struct Lane {
    name: TableName,
    orders: UnboundedSender<Order>,
    /// The last event's commit LSN.
    delivered: Lsn,
    /// The table is complete up to here.
    applied: Watermark,
    /// Its last events ended inside a transaction.
    open: bool,
    stopped: bool,
}

/// The loop.
pub struct SinkLoop<T, P, C> {
    lanes: Vec<Lane>,
    by_name: HashMap<TableName, usize>,
    reports: UnboundedReceiver<(usize, Report)>,
    workers: JoinSet<Option<T>>,
    ledger: Ledger<P>,
    budget: MemoryBudget,
    board: StatusBoard,
    clock: C,
    /// Up to where whole transactions have been delivered.
    delivered: Watermark,
    confirm: Interval,
}

impl<T: LakeTable + 'static, P: ProgressStore, C: Clock> SinkLoop<T, P, C> {
    /// Starts a worker for each table.
    pub fn start(
        tables: Vec<T>,
        settings: SinkSettings,
        ledger: Ledger<P>,
        budget: MemoryBudget,
        board: StatusBoard,
        clock: C,
    ) -> SinkLoop<T, P, C> {
        let (report, reports) = unbounded_channel();
        // A transaction whose commit record starts right at the slot's position is still to come.
        let before = Lsn(settings.start_lsn.0.saturating_sub(1));
        let start = Watermark { commit_lsn: before, end_lsn: settings.start_lsn, commit_micros: 0 };
        let mut workers = JoinSet::new();
        let mut lanes = Vec::new();
        for (number, table) in tables.into_iter().enumerate() {
            let (orders, received) = unbounded_channel();
            let name = table.name().clone();
            let worker = Worker::new(table, number, settings.worker, report.clone(), budget.clone(), board.clone());
            workers.spawn(worker.run(received));
            lanes.push(Lane { name, orders, delivered: Lsn::ZERO, applied: start, open: false, stopped: false });
        }
        let by_name: HashMap<_, _> =
            lanes.iter().enumerate().map(|(number, lane)| (lane.name.clone(), number)).collect();
        assert_eq!(by_name.len(), lanes.len(), "a table is opened once");
        let mut confirm = interval(settings.confirm_interval);
        confirm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        SinkLoop { lanes, by_name, reports, workers, ledger, budget, board, clock, delivered: start, confirm }
    }

    /// Runs until the log ends or a table must be copied; then hands back the tables that are still known.
    pub async fn run<R: EventReader>(mut self, reader: &mut R) -> Result<(SinkEnd, Vec<T>)> {
        let mut look = interval(LOOK_INTERVAL);
        let end = loop {
            tokio::select! {
                batch = reader.next() => match batch? {
                    Some(batch) => self.deliver(batch),
                    None => break SinkEnd::Drained,
                },
                Some((number, report)) = self.reports.recv() => {
                    if self.hear(number, report).await? == SinkEnd::NeedsCopy {
                        break SinkEnd::NeedsCopy;
                    }
                }
                Some(Err(panic)) = self.workers.join_next() => return Err(worker_lost(&panic)),
                _ = self.confirm.tick() => self.confirm(reader).await?,
                _ = look.tick() => self.show(),
            }
        };
        let tables = self.finish(reader).await?;
        Ok((end, tables))
    }

    fn deliver(&mut self, batch: EventBatch) {
        let EventBatch { tables, poisoned, completed, watermark, server_end } = batch;
        let completed: HashMap<TableName, Watermark> = completed.into_iter().collect();
        let is_poisoned = |table: &TableName| poisoned.iter().any(|poisoned| poisoned.table == *table);
        let mut parts: HashMap<TableName, usize> = HashMap::new();
        for events in tables.iter().filter(|events| !events.events.is_empty()) {
            *parts.entry(events.schema.table.clone()).or_default() += 1;
        }
        for events in tables {
            // A copy may be of a later moment than the stream has got to.
            let copied = completed.get(&events.schema.table).copied();
            let watermark = copied.into_iter().chain(watermark).max_by_key(|mark| mark.commit_lsn);
            let lane = self.by_name.get(&events.schema.table).map(|&number| &mut self.lanes[number]);
            let last = events.events.last().map(|event| event.position.commit_lsn);
            let (Some(lane), Some(last)) = (lane, last) else {
                self.budget.release_events(&events);
                continue;
            };
            // A table's events are complete only with their last part.
            let left = parts.get_mut(&lane.name).map_or(0, |left| {
                *left -= 1;
                *left
            });
            // Nor if something of them was left out: what is told of positions is beyond that.
            let watermark = watermark.filter(|_| left == 0 && !is_poisoned(&lane.name));
            if lane.is_clean() && self.delivered.commit_lsn > lane.applied.commit_lsn {
                // It was complete to here, without a commit of its own.
                lane.applied = self.delivered;
            }
            lane.delivered = last;
            lane.open = watermark.is_none();
            // A worker that has failed has reported it; the report ends the loop.
            let _ = lane.orders.send(Order::Events(events, watermark));
        }
        for poisoned in &poisoned {
            if let Some(&number) = self.by_name.get(&poisoned.table) {
                // Not clean until it is stored that the table stopped: the slot must not pass the event before.
                self.lanes[number].delivered = Lsn(u64::MAX);
                let _ = self.lanes[number].orders.send(Order::Stop(poisoned.reason.clone()));
            }
        }
        for (table, watermark) in completed.into_iter().filter(|(table, _)| !is_poisoned(table)) {
            let lane = self.by_name.get(&table).map(|&number| &mut self.lanes[number]);
            if let Some(lane) = lane.filter(|lane| lane.open) {
                lane.open = false;
                let _ = lane.orders.send(Order::Complete(watermark));
            }
        }
        if let Some(watermark) = watermark {
            for lane in self.lanes.iter_mut().filter(|lane| lane.open) {
                lane.open = false;
                let _ = lane.orders.send(Order::Complete(watermark));
            }
            self.delivered = watermark;
        }
        self.board.update(|status| {
            status.server_end_lsn = status.server_end_lsn.max(server_end).max(self.delivered.end_lsn);
            status.received_lsn = self.delivered.end_lsn;
        });
    }

    async fn hear(&mut self, number: usize, report: Report) -> Result<SinkEnd> {
        let lane = &mut self.lanes[number];
        match report {
            Report::Committed(watermark) => {
                lane.applied = watermark;
                self.board.reached(&lane.name, watermark);
            }
            Report::Failed(error) => return Err(error),
            Report::Resumed => {
                tracing::info!(table = %lane.name, "the table goes on: its rows come again");
                self.ledger.set_phase(&lane.name, TablePhase::Streaming, None).await?;
                lane.stopped = false;
                let name = lane.name.clone();
                // Its rows are on their way: the pipeline is behind again.
                self.show();
                self.board.table(&name, |table| {
                    table.phase = TablePhase::Streaming;
                    table.reason = None;
                });
            }
            Report::Stopped(phase, reason) => {
                tracing::error!(table = %lane.name, reason, "the table stopped");
                // Only once this is stored may the slot leave the table's events behind.
                self.ledger.set_phase(&lane.name, phase, Some(reason.clone())).await?;
                lane.stopped = true;
                self.board.table(&lane.name, |table| {
                    table.phase = phase;
                    table.reason = Some(reason);
                });
                if phase == TablePhase::Copying {
                    return Ok(SinkEnd::NeedsCopy);
                }
            }
        }
        Ok(SinkEnd::Drained)
    }

    /// Up to where everything is in the lake, or stopped for good.
    fn durable_lsn(&self) -> Lsn {
        let behind = self.lanes.iter().filter(|lane| !lane.stopped && !lane.is_clean());
        behind.map(|lane| lane.applied.end_lsn).min().unwrap_or(self.delivered.end_lsn)
    }

    async fn confirm<R: EventReader>(&mut self, reader: &mut R) -> Result<()> {
        let durable = self.durable_lsn();
        self.ledger.confirm(durable).await?;
        let confirmed = self.ledger.record().confirmed_lsn;
        assert!(durable <= confirmed, "an LSN is stored before it is confirmed");
        reader.applied(durable);
        self.board.update(|status| status.confirmed_flush_lsn = confirmed);
        Ok(())
    }

    fn show(&self) {
        let (now, durable, delivered) = (self.clock.now_micros(), self.durable_lsn(), self.delivered);
        self.board.update(|status| {
            status.durable_lsn = durable;
            for lane in self.lanes.iter().filter(|lane| !lane.stopped) {
                let reached = if lane.is_clean() { delivered } else { lane.applied };
                let end = status.server_end_lsn;
                let Some(table) = status.tables.get_mut(&lane.name.to_string()) else { continue };
                table.lag_bytes = end.bytes_since(reached.end_lsn);
                // What is visible is as old as the last of it; or, where all that was read is, as what is being read.
                let from = match lane.is_clean() {
                    true => table.unread_micros,
                    false => Some(reached.commit_micros).filter(|micros| *micros > 0),
                };
                table.lag_seconds = from.map_or(0.0, |from| now.saturating_sub(from).max(0) as f64 / 1e6);
                if lane.is_clean() {
                    table.watermark_lsn = delivered.commit_lsn;
                    table.watermark_micros = delivered.commit_micros;
                }
            }
        });
    }

    /// Lets the workers commit what is complete, and confirms that.
    async fn finish<R: EventReader>(&mut self, reader: &mut R) -> Result<Vec<T>> {
        for lane in &mut self.lanes {
            let (closed, _) = unbounded_channel();
            lane.orders = closed;
        }
        let mut tables = Vec::new();
        while let Some(joined) = self.workers.join_next().await {
            tables.extend(joined.map_err(|panic| worker_lost(&panic))?);
        }
        while let Ok((number, report)) = self.reports.try_recv() {
            self.hear(number, report).await?;
        }
        self.confirm(reader).await?;
        self.show();
        Ok(tables)
    }
}

fn worker_lost(panic: &tokio::task::JoinError) -> Error {
    Error::fatal(Code::Internal, "a table's worker ended without a report", panic, "report this")
}

impl Lane {
    /// Everything that was delivered is visible.
    fn is_clean(&self) -> bool {
        self.applied.commit_lsn >= self.delivered
    }
}
