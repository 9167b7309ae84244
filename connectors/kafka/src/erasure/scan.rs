//! What a topic has of what is looked for: first which rows' messages hold a value, then all messages of those rows.
//! Reads committed messages from the first to the last, in no group, and writes nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use serde::Serialize;
use sooner_api::Result;

use super::sought::{Decoder, Held, RowEvent, Sought, key_datum};
use crate::cluster::range_reader::RangeReader;

/// A row in a topic: its partition, and its key without the id of the schema.
pub type RowKey = (i32, Vec<u8>);

/// What a topic has of what is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Messages that were read.
    pub searched: u64,
    /// Messages of rows of the subjects, whatever state they tell; tombstones do not count.
    pub messages: u64,
    /// Rows of the subjects, by their keys.
    pub rows: usize,
    /// Messages that hold a value without a key, or in another column or a header.
    pub elsewhere: u64,
    /// When the last one of all these was written, in milliseconds since 1970.
    pub newest_millis: Option<i64>,
    /// Keys of the subjects' rows that end with a tombstone.
    pub tombstones: usize,
    /// When the last of these tombstones was written, in milliseconds since 1970.
    pub newest_tombstone_millis: Option<i64>,
    /// Rows that live, by their last event.
    pub living: usize,
    /// Messages that could not be decoded, so that only their bytes were searched.
    pub undecoded: u64,
    /// Whether keys hold values, so that tombstones do.
    pub keys_hold: bool,
}

/// What is known of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowState {
    /// Its keys as they stand in messages, with the ids of their schemas: whether the last message of each is a
    /// tombstone.
    pub keys: BTreeMap<Vec<u8>, bool>,
    /// What the last message says of it that is no tombstone.
    pub last: Option<RowEvent>,
}

/// What is to be done about a row in a compacted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Tombstones of these keys are missing; none if all are there.
    Tombstones(Vec<Vec<u8>>),
    /// The row lives, and keeps its last message.
    Lives,
}

impl RowState {
    /// What is to be done about it. A row lives unless its last message says that it is gone: whoever cannot read that,
    /// does not know.
    pub fn verdict(&self) -> Verdict {
        let is_gone = match self.last {
            Some(RowEvent::Live) => false,
            Some(RowEvent::Delete) => true,
            _ => self.keys.values().all(|ends| *ends),
        };
        let open = self.keys.iter().filter(|(_, ends_with_tombstone)| !**ends_with_tombstone);
        if is_gone { Verdict::Tombstones(open.map(|(key, _)| key.clone()).collect()) } else { Verdict::Lives }
    }

    fn take(&mut self, key: &[u8], event: RowEvent) {
        self.keys.insert(key.to_vec(), event == RowEvent::Tombstone);
        if event != RowEvent::Tombstone {
            self.last = Some(event);
        }
    }
}

/// A topic that has been read.
pub struct Scan {
    /// What it has.
    pub found: Found,
    /// The subjects' rows.
    pub rows: BTreeMap<RowKey, RowState>,
    /// For each partition the offset up to which it was read.
    pub ends: Vec<i64>,
}

/// Reads a topic. May take as long as reading it twice does.
pub(crate) fn scan(
    reader: &RangeReader,
    decoder: &mut Decoder,
    (topic, partitions): (&str, i32),
    sought: &Sought,
) -> Result<Scan> {
    let mut scan = Scan { found: Found::default(), rows: BTreeMap::new(), ends: Vec::new() };
    for partition in 0..partitions {
        let (first, end) = reader.bounds(topic, partition)?;
        scan.ends.push(end);
        let mut keys = BTreeMap::new();
        reader.read(topic, partition, first..end, |message| {
            scan.found.searched += 1;
            let examined = decoder.examine(message, sought)?;
            scan.found.undecoded += u64::from(examined.event == RowEvent::Unknown);
            match (examined.held, key_datum(message)) {
                (Held::Nothing, _) => {}
                (Held::Row | Held::Unreadable, Some(datum)) => {
                    scan.found.keys_hold |= examined.key_holds;
                    keys.insert(datum, RowState::default());
                }
                _ => {
                    scan.found.elsewhere += 1;
                    scan.found.newest_millis = scan.found.newest_millis.max(message.timestamp().to_millis());
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if keys.is_empty() {
            continue;
        }
        reader.read(topic, partition, first..end, |message| {
            if let Some(state) = key_datum(message).and_then(|datum| keys.get_mut(&datum)) {
                let examined = decoder.examine(message, sought)?;
                state.take(message.key().unwrap_or_default(), examined.event);
                scan.found.note(message);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        scan.rows.extend(keys.into_iter().map(|(datum, state)| ((partition, datum), state)));
    }
    scan.found.rows = scan.rows.len();
    scan.found.tombstones = scan.rows.values().flat_map(|row| row.keys.values()).filter(|ends| **ends).count();
    Ok(scan)
}

impl Found {
    fn note(&mut self, message: &BorrowedMessage<'_>) {
        let written = message.timestamp().to_millis();
        if message.payload().is_some() {
            self.messages += 1;
            self.newest_millis = self.newest_millis.max(written);
        } else {
            self.newest_tombstone_millis = self.newest_tombstone_millis.max(written);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(events: &[(&[u8], RowEvent)]) -> RowState {
        let mut row = RowState::default();
        events.iter().for_each(|(key, event)| row.take(key, *event));
        row
    }

    #[test]
    fn a_tombstone_is_owed_to_each_key_of_a_row_that_is_gone() {
        let deleted = row(&[
            (b"1a", RowEvent::Live),
            (b"2a", RowEvent::Live),
            (b"2a", RowEvent::Delete),
            (b"2a", RowEvent::Tombstone),
        ]);
        // The key was registered again: compaction takes the former one for another key.
        assert_eq!(deleted.verdict(), Verdict::Tombstones(vec![b"1a".to_vec()]));
        let broken = row(&[(b"9a", RowEvent::Unknown), (b"1a", RowEvent::Delete)]);
        assert_eq!(broken.verdict(), Verdict::Tombstones(vec![b"1a".to_vec(), b"9a".to_vec()]));
    }

    #[test]
    fn a_row_keeps_its_last_message_unless_that_says_that_it_is_gone() {
        assert_eq!(row(&[(b"a", RowEvent::Live)]).verdict(), Verdict::Lives);
        let again = row(&[(b"a", RowEvent::Delete), (b"a", RowEvent::Tombstone), (b"a", RowEvent::Live)]);
        assert_eq!(again.verdict(), Verdict::Lives);
        let unknown = row(&[(b"a", RowEvent::Delete), (b"b", RowEvent::Unknown)]);
        assert_eq!(unknown.verdict(), Verdict::Lives, "it may have been inserted again");
    }
}
