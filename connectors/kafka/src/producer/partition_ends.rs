//! Inspects the ends of partitions: whether a transaction hangs there, and whether everything is visible that the
//! progress record counts as written.
//!
//! A transaction ends, committed or aborted, with a marker in each of its partitions. A broker can leave markers
//! out: Apache Kafka 4.3 and 4.4 do so for a partition that has no leader at that moment, as when the last of its
//! replicas has died (<https://issues.apache.org/jira/browse/KAFKA-20734>). The transaction then hangs in that
//! partition: readers of committed messages stop before it, and the next marker of its producer ends it, even one
//! with the opposite outcome.

use std::ops::{ControlFlow, Range};
use std::thread;
use std::time::Duration;

use rdkafka::Message;
pub use rdkafka::message::OwnedMessage;
use sooner_api::{Code, Error, Positions, Result, TableProgress, TableState};
use sooner_schemas::{Lsn, Position, TableName};

use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;
use crate::message::headers::FoundHeaders;
use crate::progress::record::TopicProgress;

/// Factor by which the range read at a partition's end grows, from one offset, until it has an event that is visible.
const LOOK_BACK: i64 = 64;
/// How long a new leader may take until it serves all messages that it has.
const PAUSE: Duration = Duration::from_millis(500);

/// Inspects the ends of partitions. Its calls take seconds where brokers are slow: call them where blocking is allowed.
pub struct PartitionEnds {
    committed: RangeReader,
    all: RangeReader,
}

impl PartitionEnds {
    /// Sets up the consumers; nothing is read yet.
    pub fn open(settings: &KafkaSettings) -> Result<PartitionEnds> {
        let open = |isolation| RangeReader::open(settings, isolation);
        Ok(PartitionEnds { committed: open(Isolation::Committed)?, all: open(Isolation::All)? })
    }

    /// Last stable offset of a partition: all transactions with messages before it have ended.
    pub fn stable_end(&self, topic: &str, partition: i32) -> Result<i64> {
        Ok(self.committed.bounds(topic, partition)?.1)
    }

    /// Whether a partition has a transaction that has not ended.
    pub fn is_open(&self, topic: &str, partition: i32) -> Result<bool> {
        Ok(self.stable_end(topic, partition)? < self.all.bounds(topic, partition)?.1)
    }

    /// Whether the last message that readers of committed ones see of a partition is the one before this offset.
    pub fn ends_at(&self, topic: &str, partition: i32, next: i64) -> Result<bool> {
        let mut last = None;
        // Retention may have removed it.
        let (first, _) = self.committed.bounds(topic, partition)?;
        let from = (next - 1).max(first);
        let (_, end) = self.all.bounds(topic, partition)?;
        self.committed.read(topic, partition, from..end, |message| {
            last = Some(message.offset());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(last.map_or(next <= first, |last| last + 1 == next))
    }

    /// Finds messages of a table that the progress record counts as written but that are not visible. No
    /// transaction may be open. Afterwards the record counts only what is visible. Returns the messages that are to
    /// be written again, in order within each partition.
    pub fn take_lost(
        &self,
        progress: &mut TopicProgress,
        table: &TableName,
        is_compacted: bool,
    ) -> Result<Vec<OwnedMessage>> {
        let covered = progress.covered();
        let Some(offsets) = progress.topics.get_mut(table) else { return Ok(Vec::new()) };
        let known = progress.record.tables.get(table);
        // Copied rows may stand after what the record covers, up to where the source had read.
        let read = progress.commit_lsn.max(progress.record.confirmed_lsn.last_before());
        let copied_lsn = known.and_then(|known| copied_lsn(known, read));
        let mut again = Vec::new();
        let first_offsets: Vec<_> =
            (0..offsets.next_offsets.len() as i32).map(|partition| offsets.first_offset(partition)).collect();
        for ((partition, first), next) in (0..).zip(first_offsets).zip(&mut offsets.next_offsets) {
            let Hidden { start, seen, messages } =
                self.hidden(&offsets.topic, partition, first..*next, is_compacted)?;
            *next = start;
            if let Some(copied_lsn) = copied_lsn {
                again.extend(owed(seen, messages, &covered, copied_lsn));
            }
        }
        Ok(again)
    }

    fn hidden(&self, topic: &str, partition: i32, offsets: Range<i64>, is_compacted: bool) -> Result<Hidden> {
        let (first, _) = self.all.bounds(topic, partition)?;
        let offsets = offsets.start.max(first).min(offsets.end)..offsets.end;
        let mut last = self.last_seen(topic, partition, &offsets)?;
        if last.is_none_or(|(offset, _)| offset + 1 < offsets.end) && !offsets.is_empty() {
            // A leader that has just taken over may serve less at first.
            thread::sleep(PAUSE);
            last = self.last_seen(topic, partition, &offsets)?;
        }
        let hidden = last.map_or(offsets.start, |(offset, _)| offset + 1)..offsets.end;
        let mut messages = Vec::new();
        let is_read = self.all.read(topic, partition, hidden.clone(), |message| {
            let FoundHeaders { position, copy_start: is_copy_start, .. } = FoundHeaders::read(message.headers());
            if let Some(position) = position {
                let is_tombstone = message.payload().is_none();
                messages.push((MessagePosition { position, is_tombstone, is_copy_start }, message.detach()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if !is_read && !is_compacted {
            return Err(Error::retry(
                Code::TransactionHanging,
                format!("cannot read what was written to {topic}/{partition}"),
                format!("it ends before offset {}", offsets.end),
                "nothing; it is tried again",
            ));
        }
        Ok(Hidden { start: hidden.start, seen: last.map(|(_, position)| position), messages })
    }

    /// Offset and position of the last visible event at these offsets; none if there is none.
    fn last_seen(&self, topic: &str, partition: i32, offsets: &Range<i64>) -> Result<Option<(i64, Position)>> {
        let mut last = None;
        let mut look_back = 1;
        let mut start = offsets.end;
        while start > offsets.start && last.is_none() {
            start = (offsets.end - look_back).max(offsets.start);
            self.committed.read(topic, partition, start..offsets.end, |message| {
                if let Some(position) = FoundHeaders::read(message.headers()).position {
                    last = Some((message.offset(), position));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            look_back *= LOOK_BACK;
        }
        Ok(last)
    }
}

/// Commit LSN up to which copied rows of a table are owed; none if it is owed nothing, since it is copied from its
/// beginning. A copy that goes on is owed what has come of it, and a parked table the events before it was parked.
fn copied_lsn(known: &TableProgress, written: Lsn) -> Option<Lsn> {
    match known.state {
        TableState::Streaming { copied_lsn } => Some(copied_lsn.unwrap_or_default()),
        TableState::Parked { copied_lsn, .. } => copied_lsn,
        TableState::Copying => known.copy.as_ref().map(|_| written),
        _ => None,
    }
}

/// Order of a message in its partition: by position, and a tombstone after its delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MessagePosition {
    position: Position,
    is_tombstone: bool,
    /// It is the start of a copy.
    is_copy_start: bool,
}

/// Messages at a partition's end that are not visible: of a transaction whose commit marker was lost, and of
/// aborted transactions before it.
struct Hidden {
    /// Offset after the last visible event.
    start: i64,
    /// Position of the last visible event; none if there is none.
    seen: Option<Position>,
    messages: Vec<(MessagePosition, OwnedMessage)>,
}

/// Hidden messages that are owed, in order. Each is returned once, although a source that starts over writes the
/// same events again. What came before the start of the last complete copy is not owed, nor is a copy that was not
/// completed.
fn owed<M>(
    seen: Option<Position>,
    mut hidden: Vec<(MessagePosition, M)>,
    covered: &Positions,
    copied_lsn: Lsn,
) -> Vec<M> {
    let starts = hidden.iter().filter(|(place, _)| place.is_copy_start && place.position.commit_lsn <= copied_lsn);
    let last_start = starts.map(|(place, _)| place.position).max();
    hidden.retain(|(MessagePosition { position, .. }, _)| {
        let is_of_copy = position.commit_lsn <= copied_lsn;
        let is_written = !position.is_copied() && covered.covers_event(*position);
        seen.is_none_or(|seen| *position > seen)
            && last_start.is_none_or(|start| *position >= start)
            && (is_of_copy || is_written)
    });
    hidden.sort_by_key(|(place, _)| *place);
    hidden.dedup_by_key(|(place, _)| *place);
    hidden.into_iter().map(|(_, message)| message).collect()
}

#[cfg(test)]
mod tests {
    use sooner_api::UnfinishedCopy;

    use super::*;
    use crate::progress::record::Split;

    const COPIED: Lsn = Lsn(99);

    fn at(commit_lsn: u64, ordinal: u64) -> MessagePosition {
        let position = Position { commit_lsn: Lsn(commit_lsn), ordinal };
        MessagePosition { position, is_tombstone: false, is_copy_start: false }
    }

    fn owed_of(seen: Option<MessagePosition>, messages: &[MessagePosition]) -> Vec<MessagePosition> {
        let progress = TopicProgress {
            commit_lsn: Lsn(120),
            split: Some(Split { commit_lsn: Lsn(130), next_ordinal: 4 }),
            ..TopicProgress::default()
        };
        let messages = messages.iter().map(|place| (*place, *place)).collect();
        owed(seen.map(|place| place.position), messages, &progress.covered(), COPIED)
    }

    #[test]
    fn what_the_record_covers_is_owed_once() {
        let tombstone = MessagePosition { is_tombstone: true, ..at(110, 0) };
        // An attempt that was aborted had come further, with other batches.
        let hidden =
            [at(110, 0), tombstone, at(120, 2), at(130, 2), at(130, 4), at(140, 0), at(110, 0), tombstone, at(130, 2)];
        assert_eq!(owed_of(None, &hidden), [at(110, 0), tombstone, at(120, 2), at(130, 2)]);
        assert_eq!(owed_of(Some(at(110, 0)), &hidden), [at(120, 2), at(130, 2)]);
    }

    #[test]
    fn a_copy_that_goes_on_is_owed_what_has_come_of_it_and_one_that_begins_again_is_not() {
        let mut table = TableProgress::new(TableState::Copying, None);
        assert_eq!(copied_lsn(&table, Lsn(120)), None);
        table.copy = Some(UnfinishedCopy { source: None, lake: None, complete_lsn: Lsn(121) });
        assert_eq!(copied_lsn(&table, Lsn(120)), Some(Lsn(120)));
        let streaming = TableProgress::new(TableState::Streaming { copied_lsn: Some(Lsn(7)) }, None);
        assert_eq!(copied_lsn(&streaming, Lsn(120)), Some(Lsn(7)));
    }

    #[test]
    fn rows_are_owed_of_the_last_complete_copy_alone() {
        let copied = |lsn, ordinal| at(lsn, Position::FIRST_COPIED + ordinal);
        let start = |lsn, ordinal| MessagePosition { is_copy_start: true, ..copied(lsn, ordinal) };
        let hidden = [copied(98, 1), start(98, 8), copied(98, 9), at(99, 2), copied(99, 10), at(110, 0)];
        assert_eq!(owed_of(None, &hidden), hidden[1..]);
        assert_eq!(owed_of(Some(copied(98, 9)), &hidden), hidden[3..]);
        let broken_off = [at(110, 0), start(110, 20), copied(110, 21), at(115, 0)];
        assert_eq!(owed_of(None, &broken_off), [at(110, 0), at(115, 0)]);
    }
}
