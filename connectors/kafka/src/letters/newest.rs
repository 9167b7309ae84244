//! What a source partition has after its letters: the newest message of each key. A letter whose key has a newer one
//! must not be sent again, since its row would go back to an older state.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use rdkafka::Message;
use sooner_api::Result;

use super::catalogue::{Catalogue, Letter};
use crate::cluster::range_reader::RangeReader;

/// The newest messages of a partition, as far as letters ask.
#[derive(Debug, Default)]
pub struct Newest {
    /// First offset that the partition has.
    pub first_offset: i64,
    /// Up to where it was read.
    pub end_offset: i64,
    /// By the fingerprint of a key that a letter has.
    by_key: HashMap<u128, Last>,
    /// Of any key: they concern a letter without one.
    of_all: Last,
    /// Of none, such as the truncate of the table: they concern every letter.
    without_key: Option<i64>,
    /// Messages that are letters: no table has them.
    letters: HashSet<i64>,
}

/// Offsets of the newest messages; none where there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    event: Option<i64>,
    tombstone: Option<i64>,
}

impl Last {
    fn take(&mut self, offset: i64, is_tombstone: bool) {
        let last = if is_tombstone { &mut self.tombstone } else { &mut self.event };
        *last = (*last).max(Some(offset));
    }
}

impl Newest {
    /// Reads what a partition has after these of its letters; no message that is a letter itself counts. May take as
    /// long as the partition is large: call it where blocking is allowed.
    pub(crate) fn read(
        reader: &RangeReader,
        catalogue: &Catalogue,
        (topic, partition): (&str, i32),
        letters: &[Letter],
    ) -> Result<Newest> {
        let (first_offset, end_offset) = reader.bounds(topic, partition)?;
        let from = letters.iter().map(|letter| letter.offset + 1).min().unwrap_or(end_offset).max(first_offset);
        let mut newest = Newest::new(letters, catalogue.offsets_of(topic, partition));
        (newest.first_offset, newest.end_offset) = (first_offset, end_offset);
        reader.read(topic, partition, from..end_offset, |message| {
            let key = message.key().map(|key| catalogue.print_of(key));
            newest.take(message.offset(), key, message.payload().is_none());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(newest)
    }

    fn new(letters: &[Letter], offsets: HashSet<i64>) -> Newest {
        let by_key = letters.iter().filter_map(|letter| letter.key).map(|key| (key, Last::default())).collect();
        Newest { by_key, letters: offsets, ..Newest::default() }
    }

    fn take(&mut self, offset: i64, key: Option<u128>, is_tombstone: bool) {
        if self.letters.contains(&offset) {
            return;
        }
        self.of_all.take(offset, is_tombstone);
        match key {
            None => self.without_key = self.without_key.max(Some(offset)),
            Some(key) => {
                if let Some(last) = self.by_key.get_mut(&key) {
                    last.take(offset, is_tombstone);
                }
            }
        }
    }

    fn of(&self, letter: &Letter) -> Last {
        match letter.key {
            Some(key) => self.by_key.get(&key).copied().unwrap_or_default(),
            None => self.of_all,
        }
    }

    /// Offset of a newer event that takes a letter's place.
    pub fn event_after(&self, letter: &Letter) -> Option<i64> {
        self.of(letter).event.max(self.without_key).filter(|newest| *newest > letter.offset)
    }

    /// Offset of a newer tombstone. It says that the row is gone; after a delete, it says nothing new.
    pub fn tombstone_after(&self, letter: &Letter) -> Option<i64> {
        self.of(letter).tombstone.filter(|newest| *newest > letter.offset)
    }

    /// Whether everything after a letter was there to be read, but for what compaction removes, which has something
    /// newer.
    pub fn sees_all_after(&self, letter: &Letter) -> bool {
        self.first_offset <= letter.offset + 1
    }

    /// Whether the topic has ever got to where the letter's message was; otherwise it was made again since.
    pub fn has_reached(&self, letter: &Letter) -> bool {
        letter.offset < self.end_offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::letter_headers::LetterId;

    fn letter(offset: i64, key: Option<u128>) -> Letter {
        Letter {
            id: LetterId { partition: 0, offset },
            topic: "t".into(),
            partition: 0,
            offset,
            code: "x".into(),
            written_micros: None,
            key,
            size_bytes: 0,
            mark: None,
        }
    }

    #[test]
    fn what_is_newer_of_a_key_takes_a_letters_place() {
        let (a, b, none) = (letter(5, Some(1)), letter(6, Some(2)), letter(7, None));
        let mut newest = Newest::new(&[a.clone(), b.clone(), none.clone()], HashSet::from([5, 6, 7, 9]));
        newest.take(4, Some(1), false);
        newest.take(9, Some(1), false);
        assert_eq!(newest.event_after(&a), None, "older ones and letters do not count");
        newest.take(10, Some(2), true);
        assert_eq!((newest.event_after(&b), newest.tombstone_after(&b)), (None, Some(10)));
        newest.take(11, Some(1), false);
        newest.take(12, Some(3), false);
        assert_eq!((newest.event_after(&a), newest.event_after(&b)), (Some(11), None));
        assert_eq!(newest.event_after(&none), Some(12), "without a key, any message may be of its row");
        newest.take(13, None, false);
        assert_eq!(newest.event_after(&b), Some(13), "the truncate of the table concerns all rows");
    }

    #[test]
    fn what_retention_has_removed_is_not_known() {
        let newest = Newest { first_offset: 8, end_offset: 10, ..Newest::default() };
        assert!(newest.sees_all_after(&letter(7, None)) && !newest.sees_all_after(&letter(6, None)));
        assert!(newest.has_reached(&letter(9, None)) && !newest.has_reached(&letter(10, None)));
    }
}
