//! Kafka as an event log: opens its entrance and its exit.

use std::time::{SystemTime, UNIX_EPOCH};

use sooner_api::{Code, Error, EventLog, KnownNames, MemoryBudget, Result, Telemetry, WriterRequest};
use sooner_schemas::naming::{SubjectStrategy, TopicPattern};
use tokio::runtime::Handle;

use crate::cluster::admin::{Admin, nothing_written};
use crate::cluster::settings::KafkaSettings;
use crate::consumer::dead_letters::DeadLetters;
use crate::consumer::format::Format;
use crate::consumer::group::GroupMember;
use crate::consumer::intake::Intake;
use crate::consumer::ordering::Ordering;
use crate::consumer::reader::{KafkaReader, ReaderParts, topics_by_name};
use crate::producer::opening::Opening;
use crate::producer::repartition::Repartitions;
use crate::producer::repartition_rules::RepartitionDesk;
use crate::producer::topic_names::TopicNames;
use crate::producer::writer::KafkaWriter;
use crate::progress::follower::ProgressFollower;
use crate::progress::load::load;
use crate::registry::reader::{RegistryKind, SchemaReader};

/// Who writes the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrittenBy {
    /// A source of ours, which says in a progress topic how far it is.
    Sooner,
    /// Another producer of Debezium's events.
    Debezium,
}

/// Kafka's topics as the event log of a pipeline.
#[derive(Clone)]
pub struct KafkaLog<T> {
    /// How to reach the brokers, and how topics are made, written and read.
    pub settings: KafkaSettings,
    /// How to reach the schema registry.
    pub registry: RegistryKind,
    /// Which topic is a table's.
    pub topics: TopicPattern,
    /// How the subjects of schemas are named.
    pub subjects: SubjectStrategy,
    /// Who writes the topics.
    pub written_by: WrittenBy,
    /// Whether sinks know columns by their numbers: then those that are dropped or renamed cost no copy.
    pub keeps_columns: bool,
    /// Memory that batches of the exit take until they are dropped.
    pub budget: MemoryBudget,
    /// Where the entrance hears of topics that are to get another number of partitions.
    pub repartitions: RepartitionDesk,
    /// Takes facts.
    pub telemetry: T,
}

impl<T: Telemetry> KafkaLog<T> {
    /// The topics to read at first.
    async fn readable_topics(&self, admin: &Admin) -> Result<Vec<String>> {
        match self.written_by {
            WrittenBy::Sooner => {
                admin.check_progress_topic(&admin.list()?).await?;
                match load(&self.settings)? {
                    Some(record) => Ok(record.tables_by_topic().into_keys().collect()),
                    None => Err(nothing_written(&self.settings.topics.progress, "is empty")),
                }
            }
            WrittenBy::Debezium => {
                let found = topics_by_name(admin, &self.settings, &self.topics)?;
                if found.is_empty() {
                    return Err(Error::retry(
                        Code::NoTopics,
                        "there is nothing to read",
                        "no topic's name fits topic of [kafka]",
                        "correct prefix or topic of [kafka]; it is looked for again",
                    ));
                }
                Ok(found.into_keys().collect())
            }
        }
    }

    async fn dead_letters(&self, admin: &Admin) -> Result<Option<DeadLetters>> {
        let Some(topic) = &self.settings.consumer.dead_letters else { return Ok(None) };
        let limit_bytes = admin.ensure_dead_letter_topic(topic).await?;
        DeadLetters::open(&self.settings, topic, limit_bytes).map(Some)
    }
}

impl<T: Telemetry> EventLog for KafkaLog<T> {
    type Writer = KafkaWriter<T>;
    type Reader = KafkaReader;

    async fn known_names(&mut self) -> Result<KnownNames> {
        if !Admin::new(&self.settings)?.list()?.contains_key(&self.settings.topics.progress) {
            return Ok(KnownNames::new());
        }
        Ok(load(&self.settings)?.map(|progress| progress.record.known_names()).unwrap_or_default())
    }

    async fn open_writer(&mut self, request: WriterRequest<'_>) -> Result<KafkaWriter<T>> {
        let names = TopicNames { pattern: &self.topics, subjects: self.subjects };
        let opening = Opening::prepare(&self.settings, names, request, now_micros()).await?;
        let desk = self.repartitions.clone();
        let repartitions = Repartitions::new(&self.settings, &self.topics, desk, Handle::current());
        Ok(KafkaWriter::new(&self.settings, opening, repartitions, self.keeps_columns, self.telemetry.clone()))
    }

    async fn open_reader(&mut self) -> Result<KafkaReader> {
        let admin = Admin::new(&self.settings)?;
        let topics = self.readable_topics(&admin).await?;
        let ordering = match self.written_by {
            WrittenBy::Sooner => Ordering::by_record(ProgressFollower::start(&self.settings)?),
            WrittenBy::Debezium => Ordering::ByArrival,
        };
        let format = Format::debezium_avro(SchemaReader::new(&self.registry)?);
        let intake = Intake::new(ordering, format, self.dead_letters(&admin).await?);
        let mut settings = self.settings.clone();
        settings.consumer.protocol = admin.group_protocol().await?;
        let member = GroupMember::join(&settings)?;
        let parts =
            ReaderParts { admin, settings, topics: self.topics.clone(), member, intake, budget: self.budget.clone() };
        Ok(KafkaReader::new(parts, topics, self.telemetry.clone()))
    }
}

fn now_micros() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX)
}
