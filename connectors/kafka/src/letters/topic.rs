//! Reads the dead-letter topic: what is new of it, and single letters. All of it may block for seconds.

use std::ops::ControlFlow;

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers, OwnedHeaders};
use sooner_api::{Code, Error, Result};

use super::catalogue::{Catalogue, Letter, Record};
use crate::cluster::admin::Admin;
use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;
use crate::message::letter_headers::{LetterHeaders, LetterId, LetterRecord};

/// The dead-letter topic of a configuration, and what is known of its letters.
pub struct LetterTopic {
    /// How to reach the brokers.
    pub settings: KafkaSettings,
    /// Name of the topic.
    pub name: String,
    /// What has been read of it.
    pub catalogue: Catalogue,
    pub(super) admin: Admin,
    pub(super) reader: RangeReader,
}

/// What is in a letter.
#[derive(Clone, Debug)]
pub struct LoadedLetter {
    /// What its headers say.
    pub headers: LetterHeaders,
    /// The message's key; none if it has none.
    pub key: Option<Vec<u8>>,
    /// The message's value; none if it has none.
    pub value: Option<Vec<u8>>,
}

impl LetterTopic {
    /// Sets up clients; nothing is read yet. A configuration without a dead-letter topic is an operator error.
    pub fn open(settings: &KafkaSettings) -> Result<LetterTopic> {
        let Some(name) = settings.consumer.dead_letters.clone() else {
            return Err(Error::operator(
                Code::ConfigurationIncomplete,
                "there are no dead letters",
                "[kafka] has no dead_letter_topic: messages that cannot be read stop their table",
                "set dead_letter_topic of [kafka] to have them set aside",
            ));
        };
        Ok(LetterTopic {
            settings: settings.clone(),
            name,
            catalogue: Catalogue::default(),
            admin: Admin::new(settings)?,
            reader: RangeReader::open(settings, Isolation::Committed)?,
        })
    }

    /// Reads what is new. A topic that nobody has made yet has no letters.
    pub fn refresh(&mut self) -> Result<()> {
        let Some(partitions) = self.admin.list()?.get(&self.name).copied() else {
            self.admin.check_not_hidden(&self.name)?;
            self.catalogue = Catalogue::default();
            return Ok(());
        };
        (0..partitions).try_for_each(|partition| self.refresh_partition(partition))
    }

    fn refresh_partition(&mut self, partition: i32) -> Result<()> {
        let LetterTopic { name, catalogue, reader, .. } = self;
        let (first, end) = reader.bounds(name, partition)?;
        catalogue.forget(partition, first, end);
        let from = catalogue.next_offset(partition).unwrap_or(first).max(first);
        reader.read(name, partition, from..end, |message| {
            if let Some(headers) = LetterRecord::read(message.headers()) {
                let id = LetterId { partition, offset: message.offset() };
                let written_micros = message.timestamp().to_millis().map(|millis| millis * 1000);
                catalogue.take(&Record { id, written_micros, key: message.key(), value: message.payload() }, headers);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        catalogue.reach(partition, end);
        Ok(())
    }

    /// What is in a letter; none if it is not there any more.
    pub fn load(&self, id: LetterId) -> Result<Option<LoadedLetter>> {
        self.read_one(&self.name, id.partition, id.offset, |message| {
            let Some(LetterRecord::Letter(headers)) = LetterRecord::read(message.headers()) else { return None };
            let (key, value) = (message.key().map(<[u8]>::to_vec), message.payload().map(<[u8]>::to_vec));
            Some(LoadedLetter { headers, key, value })
        })
    }

    /// Headers of the message that a letter was made of; none if it is not there any more.
    pub fn original_headers(&self, letter: &Letter, loaded: &LoadedLetter) -> Result<Option<OwnedHeaders>> {
        let found = self.read_one(&letter.topic, letter.partition, letter.offset, |message| {
            let is_same = message.key() == loaded.key.as_deref() && message.payload() == loaded.value.as_deref();
            is_same.then(|| message.headers().map(|headers| headers.detach()))
        })?;
        Ok(found.flatten())
    }

    fn read_one<T>(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        take: impl Fn(&BorrowedMessage<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let (first, end) = self.reader.bounds(topic, partition)?;
        let mut found = None;
        if (first..end).contains(&offset) {
            self.reader.read(topic, partition, offset..offset + 1, |message| {
                found = take(message);
                Ok(ControlFlow::Break(()))
            })?;
        }
        Ok(found)
    }

    /// Names of a message's headers with their values, as texts.
    pub fn header_texts(headers: &OwnedHeaders) -> Vec<(String, String)> {
        let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
        headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
    }
}
