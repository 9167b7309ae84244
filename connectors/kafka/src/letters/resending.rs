//! Sends messages of letters to their topics again: each together with its letter's mark, so that both are there or
//! neither; and only where no newer message of its key stands behind it, not even one that is written meanwhile.
//!
//! The partition is read from the letter to its end. What others write after that, before ours, is read once ours is
//! written and before it is committed; if that has one of the keys, the transaction is aborted and all of it begins
//! again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use rdkafka::Message;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::BaseRecord;
use sooner_api::{Class, Code, Error, Result};
use sooner_schemas::event::{Op, TableEvents};
use sooner_schemas::naming::TopicPattern;
use tokio::runtime::Handle;

use super::catalogue::Letter;
use super::newest::Newest;
use super::outcome::{Became, Outcome, send_mark};
use super::topic::{LetterTopic, LoadedLetter};
use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::transactions::Transactions;
use crate::message::events::append;
use crate::message::headers::FoundHeaders;
use crate::message::letter_headers::{Mark, is_replay, of_replay};
use crate::message::topic_message::TopicMessage;
use crate::registry::reader::SchemaReader;
use crate::registry::schema_cache::SchemaCache;

/// How often a partition is read again because others write messages of the same keys.
const ATTEMPTS: usize = 5;
/// Letters of one transaction, at most: their number, and their bytes.
const AT_ONCE: (usize, usize) = (500, 8 << 20);
/// Number of our messages in delivery reports; marks have none.
const OURS: usize = 0;

/// What is to become of a letter.
enum Verdict {
    Send(LoadedLetter, OwnedHeaders),
    Supersede(i64),
    Refuse(String, String),
}

/// Letters of a source partition that have been dealt with, or wait for it.
struct Progress {
    /// Those that are left, the newest first: of each key, it decides about the others.
    left: Vec<Letter>,
    /// The newest open letter of each key.
    newest_open: HashMap<Option<u128>, Letter>,
    /// Keys whose newest letter is no longer open.
    settled: HashSet<Option<u128>>,
    done: Vec<Outcome>,
}

/// Sends letters again.
pub struct Resending<'a> {
    topic: &'a LetterTopic,
    transactions: &'a mut Transactions,
    schemas: SchemaCache,
    tables: &'a TopicPattern,
    runtime: Handle,
    /// Sees what others have not committed yet, too.
    checker: RangeReader,
}

impl<'a> Resending<'a> {
    /// Sets up a client; nothing is sent yet.
    pub fn new(
        topic: &'a LetterTopic,
        transactions: &'a mut Transactions,
        registry: SchemaReader,
        tables: &'a TopicPattern,
        runtime: Handle,
    ) -> Result<Resending<'a>> {
        let checker = RangeReader::open(&topic.settings, Isolation::All)?;
        Ok(Resending { topic, transactions, schemas: SchemaCache::new(registry), tables, runtime, checker })
    }

    /// Sends them, partition by partition, and says what became of each.
    pub fn run(mut self, letters: Vec<Letter>) -> Result<Vec<Outcome>> {
        let mut sources: BTreeMap<(Arc<str>, i32), Vec<Letter>> = BTreeMap::new();
        for letter in letters {
            sources.entry((letter.topic.clone(), letter.partition)).or_default().push(letter);
        }
        let existing = self.topic.admin.list()?;
        let mut outcomes = Vec::new();
        for ((topic, partition), letters) in sources {
            if existing.get(&*topic).is_none_or(|partitions| partition >= *partitions) {
                let became = refused(format!("topic {topic} does not have partition {partition} any more"), "drop it");
                outcomes.extend(letters.iter().map(|letter| Outcome::new(letter, became.clone())));
                continue;
            }
            outcomes.extend(self.resend_partition((&topic, partition), letters)?);
        }
        outcomes.sort_by_key(|outcome| outcome.id);
        Ok(outcomes)
    }

    fn resend_partition(&mut self, source: (&str, i32), letters: Vec<Letter>) -> Result<Vec<Outcome>> {
        let mut progress = Progress::new(letters, self.topic.catalogue.newest_open(source.0, source.1));
        for _ in 0..ATTEMPTS {
            let newest = Newest::read(&self.topic.reader, &self.topic.catalogue, source, &progress.left)?;
            while let Some(some) = progress.next_some() {
                let judged = self.judge_all(&newest, &progress, some)?;
                if !self.commit(source, &judged, newest.end_offset)? {
                    break;
                }
                progress.advance(judged);
            }
            if progress.left.is_empty() {
                return Ok(progress.done);
            }
        }
        let left = progress.left.len();
        Err(Error::retry(
            Code::TransactionOpen,
            format!("cannot send {left} letter(s) of {}/{} again", source.0, source.1),
            "newer messages of the same keys are written to it at this moment, or are in an open transaction",
            "repeat it; letters that have been handled are left alone",
        ))
    }

    fn judge_all(
        &mut self,
        newest: &Newest,
        progress: &Progress,
        letters: Vec<Letter>,
    ) -> Result<Vec<(Letter, Verdict)>> {
        let mut settled = progress.settled.clone();
        let mut judged = Vec::with_capacity(letters.len());
        for letter in letters {
            let verdict = match judge(&letter, newest, &progress.newest_open, &settled) {
                Some(verdict) => verdict,
                None => self.examine(&letter, newest)?,
            };
            if !matches!(verdict, Verdict::Refuse(..)) {
                settled.insert(letter.key);
            }
            judged.push((letter, verdict));
        }
        Ok(judged)
    }

    /// Judges a letter by what is in it.
    fn examine(&mut self, letter: &Letter, newest: &Newest) -> Result<Verdict> {
        let Some(loaded) = self.topic.load(letter.id)? else {
            return Ok(Verdict::Refuse("retention has removed it".to_owned(), "nothing".to_owned()));
        };
        let op = match self.read(letter, &loaded) {
            Ok(op) => op,
            Err(error) if error.class == Class::Operator => {
                return Ok(Verdict::Refuse(format!("{}: {}", error.what, error.why), error.remedy));
            }
            Err(error) => return Err(error),
        };
        match newest.tombstone_after(letter) {
            // The tombstone of a delete follows it.
            Some(by) if op != Op::Delete => Ok(Verdict::Supersede(by)),
            _ => {
                let headers = of_replay(self.topic.original_headers(letter, &loaded)?, letter.id);
                Ok(Verdict::Send(loaded, headers))
            }
        }
    }

    /// Reads a letter's message as a sink would; an operator error if it still cannot be read.
    fn read(&mut self, letter: &Letter, loaded: &LoadedLetter) -> Result<Op> {
        let place = format!("{}/{} offset {}", letter.topic, letter.partition, letter.offset);
        let unreadable = |why: &str| {
            let what = format!("cannot read the message at {place}");
            Error::operator(Code::MessageUnreadable, what, why, "drop the letter")
        };
        let table = self.tables.table(&letter.topic);
        let table = table.ok_or_else(|| unreadable("its topic is that of no table of this configuration"))?;
        let message = loaded.as_message(letter);
        let schema = self.runtime.block_on(self.schemas.find(&table, &message))?;
        let mut events = TableEvents::new(schema.ok_or_else(|| unreadable("it has no value"))?);
        append(&mut events, &message, 0)?;
        events.events.first().map(|event| event.op).ok_or_else(|| unreadable("it has no event"))
    }

    /// Commits verdicts; false, with nothing done, if others have written messages of the same keys.
    fn commit(&mut self, source: (&str, i32), judged: &[(Letter, Verdict)], end: i64) -> Result<bool> {
        if judged.iter().all(|(_, verdict)| matches!(verdict, Verdict::Refuse(..))) {
            return Ok(true);
        }
        match self.try_commit(source, judged, end) {
            Ok(true) => Ok(true),
            Ok(false) => self.transactions.abort().map(|()| false),
            Err(error) => {
                // What is left open would keep the topic's readers waiting until it times out.
                let _ = self.transactions.abort();
                Err(error)
            }
        }
    }

    fn try_commit(&mut self, source: (&str, i32), judged: &[(Letter, Verdict)], end: i64) -> Result<bool> {
        let mut keys = HashSet::new();
        self.transactions.begin()?;
        for (letter, verdict) in judged {
            match verdict {
                Verdict::Send(loaded, headers) => {
                    keys.insert(letter.key);
                    let mut record = BaseRecord::with_opaque_to(source.0, OURS).partition(source.1);
                    (record.key, record.payload) = (loaded.key.as_deref(), loaded.value.as_deref());
                    self.transactions.send(record.headers(headers.clone()))?;
                    send_mark(self.transactions, &self.topic.name, letter.id, Mark::Replayed)?;
                }
                Verdict::Supersede(_) => {
                    send_mark(self.transactions, &self.topic.name, letter.id, Mark::Superseded)?;
                }
                Verdict::Refuse(..) => {}
            }
        }
        let delivered = self.transactions.deliver()?.next_offsets;
        if let Some(next) = delivered.get(&(OURS, source.1))
            && self.is_overtaken(source, end..*next, &keys)?
        {
            return Ok(false);
        }
        self.transactions.commit()?;
        Ok(true)
    }

    /// Whether somebody else has a message of one of these keys in a range.
    fn is_overtaken(&self, source: (&str, i32), range: Range<i64>, keys: &HashSet<Option<u128>>) -> Result<bool> {
        let mut overtaken = false;
        let seen_all = self.checker.read(source.0, source.1, range, |message| {
            let key = message.key().map(|key| self.topic.catalogue.print_of(key));
            let concerns = key.is_none() || keys.contains(&None) || keys.contains(&key);
            overtaken |= concerns && !is_replay(message.headers());
            Ok(if overtaken { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(overtaken || !seen_all)
    }
}

impl Progress {
    fn new(mut letters: Vec<Letter>, newest_open: HashMap<Option<u128>, Letter>) -> Progress {
        letters.sort_by_key(|letter| Reverse(letter.offset));
        Progress { left: letters, newest_open, settled: HashSet::new(), done: Vec::new() }
    }

    /// The next ones that fit into a transaction; none if none are left.
    fn next_some(&self) -> Option<Vec<Letter>> {
        let (count, bytes) = AT_ONCE;
        let mut size = 0;
        let fits = |letter: &&Letter| {
            let fits = size == 0 || size + letter.size_bytes <= bytes;
            size += letter.size_bytes.max(1);
            fits
        };
        let some: Vec<_> = self.left.iter().take(count).take_while(fits).cloned().collect();
        (!some.is_empty()).then_some(some)
    }

    /// Notes what was committed.
    fn advance(&mut self, judged: Vec<(Letter, Verdict)>) {
        self.left.drain(..judged.len());
        for (letter, verdict) in judged {
            let became = match verdict {
                Verdict::Send(..) => Became::Replayed,
                Verdict::Supersede(by) => Became::Superseded { by },
                Verdict::Refuse(why, remedy) => Became::Refused { why, remedy },
            };
            if !matches!(became, Became::Refused { .. }) {
                self.settled.insert(letter.key);
            }
            self.done.push(Outcome::new(&letter, became));
        }
    }
}

impl LoadedLetter {
    /// The message as it was read from its topic.
    fn as_message(&self, letter: &Letter) -> TopicMessage {
        let (key, value) = (self.key.as_deref(), self.value.as_deref());
        let bytes = [key.unwrap_or_default(), value.unwrap_or_default()].concat();
        let split = key.map_or(0, <[u8]>::len);
        let end = bytes.len();
        let place = (letter.topic.clone(), letter.partition, letter.offset);
        let (key, value) = (key.map(|_| 0..split), value.map(|_| split..end));
        TopicMessage::new(place, None, FoundHeaders::default(), Arc::new(bytes), key, value)
    }
}

fn refused(why: String, remedy: &str) -> Became {
    Became::Refused { why, remedy: remedy.to_owned() }
}

/// Judges a letter by what its topic has after it; none if that says nothing against sending it.
fn judge(
    letter: &Letter,
    newest: &Newest,
    newest_open: &HashMap<Option<u128>, Letter>,
    settled: &HashSet<Option<u128>>,
) -> Option<Verdict> {
    let refuse = |why: String, remedy: &str| Some(Verdict::Refuse(why, remedy.to_owned()));
    if !newest.has_reached(letter) {
        let Letter { topic, offset, .. } = letter;
        return refuse(format!("topic {topic} was made again: it has no offset {offset} yet"), "drop it");
    }
    if let Some(by) = newest.event_after(letter) {
        return Some(Verdict::Supersede(by));
    }
    if !newest.sees_all_after(letter) {
        let why = "retention has removed what followed it, so it is not known whether a newer message of its key did";
        let remedy = "have its producer write the row again (with Debezium, by an incremental snapshot), and drop it";
        return refuse(why.to_owned(), remedy);
    }
    let other = newest_open.get(&letter.key).filter(|other| other.offset > letter.offset)?;
    match settled.contains(&letter.key) {
        true => Some(Verdict::Supersede(other.offset)),
        false => refuse(
            format!("a newer message of its key is a dead letter, too: {}", other.id),
            "replay or drop that one first",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::letter_headers::LetterId;

    fn letter(offset: i64, key: u128, size_bytes: usize) -> Letter {
        let id = LetterId { partition: 0, offset };
        let (topic, code): (Arc<str>, Arc<str>) = ("t".into(), "x".into());
        Letter { id, topic, partition: 0, offset, code, written_micros: None, key: Some(key), size_bytes, mark: None }
    }

    /// A partition without anything newer, from its first offset to its end.
    fn read(first_offset: i64, end_offset: i64) -> Newest {
        let mut newest = Newest::default();
        (newest.first_offset, newest.end_offset) = (first_offset, end_offset);
        newest
    }

    #[test]
    fn of_letters_of_one_key_the_newest_decides() {
        let (old, new) = (letter(5, 1, 0), letter(9, 1, 0));
        let newest = read(0, 10);
        let open = HashMap::from([(new.key, new.clone())]);
        assert!(judge(&new, &newest, &open, &HashSet::new()).is_none());
        let waits = judge(&old, &newest, &open, &HashSet::new());
        assert!(matches!(waits, Some(Verdict::Refuse(why, _)) if why.contains("0/9")));
        let follows = judge(&old, &newest, &open, &HashSet::from([new.key]));
        assert!(matches!(follows, Some(Verdict::Supersede(9))));
        assert!(judge(&old, &newest, &HashMap::new(), &HashSet::new()).is_none(), "the other one was dropped");
        let again = read(0, 3);
        assert!(matches!(judge(&old, &again, &open, &HashSet::new()), Some(Verdict::Refuse(..))));
        let expired = read(7, 10);
        assert!(matches!(judge(&old, &expired, &open, &HashSet::new()), Some(Verdict::Refuse(..))));
    }

    #[test]
    fn letters_go_in_parts_the_newest_first() {
        let letters = vec![letter(1, 1, 6 << 20), letter(2, 2, 6 << 20), letter(3, 3, 20 << 20), letter(4, 4, 0)];
        let mut progress = Progress::new(letters, HashMap::new());
        let mut parts = Vec::new();
        while let Some(some) = progress.next_some() {
            parts.push(some.iter().map(|letter| letter.offset).collect::<Vec<_>>());
            let refuse = |letter| (letter, Verdict::Refuse(String::new(), String::new()));
            progress.advance(some.into_iter().map(refuse).collect());
        }
        assert_eq!(parts, [vec![4], vec![3], vec![2], vec![1]]);
        assert!(progress.settled.is_empty() && progress.done.len() == 4);
    }
}
