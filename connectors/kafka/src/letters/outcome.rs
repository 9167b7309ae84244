//! What became of letters that were to be handled, and the marks that say so.

use std::sync::Arc;

use rdkafka::producer::BaseRecord;
use serde::Serialize;
use sooner_api::Result;

use super::catalogue::Letter;
use crate::cluster::delivery_reports::NO_TABLE;
use crate::cluster::transactions::Transactions;
use crate::message::letter_headers::{LetterId, Mark, of_mark};

/// What became of a letter that was to be handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The letter.
    pub id: LetterId,
    /// Topic that its message was read from.
    pub topic: Arc<str>,
    /// Partition of that topic.
    pub partition: i32,
    /// The message's offset there.
    pub offset: i64,
    /// What became of it.
    #[serde(flatten)]
    pub became: Became,
}

/// What becomes of a letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Became {
    /// Its message was sent to its topic again.
    Replayed,
    /// Its row is copied again from the database.
    CopyAsked,
    /// Nothing, since the message at this offset is newer, and of the same key.
    Superseded {
        /// Offset of the newer message.
        by: i64,
    },
    /// It is done without.
    Dropped,
    /// It stays open.
    Refused {
        /// Why.
        why: String,
        /// What to do.
        remedy: String,
    },
}

impl Outcome {
    /// What became of a letter.
    pub fn new(letter: &Letter, became: Became) -> Outcome {
        let Letter { id, topic, partition, offset, .. } = letter;
        Outcome { id: *id, topic: topic.clone(), partition: *partition, offset: *offset, became }
    }
}

/// Queues a letter's mark, for its partition: so retention removes the letter first.
pub(super) fn send_mark(transactions: &mut Transactions, topic: &str, letter: LetterId, mark: Mark) -> Result<()> {
    let record = BaseRecord::with_opaque_to(topic, NO_TABLE);
    transactions.send(record.partition(letter.partition).headers(of_mark(letter, mark)))
}
