//! A table's worker: when it commits, seals, stops and ends.

use std::sync::Arc;
use std::time::Duration;

use sooner::pipeline::messages::{CommitReport, TableCommand, TableReport};
use sooner::pipeline::worker::{TableWorker, WorkerSettings};
use sooner_api::{Class, MemoryBudget, Staged, Step, TableState};
use sooner_schemas::event::Op;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::fake_lake::FakeTable;
use crate::support::{Facts, Notes, failure, insert, mark, parked, pass, rows_of, settle, soon, step, streaming};

/// A worker at work, with what it is told and what it reports.
struct Bench {
    commands: UnboundedSender<TableCommand>,
    reports: UnboundedReceiver<(usize, TableReport)>,
    notes: Notes,
    facts: Facts,
    budget: MemoryBudget,
    commits: Arc<Semaphore>,
    running: JoinHandle<Option<FakeTable>>,
}

impl Bench {
    /// A worker with a freshness of a second, which seals a table at 4000 bytes.
    fn new(table: FakeTable, state: TableState) -> Bench {
        let (commands, received) = unbounded_channel();
        let (report, reports) = unbounded_channel();
        let (notes, facts, budget) = (table.notes.clone(), Facts::default(), MemoryBudget::new(8 << 10));
        let commits = Arc::new(Semaphore::new(1));
        let settings = WorkerSettings {
            freshness: Duration::from_secs(1),
            copy_freshness: Duration::from_secs(1),
            seal_bytes: 4000,
            commits: commits.clone(),
            inspection_interval: Duration::from_secs(3600),
        };
        let worker = TableWorker::new(table, &state, 5, settings, report, budget.clone(), facts.clone());
        Bench {
            commands,
            reports,
            notes,
            facts,
            budget,
            commits,
            running: tokio::spawn(Box::new(worker).run(received)),
        }
    }

    fn streaming(table: FakeTable) -> Bench {
        Bench::new(table, streaming())
    }

    fn tell(&self, command: TableCommand) {
        self.commands.send(command).unwrap();
    }

    fn insert(&self, lsn: u64) {
        self.tell(TableCommand::from(insert("t", lsn)));
    }

    fn complete(&self, lsn: u64) {
        self.tell(TableCommand::Complete(mark(lsn)));
    }

    /// What was reported since this was last asked.
    async fn told(&mut self) -> Vec<String> {
        settle().await;
        let mut texts = Vec::new();
        while let Ok((number, report)) = self.reports.try_recv() {
            assert_eq!(number, 5);
            texts.push(match report {
                TableReport::Committed(CommitReport { committed: done, positions, watermark: to, copy, .. }) => {
                    assert_eq!(positions.and_then(|positions| positions.commit_lsn()), Some(to.commit_lsn));
                    let what = if copy.is_some() { "copied" } else { "committed" };
                    format!("{what} version {} to {}", done.table_version, to.commit_lsn.0)
                }
                TableReport::Inspected(to) => format!("inspected at {}", to.commit_lsn.0),
                TableReport::CopyBegun => "copy begun".to_owned(),
                TableReport::Cut(_, found) => format!("cut at {:?}", found.and_then(|found| found.versions.0)),
                TableReport::CopyEnded(to) => format!("copy ended at {}", to.commit_lsn.0),
                TableReport::Stopped(_) => "stopped".to_owned(),
                TableReport::CopyNeeded(_) => "copy needed".to_owned(),
                TableReport::Failed(_) => "failed".to_owned(),
            });
        }
        texts
    }

    /// There are no more commands.
    async fn end(self) -> (Option<FakeTable>, Vec<String>) {
        drop(self.commands);
        let table = soon(self.running).await.unwrap();
        (table, self.notes.all())
    }
}

fn refusing(class: Class) -> FakeTable {
    FakeTable { on_stage: Some(Err(failure(class))), ..FakeTable::new("t") }
}

#[tokio::test(start_paused = true)]
async fn a_cut_commits_what_came_before_it_and_nothing_that_came_after() {
    let mut bench = Bench::new(FakeTable::new("t"), streaming());
    bench.insert(10);
    bench.complete(10);
    bench.tell(TableCommand::Cut(mark(10)));
    bench.insert(20);
    assert_eq!(bench.told().await, ["committed version 1 to 10", "cut at Some(1)"]);
    bench.complete(20);
    bench.tell(TableCommand::Cut(mark(20)));
    bench.tell(TableCommand::Cut(mark(30)));
    assert_eq!(bench.told().await, ["committed version 2 to 20", "cut at Some(2)", "cut at Some(2)"]);
}

#[tokio::test(start_paused = true)]
async fn an_open_transaction_is_not_committed_however_old_it_is() {
    let bench = Bench::streaming(FakeTable::new("t"));
    bench.insert(30);
    pass(60_000).await;
    assert_eq!(bench.notes.all(), ["stage 30"]);
    bench.complete(30);
    settle().await;
    assert_eq!(bench.notes.all(), ["stage 30", "commit 30"]);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_event_says_when_to_commit() {
    let mut bench = Bench::streaming(FakeTable::new("t"));
    bench.insert(30);
    bench.complete(30);
    pass(600).await;
    bench.insert(40);
    bench.complete(45);
    pass(390).await;
    assert_eq!(bench.notes.all(), ["stage 30", "stage 40"]);
    pass(20).await;
    assert_eq!(bench.notes.all(), ["stage 30", "stage 40", "commit 45"]);
    assert_eq!(bench.told().await, ["committed version 1 to 45"]);
    assert!(bench.facts.0.has("committed t 2"));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_opens_before_the_commit_is_waited_for() {
    let bench = Bench::streaming(FakeTable::new("t"));
    bench.insert(30);
    bench.complete(30);
    pass(900).await;
    bench.insert(40);
    pass(5000).await;
    assert_eq!(bench.notes.all(), ["stage 30", "stage 40"]);
    bench.complete(40);
    settle().await;
    assert_eq!(bench.notes.all(), ["stage 30", "stage 40", "commit 40"]);
}

#[tokio::test(start_paused = true)]
async fn a_watermark_without_events_commits_nothing() {
    let mut bench = Bench::streaming(FakeTable::new("t"));
    bench.complete(30);
    pass(5000).await;
    assert!(bench.told().await.is_empty());
    let (table, notes) = bench.end().await;
    assert!(table.is_some());
    assert_eq!(notes, ["discard"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_slow_commit_the_next_one_begins_earlier() {
    for (commit_takes, wait) in [(400, 600), (60_000, 250)] {
        let table = FakeTable { commit_takes: Duration::from_millis(commit_takes), ..FakeTable::new("t") };
        let bench = Bench::streaming(table);
        bench.insert(30);
        bench.complete(30);
        pass(1100 + commit_takes).await;
        bench.insert(40);
        bench.complete(40);
        pass(wait - 20).await;
        assert!(!bench.notes.has("commit 40"), "{:?}", bench.notes.all());
        pass(40).await;
        assert!(bench.notes.has("commit 40"), "{:?}", bench.notes.all());
    }
}

#[tokio::test(start_paused = true)]
async fn commits_wait_for_their_turn() {
    let bench = Bench::streaming(FakeTable::new("t"));
    let taken = bench.commits.clone().acquire_owned().await.unwrap();
    bench.insert(30);
    bench.complete(30);
    pass(5000).await;
    assert_eq!(bench.notes.all(), ["stage 30"]);
    drop(taken);
    settle().await;
    assert_eq!(bench.notes.all(), ["stage 30", "commit 30"]);
}

#[tokio::test(start_paused = true)]
async fn a_table_with_many_events_is_sealed() {
    let bench = Bench::streaming(FakeTable::new("t"));
    bench.insert(30);
    bench.tell(TableCommand::from(rows_of("t", Op::Create, 40, 4000).into_step()));
    bench.insert(50);
    settle().await;
    assert_eq!(bench.notes.all(), ["stage 30", "stage 40", "seal", "stage 50"]);
}

#[tokio::test(start_paused = true)]
async fn when_memory_is_short_a_table_seals_also_inside_a_transaction() {
    let bench = Bench::streaming(FakeTable::new("t"));
    let mut rows = rows_of("t", Op::Create, 30, 100);
    rows.reservation = bench.budget.reserve(8 << 10).await;
    bench.tell(TableCommand::from(Step::Rows(rows)));
    settle().await;
    assert_eq!(bench.budget.free_bytes(), 0);
    let room = soon(bench.budget.reserve(4 << 10)).await;
    assert_eq!(room.bytes(), 4 << 10);
    assert_eq!(bench.notes.all(), ["stage 30", "seal"]);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_a_person_must_see_to_drops_its_events_until_a_copy_begins() {
    let mut bench = Bench::streaming(refusing(Class::Operator));
    bench.insert(30);
    bench.insert(40);
    bench.tell(TableCommand::from(step("t", Op::Truncate, 40)));
    bench.complete(40);
    pass(5000).await;
    assert_eq!(bench.told().await, ["stopped"]);
    bench.tell(TableCommand::from(step("t", Op::CopyStart, 50)));
    bench.tell(TableCommand::from(step("t", Op::Read, 50)));
    bench.tell(TableCommand::CopyComplete(mark(50)));
    assert_eq!(bench.told().await, ["copy begun", "committed version 1 to 50", "copy ended at 50"]);
    let (table, notes) = bench.end().await;
    assert!(table.is_some());
    assert_eq!(notes, ["stage 30", "discard", "copy 50", "stage 50", "end copy", "commit 50", "inspect", "discard"]);
}

#[tokio::test(start_paused = true)]
async fn what_has_come_of_a_copy_becomes_durable_in_time_and_visible_at_its_end() {
    let mut bench = Bench::new(FakeTable { keeps_copies: true, ..FakeTable::new("t") }, TableState::Copying);
    bench.tell(TableCommand::from(step("t", Op::Read, 50)));
    pass(5000).await;
    assert!(bench.told().await.is_empty(), "it may stand inside a transaction");
    bench.complete(60);
    assert_eq!(bench.told().await, ["copied version 1 to 60"]);
    bench.tell(TableCommand::from(step("t", Op::Read, 60)));
    bench.tell(TableCommand::CopyComplete(mark(70)));
    assert_eq!(bench.told().await, ["committed version 2 to 70", "copy ended at 70"]);
    assert_eq!(bench.notes.all(), ["stage 50", "commit 60", "stage 60", "end copy", "commit 70"]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_would_be_seen_half_done_is_committed_only_at_its_end() {
    let mut bench = Bench::new(FakeTable::new("t"), TableState::Copying);
    bench.tell(TableCommand::from(step("t", Op::Read, 50)));
    bench.complete(60);
    pass(60_000).await;
    assert!(bench.told().await.is_empty());
    bench.tell(TableCommand::CopyComplete(mark(70)));
    assert_eq!(bench.told().await, ["committed version 1 to 70", "copy ended at 70"]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_table_gives_the_memory_of_its_events_back() {
    let bench = Bench::new(FakeTable::new("t"), parked());
    let mut rows = rows_of("t", Op::Create, 30, 100);
    rows.reservation = bench.budget.reserve(8 << 10).await;
    bench.tell(TableCommand::from(Step::Rows(rows)));
    settle().await;
    assert_eq!(bench.budget.free_bytes(), 8 << 10);
    assert!(bench.notes.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_staged_before_a_stop_is_not_committed() {
    let mut bench = Bench::streaming(FakeTable::new("t"));
    bench.insert(30);
    bench.complete(30);
    bench.tell(TableCommand::Stop(Box::new(failure(Class::Operator))));
    bench.tell(TableCommand::Stop(Box::new(failure(Class::Operator))));
    pass(5000).await;
    assert_eq!(bench.told().await, ["stopped"], "once");
    assert_eq!(bench.end().await.1, ["stage 30", "discard", "discard"]);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_needs_a_copy_says_so_once_and_drops_its_events() {
    let needs_copy = Some(Ok(Staged::NeedsCopy(failure(Class::Operator))));
    let mut bench = Bench::streaming(FakeTable { on_stage: needs_copy, ..FakeTable::new("t") });
    bench.insert(30);
    bench.insert(40);
    bench.complete(40);
    pass(5000).await;
    assert_eq!(bench.told().await, ["copy needed"]);
    assert_eq!(bench.notes.all(), ["stage 30", "discard"]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_becomes_visible_whole_at_its_end() {
    let mut bench = Bench::new(FakeTable::new("t"), TableState::Copying);
    bench.tell(TableCommand::from(step("t", Op::CopyStart, 50)));
    for _ in 0..3 {
        bench.tell(TableCommand::from(step("t", Op::Read, 50)));
        pass(5000).await;
    }
    assert_eq!(bench.told().await, ["copy begun"]);
    assert!(!bench.notes.has("commit 50"));
    bench.tell(TableCommand::CopyComplete(mark(50)));
    assert_eq!(bench.told().await, ["committed version 1 to 50", "copy ended at 50"]);
    assert_eq!(bench.notes.all().last().unwrap(), "commit 50");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_stopped_does_not_end() {
    let mut bench = Bench::new(refusing(Class::Operator), TableState::Copying);
    bench.tell(TableCommand::from(step("t", Op::Read, 50)));
    bench.tell(TableCommand::CopyComplete(mark(50)));
    assert_eq!(bench.told().await, ["stopped"]);
    assert!(!bench.notes.has("commit 50"));
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_no_persons_matter_ends_the_worker_without_its_table() {
    for class in [Class::Retry, Class::Fatal] {
        let mut bench = Bench::streaming(FakeTable { on_commit: Some(failure(class)), ..FakeTable::new("t") });
        bench.insert(30);
        bench.complete(30);
        pass(1100).await;
        assert_eq!(bench.told().await, ["failed"]);
        assert!(bench.end().await.0.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_needs_a_person_stops_the_table_only() {
    let refused = Some(failure(Class::Operator));
    let mut bench = Bench::streaming(FakeTable { on_commit: refused, ..FakeTable::new("t") });
    bench.insert(30);
    bench.complete(30);
    pass(1100).await;
    assert_eq!(bench.told().await, ["stopped"]);
    bench.insert(40);
    let (table, notes) = bench.end().await;
    assert!(table.is_some());
    assert_eq!(notes, ["stage 30", "commit 30", "discard", "discard"]);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_what_is_complete_is_committed_and_the_rest_is_forgotten() {
    let bench = Bench::streaming(FakeTable::new("t"));
    bench.insert(30);
    bench.complete(30);
    assert_eq!(bench.end().await.1, ["stage 30", "commit 30", "inspect", "discard"]);
    let bench = Bench::streaming(FakeTable::new("t"));
    bench.insert(30);
    assert_eq!(bench.end().await.1, ["stage 30", "discard"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_last_commit_costs_the_table() {
    let lost = Some(failure(Class::Retry));
    let bench = Bench::streaming(FakeTable { on_commit: lost, ..FakeTable::new("t") });
    bench.insert(30);
    bench.complete(30);
    assert!(bench.end().await.0.is_none());
}
