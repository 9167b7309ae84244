//! Checks a chain: takes its entries in any order, and says which of them were changed, are missing, or do not follow
//! the one before. Without I/O.

use std::fmt;

use serde::Serialize;

use super::chain::{ChainedEntry, Head, NO_HASH};
use super::digits::{hash_bytes, hex};
use super::keys::PublicKey;

/// Findings that are told one by one.
const MOST_FINDINGS: usize = 100;

/// Something that is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Number of the entry; where several are concerned, of the first.
    pub sequence: i64,
    /// What is wrong with it.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// Its values are not those that its hash was made of.
    Changed,
    /// It is not there, nor are those up to this one.
    Missing {
        /// The last that is missing.
        to: i64,
    },
    /// There are several of its number.
    Repeated,
    /// It does not contain the hash of the entry before it: one of the two was replaced, or they changed places.
    Detached,
    /// It is of another pipeline.
    Foreign,
    /// Its signature is not one of the key that it names.
    SignatureWrong,
    /// It was signed with a key that was not given.
    KeyUnknown {
        /// The key's id.
        key_id: String,
    },
    /// It and all after it are not signed, although a key was given.
    Unsigned,
    /// It is not the one that stood there when the head was noted.
    HeadDiffers,
    /// Signatures cannot be checked: no key was given.
    Unchecked,
}

/// What became of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Number of entries.
    pub entries: usize,
    /// The chain's end, as `SEQUENCE:HASH`; none without entries.
    pub head: Option<String>,
    /// Number of entries whose signature was found right.
    pub signatures: usize,
    /// What is wrong, in the order of the entries; the first ones if there is much.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub count: usize,
}

/// An entry, as far as a check needs it.
struct Seen {
    sequence: i64,
    previous: Option<[u8; 32]>,
    hash: Option<[u8; 32]>,
    fault: Option<Fault>,
    signature: Option<Fault>,
    is_signed: bool,
}

/// Takes entries, and checks them.
pub struct Checker<'a> {
    pipeline: &'a str,
    keys: &'a [PublicKey],
    seen: Vec<Seen>,
}

impl<'a> Checker<'a> {
    /// Checks the chain of a pipeline, whose signatures are those of one of these keys.
    pub fn new(pipeline: &'a str, keys: &'a [PublicKey]) -> Checker<'a> {
        Checker { pipeline, keys, seen: Vec::new() }
    }

    /// Takes an entry.
    pub fn take(&mut self, chained: &ChainedEntry) {
        let is_right = chained.expected_hash() == chained.hash;
        let fault = match is_right {
            false => Some(Fault::Changed),
            true => (chained.pipeline != self.pipeline).then_some(Fault::Foreign),
        };
        let hash = hash_bytes(&chained.hash);
        let signature = chained.signature.as_ref().and_then(|signature| {
            let key_id = chained.key_id.clone().unwrap_or_default();
            match (hash, self.keys.iter().find(|key| key.id() == key_id)) {
                (Some(hash), Some(key)) if key.has_signed(&hash, signature) => None,
                (_, Some(_)) => Some(Fault::SignatureWrong),
                (_, None) if self.keys.is_empty() => Some(Fault::Unchecked),
                (_, None) => Some(Fault::KeyUnknown { key_id }),
            }
        });
        let is_signed = chained.signature.is_some();
        let previous = hash_bytes(&chained.previous);
        self.seen.push(Seen { sequence: chained.sequence, previous, hash, fault, signature, is_signed });
    }

    /// Says what became of the check. The entry that a head names must be there still.
    pub fn finish(mut self, head: Option<&Head>) -> Checked {
        self.seen.sort_by_key(|seen| seen.sequence);
        let mut checked = Checked { entries: self.seen.len(), ..Checked::default() };
        self.follow(&mut checked);
        self.look_at_signatures(&mut checked);
        if let Some(head) = head {
            self.look_for(head, &mut checked);
        }
        let last = self.seen.last().and_then(|last| Some((last.sequence, last.hash?)));
        checked.head = last.map(|(sequence, hash)| Head { sequence, hash: hex(&hash) }.to_string());
        checked.findings.sort_by_key(|finding| finding.sequence);
        checked.findings.truncate(MOST_FINDINGS);
        checked
    }

    /// Whether each entry is as it was, and follows the one before.
    fn follow(&self, checked: &mut Checked) {
        let (mut last, mut hash) = (0, hash_bytes(NO_HASH));
        for seen in &self.seen {
            let follows = seen.sequence == last + 1;
            match seen.sequence {
                sequence if sequence > last + 1 => checked.tell(last + 1, Fault::Missing { to: sequence - 1 }),
                sequence if sequence <= last => checked.tell(sequence, Fault::Repeated),
                _ => {}
            }
            if let Some(fault) = &seen.fault {
                checked.tell(seen.sequence, fault.clone());
            } else if follows && (seen.previous.is_none() || seen.previous != hash) {
                checked.tell(seen.sequence, Fault::Detached);
            }
            (last, hash) = (seen.sequence, seen.hash);
        }
    }

    fn look_at_signatures(&self, checked: &mut Checked) {
        for seen in self.seen.iter().filter(|seen| seen.is_signed) {
            match &seen.signature {
                None => checked.signatures += 1,
                // Told once: it is so for all of them.
                Some(Fault::Unchecked) if checked.findings.iter().any(|found| found.fault == Fault::Unchecked) => {}
                Some(fault) => checked.tell(seen.sequence, fault.clone()),
            }
        }
        let unsigned = self.seen.iter().rev().take_while(|seen| !seen.is_signed).last();
        if let (Some(first), false) = (unsigned, self.keys.is_empty()) {
            checked.tell(first.sequence, Fault::Unsigned);
        }
    }

    fn look_for(&self, head: &Head, checked: &mut Checked) {
        let last = self.seen.last().map_or(0, |seen| seen.sequence);
        let found = self.seen.iter().find(|seen| seen.sequence == head.sequence);
        match found {
            Some(seen) if seen.hash == hash_bytes(&head.hash) => {}
            Some(_) => checked.tell(head.sequence, Fault::HeadDiffers),
            None if last < head.sequence => checked.tell(last + 1, Fault::Missing { to: head.sequence }),
            // It is one of those that are missing between others.
            None => {}
        }
    }
}

impl Checked {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.count == 0
    }

    fn tell(&mut self, sequence: i64, fault: Fault) {
        self.count += 1;
        // Signatures are looked at last, and may concern earlier entries: of each pass the first ones are kept.
        if self.findings.len() < 3 * MOST_FINDINGS {
            self.findings.push(Finding { sequence, fault });
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = self.sequence;
        match &self.fault {
            Fault::Changed => write!(f, "entry {sequence} was changed: its hash is not that of its values"),
            Fault::Missing { to } if *to == sequence => write!(f, "entry {sequence} is missing"),
            Fault::Missing { to } => write!(f, "entries {sequence} to {to} are missing"),
            Fault::Repeated => write!(f, "entry {sequence} is there more than once"),
            Fault::Detached => write!(
                f,
                "entry {sequence} does not follow the one before it: one of the two was replaced, or they changed places"
            ),
            Fault::Foreign => write!(f, "entry {sequence} is of another pipeline"),
            Fault::SignatureWrong => write!(f, "the signature of entry {sequence} is wrong"),
            Fault::KeyUnknown { key_id } => {
                write!(f, "entry {sequence} was signed with the key {key_id}, which was not given with --key")
            }
            Fault::Unsigned => write!(f, "entry {sequence} is not signed, nor is any after it"),
            Fault::HeadDiffers => write!(f, "entry {sequence} is not the one of the head: the chain was written anew"),
            Fault::Unchecked => {
                write!(f, "signatures cannot be checked, the first of entry {sequence}: give the public key with --key")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::{AuditEntry, chained};
    use crate::audit::keys::SigningKey;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

    fn entries(count: i64) -> Vec<AuditEntry> {
        let entry = |at_micros| AuditEntry {
            at_micros,
            side: "sink".to_owned(),
            kind: "started".to_owned(),
            table: None,
            actor: "a".to_owned(),
            entry: "{}".to_owned(),
        };
        (1..=count).map(entry).collect()
    }

    fn chain(key: Option<&SigningKey>) -> Vec<ChainedEntry> {
        chained("shop", entries(5), 1, NO_HASH.to_owned(), key)
    }

    fn check(chain: &[ChainedEntry], keys: &[PublicKey], head: Option<&str>) -> Vec<(i64, Fault)> {
        let mut checker = Checker::new("shop", keys);
        // In whatever order they lie.
        chain.iter().rev().for_each(|chained| checker.take(chained));
        let checked = checker.finish(head.map(|head| head.parse().unwrap()).as_ref());
        assert_eq!((checked.count == 0, checked.entries), (checked.is_good(), chain.len()));
        checked.findings.into_iter().map(|finding| (finding.sequence, finding.fault)).collect()
    }

    #[test]
    fn a_chain_is_good_until_an_entry_is_changed_removed_replaced_or_moved() {
        let good = chain(None);
        assert_eq!(check(&good, &[], None), []);
        let mut changed = good.clone();
        changed[2].entry.actor = "b".to_owned();
        assert_eq!(check(&changed, &[], None), [(3, Fault::Changed)]);
        // Whoever knows the rule makes the hash right, and is found by the next entry.
        changed[2].hash = changed[2].expected_hash();
        assert_eq!(check(&changed, &[], None), [(4, Fault::Detached)]);
        let mut removed = good.clone();
        removed.drain(1..3);
        assert_eq!(check(&removed, &[], None), [(2, Fault::Missing { to: 3 })]);
        assert_eq!(check(&good[1..], &[], None), [(1, Fault::Missing { to: 1 })]);
        let mut moved = good.clone();
        (moved[1].sequence, moved[2].sequence) = (3, 2);
        let expected = [(2, Fault::Changed), (3, Fault::Changed), (4, Fault::Detached)];
        assert_eq!(check(&moved, &[], None), expected);
        let repeated = [&good[..], &good[4..]].concat();
        assert_eq!(check(&repeated, &[], None), [(5, Fault::Repeated)]);
        let foreign = chained("other", entries(1), 1, NO_HASH.to_owned(), None);
        assert_eq!(check(&foreign, &[], None), [(1, Fault::Foreign)]);
    }

    #[test]
    fn a_head_finds_what_was_cut_off_and_what_was_written_anew() {
        let good = chain(None);
        let head = format!("5:{}", good[4].hash);
        assert_eq!(check(&good, &[], Some(&head)), []);
        assert_eq!(check(&good[..3], &[], None), [], "nothing says that there was more");
        assert_eq!(check(&good[..3], &[], Some(&head)), [(4, Fault::Missing { to: 5 })]);
        assert_eq!(check(&[], &[], Some(&head)), [(1, Fault::Missing { to: 5 })]);
        let anew = chained("shop", entries(6).split_off(1), 1, NO_HASH.to_owned(), None);
        assert_eq!(check(&anew, &[], Some(&head)), [(5, Fault::HeadDiffers)]);
    }

    #[test]
    fn signatures_are_those_of_a_known_key_and_reach_to_the_end() {
        let key = SigningKey::from_pem(KEY).unwrap();
        let keys = [key.public()];
        let mut signed = chain(Some(&key));
        assert_eq!(check(&signed, &keys, None), []);
        assert_eq!(check(&signed, &[], None), [(5, Fault::Unchecked)], "what is not checked is not good");
        let mut added = signed.clone();
        added.extend(chained("shop", entries(2), 6, signed[4].hash.clone(), None));
        assert_eq!(check(&added, &keys, None), [(6, Fault::Unsigned)]);
        assert_eq!(check(&chain(None), &keys, None), [(1, Fault::Unsigned)], "all signatures were taken out");
        signed[4].signature = Some(key.sign(&[0; 32]));
        assert_eq!(check(&signed, &keys, None), [(5, Fault::SignatureWrong)]);
        signed[4].key_id = Some("0123456789abcdef".to_owned());
        assert_eq!(check(&signed, &keys, None), [(5, Fault::KeyUnknown { key_id: "0123456789abcdef".to_owned() })]);
    }
}
