//! The sink loop: what is confirmed, what is stored, and how it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use sooner::pipeline::sink::{OpenTable, SinkEnd, SinkLoop, SinkSettings};
use sooner::pipeline::worker::WorkerSettings;
use sooner_api::{Class, Coverage, LakeTable, MemoryBudget, Result, Staged, Step, TableState};
use sooner_schemas::Lsn;
use sooner_schemas::event::Op;
use tokio::sync::{Semaphore, watch};

use crate::fake_lake::FakeTable;
use crate::fake_log::{Batches, FakeReader, Stored};
use crate::support::{
    Facts, Steps, StoppedClock, batch, complete, failure, insert, mark, name, parked, pass, soon, step, streaming,
};

/// Settings of a loop that stores every five seconds, with a freshness of one.
pub fn settings() -> SinkSettings {
    let commits = Arc::new(Semaphore::new(8));
    SinkSettings {
        cuts: sooner::pipeline::cutting::CutDesk::closed(),
        worker: WorkerSettings {
            freshness: Duration::from_secs(1),
            copy_freshness: Duration::from_secs(1),
            seal_bytes: 1 << 20,
            commits,
            inspection_interval: Duration::from_secs(3600),
        },
        tables: Default::default(),
        store_interval: Duration::from_secs(5),
        budget: MemoryBudget::new(1 << 20),
    }
}

type Ended = Result<(SinkEnd, Vec<FakeTable>)>;

/// Runs a loop over tables while a test drives it.
async fn run(
    tables: Vec<(FakeTable, TableState)>,
    steps: Steps,
    drive: impl AsyncFnOnce(Batches, Stored, watch::Sender<bool>),
) -> (Ended, Stored) {
    let tables = tables.into_iter().map(|(table, state)| OpenTable { table, state, copy: None }).collect();
    let (batches, mut reader) = FakeReader::new(steps);
    let stored = reader.stored.clone();
    let (halt, halted) = watch::channel(false);
    let sink = SinkLoop::start(tables, Vec::new(), &settings(), StoppedClock, Facts::default());
    let driving = drive(batches, stored.clone(), halt);
    let (ended, ()) = soon(join(sink.run(&mut reader, halted), driving)).await;
    (ended, stored)
}

fn send(batches: &Batches, steps: Vec<Step>) {
    batches.send(Ok(batch(steps))).unwrap();
}

fn slow(table: &str) -> FakeTable {
    FakeTable { commit_takes: Duration::from_secs(20), ..FakeTable::new(table) }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_confirmed_past_what_has_been_read() {
    let table = (FakeTable::new("t"), streaming());
    let (ended, stored) = run(vec![table], Steps::default(), async |batches, stored, _halt| {
        pass(6000).await;
        assert_eq!(stored.confirmed(), 0);
        send(&batches, vec![complete(20)]);
        pass(6000).await;
        assert_eq!(stored.confirmed(), 28, "an idle table holds nothing back");
    })
    .await;
    assert_eq!(ended.unwrap().0, SinkEnd::Drained);
    assert!(stored.of("t").is_empty(), "nothing has become of the table");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_behind_holds_back_what_is_confirmed() {
    let tables = vec![(slow("slow"), streaming()), (FakeTable::new("fast"), streaming())];
    let (ended, _) = run(tables, Steps::default(), async |batches, stored, _halt| {
        send(&batches, vec![complete(20)]);
        send(&batches, vec![insert("slow", 30), insert("fast", 35), complete(40)]);
        pass(19_000).await;
        assert_eq!(stored.confirmed(), 28, "one is visible, the other is not");
        pass(8000).await;
        assert_eq!(stored.confirmed(), 48);
    })
    .await;
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_is_open_holds_back_though_others_ended() {
    let (ended, _) = run(vec![(FakeTable::new("t"), streaming())], Steps::default(), async |batches, stored, _halt| {
        send(&batches, vec![complete(20), insert("t", 60)]);
        let except = vec![name("t")];
        send(&batches, vec![Step::Complete(Coverage { except, ..Coverage::all(mark(90)) })]);
        pass(11_000).await;
        assert_eq!(stored.confirmed(), 28);
        send(&batches, vec![complete(95)]);
        pass(11_000).await;
        assert_eq!(stored.confirmed(), 103);
    })
    .await;
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_copy_holds_nothing_back_until_all_of_it_waits_to_be_visible() {
    let (ended, _) = run(vec![(slow("t"), TableState::Copying)], Steps::default(), async |batches, stored, _halt| {
        send(&batches, vec![step("t", Op::CopyStart, 50), step("t", Op::Read, 50), complete(60)]);
        pass(6000).await;
        assert_eq!(stored.confirmed(), 68);
        let watermark = mark(55);
        send(&batches, vec![Step::CopyEnd { table: name("t"), watermark }, complete(90)]);
        pass(11_000).await;
        assert!(stored.confirmed() <= 63, "{}", stored.confirmed());
        pass(16_000).await;
        assert_eq!(stored.confirmed(), 98);
    })
    .await;
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_copy_is_stored_without_waiting_for_the_next_turn() {
    let table = (FakeTable::new("t"), TableState::Copying);
    let (ended, _) = run(vec![table], Steps::default(), async |batches, stored, _halt| {
        pass(100).await;
        let watermark = mark(55);
        let end = Step::CopyEnd { table: name("t"), watermark };
        send(&batches, vec![step("t", Op::CopyStart, 50), step("t", Op::Read, 50), end]);
        pass(1000).await;
        let reports = stored.of("t");
        let report = reports.last().expect("it is stored");
        assert_eq!(report.state, TableState::Streaming { copied_lsn: Some(Lsn(55)) });
        assert_eq!(report.lake.as_ref().map(|lake| (lake.version, lake.watermark)), Some((1, mark(55))));
    })
    .await;
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_table_that_stops_is_stored_as_parked_before_anything_past_it_is_confirmed() {
    let tables = vec![(FakeTable::new("t"), streaming()), (FakeTable::new("other"), streaming())];
    let (ended, stored) = run(tables, Steps::default(), async |batches, stored, _halt| {
        send(&batches, vec![complete(20)]);
        let error = failure(Class::Operator);
        send(&batches, vec![insert("t", 30), Step::Stop { table: name("t"), error }, complete(90)]);
        pass(1000).await;
        assert_eq!(stored.of("t").len(), 1, "it is stored at once");
        send(&batches, vec![insert("other", 100), complete(110)]);
        pass(7000).await;
        assert_eq!(stored.confirmed(), 118, "the others go on");
    })
    .await;
    ended.unwrap();
    assert_eq!(stored.of("t")[0].state, parked());
    let mut before = stored.all().into_iter().take_while(|applied| !applied.tables.contains_key(&name("t")));
    assert!(before.all(|applied| applied.confirmed_lsn <= Some(Lsn(28))));
}

#[tokio::test(start_paused = true)]
async fn a_parked_table_holds_nothing_back_and_a_copy_lets_it_go_on() {
    let table = FakeTable::new("t");
    let notes = table.notes.clone();
    let (ended, stored) = run(vec![(table, parked())], Steps::default(), async |batches, stored, _halt| {
        send(&batches, vec![insert("t", 30), complete(40)]);
        pass(6000).await;
        assert_eq!(stored.confirmed(), 48);
        assert!(notes.all().is_empty());
        let end = Step::CopyEnd { table: name("t"), watermark: mark(55) };
        send(&batches, vec![step("t", Op::CopyStart, 50), end]);
        pass(1000).await;
    })
    .await;
    ended.unwrap();
    let report = stored.of("t").pop().unwrap();
    assert_eq!(report.state, TableState::Streaming { copied_lsn: Some(Lsn(55)) });
}

#[tokio::test(start_paused = true)]
async fn a_change_is_stored_once() {
    let (ended, stored) = run(vec![(FakeTable::new("t"), streaming())], Steps::default(), async |batches, _, _halt| {
        send(&batches, vec![insert("t", 30), complete(40)]);
        pass(30_000).await;
    })
    .await;
    ended.unwrap();
    let reports = stored.of("t");
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].lake.as_ref().map(|lake| lake.version), Some(1));
    assert!(stored.all().len() >= 6, "but what is confirmed is stored every time");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_needs_a_copy_ends_the_loop_and_is_stored_as_such() {
    let needs_copy = Some(Ok(Staged::NeedsCopy(failure(Class::Operator))));
    let stale = FakeTable { on_stage: needs_copy, ..FakeTable::new("stale") };
    let other = FakeTable::new("other");
    let other_notes = other.notes.clone();
    let mut kept = None;
    let tables = vec![(stale, streaming()), (other, streaming())];
    let (ended, stored) = run(tables, Steps::default(), async |batches, _, halt| {
        send(&batches, vec![insert("other", 30), insert("stale", 30), complete(40)]);
        // Neither the log's end nor a halt ends it.
        kept = Some((batches, halt));
    })
    .await;
    let (end, tables) = ended.unwrap();
    assert_eq!((end, tables.len()), (SinkEnd::CopyNeeded, 2));
    assert_eq!(stored.of("stale").pop().unwrap().state, TableState::Copying);
    assert!(other_notes.has("commit 40"), "what is complete of the others is committed");
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_log_commits_what_is_complete_and_hands_all_tables_back() {
    let (whole, open) = (FakeTable::new("whole"), FakeTable::new("open"));
    let (whole_notes, open_notes) = (whole.notes.clone(), open.notes.clone());
    let tables = vec![(whole, streaming()), (open, streaming())];
    let (ended, stored) = run(tables, Steps::default(), async |batches, _, halt| {
        send(&batches, vec![insert("whole", 30), complete(40), insert("open", 50)]);
        let except = vec![name("open")];
        send(&batches, vec![Step::Complete(Coverage { except, ..Coverage::all(mark(60)) })]);
        drop(batches);
        pass(100).await;
        drop(halt);
    })
    .await;
    let (end, tables) = ended.unwrap();
    let by_name: BTreeMap<_, _> = tables.iter().map(|table| (&table.name().table, table.version())).collect();
    assert_eq!(end, SinkEnd::Drained);
    assert_eq!(by_name.into_values().collect::<Vec<_>>(), [None, Some(1)]);
    assert_eq!(whole_notes.all(), ["stage 30", "commit 40", "inspect", "discard"]);
    assert_eq!(open_notes.all(), ["stage 50", "discard"]);
    assert_eq!(stored.confirmed(), 48, "the open transaction is read again");
}

#[tokio::test(start_paused = true)]
async fn a_halt_ends_the_loop_while_the_log_goes_on() {
    let table = (FakeTable::new("t"), streaming());
    let mut kept = None;
    let (ended, _) = run(vec![table], Steps::default(), async |batches, _, halt| {
        pass(100).await;
        halt.send_replace(true);
        kept = Some((batches, halt));
    })
    .await;
    assert_eq!(ended.unwrap().0, SinkEnd::Drained);
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn what_fails_beyond_one_table_ends_the_loop_with_its_error() {
    let lost = failure(Class::Retry);
    let table = FakeTable { on_commit: Some(lost.clone()), ..FakeTable::new("t") };
    let (ended, stored) = run(vec![(table, streaming())], Steps::default(), async |batches, _, halt| {
        send(&batches, vec![insert("t", 30), complete(40)]);
        pass(2000).await;
        drop((batches, halt));
    })
    .await;
    assert_eq!(ended.err(), Some(lost.clone()));
    assert!(stored.all().iter().all(|applied| applied.confirmed_lsn == Some(Lsn::ZERO)));
    let (ended, _) = run(vec![(FakeTable::new("t"), streaming())], Steps::default(), async |batches, _, halt| {
        batches.send(Err(failure(Class::Retry))).unwrap();
        pass(10).await;
        drop(halt);
    })
    .await;
    assert_eq!(ended.err(), Some(lost.clone()));
    let steps = Steps { fails_at: "store", ..Steps::default() };
    let (ended, _) = run(vec![(FakeTable::new("t"), streaming())], steps, async |_, _, _| {}).await;
    assert_eq!(ended.err(), Some(lost));
}

#[tokio::test(start_paused = true)]
async fn events_of_tables_that_are_not_fed_here_are_passed_over() {
    let table = FakeTable::new("t");
    let notes = table.notes.clone();
    let (ended, stored) = run(vec![(table, streaming())], Steps::default(), async |batches, _, _halt| {
        let (table, error) = (name("unknown"), failure(Class::Operator));
        let end = Step::CopyEnd { table: table.clone(), watermark: mark(30) };
        send(&batches, vec![insert("unknown", 30), end, Step::Stop { table, error }, complete(40)]);
        pass(6000).await;
    })
    .await;
    ended.unwrap();
    assert_eq!(notes.all(), ["discard"]);
    assert_eq!(stored.confirmed(), 48);
}
