//! Which letters are open: takes the records of a dead-letter topic in order, and knows without I/O what they amount
//! to. A message that was written twice is one letter.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use sooner_schemas::fingerprint::Fingerprints;
use sooner_schemas::wire::split_header;

use crate::message::letter_headers::{LetterHeaders, LetterId, LetterRecord, Mark};

/// A letter, without what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Where it is: the first place, if the message was written more than once.
    pub id: LetterId,
    /// Topic that the message was read from.
    pub topic: Arc<str>,
    /// Partition of that topic.
    pub partition: i32,
    /// The message's offset there.
    pub offset: i64,
    /// Stable name of the error.
    pub code: Arc<str>,
    /// When the letter was written, in microseconds since 1970; none where brokers do not tell.
    pub written_micros: Option<i64>,
    /// Fingerprint of the message's key; none if it has none.
    pub key: Option<u128>,
    /// Size of key and value, in bytes.
    pub size_bytes: usize,
    /// What became of it; none while it is open.
    pub mark: Option<Mark>,
}

/// Which letters are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// One.
    One(LetterId),
    /// Several.
    Several(BTreeSet<LetterId>),
    /// Those of a source topic.
    Topic(String),
    /// All.
    All,
}

impl Selection {
    /// Those of a topic if one is named, and all otherwise.
    pub fn of_topic(topic: Option<String>) -> Selection {
        topic.map_or(Selection::All, Selection::Topic)
    }
}

/// Open letters of one source topic and one kind of error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Topic that their messages were read from.
    pub topic: Arc<str>,
    /// Stable name of the error.
    pub code: Arc<str>,
    /// How many there are.
    pub count: usize,
    /// When the first one was written, in microseconds since 1970.
    pub first_micros: Option<i64>,
    /// When the last one was written, in microseconds since 1970.
    pub last_micros: Option<i64>,
    /// The last one.
    pub last: LetterId,
}

/// A record of the dead-letter topic.
pub struct Record<'a> {
    /// Where it is.
    pub id: LetterId,
    /// When it was written, in microseconds since 1970; none where brokers do not tell.
    pub written_micros: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// The letters of a dead-letter topic.
#[derive(Debug, Default)]
pub struct Catalogue {
    prints: Fingerprints,
    /// By what they are: place and content.
    letters: HashMap<u128, Known>,
    /// What each record is, by its place.
    records: BTreeMap<LetterId, u128>,
    /// Up to where each partition was read.
    next_offsets: BTreeMap<i32, i64>,
}

#[derive(Debug)]
struct Known {
    letter: Letter,
    /// All its places.
    ids: BTreeSet<LetterId>,
}

impl Catalogue {
    /// Up to where a partition was read; none if not at all.
    pub fn next_offset(&self, partition: i32) -> Option<i64> {
        self.next_offsets.get(&partition).copied()
    }

    /// A partition was read up to here.
    pub fn reach(&mut self, partition: i32, next_offset: i64) {
        self.next_offsets.insert(partition, next_offset);
    }

    /// Forgets what a partition does not have any more: what is before its first offset; or all, if it ends before
    /// what was read, since its topic was made again then.
    pub fn forget(&mut self, partition: i32, first_offset: i64, end_offset: i64) {
        let is_another = self.next_offset(partition).is_some_and(|next| end_offset < next);
        let until = if is_another { i64::MAX } else { first_offset };
        if is_another {
            self.next_offsets.remove(&partition);
        }
        let range = LetterId { partition, offset: 0 }..LetterId { partition, offset: until };
        let gone: Vec<_> = self.records.range(range).map(|(id, print)| (*id, *print)).collect();
        for (id, print) in gone {
            self.records.remove(&id);
            let Some(known) = self.letters.get_mut(&print) else { continue };
            known.ids.remove(&id);
            match known.ids.first() {
                Some(first) => known.letter.id = *first,
                None => drop(self.letters.remove(&print)),
            }
        }
    }

    /// Takes the next record in.
    pub fn take(&mut self, record: &Record<'_>, headers: LetterRecord) {
        match headers {
            LetterRecord::Letter(headers) => self.take_letter(record, headers),
            LetterRecord::Mark(id, mark) => {
                let known = self.records.get(&id).and_then(|print| self.letters.get_mut(print));
                if let Some(known) = known {
                    known.letter.mark.get_or_insert(mark);
                }
            }
        }
    }

    fn take_letter(&mut self, record: &Record<'_>, headers: LetterHeaders) {
        let LetterHeaders { topic, partition, offset, code, .. } = headers;
        // A topic that was made again may have another message at the same place.
        let print = self.prints.of(&(&*topic, partition, offset, record.key, record.value));
        self.records.insert(record.id, print);
        let key = record.key.map(|key| self.print_of(key));
        let letter = || Letter {
            id: record.id,
            topic,
            partition,
            offset,
            code: code.into(),
            written_micros: record.written_micros,
            key,
            size_bytes: record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len),
            mark: None,
        };
        let known = self.letters.entry(print).or_insert_with(|| Known { letter: letter(), ids: BTreeSet::new() });
        known.ids.insert(record.id);
    }

    /// Fingerprint of a key: without the id of its schema, since a key that is registered again stays the same key.
    pub fn print_of(&self, key: &[u8]) -> u128 {
        self.prints.of(&split_header(key).map_or(key, |(_, datum)| datum))
    }

    /// The letter with a record at this place.
    pub fn find(&self, id: LetterId) -> Option<&Letter> {
        self.records.get(&id).and_then(|print| self.letters.get(print)).map(|known| &known.letter)
    }

    /// The open letters that are meant, in the order in which they were written to each partition.
    pub fn open(&self, selection: &Selection) -> Vec<Letter> {
        let mut open: Vec<_> = match selection {
            Selection::One(id) => self.find(*id).into_iter().collect(),
            Selection::Several(ids) => {
                // A message that was written twice is one letter.
                let found: BTreeMap<_, _> =
                    ids.iter().filter_map(|id| self.find(*id)).map(|letter| (letter.id, letter)).collect();
                found.into_values().collect()
            }
            _ => self.letters.values().map(|known| &known.letter).collect(),
        };
        open.retain(|letter| letter.mark.is_none());
        if let Selection::Topic(topic) = selection {
            open.retain(|letter| *letter.topic == **topic);
        }
        open.sort_by_key(|letter| letter.id);
        open.into_iter().cloned().collect()
    }

    /// Offsets of a source partition whose messages are letters, whatever became of them: no table has those.
    pub fn offsets_of(&self, topic: &str, partition: i32) -> HashSet<i64> {
        let letters = self.letters.values().map(|known| &known.letter);
        letters
            .filter(|letter| *letter.topic == *topic && letter.partition == partition)
            .map(|letter| letter.offset)
            .collect()
    }

    /// The newest open letter of each key of a source partition.
    pub fn newest_open(&self, topic: &str, partition: i32) -> HashMap<Option<u128>, Letter> {
        let mut newest: HashMap<_, Letter> = HashMap::new();
        for Known { letter, .. } in self.letters.values() {
            let is_open = letter.mark.is_none() && *letter.topic == *topic && letter.partition == partition;
            if is_open && newest.get(&letter.key).is_none_or(|other| other.offset < letter.offset) {
                newest.insert(letter.key, letter.clone());
            }
        }
        newest
    }

    /// The open letters by source topic and error, those with the most first.
    pub fn groups(&self, selection: &Selection) -> Vec<Group> {
        let mut groups: BTreeMap<(Arc<str>, Arc<str>), Group> = BTreeMap::new();
        for letter in self.open(selection) {
            let (topic, code, at) = (letter.topic, letter.code, letter.written_micros);
            let group = groups.entry((topic.clone(), code.clone())).or_insert_with(|| Group {
                topic,
                code,
                count: 0,
                first_micros: at,
                last_micros: at,
                last: letter.id,
            });
            group.count += 1;
            group.first_micros = group.first_micros.into_iter().chain(at).min();
            if at >= group.last_micros {
                (group.last_micros, group.last) = (at, letter.id);
            }
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(offset: i64) -> LetterId {
        LetterId { partition: 0, offset }
    }

    /// A letter of `t/0`, at this place of the dead-letter topic, of the message at this offset.
    fn letter(catalogue: &mut Catalogue, at: i64, offset: i64, key: &[u8], code: &str) {
        let headers = LetterHeaders {
            topic: "t".into(),
            partition: 0,
            offset,
            code: code.to_owned(),
            reason: String::new(),
            remedy: String::new(),
        };
        let record = Record { id: id(at), written_micros: Some(at * 10), key: Some(key), value: Some(b"v") };
        catalogue.take(&record, LetterRecord::Letter(headers));
    }

    fn mark(catalogue: &mut Catalogue, at: i64, of: i64, mark: Mark) {
        let record = Record { id: id(at), written_micros: None, key: None, value: None };
        catalogue.take(&record, LetterRecord::Mark(id(of), mark));
    }

    fn open(catalogue: &Catalogue) -> Vec<i64> {
        catalogue.open(&Selection::All).iter().map(|letter| letter.id.offset).collect()
    }

    #[test]
    fn letters_are_open_until_they_are_marked_and_a_message_is_one_letter() {
        let mut catalogue = Catalogue::default();
        letter(&mut catalogue, 0, 5, b"a", "x");
        letter(&mut catalogue, 1, 6, b"b", "x");
        // The sink was killed, and wrote it again.
        letter(&mut catalogue, 2, 5, b"a", "x");
        letter(&mut catalogue, 3, 7, b"a", "y");
        assert_eq!(open(&catalogue), [0, 1, 3]);
        assert_eq!(catalogue.find(id(2)).unwrap().id, id(0));
        let groups: Vec<_> = catalogue.groups(&Selection::All);
        let told: Vec<_> = groups.iter().map(|group| (&*group.code, group.count, group.last.offset)).collect();
        assert_eq!(told, [("x", 2, 1), ("y", 1, 3)]);
        assert_eq!((groups[0].first_micros, groups[0].last_micros), (Some(0), Some(10)));
        mark(&mut catalogue, 4, 0, Mark::Replayed);
        mark(&mut catalogue, 5, 2, Mark::Dropped);
        letter(&mut catalogue, 6, 5, b"a", "x");
        assert_eq!(open(&catalogue), [1, 3]);
        assert_eq!(catalogue.find(id(6)).unwrap().mark, Some(Mark::Replayed), "the first mark counts");
        assert!(catalogue.open(&Selection::One(id(6))).is_empty());
        assert_eq!(catalogue.open(&Selection::Several([id(0), id(1), id(9)].into())).len(), 1);
        assert_eq!(catalogue.open(&Selection::Topic("t".to_owned())).len(), 2);
        assert!(catalogue.open(&Selection::Topic("u".to_owned())).is_empty());
        assert_eq!(catalogue.offsets_of("t", 0), HashSet::from([5, 6, 7]));
        assert!(catalogue.offsets_of("t", 1).is_empty());
    }

    #[test]
    fn the_newest_open_letter_of_a_key_is_known() {
        let mut catalogue = Catalogue::default();
        for (at, key) in [(0, b"a"), (1, b"b"), (2, b"a"), (3, b"a")] {
            letter(&mut catalogue, at, at + 10, key, "x");
        }
        let newest = |catalogue: &Catalogue| catalogue.newest_open("t", 0)[&Some(catalogue.print_of(b"a"))].id;
        assert_eq!((newest(&catalogue), catalogue.newest_open("t", 0).len()), (id(3), 2));
        mark(&mut catalogue, 4, 3, Mark::Dropped);
        assert_eq!(newest(&catalogue), id(2));
        assert!(catalogue.newest_open("t", 1).is_empty());
        let print = |key: &[u8]| catalogue.print_of(key);
        assert_eq!(print(&[0, 0, 0, 0, 1, 7]), print(&[0, 0, 0, 0, 2, 7]), "of another schema id");
        assert_ne!(print(&[0, 0, 0, 0, 1, 7]), print(&[0, 0, 0, 0, 1, 8]));
    }

    #[test]
    fn what_retention_has_removed_is_forgotten_and_so_is_a_topic_that_was_made_again() {
        let mut catalogue = Catalogue::default();
        letter(&mut catalogue, 0, 5, b"a", "x");
        letter(&mut catalogue, 1, 6, b"b", "x");
        letter(&mut catalogue, 2, 5, b"a", "x");
        catalogue.reach(0, 3);
        catalogue.forget(0, 2, 3);
        assert_eq!((open(&catalogue), catalogue.next_offset(0)), (vec![2], Some(3)));
        assert!(catalogue.find(id(1)).is_none());
        catalogue.forget(0, 0, 1);
        assert!(open(&catalogue).is_empty() && catalogue.next_offset(0).is_none());
    }

    #[test]
    fn another_message_at_the_same_place_is_another_letter() {
        let mut catalogue = Catalogue::default();
        letter(&mut catalogue, 0, 5, b"a", "x");
        letter(&mut catalogue, 1, 5, b"b", "x");
        assert_eq!(open(&catalogue), [0, 1]);
    }
}
