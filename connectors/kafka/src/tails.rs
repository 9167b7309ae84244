//! The ends of partitions: whether a transaction hangs there, and whether all is to be seen that the record counts as written.
//!
//! The end of a transaction, committed or aborted, is a marker in each of its partitions. A broker can leave markers out:
//! Apache Kafka 4.3 and 4.4 do for a partition that has no leader just then, so where the last of its replicas has died
//! (<https://issues.apache.org/jira/browse/KAFKA-20734>). Then the transaction hangs there. Readers of committed messages stop before it,
//! and the next marker of its producer ends it, also one that says the opposite.

use std::ops::{ControlFlow, Range};

use rdkafka::Message;
pub use rdkafka::message::OwnedMessage;
use sooner_api::{Result, TablePhase};
use sooner_schemas::{Lsn, Position};

use crate::headers::FoundHeaders;
use crate::pieces::{PieceReader, Sees};
use crate::progress::{Covered, TopicProgress};
use crate::settings::KafkaSettings;

/// Messages that are read at a partition's end, at first, to find the last one that is seen.
const LOOK_BACK: i64 = 64;

/// Looks at the ends of partitions. Its calls take seconds where brokers are slow: call them where blocking is allowed.
pub struct Tails {
    committed: PieceReader,
    all: PieceReader,
}

/// What a table's topic lacks.
#[derive(Debug)]
pub enum Lack {
    /// These messages, of each partition in order; mostly none.
    Messages(Vec<OwnedMessage>),
    /// Rows of the table's copy.
    Copy,
}

impl Tails {
    /// Sets consumers up; nothing is asked yet.
    pub fn open(settings: &KafkaSettings) -> Result<Tails> {
        let open = |sees| PieceReader::open(settings, sees);
        Ok(Tails { committed: open(Sees::Committed)?, all: open(Sees::All)? })
    }

    /// The offset after the last message whose transaction has ended, as have all before it ("last stable offset").
    pub fn stable_end(&self, topic: &str, partition: i32) -> Result<i64> {
        Ok(self.committed.bounds(topic, partition)?.1)
    }

    /// Whether a transaction has not ended in a partition.
    pub fn is_open(&self, topic: &str, partition: i32) -> Result<bool> {
        Ok(self.stable_end(topic, partition)? < self.all.bounds(topic, partition)?.1)
    }

    /// What the record counts as written, and nobody sees. Without open transactions, and for the writer alone.
    pub fn lack(&self, progress: &TopicProgress, table: &str) -> Result<Lack> {
        let state = progress.record.tables.get(table).filter(|state| state.phase == TablePhase::Streaming);
        let (Some(state), Some(offsets)) = (state, progress.topics.get(table)) else {
            // What is parked is copied when it is resumed.
            return Ok(Lack::Messages(Vec::new()));
        };
        let copied_lsn = state.copied_lsn.unwrap_or_default();
        let mut lacking = Vec::new();
        for (partition, next) in (0..).zip(&offsets.next_offsets) {
            let hidden = self.hidden(&offsets.topic, partition, offsets.first_offset(partition)..*next)?;
            match hidden.owed(progress.covered(), copied_lsn) {
                Lack::Messages(messages) => lacking.extend(messages),
                Lack::Copy => return Ok(Lack::Copy),
            }
        }
        Ok(Lack::Messages(lacking))
    }

    fn hidden(&self, topic: &str, partition: i32, offsets: Range<i64>) -> Result<Hidden<OwnedMessage>> {
        let (first, _) = self.all.bounds(topic, partition)?;
        let offsets = offsets.start.max(first)..offsets.end;
        let mut last_seen = None;
        let mut look_back = 1;
        let mut start = offsets.end;
        while start > offsets.start && last_seen.is_none() {
            start = (offsets.end - look_back).max(offsets.start);
            self.committed.read(topic, partition, start..offsets.end, |message| {
                last_seen = Some((message.offset(), FoundHeaders::read(message.headers()).position));
                Ok(ControlFlow::Continue(()))
            })?;
            look_back *= LOOK_BACK;
        }
        let behind = last_seen.map_or(offsets.start, |(offset, _)| offset + 1);
        let mut messages = Vec::new();
        self.all.read(topic, partition, behind..offsets.end, |message| {
            if let Some(position) = FoundHeaders::read(message.headers()).position {
                messages.push((Place { position, is_tombstone: message.payload().is_none() }, message.detach()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Hidden { seen: last_seen.and_then(|(_, position)| position), messages })
    }
}

/// Where a message stands in its partition: a tombstone follows its delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    position: Position,
    is_tombstone: bool,
}

/// Messages at a partition's end that nobody sees: of a transaction whose commit got lost, and of aborted ones before it.
struct Hidden<M> {
    /// The last event before them that is seen.
    seen: Option<Position>,
    messages: Vec<(Place, M)>,
}

impl Hidden<OwnedMessage> {
    fn owed(self, covered: Covered, copied_lsn: Lsn) -> Lack {
        match owed(self, covered, copied_lsn) {
            Some(messages) => Lack::Messages(messages),
            None => Lack::Copy,
        }
    }
}

/// Each message that is owed, once: a source that starts over writes the same events again. None if rows of the copy are among them.
fn owed<M>(hidden: Hidden<M>, covered: Covered, copied_lsn: Lsn) -> Option<Vec<M>> {
    let Hidden { seen, mut messages } = hidden;
    messages.retain(|(Place { position, .. }, _)| {
        let is_of_copy = position.commit_lsn == copied_lsn;
        let is_written = position.commit_lsn > copied_lsn && covered.covers(*position);
        seen.is_none_or(|seen| *position > seen) && (is_of_copy || is_written)
    });
    if messages.iter().any(|(place, _)| place.position.commit_lsn == copied_lsn) {
        return None;
    }
    messages.sort_by_key(|(place, _)| *place);
    messages.dedup_by_key(|(place, _)| *place);
    Some(messages.into_iter().map(|(_, message)| message).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Split;

    const COPIED: Lsn = Lsn(99);

    fn at(commit_lsn: u64, ordinal: u64) -> Place {
        Place { position: Position { commit_lsn: Lsn(commit_lsn), ordinal }, is_tombstone: false }
    }

    fn owed_of(seen: Option<Place>, messages: &[Place]) -> Option<Vec<Place>> {
        let covered = TopicProgress {
            commit_lsn: Lsn(120),
            split: Some(Split { commit_lsn: Lsn(130), next_ordinal: 4 }),
            ..TopicProgress::default()
        };
        let messages = messages.iter().map(|place| (*place, *place)).collect();
        owed(Hidden { seen: seen.map(|place| place.position), messages }, covered.covered(), COPIED)
    }

    #[test]
    fn what_the_record_covers_is_owed_once() {
        let tombstone = Place { is_tombstone: true, ..at(110, 0) };
        // An attempt that was aborted had come further, with other batches.
        let hidden =
            [at(110, 0), tombstone, at(120, 2), at(130, 2), at(130, 4), at(140, 0), at(110, 0), tombstone, at(130, 2)];
        assert_eq!(owed_of(None, &hidden), Some(vec![at(110, 0), tombstone, at(120, 2), at(130, 2)]));
        assert_eq!(owed_of(Some(at(110, 0)), &hidden), Some(vec![at(120, 2), at(130, 2)]));
    }

    #[test]
    fn rows_of_the_last_copy_are_copied_anew_and_those_of_former_ones_left() {
        assert_eq!(owed_of(None, &[at(98, 1), at(98, 2), at(130, 0)]), Some(vec![at(130, 0)]));
        assert_eq!(owed_of(None, &[at(99, 7), at(130, 0)]), None);
        assert_eq!(owed_of(Some(at(99, 9)), &[at(99, 7), at(130, 0)]), Some(vec![at(130, 0)]));
    }
}
