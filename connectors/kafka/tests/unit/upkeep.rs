//! Beside the merge: back-pressure, orderings, copies and their ends, and offsets for the group.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::{Code, Error, TableProgress, TableState};
use sooner_kafka::cluster::topic_partition::Offsets;
use sooner_kafka::consumer::flow::{Flow, FlowChange};
use sooner_kafka::consumer::lag::LagGauge;
use sooner_kafka::consumer::offsets_in_flight::OffsetsInFlight;
use sooner_kafka::consumer::ordering::{Ordering, new_topics};
use sooner_kafka::progress::copies::{Copies, broken_copies, coverage};
use sooner_kafka::progress::record::{TopicOffsets, TopicProgress};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

fn name(table: &str) -> TableName {
    TableName::new("public", table)
}

fn record(commit_lsn: u64, states: &[(&str, TableState)]) -> TopicProgress {
    let mut record = TopicProgress { commit_lsn: Lsn(commit_lsn), commit_micros: 3, ..TopicProgress::default() };
    for (table, state) in states {
        let offsets = TopicOffsets {
            topic: format!("topic.{table}"),
            generation: 1,
            begun_over: false,
            first_offsets: vec![0],
            next_offsets: vec![4],
        };
        record.record.tables.insert(name(table), TableProgress::new(state.clone(), None));
        record.topics.insert(name(table), offsets);
    }
    record
}

fn streaming(copied: u64) -> TableState {
    TableState::Streaming { copied_lsn: Some(Lsn(copied)) }
}

fn parked(copied_lsn: Option<Lsn>) -> TableState {
    TableState::Parked { error: Error::operator(Code::ShapeChanged, "w", "y", "r"), copied_lsn }
}

#[test]
fn partitions_are_paused_above_their_share_and_never_for_nothing() {
    const SHARE: usize = 1 << 20;
    for seed in 0..50 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut flow = Flow::new(4 * SHARE);
        let mut paused = BTreeSet::new();
        for _ in 0..100 {
            let waiting: Vec<_> =
                (0..4).map(|partition| (partition, random.random_range(0..3usize) * SHARE * 2 / 3)).collect();
            let change = flow.regulate(waiting.iter().map(|(partition, bytes)| ("t", *partition, *bytes)), 4);
            for (_, partition) in change.pause {
                assert!(paused.insert(partition), "seed {seed}: it is paused already");
            }
            for (_, partition) in change.resume {
                assert!(paused.remove(&partition), "seed {seed}: it is not paused");
            }
            for (partition, bytes) in waiting {
                assert!(bytes <= SHARE || paused.contains(&partition), "seed {seed}: {bytes} bytes wait");
                assert!(bytes > SHARE / 2 || !paused.contains(&partition), "seed {seed}: nothing would come");
            }
        }
    }
}

#[test]
fn partitions_of_equal_number_in_two_topics_are_two() {
    let mut flow = Flow::new(1 << 20);
    let at = |topic: &str| (topic.to_owned(), 0);
    let paused = flow.regulate([("a", 0, 2 << 20), ("b", 0, 0)].into_iter(), 2);
    assert_eq!(paused, FlowChange { pause: vec![at("a")], resume: vec![] });
    let resumed = flow.regulate([("a", 0, 0), ("b", 0, 2 << 20)].into_iter(), 2);
    assert_eq!(resumed, FlowChange { pause: vec![at("b")], resume: vec![at("a")] });
}

#[test]
fn without_records_topics_are_read_without_a_bound() {
    let mut ordering = Ordering::ByArrival;
    ordering.set_target(record(5, &[("a", streaming(1))]));
    assert!(!ordering.has_records() && !ordering.waits_for_record());
    assert_eq!(ordering.targets("topic.a", 1), None);
    assert!(ordering.reach(|_, _| false).is_none() && ordering.tables().is_empty());
}

#[test]
fn topics_that_a_record_adds_are_found() {
    let record = record(5, &[("a", streaming(1)), ("b", TableState::Copying), ("c", TableState::Gone)]);
    let subscribed = HashSet::from(["topic.b".to_owned(), "elsewhere".to_owned()]);
    assert_eq!(new_topics(&record, &subscribed), ["topic.a", "topic.c"]);
    assert!(new_topics(&TopicProgress::default(), &subscribed).is_empty());
}

#[test]
fn each_copy_ends_once_and_no_earlier_than_the_stream() {
    let mut copies = Copies::default();
    let mut ended = |record: &TopicProgress| {
        let ended = copies.newly_ended(record, |_| false).into_iter();
        ended.map(|(table, watermark)| (table.table, watermark.commit_lsn.0, watermark.end_lsn.0)).collect::<Vec<_>>()
    };
    let first = record(50, &[("a", streaming(40)), ("b", streaming(60)), ("c", TableState::Copying)]);
    assert_eq!(ended(&first), [("a".to_owned(), 50, 51), ("b".to_owned(), 60, 61)]);
    let second = record(70, &[("a", streaming(40)), ("b", streaming(65)), ("c", streaming(68))]);
    assert_eq!(ended(&second), [("b".to_owned(), 70, 71), ("c".to_owned(), 70, 71)]);
    let third = record(80, &[("a", TableState::Streaming { copied_lsn: None }), ("b", parked(Some(Lsn(65))))]);
    assert!(ended(&third).is_empty());
}

#[test]
fn only_copies_that_were_broken_off_and_those_that_run_are_excepted() {
    let mut record = record(
        50,
        &[
            ("a", parked(None)),
            ("b", parked(Some(Lsn(4)))),
            ("c", TableState::Copying),
            ("d", streaming(3)),
            ("e", TableState::Gone),
            ("f", parked(None)),
        ],
    );
    record.topics.remove(&name("f"));
    let broken: Vec<_> = broken_copies(&record).map(|(topic, error)| (topic, error.code)).collect();
    assert_eq!(broken, [("topic.a", Code::ShapeChanged)], "a table without a topic has nothing to break off");
    let coverage = coverage(&record, Watermark::default());
    assert_eq!((coverage.except, coverage.gone), (vec![name("c")], vec![name("e")]));
    assert_eq!(coverage.stopped, [name("a"), name("b"), name("f")]);
}

#[test]
fn the_offsets_of_a_watermark_are_committed_once_it_is_durable() {
    let at = |offset| Offsets::from([(("t".to_owned(), 0), offset)]);
    let mut offsets = OffsetsInFlight::default();
    assert_eq!(offsets.take(Lsn(99)), None);
    offsets.note(Lsn(10), at(1));
    assert_eq!(offsets.take(Lsn(10)), Some(at(1)));
    assert_eq!(offsets.take(Lsn(10)), None, "they are committed once");
    offsets.note(Lsn(20), at(2));
    offsets.note(Lsn(30), at(3));
    assert_eq!(offsets.take(Lsn(35)), Some(at(3)), "the last one that is durable");
    offsets.note(Lsn(40), at(4));
    offsets.clear();
    assert_eq!(offsets.take(Lsn(50)), None);
}

#[test]
fn a_gauge_shows_nothing_before_anything_is_read() {
    let gauge = LagGauge::default();
    assert_eq!(gauge.by_table(), BTreeMap::new());
    assert_eq!(gauge.reading_micros(), None);
}
