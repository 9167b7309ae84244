//! Tombstones of erased rows: written in one transaction a topic, and only if nothing newer of a key stands before its
//! tombstone, not even what somebody writes meanwhile. Readers take them as what they are: no events, without a
//! position of the source's log.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{ControlFlow, Range};

use rdkafka::Message;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use sooner_api::{Code, Error, Result};

use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;
use crate::cluster::transactions::Transactions;

/// Header of our tombstones: the name of the erasure.
const ERASURE: &str = "sooner.erasure";
/// Number of our messages in delivery reports.
const OURS: usize = 0;
/// Size of a batch of tombstones, at most, in bytes: smaller than any topic's limit.
const BATCH_BYTES: usize = 16 << 10;

/// Writer of tombstones. Opening a second one of a pipeline fences the first.
pub struct Tombstones {
    transactions: Transactions,
    /// Sees what others have not committed yet, too.
    checker: RangeReader,
    erasure: String,
}

impl Tombstones {
    /// Connects to the brokers; nothing is written yet. `erasure` is the name of the erasure.
    pub fn open(settings: &KafkaSettings, erasure: &str) -> Result<Tombstones> {
        let checker = RangeReader::open(settings, Isolation::All)?;
        let mut settings = settings.clone();
        settings.producer.transactional_id = Some(settings.erasure_id());
        let transactions = Transactions::open(&settings, &[BATCH_BYTES])?;
        Ok(Tombstones { transactions, checker, erasure: erasure.to_owned() })
    }

    /// Writes the tombstones of keys, each with its partition, to a topic that was read up to `ends`. False, with
    /// nothing done, if others have written messages of these keys since.
    pub fn write(&mut self, topic: &str, keys: &BTreeSet<(i32, Vec<u8>)>, ends: &[i64]) -> Result<bool> {
        match self.try_write(topic, keys, ends) {
            Ok(true) => Ok(true),
            Ok(false) => self.transactions.abort().map(|()| false),
            Err(error) => {
                // What is left open would keep the topic's readers waiting until it times out.
                let _ = self.transactions.abort();
                Err(taken_over(error))
            }
        }
    }

    fn try_write(&mut self, topic: &str, keys: &BTreeSet<(i32, Vec<u8>)>, ends: &[i64]) -> Result<bool> {
        self.transactions.begin()?;
        let mut by_partition: BTreeMap<i32, BTreeSet<&[u8]>> = BTreeMap::new();
        for (partition, key) in keys {
            let headers = OwnedHeaders::new().insert(Header { key: ERASURE, value: Some(&self.erasure) });
            let mut record = BaseRecord::with_opaque_to(topic, OURS).partition(*partition).headers(headers);
            record.key = Some(key.as_slice());
            self.transactions.send(record)?;
            by_partition.entry(*partition).or_default().insert(key);
        }
        let delivered: HashMap<_, _> = self.transactions.deliver()?.next_offsets;
        for (partition, keys) in by_partition {
            let end = usize::try_from(partition).ok().and_then(|at| ends.get(at)).copied().unwrap_or_default();
            let next = delivered.get(&(OURS, partition)).copied().unwrap_or(end);
            if self.is_overtaken((topic, partition), end..next, &keys)? {
                return Ok(false);
            }
        }
        self.transactions.commit()?;
        Ok(true)
    }

    /// Whether somebody else has a message of one of these keys in a range, or one without a key.
    fn is_overtaken(&self, source: (&str, i32), range: Range<i64>, keys: &BTreeSet<&[u8]>) -> Result<bool> {
        let mut overtaken = false;
        let seen_all = self.checker.read(source.0, source.1, range, |message| {
            let concerns = message.key().is_none_or(|key| keys.contains(key));
            overtaken |= concerns && !is_ours(message.headers());
            Ok(if overtaken { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(overtaken || !seen_all)
    }
}

/// Whether headers are those of a tombstone that an erasure has written.
fn is_ours<H: Headers>(headers: Option<&H>) -> bool {
    headers.is_some_and(|headers| headers.iter().any(|header| header.key == ERASURE))
}

fn taken_over(error: Error) -> Error {
    if error.code != Code::ProducerFenced {
        return error;
    }
    let why = "another `sooner erase` of this pipeline has begun after this one";
    Error::retry(error.code, "the topics are not erased here any more", why, "erase again once that has ended")
}
