//! The rule by which entries of the audit trail are chained: the hash of each is made of its values and of the hash of
//! the one before. Without I/O; `src/docs/audit.md` says the same in words.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::digits::{hash_bytes, hex};
use super::keys::SigningKey;

/// First line of what is hashed, by which another rule can be told from this one.
const RULE: &str = "sooner-audit-1\n";
/// What the first entry has as the hash of the one before it.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Something that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When it happened, in microseconds since 1970.
    pub at_micros: i64,
    /// Which part of the pipeline records it: `source`, `sink`, `pipeline` (a process of both) or `command`.
    pub side: String,
    /// What kind of thing happened.
    pub kind: String,
    /// The table that it concerns, as schema.table.
    pub table: Option<String>,
    /// Who did it.
    pub actor: String,
    /// What happened, as JSON.
    pub entry: String,
}

/// An entry in its place in the chain: a row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainedEntry {
    /// Its number: the first entry has 1, each other one more than the one before.
    pub sequence: i64,
    /// The pipeline.
    pub pipeline: String,
    /// What is recorded.
    pub entry: AuditEntry,
    /// The hash of the entry before it.
    pub previous: String,
    /// Its own hash: SHA-256 as 64 hexadecimal digits.
    pub hash: String,
    /// Ed25519 signature over the 32 bytes of the hash, as base64; only of the last entry of a commit.
    pub signature: Option<String>,
    /// Which key it was signed with.
    pub key_id: Option<String>,
}

/// The end of a chain, which stands for all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the last entry.
    pub sequence: i64,
    /// Its hash.
    pub hash: String,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, self.hash)
    }
}

impl FromStr for Head {
    type Err = String;

    fn from_str(text: &str) -> Result<Head, String> {
        let parsed = text.split_once(':').and_then(|(sequence, hash)| {
            let sequence = sequence.parse().ok().filter(|sequence| *sequence > 0)?;
            Some(Head { sequence, hash: hash_bytes(hash).map(|_| hash.to_owned())? })
        });
        parsed.ok_or_else(|| format!("'{text}': expected SEQUENCE:HASH, as it was printed once"))
    }
}

impl ChainedEntry {
    /// What its hash should be.
    pub fn expected_hash(&self) -> String {
        let (sequence, at) = (self.sequence.to_string(), self.entry.at_micros.to_string());
        let values = [
            Some(sequence.as_str()),
            Some(at.as_str()),
            Some(&self.pipeline),
            Some(&self.entry.side),
            Some(&self.entry.kind),
            self.entry.table.as_deref(),
            Some(&self.entry.actor),
            Some(&self.entry.entry),
            Some(&self.previous),
        ];
        hex(&hash_of(&values))
    }
}

/// Puts entries at the end of a chain; the last of them is signed, if there is a key. `next` is the number of the first
/// one, and `previous` the hash of the entry before it.
pub fn chained(
    pipeline: &str,
    entries: Vec<AuditEntry>,
    next: i64,
    previous: String,
    key: Option<&SigningKey>,
) -> Vec<ChainedEntry> {
    let mut chain = Vec::with_capacity(entries.len());
    let mut previous = previous;
    for (sequence, entry) in (next..).zip(entries) {
        let mut chained = ChainedEntry {
            sequence,
            pipeline: pipeline.to_owned(),
            entry,
            previous,
            hash: String::new(),
            signature: None,
            key_id: None,
        };
        chained.hash = chained.expected_hash();
        previous = chained.hash.clone();
        chain.push(chained);
    }
    if let (Some(last), Some(key)) = (chain.last_mut(), key) {
        last.signature = hash_bytes(&last.hash).map(|hash| key.sign(&hash));
        last.key_id = Some(key.public().id());
    }
    chain
}

/// SHA-256 of the rule's name and of a line for each value: its length in bytes, a colon and its bytes; `-` for NULL.
fn hash_of(values: &[Option<&str>]) -> [u8; 32] {
    let mut text = String::from(RULE);
    for value in values {
        match value {
            Some(value) => text.extend([value.len().to_string().as_str(), ":", value, "\n"]),
            None => text.push_str("-\n"),
        }
    }
    Sha256::digest(text.as_bytes()).into()
}

/// JSON in one form: names in the order of their bytes, no white space.
pub fn canonical(value: &Value) -> String {
    ordered(value).to_string()
}

fn ordered(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.keys().collect();
            names.sort();
            Value::Object(names.into_iter().map(|name| (name.clone(), ordered(&fields[name]))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(ordered).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn entry(table: Option<&str>, text: &str) -> AuditEntry {
        AuditEntry {
            at_micros: 1_700_000_000_000_000,
            side: "command".to_owned(),
            kind: "pause".to_owned(),
            table: table.map(str::to_owned),
            actor: "ann@host".to_owned(),
            entry: text.to_owned(),
        }
    }

    #[test]
    fn the_hash_is_that_of_the_text_that_the_page_describes() {
        let chain = chained("shop", vec![entry(None, "{\"é\":1}")], 1, NO_HASH.to_owned(), None);
        let text = format!(
            "sooner-audit-1\n1:1\n16:1700000000000000\n4:shop\n7:command\n5:pause\n-\n8:ann@host\n8:{{\"é\":1}}\n64:{NO_HASH}\n"
        );
        assert_eq!(chain[0].hash, hex(&Sha256::digest(text.as_bytes())));
        // Known from Python: hashlib.sha256(text.encode()).hexdigest().
        assert_eq!(chain[0].hash, "b6ec771328d9536952eb7e21470b9cad509c6b7810c634a78e4400e022076f78");
        assert_eq!((chain[0].signature.as_ref(), chain[0].key_id.as_ref()), (None, None));
    }

    #[test]
    fn each_entry_has_the_hash_of_the_one_before() {
        let entries = vec![entry(None, "{}"), entry(Some("public.t"), "{}"), entry(None, "[]")];
        let whole = chained("shop", entries.clone(), 1, NO_HASH.to_owned(), None);
        assert_eq!(whole[1].previous, whole[0].hash);
        // In however many commits.
        let first = chained("shop", entries[..1].to_vec(), 1, NO_HASH.to_owned(), None);
        let rest = chained("shop", entries[1..].to_vec(), 2, first[0].hash.clone(), None);
        assert_eq!([first, rest].concat(), whole);
    }

    #[test]
    fn json_has_one_form() {
        let value: Value = serde_json::from_str("{\"b\": [ {\"d\": 1, \"c\": null} ],\n \"a\": \"x\"}").unwrap();
        assert_eq!(canonical(&value), "{\"a\":\"x\",\"b\":[{\"c\":null,\"d\":1}]}");
        assert_eq!(canonical(&json!({"a": "x"})), canonical(&serde_json::from_str("{ \"a\" : \"x\" }").unwrap()));
    }

    #[test]
    fn a_head_is_read_as_it_is_printed() {
        let head = Head { sequence: 7, hash: hex(&[0xab; 32]) };
        assert_eq!(head.to_string().parse(), Ok(head.clone()));
        let upper = head.to_string().to_uppercase();
        for wrong in ["7", "7:abc", "0:", "x:00", upper.as_str(), &format!("0:{NO_HASH}"), &format!("1:é{NO_HASH}")] {
            assert!(wrong.parse::<Head>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn values_cannot_change_places_without_another_hash(a in ".*", b in ".*", c in ".*", d in ".*") {
            prop_assume!((&a, &b) != (&c, &d));
            prop_assert_ne!(hash_of(&[Some(&a), Some(&b)]), hash_of(&[Some(&c), Some(&d)]));
            prop_assert_ne!(hash_of(&[None, Some(&b)]), hash_of(&[Some("-"), Some(&b)]));
        }
    }
}
