//! Where a partition is read from, for everything that can have become of it.

use std::collections::BTreeMap;

use sooner_api::{Class, Code, Error, Opened, Positions, Standing};
use sooner_kafka::consumer::start_point::{PartitionFacts, StartPoint, awaited_copy};
use sooner_kafka::progress::record::TopicOffsets;

use crate::support::table;

fn opened(next: Option<i64>, standing: Standing) -> Opened {
    let positions = next.map(|next| Positions::offsets(BTreeMap::from([(0, next)])));
    Opened {
        table: table(),
        standing,
        positions,
        watermark: None,
        error: None,
        needs_copy: false,
        copy: None,
        copied: None,
    }
}

fn recorded(first: i64, next: i64) -> TopicOffsets {
    TopicOffsets {
        topic: "t".to_owned(),
        generation: 1,
        begun_over: false,
        first_offsets: vec![first],
        next_offsets: vec![next],
    }
}

fn code(problem: Option<&Error>) -> Option<Code> {
    problem.map(|error| error.code)
}

/// What has to come out, said without arithmetic: events that were written and are gone are missed.
fn expected(facts: &PartitionFacts<'_>, next: Option<i64>) -> Option<Code> {
    let from = match (next, facts.recorded) {
        (Some(next), _) => next,
        (None, Some(recorded)) => recorded.first_offsets[0],
        (None, None) if facts.has_records => 0,
        (None, None) => return None,
    };
    let was_written = |offset| facts.recorded.is_none_or(|recorded| offset < recorded.next_offsets[0]);
    if from > facts.end {
        Some(Code::TopicReplaced)
    } else if (from..facts.first).any(was_written) {
        Some(Code::EventsExpired)
    } else {
        None
    }
}

#[test]
fn every_partition_starts_where_nothing_is_missed_or_says_what_is() {
    let nexts: Vec<_> = [None].into_iter().chain((0..6).map(Some)).collect();
    for first in 0..5 {
        for end in first..6 {
            for record in [None].into_iter().chain((0..4).map(Some)) {
                let record = record.map(|begin| recorded(begin, begin + 2));
                for has_records in [record.is_some(), true] {
                    let facts = PartitionFacts { partition: 0, recorded: record.as_ref(), has_records, first, end };
                    for &next in &nexts {
                        let StartPoint { offset, problem } = facts.start_point("t", &opened(next, Standing::Follows));
                        assert_eq!(code(problem.as_ref()), expected(&facts, next), "{facts:?}, table at {next:?}");
                        assert!((first..=end).contains(&offset), "{facts:?}, table at {next:?}: {offset}");
                        if problem.is_none() && next.is_some_and(|next| next >= first) {
                            assert_eq!(Some(offset), next);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_topic_of_another_writer_is_read_from_what_is_left() {
    let facts = PartitionFacts { partition: 0, recorded: None, has_records: false, first: 4, end: 9 };
    let new = facts.start_point("t", &opened(None, Standing::Absent));
    assert_eq!(new, StartPoint { offset: 4, problem: None });
    let known = facts.start_point("t", &opened(Some(2), Standing::Follows));
    assert_eq!((known.offset, code(known.problem.as_ref())), (4, Some(Code::EventsExpired)));
}

#[test]
fn a_partition_that_was_emptied_starts_at_its_end() {
    let record = recorded(0, 7);
    let facts = PartitionFacts { partition: 0, recorded: Some(&record), has_records: true, first: 7, end: 7 };
    assert_eq!(facts.start_point("t", &opened(Some(7), Standing::Follows)), StartPoint { offset: 7, problem: None });
    let behind = facts.start_point("t", &opened(Some(6), Standing::Follows));
    assert_eq!(code(behind.problem.as_ref()), Some(Code::EventsExpired));
}

#[test]
fn only_recorded_partitions_have_written_offsets() {
    let record = recorded(3, 7);
    let written =
        |partition, recorded| PartitionFacts { partition, recorded, has_records: true, first: 0, end: 9 }.written();
    assert_eq!(written(0, Some(&record)), Some(7));
    assert_eq!(written(1, Some(&record)), None);
    assert_eq!(written(-1, Some(&record)), None);
    assert_eq!(written(0, None), None);
}

#[test]
fn what_is_missed_is_told_with_place_and_remedy() {
    let record = recorded(0, 20);
    let facts = PartitionFacts { partition: 0, recorded: Some(&record), has_records: true, first: 9, end: 21 };
    let problem = facts.start_point("topic", &opened(Some(7), Standing::Follows)).problem.unwrap();
    assert_eq!(problem.class, Class::Operator);
    assert!(problem.what.contains("public.t"), "{problem}");
    assert!(problem.why.contains("topic/0") && problem.why.contains('9') && problem.why.contains('7'), "{problem}");
    assert!(problem.remedy.contains("`sooner resume public.t`"), "{problem}");
}

#[test]
fn only_a_table_of_another_feed_waits_and_each_writer_has_its_own_remedy() {
    for standing in [Standing::Absent, Standing::Follows, Standing::Foreign] {
        assert_eq!(awaited_copy("t", &opened(None, standing), true), None);
        assert_eq!(awaited_copy("t", &opened(None, standing), false), None);
    }
    let [ours, others] =
        [true, false].map(|has_records| awaited_copy("t", &opened(None, Standing::FollowsOther), has_records).unwrap());
    assert!(ours.remedy.contains("sooner resume public.t"), "{ours}");
    assert!(!others.remedy.contains("sooner resume"), "nobody can resume another producer's table: {others}");
}
