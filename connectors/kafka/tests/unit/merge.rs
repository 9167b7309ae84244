//! Partitions of a topic are merged into commit order, however their messages arrive.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_kafka::consumer::merge::{Step, TopicMerge};
use sooner_kafka::message::topic_message::TopicMessage;
use sooner_schemas::Position;

use crate::support::{at, bare};

/// A topic that was written, and what is to come of it.
struct Written {
    partitions: Vec<Vec<TopicMessage>>,
    /// Positions of the events, in commit order.
    order: Vec<Position>,
    /// Of each progress record: the number of events before it, and the offsets that it gives.
    records: Vec<(usize, Vec<i64>)>,
}

fn write(random: &mut StdRng) -> Written {
    let count = random.random_range(1..5usize);
    let mut written = Written { partitions: vec![Vec::new(); count], order: Vec::new(), records: Vec::new() };
    let mut ends = vec![0i64; count];
    for number in 0..random.random_range(1..60u64) {
        let position = at(10 + number / 3, number % 3);
        let keyed = random.random_bool(0.8);
        let only = random.random_range(0..count);
        for partition in (0..count).filter(|partition| !keyed || *partition == only) {
            // Markers of transactions take offsets, too.
            let offset = ends[partition] + random.random_range(0..3i64);
            written.partitions[partition].push(bare((partition as i32, offset), Some(position), keyed));
            ends[partition] = offset + 1;
        }
        written.order.push(position);
        if random.random_bool(0.2) {
            written.records.push((written.order.len(), ends.clone()));
        }
    }
    written.records.push((written.order.len(), ends));
    written
}

/// Lets the next message of some partition arrive, at times twice.
fn arrive(merge: &mut TopicMerge, written: &Written, arrived: &mut [usize], random: &mut StdRng) {
    let waiting: Vec<_> =
        (0..arrived.len()).filter(|partition| arrived[*partition] < written.partitions[*partition].len()).collect();
    assert!(!waiting.is_empty(), "the merge waits although everything is there");
    let partition = waiting[random.random_range(0..waiting.len())];
    let message = &written.partitions[partition][arrived[partition]];
    arrived[partition] += 1;
    merge.push(message.clone());
    if random.random_bool(0.2) {
        merge.push(message.clone());
    }
}

/// Reads record by record; returns the positions in the order in which they were handed on.
fn read(
    merge: &mut TopicMerge,
    written: &Written,
    records: &[(usize, Vec<i64>)],
    random: &mut StdRng,
) -> Vec<Position> {
    let mut arrived = vec![0; written.partitions.len()];
    let mut read = Vec::new();
    for (_, targets) in records {
        loop {
            let peeked = merge.peek(Some(targets)).map(TopicMessage::place);
            match merge.next(Some(targets)) {
                Step::Message(message, copies) => {
                    assert_eq!(peeked, Some(message.place()));
                    let others = if message.key().is_none() { written.partitions.len() - 1 } else { 0 };
                    assert_eq!(copies.len(), others, "copies of {}", message.place());
                    read.extend(message.position());
                }
                Step::Wait => arrive(merge, written, &mut arrived, random),
                Step::Reached => break,
                Step::Missed => panic!("nothing is missing"),
            }
        }
        let ends: Vec<_> = merge.next_offsets().map(|(_, next)| next).collect();
        assert_eq!(&ends, targets, "everything below a record was read, and nothing beyond");
        assert!(!merge.is_beyond(targets));
    }
    read
}

#[test]
fn any_arrival_of_messages_is_read_in_commit_order_record_by_record() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let written = write(&mut random);
        let mut merge = TopicMerge::new((0..written.partitions.len() as i32).map(|partition| (partition, 0)));
        let read = read(&mut merge, &written, &written.records, &mut random);
        assert_eq!(read, written.order, "seed {seed}");
        assert!(merge.waiting_bytes().all(|(_, bytes)| bytes == 0), "seed {seed}");
    }
}

#[test]
fn a_reader_that_starts_at_a_record_reads_exactly_what_follows_it() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let written = write(&mut random);
        let start = random.random_range(0..written.records.len());
        let (before, offsets) = &written.records[start];
        let mut merge = TopicMerge::new((0..).zip(offsets.iter().copied()));
        let read = read(&mut merge, &written, &written.records[start..], &mut random);
        assert_eq!(&read[..], &written.order[*before..], "seed {seed}");
    }
}

#[test]
fn what_waits_in_a_partition_is_counted_in_bytes() {
    let mut merge = TopicMerge::new([(0, 0), (3, 0)]);
    let (first, second) = (bare((3, 0), Some(at(1, 0)), true), bare((3, 1), Some(at(2, 0)), true));
    merge.push(first.clone());
    merge.push(second.clone());
    let waiting = |merge: &TopicMerge| merge.waiting_bytes().collect::<Vec<_>>();
    assert_eq!(waiting(&merge), [(0, 0), (3, first.size_bytes() + second.size_bytes())]);
    assert!(matches!(merge.next(None), Step::Message(..)));
    assert_eq!(waiting(&merge), [(0, 0), (3, second.size_bytes())]);
}

#[test]
fn without_targets_whatever_is_there_is_handed_on_in_the_order_of_its_partition() {
    let mut merge = TopicMerge::new([(0, 0), (1, 0)]);
    merge.push(bare((1, 0), None, true));
    merge.push(bare((1, 4), None, true));
    merge.push(bare((0, 2), None, true));
    let mut seen = Vec::new();
    while let Step::Message(message, copies) = merge.next(None) {
        assert!(copies.is_empty());
        seen.push((message.partition, message.offset));
    }
    seen.sort_by_key(|(partition, _)| *partition);
    assert_eq!(seen, [(0, 2), (1, 0), (1, 4)]);
    assert!(matches!(merge.next(None), Step::Wait), "without targets there is no end");
}

#[test]
fn messages_without_a_position_are_nobodys_copies() {
    let mut merge = TopicMerge::new([(0, 0), (1, 0)]);
    merge.push(bare((0, 0), None, false));
    merge.push(bare((1, 0), None, false));
    let mut count = 0;
    while let Step::Message(_, copies) = merge.next(None) {
        assert!(copies.is_empty());
        count += 1;
    }
    assert_eq!(count, 2);
}

#[test]
fn a_keyed_event_is_no_copy_of_an_event_of_the_whole_table() {
    let mut merge = TopicMerge::new([(0, 0), (1, 0)]);
    merge.push(bare((0, 0), Some(at(5, 0)), false));
    merge.push(bare((1, 0), Some(at(5, 0)), true));
    let Step::Message(first, copies) = merge.next(Some(&[1, 1])) else { panic!("both heads are there") };
    assert_eq!((first.partition, copies), (0, Vec::new()));
    assert!(matches!(merge.next(Some(&[1, 1])), Step::Message(message, _) if message.partition == 1));
}

#[test]
fn partitions_that_others_read_are_left_to_them() {
    let mut merge = TopicMerge::new([(1, 0)]);
    merge.push(bare((0, 0), Some(at(1, 0)), true));
    merge.push(bare((1, 0), Some(at(2, 0)), true));
    assert!(matches!(merge.next(Some(&[1, 1])), Step::Message(message, _) if message.partition == 1));
    assert!(matches!(merge.next(Some(&[9, 1])), Step::Reached));
}

#[test]
fn a_partition_that_no_record_names_is_not_read() {
    let mut merge = TopicMerge::new([(0, 0), (1, 0)]);
    merge.push(bare((1, 0), Some(at(1, 0)), true));
    assert!(matches!(merge.next(Some(&[])), Step::Reached));
    assert!(merge.peek(Some(&[0])).is_none());
    assert!(!merge.is_beyond(&[]));
    assert!(matches!(merge.next(Some(&[0, 1])), Step::Message(..)));
    assert!(merge.is_beyond(&[]), "what no record names counts as unread");
}
