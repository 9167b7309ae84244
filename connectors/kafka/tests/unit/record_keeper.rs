//! The record that a running source keeps: whatever happens, what it writes adds up to what it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::{Code, Error, TableFact, TableProgress, TableState};
use sooner_kafka::producer::record_keeper::RecordKeeper;
use sooner_kafka::progress::record::{RecordReplay, TopicOffsets, TopicProgress};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use crate::support::{at, relation};

fn name(table: &str) -> TableName {
    TableName::new("public", table)
}

fn progress() -> TopicProgress {
    let mut progress = TopicProgress { commit_lsn: Lsn(100), ..TopicProgress::default() };
    progress.record.slot = "s".to_owned();
    progress.record.confirmed_lsn = Lsn(110);
    for table in ["a", "b", "c"] {
        let offsets = TopicOffsets {
            topic: table.to_owned(),
            generation: 1,
            begun_over: false,
            first_offsets: vec![0, 0],
            next_offsets: vec![5, 0],
        };
        progress.record.tables.insert(name(table), TableProgress::new(TableState::Copying, None));
        progress.topics.insert(name(table), offsets);
    }
    progress
}

/// A keeper whose first record is written.
fn keeper() -> RecordKeeper {
    let mut keeper = RecordKeeper::new(progress(), None);
    keeper.written();
    keeper.take_news();
    keeper
}

fn failure() -> Error {
    Error::operator(Code::MessageTooLarge, "w", "y", "r")
}

fn mark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 10), commit_micros: lsn as i64 }
}

fn fact(random: &mut StdRng) -> TableFact {
    match random.random_range(0..7) {
        0 => TableFact::Selected,
        1 => TableFact::Blocked(failure()),
        2 => TableFact::CopyNeeded,
        3 => TableFact::CopyBegun,
        4 => TableFact::CopyEnded(Lsn(random.random_range(1..200))),
        5 => TableFact::Failed(failure()),
        _ => TableFact::Removed,
    }
}

/// Lets something happen.
fn happen(keeper: &mut RecordKeeper, random: &mut StdRng) {
    let table = name(["a", "b", "c", "unknown"][random.random_range(0..4usize)]);
    match random.random_range(0..5) {
        0 => {
            keeper.step(&table, fact(random));
        }
        1 => {
            let (partition, next) = (random.random_range(0..3i32), random.random_range(0..50i64));
            let topic = keeper.progress().topics.get(&table);
            let known = topic.and_then(|topic| topic.next_offsets.get(partition as usize)).copied();
            let expected = known.filter(|known| next <= *known).map_or(Ok(()), Err);
            assert_eq!(keeper.advance(&table, partition, next), expected);
        }
        2 => {
            let known = Arc::new(relation());
            keeper.set_relation(&table, random.random_bool(0.5).then_some(&known));
        }
        3 => keeper.note_events(random.random_bool(0.7).then(|| at(random.random_range(100..200), 3))),
        _ => keeper.reach(mark(random.random_range(90..220)), random.random_bool(0.5)),
    }
}

/// Writes the messages to a topic that is replayed; returns the record that they make.
fn write(keeper: &mut RecordKeeper, replay: &mut RecordReplay) -> Option<TopicProgress> {
    let mut found = None;
    for (key, value) in keeper.messages().unwrap() {
        found = replay.take("p/0", key.as_bytes(), value.as_deref()).unwrap().or(found);
    }
    keeper.written();
    found
}

#[test]
fn whatever_happens_the_messages_add_up_to_the_record() {
    for seed in 0..100 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut replay = RecordReplay::default();
        let mut keeper = RecordKeeper::new(progress(), None);
        for _ in 0..40 {
            assert_eq!(write(&mut keeper, &mut replay).as_ref(), Some(keeper.progress()), "seed {seed}");
            assert!(!keeper.is_dirty() && !keeper.is_urgent());
            for _ in 0..random.random_range(0..6) {
                happen(&mut keeper, &mut random);
            }
            if random.random_bool(0.1) {
                keeper = RecordKeeper::new(keeper.progress().clone(), None);
            }
        }
    }
}

#[test]
fn positions_and_offsets_never_move_back() {
    for seed in 0..100 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut keeper = keeper();
        for _ in 0..60 {
            let before = keeper.progress().clone();
            happen(&mut keeper, &mut random);
            let now = keeper.progress();
            assert!(now.commit_lsn >= before.commit_lsn && now.record.confirmed_lsn >= before.record.confirmed_lsn);
            for (table, offsets) in &now.topics {
                let mut grown = offsets.next_offsets.iter().zip(&before.topics[table].next_offsets);
                assert!(grown.all(|(now, before)| now >= before), "seed {seed}: {table}");
            }
        }
    }
}

#[test]
fn tables_that_no_longer_take_part_are_removed_with_the_first_record() {
    let mut former = progress();
    former.record.tables.insert(name("gone"), TableProgress::new(TableState::Copying, None));
    let mut replay = RecordReplay::default();
    let mut keeper = RecordKeeper::new(former, None);
    assert_eq!(write(&mut keeper, &mut replay).map(|record| record.record.tables.len()), Some(4));
    let mut next = RecordKeeper::new(progress(), [name("gone")]);
    assert_eq!(write(&mut next, &mut replay), Some(progress()));
    assert_eq!(next.take_news(), Some(BTreeSet::from(["a", "b", "c", "gone"].map(name))));
}

#[test]
fn news_gather_until_they_are_asked_for() {
    let mut keeper = keeper();
    assert_eq!(keeper.take_news(), None);
    for table in ["a", "b"] {
        keeper.advance(&name(table), 1, 3).unwrap();
        keeper.written();
    }
    assert_eq!(keeper.take_news(), Some(BTreeSet::from(["a", "b"].map(name))));
    keeper.written();
    assert_eq!(keeper.take_news(), Some(BTreeSet::new()), "a record of which only the head is new");
}

#[test]
fn what_changes_nothing_is_not_written() {
    let mut keeper = keeper();
    assert!(!keeper.step(&name("a"), TableFact::CopyBegun), "it is copying already");
    assert!(!keeper.step(&name("unknown"), TableFact::Failed(failure())));
    keeper.set_relation(&name("a"), None);
    keeper.set_relation(&name("unknown"), Some(&Arc::new(relation())));
    keeper.advance(&name("unknown"), 0, 9).unwrap();
    assert_eq!(keeper.messages().unwrap().len(), 1, "the head alone");
    assert!(!keeper.is_dirty() && !keeper.is_urgent());
    assert_eq!(keeper.state(&name("unknown")), None);
}

#[test]
fn events_are_dropped_from_a_table_that_fails_or_goes_or_is_copied_again() {
    for fact in [TableFact::Failed(failure()), TableFact::Removed, TableFact::CopyNeeded, TableFact::Blocked(failure())]
    {
        let mut keeper = keeper();
        keeper.step(&name("a"), TableFact::CopyEnded(Lsn(50)));
        keeper.written();
        assert!(keeper.step(&name("a"), fact.clone()), "{fact:?}");
        assert!(keeper.is_urgent() && keeper.is_dirty(), "{fact:?}");
    }
    let mut keeper = keeper();
    assert!(!keeper.step(&name("a"), TableFact::CopyEnded(Lsn(50))));
    assert_eq!(keeper.state(&name("a")), Some(&TableState::Streaming { copied_lsn: Some(Lsn(50)) }));
}

#[test]
fn an_idle_source_writes_its_position_now_and_then() {
    let mut keeper = keeper();
    let soon = Instant::now() + Duration::from_secs(6);
    assert!(!keeper.is_due(soon), "nothing has changed");
    let before = Instant::now();
    keeper.written();
    keeper.reach(mark(150), false);
    assert!(keeper.is_dirty() && !keeper.is_urgent());
    assert!(!keeper.is_due(before), "not at once");
    assert!(keeper.is_due(Instant::now() + Duration::from_secs(6)));
    assert_eq!(keeper.progress().watermark(), Some(mark(150)));
}

#[test]
fn a_source_that_starts_again_knows_the_part_of_a_transaction_that_is_written() {
    let mut first = keeper();
    first.note_events(Some(at(120, 4)));
    let next = RecordKeeper::new(first.progress().clone(), None);
    assert!(next.is_dirty(), "its first record is written whole");
    assert!(next.was_written(at(120, 4)) && next.was_written(at(110, 9)) && !next.was_written(at(120, 5)));
    assert!(!first.was_written(at(120, 4)), "the stream repeats nothing to the source that wrote it");
}
