//! The headers of records on the dead-letter topic. A letter's say where its message was read and why that failed; a
//! mark's say what became of a letter.
//!
//! Letters have `sooner.dead.topic`, `sooner.dead.partition`, `sooner.dead.offset`, `sooner.dead.reason`, and since
//! there are commands for them `sooner.dead.code` and `sooner.dead.remedy`. Marks have `sooner.dead.mark` (`replayed`,
//! `superseded` or `dropped`) and `sooner.dead.letter` (`partition/offset` of the letter), and neither key nor value. A
//! message that was sent again has `sooner.dead.replay`, the letter that it was.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rdkafka::message::{Header, Headers, OwnedHeaders};
use serde::{Deserialize, Serialize};
use sooner_api::Error;

use super::topic_message::TopicMessage;

const TOPIC: &str = "sooner.dead.topic";
const PARTITION: &str = "sooner.dead.partition";
const OFFSET: &str = "sooner.dead.offset";
const REASON: &str = "sooner.dead.reason";
const CODE: &str = "sooner.dead.code";
const REMEDY: &str = "sooner.dead.remedy";
const MARK: &str = "sooner.dead.mark";
const LETTER: &str = "sooner.dead.letter";
const REPLAY: &str = "sooner.dead.replay";

/// Where a letter is on the dead-letter topic. Written `partition/offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId {
    /// Partition of the dead-letter topic.
    pub partition: i32,
    /// Offset in that partition.
    pub offset: i64,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl Serialize for LetterId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LetterId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<LetterId, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<LetterId, String> {
        let parts = text.split_once('/').and_then(|(partition, offset)| {
            let id = LetterId { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
            (id.partition >= 0 && id.offset >= 0).then_some(id)
        });
        parts.ok_or_else(|| "expected partition/offset of the dead-letter topic, such as 0/17".to_owned())
    }
}

/// What became of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Its message was sent again, or its row is copied again.
    Replayed,
    /// A newer message of its key has taken its place.
    Superseded,
    /// A person did without it.
    Dropped,
}

impl Mark {
    const ALL: [Mark; 3] = [Mark::Replayed, Mark::Superseded, Mark::Dropped];

    /// Its name in headers and for people.
    pub fn name(self) -> &'static str {
        match self {
            Mark::Replayed => "replayed",
            Mark::Superseded => "superseded",
            Mark::Dropped => "dropped",
        }
    }
}

/// What the headers of a letter say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterHeaders {
    /// Topic that the message was read from.
    pub topic: Arc<str>,
    /// Partition of that topic.
    pub partition: i32,
    /// The message's offset there.
    pub offset: i64,
    /// Stable name of the error; `unknown` for letters of versions that did not write it.
    pub code: String,
    /// What failed, and why.
    pub reason: String,
    /// What to do about it; empty for letters of versions that did not write it.
    pub remedy: String,
}

/// A record of the dead-letter topic, by its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LetterRecord {
    /// A message that could not be read.
    Letter(LetterHeaders),
    /// What became of a letter.
    Mark(LetterId, Mark),
}

impl LetterRecord {
    /// Reads a record's headers; none for a record that is neither.
    pub fn read<H: Headers>(headers: Option<&H>) -> Option<LetterRecord> {
        let headers = headers?;
        let find = |name: &str| {
            let found = headers.iter().find(|header| header.key == name)?;
            Some(String::from_utf8_lossy(found.value.unwrap_or_default()).into_owned())
        };
        if let Some(mark) = find(MARK) {
            let mark = Mark::ALL.into_iter().find(|known| known.name() == mark)?;
            return Some(LetterRecord::Mark(find(LETTER)?.parse().ok()?, mark));
        }
        Some(LetterRecord::Letter(LetterHeaders {
            topic: find(TOPIC)?.into(),
            partition: find(PARTITION)?.parse().ok()?,
            offset: find(OFFSET)?.parse().ok()?,
            code: find(CODE).unwrap_or_else(|| "unknown".to_owned()),
            reason: find(REASON).unwrap_or_default(),
            remedy: find(REMEDY).unwrap_or_default(),
        }))
    }
}

/// What failed and why, as a letter has it.
pub fn reason(error: &Error) -> String {
    format!("{}: {}", error.what, error.why)
}

/// Headers of a message's letter.
pub fn of_letter(message: &TopicMessage, error: &Error) -> OwnedHeaders {
    let (partition, offset) = (message.partition.to_string(), message.offset.to_string());
    let (reason, code) = (reason(error), error.code.to_string());
    let headers = [
        (TOPIC, &*message.topic),
        (PARTITION, &partition),
        (OFFSET, &offset),
        (REASON, &reason),
        (CODE, &code),
        (REMEDY, &error.remedy),
    ];
    let own = headers.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| with(headers, key, value));
    // Without them, nobody could tell what key and value were written under.
    let schemas = [&message.headers.key_schema, &message.headers.value_schema].into_iter().flatten();
    schemas.fold(own, |headers, (key, value)| headers.insert(Header { key, value: Some(&**value) }))
}

/// Headers of a letter's mark.
pub fn of_mark(letter: LetterId, mark: Mark) -> OwnedHeaders {
    with(with(OwnedHeaders::new(), MARK, mark.name()), LETTER, &letter.to_string())
}

/// The headers that a message had, and the letter that it is sent again from.
pub fn of_replay(had: Option<OwnedHeaders>, letter: LetterId) -> OwnedHeaders {
    with(had.unwrap_or_default(), REPLAY, &letter.to_string())
}

/// Whether a message was sent again from a letter.
pub fn is_replay<H: Headers>(headers: Option<&H>) -> bool {
    headers.is_some_and(|headers| headers.iter().any(|header| header.key == REPLAY))
}

fn with(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

#[cfg(test)]
mod tests {
    use sooner_api::Code;

    use super::*;
    use crate::message::headers::FoundHeaders;

    const ID: LetterId = LetterId { partition: 2, offset: 17 };

    #[test]
    fn an_id_is_written_and_read() {
        assert_eq!(("2/17".parse(), ID.to_string().as_str()), (Ok(ID), "2/17"));
        for bad in ["", "2", "2/", "/17", "a/1", "-1/1", "1/-1", "1/2/3"] {
            assert!(bad.parse::<LetterId>().unwrap_err().contains("0/17"), "{bad}");
        }
        assert_eq!(serde_json::to_string(&ID).unwrap(), "\"2/17\"");
        assert_eq!(serde_json::from_str::<LetterId>("\"2/17\"").unwrap(), ID);
    }

    #[test]
    fn what_a_letter_says_is_read_back() {
        let place = ("shop.public.t".into(), 1, 5);
        let message = TopicMessage::new(place, None, FoundHeaders::default(), Arc::default(), None, None);
        let error = Error::operator(Code::SchemaUnknown, "cannot read it", "no such id", "register it");
        let expected = LetterHeaders {
            topic: "shop.public.t".into(),
            partition: 1,
            offset: 5,
            code: "schema_unknown".to_owned(),
            reason: "cannot read it: no such id".to_owned(),
            remedy: "register it".to_owned(),
        };
        let written = of_letter(&message, &error);
        assert_eq!(LetterRecord::read(Some(&written)), Some(LetterRecord::Letter(expected)));
    }

    #[test]
    fn a_letter_of_a_former_version_has_no_code() {
        let written = [(TOPIC, "t"), (PARTITION, "0"), (OFFSET, "9"), (REASON, "why")];
        let written = written.into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| with(headers, key, value));
        let Some(LetterRecord::Letter(read)) = LetterRecord::read(Some(&written)) else { panic!("{written:?}") };
        assert_eq!((read.code.as_str(), read.reason.as_str(), read.remedy.as_str()), ("unknown", "why", ""));
    }

    #[test]
    fn marks_replays_and_what_is_neither() {
        for mark in Mark::ALL {
            assert_eq!(LetterRecord::read(Some(&of_mark(ID, mark))), Some(LetterRecord::Mark(ID, mark)));
        }
        let had = with(OwnedHeaders::new(), "a", "b");
        assert!(!is_replay(Some(&had)) && is_replay(Some(&of_replay(Some(had.clone()), ID))));
        assert_eq!(LetterRecord::read(Some(&had)), None);
        assert_eq!(LetterRecord::read::<OwnedHeaders>(None), None);
    }
}
