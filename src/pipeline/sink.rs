//! The sink loop: hands steps to their tables' workers, and works out what is durable.

use std::collections::HashMap;
use std::time::Duration;

use sooner_api::{
    Applied, Clock, Error, EventBatch, EventReader, Fact, LakeTable, MemoryBudget, Result, Side, Step, TableFact,
    TableState, Telemetry, UnfinishedCopy,
};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::cutting::{CutDesk, Cutting};
use super::lane::Lane;
use super::messages::{CutVersions, TableCommand, TableReport};
use super::worker::{TableWorker, WorkerSettings};
use crate::config::TableBlocks;

/// How often it is reported how far the tables are.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);
/// The end of a copy is stored this soon, so that a crash does not cost it.
const COPY_END_DELAY: Duration = Duration::from_millis(250);

/// How long looking at logs may take before progress is stored.
const INSPECTION_DELAY: Duration = Duration::from_millis(250);
/// Tables that nothing happens to are looked at one after the other, this far apart.
const INSPECTION_SHARE: Duration = Duration::from_millis(100);

/// What the sink loop is set up with.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    /// For each table's worker.
    pub worker: WorkerSettings,
    /// Settings of single tables.
    pub tables: TableBlocks,
    /// How often progress is stored, at most.
    pub store_interval: Duration,
    /// Memory for events.
    pub budget: MemoryBudget,
    /// Where cuts are asked for.
    pub cuts: CutDesk,
}

/// Why the loop ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkEnd {
    /// The log ended, or what is read has changed hands, or the loop was told to stop.
    Drained,
    /// A table has to be copied again.
    CopyNeeded,
}

/// A table to be fed.
pub struct OpenTable<L> {
    /// The table.
    pub table: L,
    /// Its state.
    pub state: TableState,
    /// A copy of it that goes on.
    pub copy: Option<UnfinishedCopy>,
}

/// The loop.
pub struct SinkLoop<L, C, T> {
    lanes: Vec<Lane>,
    /// Each lane's worker.
    commands: Vec<UnboundedSender<TableCommand>>,
    by_name: HashMap<TableName, usize>,
    reports: UnboundedReceiver<(usize, TableReport)>,
    workers: JoinSet<Option<L>>,
    telemetry: T,
    clock: C,
    /// Up to where whole transactions have been read.
    read: Watermark,
    store: Interval,
    /// Memory of events that wait.
    budget: MemoryBudget,
    /// Logs are looked at before progress is stored.
    is_inspecting: bool,
    cutting: Cutting,
}

impl<L: LakeTable + 'static, C: Clock, T: Telemetry> SinkLoop<L, C, T> {
    /// Starts a worker for each table. Those that are `unopened` are told of where all tables are asked for.
    pub fn start(
        tables: Vec<OpenTable<L>>,
        unopened: Vec<TableName>,
        settings: &SinkSettings,
        clock: C,
        telemetry: T,
    ) -> SinkLoop<L, C, T> {
        let (report, reports) = unbounded_channel();
        let mut workers = JoinSet::new();
        let (mut lanes, mut commands) = (Vec::new(), Vec::new());
        let count = u32::try_from(tables.len()).unwrap_or(u32::MAX);
        for (number, OpenTable { table, state, copy }) in tables.into_iter().enumerate() {
            let (sender, received) = unbounded_channel();
            let complete = table.watermark().unwrap_or_default();
            let complete = Watermark { commit_lsn: complete, end_lsn: complete, commit_micros: 0 };
            let mut lane = Lane::new(table.name().clone(), state.clone(), complete);
            lane.note_reached(table.reached().unwrap_or_default());
            if let Some(copy) = copy {
                lane.resume_copy(copy);
            }
            lanes.push(lane);
            commands.push(sender);
            let (mut worker, budget) = (settings.worker.clone(), settings.budget.clone());
            worker.freshness = settings.tables.freshness(table.name()).unwrap_or(worker.freshness);
            worker.inspection_interval = worker.inspection_interval.max(INSPECTION_SHARE * count);
            let worker = TableWorker::new(table, &state, number, worker, report.clone(), budget, telemetry.clone());
            workers.spawn(Box::new(worker).run(received));
        }
        let by_name: HashMap<_, _> =
            lanes.iter().enumerate().map(|(number, lane)| (lane.name.clone(), number)).collect();
        assert_eq!(by_name.len(), lanes.len(), "a table is opened once");
        let mut store = interval(settings.store_interval);
        store.set_missed_tick_behavior(MissedTickBehavior::Delay);
        SinkLoop {
            lanes,
            commands,
            by_name,
            reports,
            workers,
            telemetry,
            clock,
            read: Watermark::default(),
            store,
            budget: settings.budget.clone(),
            is_inspecting: false,
            cutting: Cutting::new(settings.cuts.clone(), unopened),
        }
    }

    /// Runs until the log ends, a table must be copied, or it is told to stop; then hands back the tables that are
    /// still known, each with what is complete of it committed.
    pub async fn run<R: EventReader>(
        mut self,
        reader: &mut R,
        mut halted: watch::Receiver<bool>,
    ) -> Result<(SinkEnd, Vec<L>)> {
        let mut report = interval(REPORT_INTERVAL);
        let end = loop {
            tokio::select! {
                biased;
                // The sender's end counts as a halt.
                _ = halted.wait_for(|halted| *halted) => break SinkEnd::Drained,
                Some((number, report)) = self.reports.recv() => {
                    if self.hear(number, report)? == SinkEnd::CopyNeeded {
                        break SinkEnd::CopyNeeded;
                    }
                }
                Some(Err(panic)) = self.workers.join_next() => return Err(worker_lost(&panic)),
                _ = self.store.tick() => {
                    if !self.inspect() {
                        self.store(reader).await?;
                    }
                }
                _ = report.tick() => {
                    self.report();
                    self.cut();
                }
                batch = reader.next() => match batch? {
                    Some(batch) => self.deliver(batch),
                    None => break SinkEnd::Drained,
                },
            }
        };
        let tables = self.finish(reader).await?;
        Ok((end, tables))
    }

    fn deliver(&mut self, batch: EventBatch) {
        for step in batch.steps {
            match step {
                Step::Complete(coverage) => {
                    for number in 0..self.lanes.len() {
                        if self.lanes[number].cover(&coverage) {
                            self.tell(number, TableCommand::Complete(coverage.watermark));
                        }
                    }
                    self.read = coverage.watermark;
                    self.cutting.note(Some(coverage));
                    self.cut();
                }
                Step::CopyProgress { table, progress, watermark } => {
                    let Some(&number) = self.by_name.get(&table) else { continue };
                    let is_told = self.lanes[number].copied(progress.map(|it| *it), watermark.is_some());
                    if let Some(watermark) = watermark.filter(|_| is_told) {
                        self.tell(number, TableCommand::Complete(watermark));
                    }
                }
                Step::CopyEnd { table, watermark } => {
                    let Some(&number) = self.by_name.get(&table) else { continue };
                    if self.lanes[number].end_copy() {
                        self.tell(number, TableCommand::CopyComplete(watermark));
                    }
                }
                Step::Stop { table, error } => {
                    let Some(&number) = self.by_name.get(&table) else { continue };
                    self.lanes[number].stop();
                    self.tell(number, TableCommand::Stop(Box::new(error)));
                }
                Step::Note(note) => {
                    if let Some(&number) = self.by_name.get(&note.table) {
                        self.lanes[number].note(*note);
                    }
                }
                Step::Rows(_) | Step::CopyStart(_) | Step::Truncate(_) => self.deliver_rows(step),
            }
        }
        self.telemetry.record(Fact::ServerEnd(batch.server_end.max(self.read.end_lsn)));
    }

    fn deliver_rows(&mut self, step: Step) {
        let Some(rows) = step.rows() else { return };
        let Some(&number) = self.by_name.get(rows.table()) else { return };
        let lane = &mut self.lanes[number];
        if matches!(step, Step::CopyStart(_)) {
            lane.begin_copy();
        }
        lane.hand_on(rows.last_lsn(), self.read);
        self.cutting.note(None);
        self.tell(number, step.into());
    }

    /// Asks the tables for their versions, if there is to be a cut here.
    fn cut(&mut self) {
        for number in self.cutting.begin(&self.lanes) {
            self.tell(number, TableCommand::Cut(self.read));
        }
    }

    fn tell(&self, number: usize, command: TableCommand) {
        // A worker that has failed has reported it; the report ends the loop.
        let _ = self.commands[number].send(command);
    }

    fn hear(&mut self, number: usize, report: TableReport) -> Result<SinkEnd> {
        let lane = &mut self.lanes[number];
        match report {
            TableReport::Committed(report) => lane.committed(report),
            TableReport::Inspected(watermark) => lane.inspected(watermark),
            TableReport::CopyEnded(watermark) => {
                self.step(number, TableFact::CopyEnded(watermark.commit_lsn));
                self.store.reset_after(COPY_END_DELAY);
            }
            TableReport::CopyBegun => {
                if lane.error().is_some() {
                    tracing::info!(table = %lane.name, "the table goes on: its rows come again");
                }
                self.step(number, TableFact::CopyBegun);
            }
            TableReport::Stopped(error) => {
                tracing::error!(table = %lane.name, code = %error.code, %error, "the table stopped");
                self.step(number, TableFact::Failed(error));
                self.store.reset_immediately();
            }
            TableReport::CopyNeeded(why) => {
                tracing::warn!(table = %lane.name, why = %why.why, "the table is copied again");
                self.step(number, TableFact::CopyNeeded);
                return Ok(SinkEnd::CopyNeeded);
            }
            TableReport::Cut(at, Some(CutVersions { is_whole: false, .. })) => self.cutting.refuse(&lane.name, at),
            TableReport::Cut(at, found) => self.cutting.hear(number, &lane.name, at, found.map(|found| found.versions)),
            TableReport::Failed(error) => return Err(error),
        }
        Ok(SinkEnd::Drained)
    }

    fn step(&mut self, number: usize, fact: TableFact) {
        let lane = &mut self.lanes[number];
        if lane.step(fact) {
            self.telemetry.record(Fact::State(Side::Sink, &lane.name, &lane.state));
        }
    }

    /// Up to where everything is in the lake, or belongs to tables that are copied again anyway.
    fn durable_lsn(&self) -> Lsn {
        // A table may be further than what has been read: its copy was.
        self.lanes.iter().filter_map(Lane::held_back_from).fold(self.read.end_lsn, Lsn::min)
    }

    /// Up to where the database may forget: what is in the lake by logs that were looked at afterwards.
    fn confirmable_lsn(&self) -> Lsn {
        self.lanes.iter().filter_map(Lane::withheld_from).fold(self.read.end_lsn, Lsn::min)
    }

    /// Before progress is stored, has the logs looked at that have entries of ours since the last time. Returns whether
    /// that is under way: progress is stored a moment later then.
    fn inspect(&mut self) -> bool {
        if std::mem::take(&mut self.is_inspecting) {
            return false;
        }
        for (number, lane) in self.lanes.iter().enumerate() {
            if !lane.is_inspected() {
                self.tell(number, TableCommand::Inspect);
                self.is_inspecting = true;
            }
        }
        if self.is_inspecting {
            self.store.reset_after(INSPECTION_DELAY);
        }
        self.is_inspecting
    }

    /// Stores what has been applied, and how the tables are doing, at once.
    async fn store<R: EventReader>(&mut self, reader: &mut R) -> Result<()> {
        let durable = self.confirmable_lsn();
        let mut applied = Applied { confirmed_lsn: Some(durable), ..Applied::default() };
        for lane in &mut self.lanes {
            if let Some(change) = lane.take_change(self.read) {
                applied.tables.insert(lane.name.clone(), change);
            }
        }
        reader.store(applied).await?;
        self.telemetry.record(Fact::Confirmed(durable));
        Ok(())
    }

    fn report(&self) {
        let following = self.lanes.iter().filter(|lane| lane.follows_stream());
        let behind = following.filter_map(|lane| Some((&lane.name, lane.behind()?))).collect();
        let apart = self.lanes.iter().filter(|lane| !lane.follows_stream()).map(|lane| &lane.name).collect();
        self.telemetry.record(Fact::Coverage { now_micros: self.clock.now_micros(), read: self.read, behind, apart });
        self.telemetry.record(Fact::Durable(self.durable_lsn()));
        let (limit_bytes, is_pressed) = (self.budget.limit_bytes(), self.budget.is_pressed());
        let taken_bytes = limit_bytes.saturating_sub(self.budget.free_bytes());
        self.telemetry.record(Fact::Memory { taken_bytes, limit_bytes, is_pressed });
    }

    /// Lets the workers commit what is complete, and look at the logs, and stores that.
    async fn finish<R: EventReader>(&mut self, reader: &mut R) -> Result<Vec<L>> {
        self.commands.clear();
        let mut tables = Vec::new();
        while let Some(joined) = self.workers.join_next().await {
            tables.extend(joined.map_err(|panic| worker_lost(&panic))?);
        }
        while let Ok((number, report)) = self.reports.try_recv() {
            self.hear(number, report)?;
        }
        self.store(reader).await?;
        self.report();
        Ok(tables)
    }
}

fn worker_lost(panic: &tokio::task::JoinError) -> Error {
    Error::internal("a table's worker ended without a report", panic)
}
