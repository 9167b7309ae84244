//! Dead letters that hold values: messages of a subject's rows that could not be read, and others with the bytes of a
//! value. What the error of a letter says counts as well.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use rdkafka::Message;
use serde::Serialize;
use sooner_api::Result;

use super::sought::{Decoder, Held, Sought, key_datum};
use crate::cluster::range_reader::RangeReader;
use crate::message::letter_headers::{LetterId, LetterRecord};

/// What is looked for in letters of one topic.
pub(crate) struct OfTopic {
    /// What is looked for in its messages.
    pub sought: Sought,
    /// Keys of the subjects' rows there that are gone, without the ids of their schemas.
    pub gone: BTreeSet<Vec<u8>>,
    /// Keys of those that live: what waits for them as a letter may be their newest state.
    pub living: BTreeSet<Vec<u8>>,
}

/// Letters that hold values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FoundLetters {
    /// Records that were read.
    pub searched: u64,
    /// The letters, by their places.
    pub letters: Vec<LetterId>,
    /// Letters besides that hold a value, and are of rows that live.
    pub of_living: u64,
    /// When the last one was written, in milliseconds since 1970.
    pub newest_millis: Option<i64>,
}

/// Letters that were found, and what it takes to have them compacted.
pub(crate) struct LetterScan {
    pub found: FoundLetters,
    /// Their keys, each with its partition, whose last record is no tombstone.
    pub open: BTreeSet<(i32, Vec<u8>)>,
    /// For each partition the offset up to which it was read.
    pub ends: Vec<i64>,
}

/// Reads a dead-letter topic. `by_topic` is what is looked for in letters of each topic, and `anywhere` in others.
pub(crate) fn scan_letters(
    reader: &RangeReader,
    decoder: &mut Decoder,
    (topic, partitions): (&str, i32),
    by_topic: &HashMap<String, OfTopic>,
    anywhere: &Sought,
) -> Result<LetterScan> {
    let (mut found, mut open, mut ends) = (FoundLetters::default(), BTreeSet::new(), Vec::new());
    for partition in 0..partitions {
        let (first, end) = reader.bounds(topic, partition)?;
        ends.push(end);
        reader.read(topic, partition, first..end, |message| {
            found.searched += 1;
            let place = message.key().map(|key| (partition, key.to_vec()));
            if message.payload().is_none()
                && let Some(place) = &place
            {
                open.remove(place);
            }
            let Some(LetterRecord::Letter(headers)) = LetterRecord::read(message.headers()) else {
                return Ok(ControlFlow::Continue(()));
            };
            let of_topic = by_topic.get(&*headers.topic);
            let key = key_datum(message).unwrap_or_default();
            let is_gone = of_topic.is_some_and(|of| of.gone.contains(&key));
            let sought = of_topic.map_or(anywhere, |of| &of.sought);
            if !is_gone && decoder.examine(message, sought)?.held == Held::Nothing {
                return Ok(ControlFlow::Continue(()));
            }
            if of_topic.is_some_and(|of| of.living.contains(&key)) {
                found.of_living += 1;
            } else {
                found.letters.push(LetterId { partition, offset: message.offset() });
                found.newest_millis = found.newest_millis.max(message.timestamp().to_millis());
                open.extend(place);
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(LetterScan { found, open, ends })
}
