//! Reads a topic from recorded offsets on, and hands its committed messages on in commit order, so that they can be
//! written to another topic whose partitions are in commit order, too.
//!
//! A thread reads one piece of one partition after the other, and holds no more than a piece of each. What it has read
//! goes to the writer's thread by a queue that is bounded by the size of its messages.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::OwnedMessage;
use sooner_api::{Error, Result};
use sooner_schemas::Position;

use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;
use crate::message::headers::FoundHeaders;

/// Size of the pieces of all partitions together, in bytes of keys and values.
const PIECES_BYTES: usize = 2 << 20;
/// Size of a piece of one partition: at least the first, and at most the second.
const PIECE_BYTES: (usize, usize) = (16 << 10, 256 << 10);
/// Pieces of merged messages that wait for the writer.
const QUEUE: usize = 2;
/// How long to wait for what is not visible yet.
const PAUSE: Duration = Duration::from_millis(5);

/// A message in its place among those of all partitions.
pub struct Replayed {
    /// The message; none where retention has left nothing to read.
    pub message: Option<OwnedMessage>,
    /// Partitions that are read further with it, each with the offset after the message: its own, and those that had a
    /// copy of an event of the whole table.
    pub read: Vec<(i32, i64)>,
}

/// A topic that is read by a thread until this is dropped.
pub struct Replay {
    pieces: Receiver<Result<Vec<Replayed>>>,
    targets: Arc<Mutex<Vec<i64>>>,
    is_partial: Arc<AtomicBool>,
}

impl Replay {
    /// Starts to read a topic's partitions from these offsets, up to the targets that are set.
    pub fn start(settings: &KafkaSettings, topic: &str, from: &[i64]) -> Replay {
        let (sender, pieces) = sync_channel(QUEUE);
        let targets = Arc::new(Mutex::new(from.to_vec()));
        let is_partial = Arc::new(AtomicBool::new(false));
        let merge = ReplayMerge::new(from);
        let (settings, topic) = (settings.clone(), topic.to_owned());
        let (passed, is_told) = (Vec::new(), is_partial.clone());
        let thread = ReplayThread { topic, merge, passed, targets: targets.clone(), is_partial: is_told, sender };
        thread::spawn(move || thread.run(&settings));
        Replay { pieces, targets, is_partial }
    }

    /// Reads up to these offsets from now on. Everything below them must be written.
    pub fn set_targets(&self, targets: &[i64]) {
        let mut known = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != targets {
            *known = targets.to_vec();
        }
    }

    /// Whether messages were removed by retention before they were read.
    pub fn is_partial(&self) -> bool {
        self.is_partial.load(Ordering::Relaxed)
    }

    /// The next messages, if there are any at the moment.
    pub fn take(&self) -> Result<Option<Vec<Replayed>>> {
        match self.pieces.try_recv() {
            Ok(piece) => piece.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }

    /// Waits for the next messages; none if none come in time.
    pub fn wait(&self, limit: Duration) -> Result<Option<Vec<Replayed>>> {
        match self.pieces.recv_timeout(limit) {
            Ok(piece) => piece.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(ended()),
        }
    }
}

fn ended() -> Error {
    Error::internal("the reader of a topic ended without a result", "its thread panicked")
}

struct ReplayThread {
    topic: String,
    merge: ReplayMerge<OwnedMessage>,
    /// Partitions of which retention has left nothing to read, each with the offset up to which.
    passed: Vec<(i32, i64)>,
    targets: Arc<Mutex<Vec<i64>>>,
    is_partial: Arc<AtomicBool>,
    sender: SyncSender<Result<Vec<Replayed>>>,
}

impl ReplayThread {
    fn run(mut self, settings: &KafkaSettings) {
        if let Err(error) = self.work(settings) {
            // Nobody listens any more only when the writer ends.
            let _ = self.sender.send(Err(error));
        }
    }

    fn work(&mut self, settings: &KafkaSettings) -> Result<()> {
        let reader = RangeReader::open(settings, Isolation::Committed)?;
        // The targets belong to the writer, too, as long as it listens.
        while Arc::strong_count(&self.targets) > 1 {
            let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for (partition, target) in targets.iter().enumerate() {
                self.fill(&reader, partition, *target)?;
            }
            let mut merged = self.merge.take(&targets);
            merged.extend(self.passed.drain(..).map(|passed| Replayed { message: None, read: vec![passed] }));
            if merged.is_empty() {
                thread::sleep(PAUSE);
            } else if self.sender.send(Ok(merged)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a piece of a partition of which nothing waits.
    fn fill(&mut self, reader: &RangeReader, partition: usize, target: i64) -> Result<()> {
        let from = self.merge.fetched(partition);
        if from >= target || !self.merge.is_empty(partition) {
            return Ok(());
        }
        let number = partition as i32;
        let first = reader.bounds(&self.topic, number)?.0;
        if first > from && !self.is_partial.swap(true, Ordering::Relaxed) {
            tracing::warn!(topic = self.topic, partition, from, "retention removed messages before they were read");
        }
        if first >= target {
            self.merge.reach(partition, target);
            self.passed.push((number, target));
            return Ok(());
        }
        let piece_bytes = (PIECES_BYTES / self.merge.queues.len().max(1)).clamp(PIECE_BYTES.0, PIECE_BYTES.1);
        let (mut bytes, merge) = (0, &mut self.merge);
        let reached = reader.read(&self.topic, number, from.max(first)..target, |message| {
            bytes += message.key().map_or(0, <[u8]>::len) + message.payload().map_or(0, <[u8]>::len);
            let headers = FoundHeaders::read(message.headers());
            let is_whole_table = message.key().is_none();
            merge.push(partition, message.offset(), headers.position, is_whole_table, message.detach());
            Ok(if bytes >= piece_bytes { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if reached && bytes < piece_bytes {
            // What stands between the last message and the target is no message.
            merge.reach(partition, target);
        }
        Ok(())
    }
}

/// Merge of partitions that are in commit order each.
pub(crate) struct ReplayMerge<M> {
    queues: Vec<Queue<M>>,
}

struct Queue<M> {
    messages: VecDeque<Queued<M>>,
    /// Offset from which nothing has been read.
    fetched: i64,
}

struct Queued<M> {
    offset: i64,
    position: Option<Position>,
    is_whole_table: bool,
    message: M,
}

impl<M> ReplayMerge<M> {
    /// Of partitions that are read from these offsets on.
    pub(crate) fn new(from: &[i64]) -> ReplayMerge<M> {
        let queue = |fetched: &i64| Queue { messages: VecDeque::new(), fetched: *fetched };
        ReplayMerge { queues: from.iter().map(queue).collect() }
    }

    /// Offset of a partition from which nothing has been read.
    pub(crate) fn fetched(&self, partition: usize) -> i64 {
        self.queues.get(partition).map_or(0, |queue| queue.fetched)
    }

    /// Whether no message of a partition waits.
    pub(crate) fn is_empty(&self, partition: usize) -> bool {
        self.queues.get(partition).is_none_or(|queue| queue.messages.is_empty())
    }

    /// Takes in the next message of a partition.
    pub(crate) fn push(
        &mut self,
        partition: usize,
        offset: i64,
        position: Option<Position>,
        is_whole_table: bool,
        message: M,
    ) {
        if let Some(queue) = self.queues.get_mut(partition) {
            queue.messages.push_back(Queued { offset, position, is_whole_table, message });
            queue.fetched = offset + 1;
        }
    }

    /// Nothing stands before this offset that was not pushed.
    pub(crate) fn reach(&mut self, partition: usize, offset: i64) {
        if let Some(queue) = self.queues.get_mut(partition) {
            queue.fetched = queue.fetched.max(offset);
        }
    }

    /// The partition of the next message; none as long as one that may come first has not been read.
    fn choose(&self, targets: &[i64]) -> Option<usize> {
        let mut best: Option<(Option<Position>, usize)> = None;
        for (partition, (queue, target)) in self.queues.iter().zip(targets).enumerate() {
            let Some(head) = queue.messages.front() else {
                if queue.fetched < *target {
                    return None;
                }
                continue;
            };
            if best.is_none_or(|(smallest, _)| head.position < smallest) {
                best = Some((head.position, partition));
            }
        }
        best.map(|(_, partition)| partition)
    }

    /// The next message in commit order, with what is read further by it; none until all that may come first is read.
    pub(crate) fn next(&mut self, targets: &[i64]) -> Option<(M, Vec<(i32, i64)>)> {
        let chosen = self.choose(targets)?;
        let Queued { offset, position, is_whole_table, message } = self.queues[chosen].messages.pop_front()?;
        let mut read = vec![(chosen as i32, offset + 1)];
        if is_whole_table && position.is_some() {
            for (partition, queue) in self.queues.iter_mut().enumerate() {
                let copy = queue.messages.front().filter(|head| head.is_whole_table && head.position == position);
                if let Some(offset) = copy.map(|copy| copy.offset) {
                    queue.messages.pop_front();
                    read.push((partition as i32, offset + 1));
                }
            }
        }
        Some((message, read))
    }
}

impl ReplayMerge<OwnedMessage> {
    fn take(&mut self, targets: &[i64]) -> Vec<Replayed> {
        let mut taken = Vec::new();
        while let Some((message, read)) = self.next(targets) {
            taken.push(Replayed { message: Some(message), read });
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::Lsn;

    use super::*;

    fn at(lsn: u64) -> Option<Position> {
        Some(Position { commit_lsn: Lsn(lsn), ordinal: 0 })
    }

    fn all(merge: &mut ReplayMerge<u64>, targets: &[i64]) -> Vec<(u64, Vec<(i32, i64)>)> {
        std::iter::from_fn(|| merge.next(targets)).collect()
    }

    #[test]
    fn messages_come_in_commit_order_once_what_may_be_earlier_was_read() {
        let mut merge = ReplayMerge::new(&[4, 0]);
        merge.push(0, 4, at(10), false, 10);
        merge.push(0, 6, at(30), false, 30);
        assert!(all(&mut merge, &[7, 2]).is_empty(), "the other partition may have an earlier one");
        merge.push(1, 0, at(20), false, 20);
        assert_eq!(all(&mut merge, &[7, 2]), [(10, vec![(0, 5)]), (20, vec![(1, 1)])]);
        merge.reach(1, 2);
        assert_eq!(all(&mut merge, &[7, 2]), [(30, vec![(0, 7)])]);
        assert_eq!((merge.fetched(0), merge.fetched(1)), (7, 2));
    }

    #[test]
    fn an_event_of_the_whole_table_comes_once() {
        let mut merge = ReplayMerge::new(&[0, 0, 0]);
        for (partition, lsn) in [(0, 10), (1, 10), (2, 5)] {
            merge.push(partition, 0, at(lsn), lsn == 10, lsn);
        }
        merge.push(2, 1, at(10), true, 10);
        let expected = [(5, vec![(2, 1)]), (10, vec![(0, 1), (1, 1), (2, 2)])];
        assert_eq!(all(&mut merge, &[1, 1, 2]), expected);
        assert!(merge.is_empty(0) && merge.is_empty(2));
    }
}
