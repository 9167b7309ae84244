//! Handles letters: marks them on the dead-letter topic, beside what is sent again, in one transaction.
//!
//! Whoever begins fences all who began before, and reads the marks after their transactions have ended. So a letter is
//! marked once, and its message sent once, whoever is killed at whatever moment. All of it may block for seconds.

use std::collections::{BTreeMap, HashMap};

use sooner_api::{Code, Error, Result};
use sooner_schemas::naming::TopicPattern;
use tokio::runtime::Handle;

use super::catalogue::{Letter, Selection};
use super::newest::Newest;
use super::outcome::{Outcome, send_mark};
use super::resending::Resending;
use super::topic::{LetterTopic, LoadedLetter};
use crate::cluster::transactions::{LARGEST_MESSAGE, Transactions};
use crate::message::letter_headers::{LetterId, Mark};
use crate::registry::reader::SchemaReader;

/// Size of a batch of messages, at most, in bytes: smaller than any topic's limit.
const BATCH_BYTES: usize = 16 << 10;
/// So many letters are marked in one transaction.
const MARKS: usize = 1000;

/// A process that handles the letters of a topic.
pub struct Handling<'a> {
    topic: &'a mut LetterTopic,
    transactions: Transactions,
}

impl<'a> Handling<'a> {
    /// Begins: nobody else handles letters of the topic from now on, and the catalogue has all marks.
    pub fn begin(topic: &'a mut LetterTopic) -> Result<Handling<'a>> {
        let mut settings = topic.settings.clone();
        settings.producer.transactional_id = Some(settings.letters_id(&topic.name));
        let transactions = Transactions::open(&settings, &[BATCH_BYTES, LARGEST_MESSAGE])?;
        topic.refresh()?;
        Ok(Handling { topic, transactions })
    }

    /// The open letters that are meant.
    pub fn open(&self, selection: &Selection) -> Vec<Letter> {
        self.topic.catalogue.open(selection)
    }

    /// What is in a letter; none if it is not there any more.
    pub fn load(&self, id: LetterId) -> Result<Option<LoadedLetter>> {
        self.topic.load(id)
    }

    /// The letters whose keys have a newer event on their topics, each with its offset.
    pub fn newer_events(&self, letters: &[Letter]) -> Result<HashMap<LetterId, i64>> {
        let mut sources: BTreeMap<(&str, i32), Vec<Letter>> = BTreeMap::new();
        for letter in letters {
            sources.entry((&letter.topic, letter.partition)).or_default().push(letter.clone());
        }
        let mut newer = HashMap::new();
        for (source, letters) in sources {
            let newest = Newest::read(&self.topic.reader, &self.topic.catalogue, source, &letters)?;
            newer.extend(letters.iter().filter_map(|letter| Some((letter.id, newest.event_after(letter)?))));
        }
        Ok(newer)
    }

    /// Marks letters.
    pub fn mark(&mut self, letters: &[Letter], mark: Mark) -> Result<()> {
        for some in letters.chunks(MARKS) {
            let marked = self.mark_some(some, mark);
            if marked.is_err() {
                // What is left open would keep readers waiting until it times out.
                let _ = self.transactions.abort();
            }
            marked.map_err(taken_over)?;
        }
        Ok(())
    }

    fn mark_some(&mut self, letters: &[Letter], mark: Mark) -> Result<()> {
        self.transactions.begin()?;
        for letter in letters {
            send_mark(&mut self.transactions, &self.topic.name, letter.id, mark)?;
        }
        self.transactions.commit()
    }

    /// Sends the messages of letters to their topics again, but for those that cannot be read now either, and those
    /// that newer ones have taken the place of. Those are marked, too. `runtime` asks the registry.
    pub fn resend(
        &mut self,
        letters: Vec<Letter>,
        registry: SchemaReader,
        tables: &TopicPattern,
        runtime: Handle,
    ) -> Result<Vec<Outcome>> {
        let resending = Resending::new(self.topic, &mut self.transactions, registry, tables, runtime)?;
        resending.run(letters).map_err(taken_over)
    }
}

fn taken_over(error: Error) -> Error {
    if error.code != Code::ProducerFenced {
        return error;
    }
    Error::retry(
        error.code,
        "the dead letters are not handled here any more",
        "another `sooner dead-letters replay` or `drop`, or a verb of the API, has begun after this one",
        "see what is left with `sooner dead-letters list`, and repeat it",
    )
}
