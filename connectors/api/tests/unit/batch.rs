//! Batches of steps: what they hold, and the memory that they take.

use std::sync::Arc;

use sooner_api::{Class, Code, Coverage, Error, EventBatch, MemoryBudget, NextOffsets, Positions, Rows, Step};
use sooner_schemas::event::{Event, EventSchema, Op, TableEvents, Watermark};
use sooner_schemas::{Lsn, Position, TableName};

const KIB: usize = 1024;

fn name(table: &str) -> TableName {
    TableName::new("public", table)
}

fn event(op: Op, lsn: u64) -> Event {
    let position = Position { commit_lsn: Lsn(lsn), ordinal: 1 };
    Event { position, op, key: 0..0, value: 0..0, unavailable: Box::default(), old_key: None }
}

fn rows(table: &str, events: Vec<Event>) -> Rows {
    let schema = EventSchema::parse(name(table), None, "\"string\"").unwrap();
    Rows::new(TableEvents { events, ..TableEvents::new(Arc::new(schema)) })
}

/// Rows without events, whose bytes take so much room.
fn sized(table: &str, bytes: usize) -> Rows {
    let mut rows = rows(table, Vec::new());
    rows.events.bytes = vec![0; bytes];
    rows
}

fn watermark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 1), commit_micros: 0 }
}

fn batch(steps: Vec<Step>) -> EventBatch {
    EventBatch { steps, server_end: Lsn::ZERO, ..EventBatch::default() }
}

#[test]
fn an_event_of_the_whole_table_is_a_step_of_its_own() {
    for op in [Op::Read, Op::Create, Op::Update, Op::Delete] {
        assert!(matches!(rows("t", vec![event(op, 1)]).into_step(), Step::Rows(_)), "{op:?}");
    }
    assert!(matches!(rows("t", vec![event(Op::Truncate, 1)]).into_step(), Step::Truncate(_)));
    assert!(matches!(rows("t", vec![event(Op::CopyStart, 1)]).into_step(), Step::CopyStart(_)));
    assert!(matches!(rows("t", vec![]).into_step(), Step::Rows(_)));
}

#[test]
fn only_steps_with_events_have_rows() {
    let error = Error::operator(Code::ShapeChanged, "a", "b", "c");
    assert_eq!(error.class, Class::Operator);
    let without = [
        Step::CopyEnd { table: name("t"), watermark: watermark(1) },
        Step::Stop { table: name("t"), error },
        Step::Complete(Coverage::all(watermark(1))),
    ];
    for mut step in without {
        assert!(step.rows().is_none() && step.rows_mut().is_none(), "{step:?}");
    }
    for op in [Op::Create, Op::Truncate, Op::CopyStart] {
        let mut step = rows("t", vec![event(op, 1)]).into_step();
        assert_eq!(step.rows().map(|rows| rows.table().clone()), Some(name("t")));
        step.rows_mut().unwrap().generation = Some(3);
        assert_eq!(step.rows().unwrap().generation, Some(3));
    }
}

#[test]
fn rows_say_what_has_been_taken_with_them() {
    assert_eq!(rows("t", vec![]).positions(), None);
    let mut taken = rows("t", vec![event(Op::Create, 4), event(Op::Update, 9)]);
    assert_eq!(taken.last_lsn(), Some(Lsn(9)));
    assert_eq!(taken.positions(), Some(Positions::whole(Lsn(9))), "transactions are whole");
    taken.generation = Some(2);
    taken.next_offsets = NextOffsets::from([(3, 7)]);
    let offsets = Positions::Topic { generation: Some(2), next_offsets: NextOffsets::from([(3, 7)]) };
    assert_eq!(taken.positions(), Some(offsets), "a topic has an order of its own");
}

#[test]
fn a_batch_counts_the_events_of_all_its_steps() {
    let steps = vec![
        rows("a", vec![event(Op::Create, 1), event(Op::Create, 1)]).into_step(),
        Step::Complete(Coverage::all(watermark(1))),
        rows("b", vec![event(Op::Truncate, 2)]).into_step(),
        Step::CopyEnd { table: name("b"), watermark: watermark(2) },
    ];
    let batch = batch(steps);
    assert_eq!(batch.event_count(), 3);
    let tables: Vec<_> = batch.rows().map(|rows| rows.table().table.as_str()).collect();
    assert_eq!(tables, ["a", "b"]);
    let sizes: usize = batch.rows().map(|rows| rows.events.size_bytes()).sum();
    assert_eq!(batch.size_bytes(), sizes);
    assert!(sizes >= 3 * size_of::<Event>());
    assert_eq!((EventBatch::default().event_count(), EventBatch::default().size_bytes()), (0, 0));
}

#[test]
fn the_last_coverage_counts() {
    assert_eq!(batch(vec![sized("a", 1).into_step()]).coverage(), None);
    let (except, elsewhere) = (vec![name("copied")], vec![name("moved")]);
    let last = Coverage { except, elsewhere, ..Coverage::all(watermark(2)) };
    let steps =
        vec![Step::Complete(Coverage::all(watermark(1))), Step::Complete(last.clone()), sized("a", 1).into_step()];
    assert_eq!(batch(steps).coverage(), Some(&last));
    assert!(last.applies_to(&name("other")) && !last.applies_to(&name("copied")) && !last.applies_to(&name("moved")));
    assert!(Coverage::all(watermark(1)).applies_to(&name("copied")));
}

fn held(batch: &EventBatch) -> Vec<usize> {
    batch.rows().map(|rows| rows.reservation.bytes()).collect()
}

#[tokio::test]
async fn every_step_holds_its_own_share() {
    let budget = MemoryBudget::new(100 * KIB);
    let complete = Step::Complete(Coverage::all(watermark(1)));
    let steps = vec![Step::Rows(sized("a", 3 * KIB)), complete, Step::Rows(sized("b", 5 * KIB))];
    let mut batch = batch(steps);
    batch.reserve(&budget).await;
    assert_eq!(held(&batch), [3 * KIB, 5 * KIB]);
    assert_eq!(budget.free_bytes(), 92 * KIB, "nothing is held beside the shares");
    drop(batch.steps.pop());
    assert_eq!(budget.free_bytes(), 97 * KIB);
    drop(batch);
    assert_eq!(budget.free_bytes(), 100 * KIB);
}

#[tokio::test]
async fn small_steps_share_a_unit_of_the_budget() {
    let budget = MemoryBudget::new(100 * KIB);
    let mut batch = batch(vec![Step::Rows(sized("a", 100)), Step::Rows(sized("b", 100))]);
    batch.reserve(&budget).await;
    assert_eq!(held(&batch).iter().sum::<usize>(), KIB);
    assert_eq!(budget.free_bytes(), 99 * KIB);
}

#[tokio::test]
async fn a_batch_larger_than_the_budget_takes_all_of_it() {
    let budget = MemoryBudget::new(4 * KIB);
    let mut batch = batch(vec![Step::Rows(sized("a", 3 * KIB)), Step::Rows(sized("b", 9 * KIB))]);
    batch.reserve(&budget).await;
    assert_eq!((held(&batch), budget.free_bytes()), (vec![3 * KIB, KIB], 0));
    drop(batch);
    assert_eq!(budget.free_bytes(), 4 * KIB);
}

#[tokio::test]
async fn a_batch_without_events_takes_nothing() {
    let budget = MemoryBudget::new(KIB);
    let _held = budget.reserve(KIB).await;
    let mut batch = batch(vec![Step::Complete(Coverage::all(watermark(1)))]);
    batch.reserve(&budget).await;
    assert_eq!(budget.free_bytes(), 0);
}
