//! An attempt of the sink's side: which tables are opened, and what becomes of those that cannot be.

use std::collections::{BTreeSet, HashMap};

use futures::future::join;
use sooner::pipeline::sink::SinkEnd;
use sooner::pipeline::sink_side::{KnownTables, SinkSide};
use sooner_api::{Assigned, Class, Feed, Result, Staged, Standing, TableState};
use tokio::sync::watch;

use crate::fake_lake::{FakeLake, FakeTable};
use crate::fake_log::{Batches, FakeReader};
use crate::sink::settings;
use crate::support::{Facts, Steps, StoppedClock, batch, failure, insert, name, parked, pass, soon, streaming};

fn assigned(table: &str, slot: &str) -> Assigned {
    Assigned { table: name(table), feed: Feed::Slot(slot.to_owned()), state: streaming(), lake: None, copy: None }
}

fn from_topic(table: &str, state: TableState) -> Assigned {
    let (topic, assigned) = (table.to_owned(), BTreeSet::from([0]));
    let feed = Feed::Topic { topic, generation: None, partitions: 1, assigned, in_commit_order: true };
    Assigned { table: name(table), feed, state, lake: None, copy: None }
}

/// An attempt's neighbours.
struct Bench {
    lake: FakeLake,
    reader: FakeReader,
    /// Where the test puts what is read; without it, each round ends at once.
    batches: Option<Batches>,
    known: KnownTables<FakeTable>,
    facts: Facts,
}

impl Bench {
    fn new(rounds: Vec<Vec<Assigned>>, lake: FakeLake) -> Bench {
        let (batches, mut reader) = FakeReader::new(Steps::default());
        reader.rounds = rounds.into();
        Bench { lake, reader, batches: Some(batches), known: HashMap::new(), facts: Facts::default() }
    }

    /// Runs an attempt, halted after some time.
    async fn attempt(&mut self) -> Result<SinkEnd> {
        let (halt, halted) = watch::channel(false);
        let settings = settings();
        let (lake, telemetry) = (&self.lake, &self.facts);
        let side = SinkSide { lake, settings: &settings, clock: StoppedClock, telemetry };
        let halting = async {
            pass(3000).await;
            halt.send_replace(true);
        };
        let attempting = side.attempt(&mut self.reader, &mut self.known, halted);
        soon(join(attempting, halting)).await.0
    }

    /// Runs an attempt in which nothing is read, so that round follows round.
    async fn rounds(&mut self) -> Result<SinkEnd> {
        self.batches = None;
        self.attempt().await
    }
}

fn current() -> FakeLake {
    FakeLake::new(|table| Ok(FakeTable::new(&table.table)))
}

#[tokio::test(start_paused = true)]
async fn a_table_that_nobody_else_committed_to_is_opened_once() {
    let rounds = vec![vec![assigned("a", "s")], vec![assigned("a", "s"), assigned("b", "s")]];
    let mut bench = Bench::new(rounds, current());
    assert_eq!(bench.rounds().await.unwrap(), SinkEnd::Drained);
    assert_eq!(bench.lake.opened.all(), ["a", "b"]);
    assert_eq!(bench.known.len(), 2);
    assert!(bench.reader.steps.notes.has("start a b"), "it takes part again all the same");
}

#[tokio::test(start_paused = true)]
async fn a_table_that_somebody_else_committed_to_is_opened_again() {
    let lake = FakeLake::new(|table| Ok(FakeTable { is_current: false, ..FakeTable::new(&table.table) }));
    let mut bench = Bench::new(vec![vec![assigned("a", "s")], vec![assigned("a", "s")]], lake);
    bench.rounds().await.unwrap();
    assert_eq!(bench.lake.opened.all(), ["a", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_fed_from_elsewhere_is_opened_again() {
    let mut bench = Bench::new(vec![vec![assigned("a", "s")], vec![assigned("a", "other")]], current());
    bench.rounds().await.unwrap();
    assert_eq!(bench.lake.opened.all(), ["a", "a"]);
    assert_eq!(bench.known[&name("a")].0, Feed::Slot("other".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_a_person_must_see_to_is_parked_and_the_others_are_read() {
    let lake = FakeLake::new(|table| match table.table.as_str() {
        "a" => Err(failure(Class::Operator)),
        other => Ok(FakeTable::new(other)),
    });
    let mut bench = Bench::new(vec![vec![assigned("b", "s"), assigned("a", "s")]], lake);
    bench.batches.as_ref().unwrap().send(Ok(batch(vec![insert("b", 30)]))).unwrap();
    bench.attempt().await.unwrap();
    assert!(bench.reader.steps.notes.has("start a (shape_changed) b"), "{:?}", bench.reader.steps.notes.all());
    assert!(bench.facts.0.has("sink a parked") && bench.facts.0.has("sink b streaming"));
    let (_, table) = &bench.known[&name("b")];
    assert_eq!(table.notes.all(), ["stage 30", "discard"]);
    assert!(!bench.known.contains_key(&name("a")));
}

#[tokio::test(start_paused = true)]
async fn a_lake_that_does_not_answer_ends_the_attempt_before_anything_is_read() {
    for class in [Class::Retry, Class::Fatal] {
        let lake = FakeLake::new(move |_| Err(failure(class)));
        let mut bench = Bench::new(vec![vec![assigned("a", "s")]], lake);
        assert_eq!(bench.attempt().await.unwrap_err(), failure(class));
        assert_eq!(bench.reader.steps.notes.all(), ["assigned"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_started_costs_no_table() {
    let mut bench = Bench::new(vec![vec![assigned("a", "s")], vec![assigned("a", "s")]], current());
    bench.reader.steps.fails_at = "start";
    assert_eq!(bench.rounds().await.unwrap_err(), failure(Class::Retry));
    bench.reader.steps.fails_at = "";
    bench.rounds().await.unwrap();
    assert_eq!(bench.lake.opened.all(), ["a"], "the second attempt goes on with it");
}

#[tokio::test(start_paused = true)]
async fn a_halt_ends_the_wait_for_an_assignment() {
    let mut bench = Bench::new(Vec::new(), current());
    bench.reader.steps.hangs_at = "assigned";
    assert_eq!(bench.attempt().await.unwrap(), SinkEnd::Drained);
    assert!(bench.lake.opened.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_halt_ends_the_rounds_and_keeps_the_tables() {
    let mut bench = Bench::new(vec![vec![assigned("a", "s")], vec![assigned("a", "s")]], current());
    assert_eq!(bench.attempt().await.unwrap(), SinkEnd::Drained);
    assert_eq!(bench.reader.rounds.len(), 1, "the next round is not begun");
    assert_eq!(bench.known.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_needs_a_copy_ends_the_attempt() {
    let needs_copy = || Some(Ok(Staged::NeedsCopy(failure(Class::Operator))));
    let lake = FakeLake::new(move |table| Ok(FakeTable { on_stage: needs_copy(), ..FakeTable::new(&table.table) }));
    let mut bench = Bench::new(vec![vec![assigned("a", "s")], vec![assigned("a", "s")]], lake);
    bench.batches.as_ref().unwrap().send(Ok(batch(vec![insert("a", 30)]))).unwrap();
    assert_eq!(bench.attempt().await.unwrap(), SinkEnd::CopyNeeded);
    assert_eq!(bench.reader.rounds.len(), 1);
    assert!(bench.known.contains_key(&name("a")));
}

#[tokio::test(start_paused = true)]
async fn a_slots_table_that_is_not_in_the_lake_is_copied() {
    for standing in [Standing::Absent, Standing::FollowsOther] {
        let lake = FakeLake::new(move |table| Ok(FakeTable { standing, ..FakeTable::new(&table.table) }));
        let mut bench = Bench::new(vec![vec![assigned("a", "s")]], lake);
        bench.rounds().await.unwrap();
        assert!(bench.facts.0.has("sink a copying"), "{standing:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_topics_table_is_read_also_where_the_source_has_parked_it() {
    let round = vec![from_topic("a", parked()), from_topic("b", TableState::Copying), from_topic("c", streaming())];
    let mut bench = Bench::new(vec![round], current());
    bench.rounds().await.unwrap();
    let facts = bench.facts.0.all();
    assert_eq!(facts[..4], ["sink a streaming", "sink b copying", "sink c streaming", "running"]);
}
