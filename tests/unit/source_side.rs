//! An attempt of the source's side: the order of its steps, and what is left after each of them fails.

use futures::future::join;
use sooner::control::Requests;
use sooner::pipeline::attempts::End;
use sooner::pipeline::source_side::SourceSide;
use sooner_api::{Class, Code, Error, EventBatch, ProgressRecord, Result, TableProgress, TableState};
use sooner_schemas::Lsn;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::fake_database::FakeDatabase;
use crate::fake_log::{Batches, FakeLog};
use crate::support::{Facts, Steps, batch, failure, insert, name, settle, soon, streaming};

/// An attempt's neighbours.
struct Bench {
    steps: Steps,
    database: FakeDatabase,
    log: FakeLog,
    requests: Requests,
    recopy: bool,
    copies_when_slot_is_gone: bool,
    batches: Batches,
    _folder: TempDir,
}

impl Bench {
    /// Two tables, `a` and `b`, a slot, and what was stored.
    fn new(steps: Steps, slot: Option<u64>, stored: Option<ProgressRecord>) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let requests = Requests::new(folder.path());
        let (batches, database) = FakeDatabase::new(steps.clone(), &["a", "b"], slot);
        let log = FakeLog::new(steps.clone(), stored);
        Bench {
            steps,
            database,
            log,
            requests,
            recopy: false,
            copies_when_slot_is_gone: false,
            batches,
            _folder: folder,
        }
    }

    /// Makes an attempt that is halted when nothing more happens.
    async fn attempt(&mut self) -> Result<End> {
        let (halt, halted) = watch::channel(false);
        let (facts, requests) = (Facts::default(), &self.requests);
        let copies_when_slot_is_gone = self.copies_when_slot_is_gone;
        let database = &self.database;
        let side = SourceSide {
            database,
            slot: "s",
            copies_when_slot_is_gone,
            takes_whole_tables: true,
            requests,
            telemetry: &facts,
        };
        let halting = async {
            settle().await;
            halt.send_replace(true);
        };
        let attempting = side.attempt(&mut self.log, &mut self.recopy, halted);
        soon(join(attempting, halting)).await.0
    }

    fn states(&self) -> Vec<&'static str> {
        let record = self.log.begun().unwrap_or_default();
        record.tables.values().map(|progress| progress.state.name()).collect()
    }
}

/// A record of two tables that stream.
fn record(confirmed: u64) -> ProgressRecord {
    let table = |table| (name(table), TableProgress::new(streaming(), Some(1)));
    ProgressRecord {
        system_id: "7".into(),
        timeline: 1,
        slot: "s".into(),
        confirmed_lsn: Lsn(confirmed),
        tables: ["a", "b"].map(table).into(),
        ..ProgressRecord::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_stores_what_it_starts_with_before_it_creates_the_slot() {
    let mut bench = Bench::new(Steps::default(), None, None);
    assert_eq!(bench.attempt().await.unwrap(), End::Again);
    let expected = [
        "inspect",
        "open_writer no slot",
        "identify",
        "begin",
        "create_slot",
        "start_at 100",
        "open at 100, a snapshot, copy a b, follow",
        "finish",
        "end at 0",
    ];
    assert_eq!(bench.steps.notes.all(), expected);
    let begun = bench.log.begun().unwrap();
    assert_eq!((begun.slot.as_str(), begun.system_id.as_str(), begun.confirmed_lsn), ("s", "7", Lsn::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_later_attempt_goes_on_from_what_was_stored() {
    let mut bench = Bench::new(Steps::default(), Some(40), Some(record(50)));
    bench.attempt().await.unwrap();
    let expected = ["inspect", "open_writer slot", "identify", "begin", "open at 50, no snapshot, copy, follow a b"];
    assert_eq!(bench.steps.notes.all()[..5], expected);
}

#[tokio::test(start_paused = true)]
async fn a_slot_whose_position_was_never_stored_is_stored_before_it_is_read() {
    let mut bench = Bench::new(Steps::default(), Some(40), Some(record(0)));
    bench.attempt().await.unwrap();
    assert_eq!(bench.steps.notes.all()[4..6], ["start_at 40", "open at 40, no snapshot, copy, follow a b"]);
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_found_before_anything_is_stored() {
    for (slot, code) in [(Some(60), Code::PositionsDiscontinuous), (None, Code::SlotGone)] {
        let mut bench = Bench::new(Steps::default(), slot, Some(record(50)));
        bench.requests.resume(&name("a")).unwrap();
        assert_eq!(bench.attempt().await.unwrap_err().code, code);
        assert_eq!(bench.steps.notes.all().last().unwrap(), "identify");
        assert!(bench.log.begun().is_none());
        assert_eq!(bench.requests.whole_tables(), [name("a")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_gone_is_made_again_with_all_tables_where_that_is_configured() {
    let mut bench = Bench::new(Steps::default(), None, Some(record(50)));
    bench.copies_when_slot_is_gone = true;
    assert_eq!(bench.attempt().await.unwrap(), End::Again);
    assert!(bench.recopy && bench.log.begun().is_none(), "the next attempt does it");
    let mut bench = Bench::new(Steps::default(), Some(60), Some(record(50)));
    bench.copies_when_slot_is_gone = true;
    assert_eq!(bench.attempt().await.unwrap_err().code, Code::PositionsDiscontinuous, "somebody has advanced it");
}

#[tokio::test(start_paused = true)]
async fn copying_everything_again_goes_on_from_nothing_and_is_done_once_it_is_stored() {
    let mut bench = Bench::new(Steps::default(), Some(60), Some(record(50)));
    bench.recopy = true;
    bench.attempt().await.unwrap();
    assert!(bench.steps.notes.has("open_writer slot, recopy"));
    assert!(bench.steps.notes.has("open at 60, no snapshot, copy a b, follow"));
    assert_eq!(bench.states(), ["copying", "copying"]);
    assert!(!bench.recopy);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_somebody_asked_for_is_copied_and_the_request_is_granted_once() {
    let mut bench = Bench::new(Steps::default(), Some(40), Some(record(50)));
    bench.requests.resume(&name("b")).unwrap();
    bench.attempt().await.unwrap();
    assert_eq!(bench.states(), ["streaming", "copying"]);
    assert!(bench.steps.notes.has("open at 50, no snapshot, copy b, follow a"));
    assert!(bench.requests.pending().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_fails_before_the_record_is_stored_leaves_requests_and_recopy_to_the_next_attempt() {
    for step in ["inspect", "open_writer", "identify", "begin"] {
        let mut bench = Bench::new(Steps { fails_at: step, ..Steps::default() }, None, None);
        bench.requests.resume(&name("a")).unwrap();
        bench.recopy = true;
        assert_eq!(bench.attempt().await.unwrap_err(), failure(Class::Retry), "{step}");
        assert!(bench.steps.notes.all().last().unwrap().starts_with(step), "it ends there");
        assert!(bench.recopy, "{step}");
        assert_eq!(bench.requests.whole_tables(), [name("a")], "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_after_the_record_is_stored_closes_the_log_and_grants_the_requests() {
    for step in ["create_slot", "start_at", "open"] {
        let mut bench = Bench::new(Steps { fails_at: step, ..Steps::default() }, None, None);
        bench.requests.resume(&name("a")).unwrap();
        bench.recopy = true;
        assert_eq!(bench.attempt().await.unwrap_err(), failure(Class::Retry), "{step}");
        let notes = bench.steps.notes.all();
        assert!(notes[notes.len() - 2].starts_with(step), "{notes:?}");
        assert_eq!(notes[notes.len() - 1], "finish");
        assert!(!bench.recopy, "{step}");
        assert!(bench.requests.pending().is_empty(), "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_halt_ends_whatever_waits_for_the_database_or_the_log() {
    for step in ["inspect", "open_writer", "identify", "begin", "create_slot"] {
        let mut bench = Bench::new(Steps { hangs_at: step, ..Steps::default() }, None, None);
        bench.recopy = true;
        assert_eq!(bench.attempt().await.unwrap(), End::Stopped, "{step}");
        let is_begun = step == "create_slot";
        assert_eq!(bench.recopy, !is_begun, "{step}");
        assert_eq!(bench.steps.notes.has("finish"), is_begun, "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_closed_is_an_error_unless_there_is_one_before_it() {
    let mut bench = Bench::new(Steps { fails_at: "finish", ..Steps::default() }, Some(40), Some(record(50)));
    assert_eq!(bench.attempt().await.unwrap_err(), failure(Class::Retry));
    let mut bench = Bench::new(Steps { fails_at: "finish", ..Steps::default() }, Some(40), Some(record(50)));
    let first = Error { code: Code::ProducerFenced, ..failure(Class::Retry) };
    bench.log.breaks.send_replace(Some(first.clone()));
    assert_eq!(bench.attempt().await.unwrap_err(), first);
}

#[tokio::test(start_paused = true)]
async fn what_the_source_yields_is_written_until_the_halt_and_confirmed_at_the_end() {
    let mut bench = Bench::new(Steps::default(), Some(40), Some(record(50)));
    bench.batches.send(Ok(EventBatch { server_end: Lsn(70), ..batch(vec![insert("a", 60)]) })).unwrap();
    assert_eq!(bench.attempt().await.unwrap(), End::Again);
    let notes = bench.steps.notes.all();
    assert_eq!(notes[notes.len() - 4..], ["append 70", "confirm 69", "finish", "end at 69"]);
}

#[tokio::test(start_paused = true)]
async fn a_parked_table_stays_parked_and_is_not_read() {
    let mut stored = record(50);
    let parked = TableState::Parked { error: failure(Class::Operator), copied_lsn: None };
    stored.tables.insert(name("a"), TableProgress::new(parked, Some(1)));
    let mut bench = Bench::new(Steps::default(), Some(40), Some(stored));
    bench.attempt().await.unwrap();
    assert_eq!(bench.states(), ["parked", "streaming"]);
    assert!(bench.steps.notes.has("open at 50, no snapshot, copy, follow b"));
}
