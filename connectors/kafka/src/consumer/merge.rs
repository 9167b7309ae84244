//! Merges the partitions of one topic into one sequence in commit order.
//!
//! Each partition is in commit order. A progress record gives each partition a target offset. The next event is the
//! one with the smallest position among the heads of the partitions that are below their targets, and none of these
//! heads may be missing.

use std::collections::{BTreeMap, VecDeque};

use crate::message::topic_message::TopicMessage;

/// Merge of the partitions of one topic that this reader holds.
#[derive(Default)]
pub struct TopicMerge {
    partitions: BTreeMap<i32, Queue>,
}

#[derive(Default)]
struct Queue {
    records: VecDeque<TopicMessage>,
    bytes: usize,
    /// Offset after the last record handed on; at first, where reading starts.
    next_offset: i64,
}

/// Outcome of [`TopicMerge::next`].
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and a box would be one allocation an event")]
pub enum Step {
    /// The next record, and the partitions in which a copy of it was dropped, each with the offset after the copy.
    Message(TopicMessage, Vec<(i32, i64)>),
    /// No record: one that may come first has not arrived yet.
    Wait,
    /// No record: every partition has been read up to its target.
    Reached,
    /// No record: the last message below a target is missing. It is written again, and a later progress record
    /// covers it.
    Missed,
}

/// Choice of the partition that holds the next record, or why there is none.
enum Choice {
    Partition(i32),
    Wait,
    Reached,
    Missed,
}

impl TopicMerge {
    /// A merge of these partitions, each read from its offset on.
    pub fn new(positions: impl IntoIterator<Item = (i32, i64)>) -> TopicMerge {
        let queue = |next_offset| Queue { next_offset, ..Queue::default() };
        let partitions = positions.into_iter().map(|(partition, offset)| (partition, queue(offset)));
        TopicMerge { partitions: partitions.collect() }
    }

    /// Queues a record. It is dropped if its partition is not read here, or if it was queued or handed on before.
    pub fn push(&mut self, record: TopicMessage) {
        if let Some(queue) = self.partitions.get_mut(&record.partition)
            && record.offset >= queue.records.back().map_or(queue.next_offset, |last| last.offset + 1)
        {
            queue.bytes += record.size_bytes();
            queue.records.push_back(record);
        }
    }

    /// Number of partitions.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Bytes of queued records, by partition.
    pub fn waiting_bytes(&self) -> impl Iterator<Item = (i32, usize)> {
        self.partitions.iter().map(|(partition, queue)| (*partition, queue.bytes))
    }

    /// The partitions, each with the offset after its last record handed on.
    pub fn next_offsets(&self) -> impl Iterator<Item = (i32, i64)> {
        self.partitions.iter().map(|(partition, queue)| (*partition, queue.next_offset))
    }

    /// Whether any partition has been read beyond its offset in `offsets`, which is indexed by partition.
    pub fn is_beyond(&self, offsets: &[i64]) -> bool {
        let of = |partition: i32| offsets.get(partition as usize).copied().unwrap_or(0);
        self.next_offsets().any(|(partition, next)| next > of(partition))
    }

    /// The record that [`TopicMerge::next`] would hand on, left in its queue.
    pub fn peek(&self, targets: Option<&[i64]>) -> Option<&TopicMessage> {
        let Choice::Partition(partition) = self.choose(targets) else { return None };
        self.partitions.get(&partition)?.records.front()
    }

    /// Hands on the next record. With targets, indexed by partition: in commit order, and only records below them.
    /// Without targets: any record that is queued, in order within its partition.
    pub fn next(&mut self, targets: Option<&[i64]>) -> Step {
        let partition = match self.choose(targets) {
            Choice::Partition(partition) => partition,
            Choice::Wait => return Step::Wait,
            Choice::Reached => return Step::Reached,
            Choice::Missed => return Step::Missed,
        };
        let Some(record) = self.partitions.get_mut(&partition).and_then(Queue::pop) else { return Step::Wait };
        let copies = if record.is_of_whole_table() { self.drop_copies(&record, targets) } else { Vec::new() };
        Step::Message(record, copies)
    }

    fn choose(&self, targets: Option<&[i64]>) -> Choice {
        let Some(targets) = targets else {
            let filled = self.partitions.iter().find(|(_, queue)| !queue.records.is_empty());
            return filled.map_or(Choice::Wait, |(partition, _)| Choice::Partition(*partition));
        };
        let behind = || {
            let queues =
                self.partitions.iter().map(|(partition, queue)| (*partition, queue, target_of(targets, *partition)));
            queues.filter(|(_, queue, target)| queue.next_offset < *target)
        };
        // The last message below a target was never seen. Events of other partitions wait: it may precede them.
        if behind().any(|(_, queue, target)| queue.records.front().is_some_and(|head| head.offset >= target)) {
            return Choice::Missed;
        }
        let mut best = None;
        for (partition, queue, _) in behind() {
            let Some(head) = queue.records.front() else { return Choice::Wait };
            let position = head.position();
            if best.is_none_or(|(smallest, _)| position < smallest) {
                best = Some((position, partition));
            }
        }
        best.map_or(Choice::Reached, |(_, partition)| Choice::Partition(partition))
    }

    /// Drops the copies of an event without a key, which is written to every partition and handed on once. Returns
    /// the partitions of the copies, each with the offset after its copy.
    fn drop_copies(&mut self, record: &TopicMessage, targets: Option<&[i64]>) -> Vec<(i32, i64)> {
        let mut dropped = Vec::new();
        for (partition, queue) in &mut self.partitions {
            let target = targets.map_or(i64::MAX, |targets| target_of(targets, *partition));
            let head = queue.records.front().filter(|head| head.offset < target);
            if head.is_some_and(|head| head.key().is_none() && head.position() == record.position()) {
                queue.pop();
                dropped.push((*partition, queue.next_offset));
            }
        }
        dropped
    }
}

fn target_of(targets: &[i64], partition: i32) -> i64 {
    targets.get(partition as usize).copied().unwrap_or(0)
}

impl Queue {
    fn pop(&mut self) -> Option<TopicMessage> {
        let record = self.records.pop_front()?;
        self.next_offset = record.offset + 1;
        self.bytes -= record.size_bytes();
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sooner_schemas::{Lsn, Position};

    use super::*;
    use crate::message::headers::FoundHeaders;

    fn record(partition: i32, offset: i64, lsn: u64, keyed: bool) -> TopicMessage {
        let position = Some(Position { commit_lsn: Lsn(lsn), ordinal: 0 });
        let headers = FoundHeaders { position, ..FoundHeaders::default() };
        let key = keyed.then_some(0..1);
        TopicMessage::new(("t".into(), partition, offset), None, headers, Arc::new(vec![0]), key, None)
    }

    fn read(merge: &mut TopicMerge, targets: &[i64]) -> Vec<(i32, i64)> {
        let mut seen = Vec::new();
        while let Step::Message(record, _) = merge.next(Some(targets)) {
            seen.push((record.partition, record.offset));
        }
        seen
    }

    #[test]
    fn partitions_are_read_in_commit_order_and_not_beyond_the_target() {
        let mut merge = TopicMerge::new([(0, 0), (1, 0)]);
        merge.push(record(0, 0, 10, true));
        merge.push(record(0, 1, 40, true));
        assert!(matches!(merge.next(Some(&[2, 2])), Step::Wait), "the head of partition 1 may be smaller");
        merge.push(record(1, 0, 20, true));
        merge.push(record(1, 1, 30, true));
        merge.push(record(1, 2, 50, true));
        assert_eq!(read(&mut merge, &[2, 2]), [(0, 0), (1, 0), (1, 1), (0, 1)]);
        assert!(matches!(merge.next(Some(&[2, 2])), Step::Reached));
        assert!(merge.is_beyond(&[2, 1]) && merge.is_beyond(&[2]) && !merge.is_beyond(&[2, 2]));
        assert_eq!(read(&mut merge, &[2, 3]), [(1, 2)]);
    }

    #[test]
    fn an_event_of_all_partitions_is_handed_on_once() {
        let mut merge = TopicMerge::new([(0, 0), (1, 0)]);
        for (partition, offset, lsn, keyed) in [(0, 0, 10, false), (1, 0, 5, true), (1, 1, 10, false), (1, 2, 12, true)]
        {
            merge.push(record(partition, offset, lsn, keyed));
        }
        assert_eq!(read(&mut merge, &[0, 1]), [(1, 0)]);
        let Step::Message(record, copies) = merge.next(Some(&[1, 3])) else { panic!("all heads are there") };
        assert_eq!((record.partition, record.offset, copies), (0, 0, vec![(1, 2)]));
        assert_eq!(read(&mut merge, &[1, 3]), [(1, 2)]);
        assert_eq!(merge.next_offsets().collect::<Vec<_>>(), [(0, 1), (1, 3)]);
    }

    #[test]
    fn nothing_is_handed_on_before_what_was_missed() {
        let mut merge = TopicMerge::new([(0, 0), (1, 0)]);
        // In partition 0 two messages were lost, and written again.
        for (partition, offset, lsn, keyed) in [(1, 0, 20, false), (1, 1, 30, true)] {
            merge.push(record(partition, offset, lsn, keyed));
        }
        assert!(matches!(merge.next(Some(&[2, 2])), Step::Wait));
        merge.push(record(0, 2, 10, true));
        merge.push(record(0, 3, 20, false));
        assert!(matches!(merge.next(Some(&[2, 2])), Step::Missed));
        assert_eq!(read(&mut merge, &[4, 2]), [(0, 2), (0, 3), (1, 1)]);
        assert!(matches!(merge.next(Some(&[4, 2])), Step::Reached));
    }

    #[test]
    fn what_was_read_before_is_dropped_and_gaps_are_passed() {
        let mut merge = TopicMerge::new([(0, 5)]);
        merge.push(record(0, 4, 10, true));
        merge.push(record(0, 9, 11, true));
        merge.push(record(0, 9, 11, true));
        let waiting: Vec<_> = merge.waiting_bytes().collect();
        assert_eq!(waiting, [(0, record(0, 9, 11, true).size_bytes())]);
        assert_eq!(read(&mut merge, &[10]), [(0, 9)]);
        assert_eq!(merge.waiting_bytes().collect::<Vec<_>>(), [(0, 0)]);
        assert!(matches!(merge.next(Some(&[12])), Step::Wait));
        merge.push(record(0, 13, 12, true));
        assert!(matches!(merge.next(Some(&[12])), Step::Missed), "the message at offset 11 never came");
        assert_eq!(read(&mut merge, &[14]), [(0, 13)]);
        assert!(matches!(merge.next(Some(&[14])), Step::Reached));
    }
}
