//! What the sink loop reads from: a Kafka reader whose batches take room from a budget, and that looks for new topics.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use sooner_api::{EventReader, Result};
use sooner_kafka::cluster::admin::Admin;
use sooner_kafka::consumer::reader::KafkaReader;
use sooner_schemas::event::EventBatch;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::budget::MemoryBudget;
use crate::config::{KafkaConfig, WrittenBy};

/// How often topics that Debezium made are looked for.
const TOPICS_INTERVAL: Duration = Duration::from_secs(5);

/// A reader whose batches take room from the sink's budget, and that looks for new topics; ends when it is told to.
pub struct Budgeted<'a> {
    /// The reader.
    pub reader: KafkaReader,
    budget: MemoryBudget,
    ready: Option<EventBatch>,
    halted: watch::Receiver<bool>,
    new_topics: Option<NewTopics>,
    admin: &'a Admin,
    kafka: KafkaConfig,
}

/// Where nobody tells of new topics, they are looked for.
struct NewTopics {
    look: Interval,
    known: BTreeSet<String>,
}

impl<'a> Budgeted<'a> {
    /// Reads until it is halted. `known` are the topics that are subscribed to.
    pub fn new(
        reader: KafkaReader,
        budget: MemoryBudget,
        halted: watch::Receiver<bool>,
        admin: &'a Admin,
        kafka: &KafkaConfig,
        known: BTreeSet<String>,
    ) -> Budgeted<'a> {
        let mut look = interval(TOPICS_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A source of ours tells of new topics in its progress records.
        let new_topics = (kafka.written_by == WrittenBy::Debezium).then_some(NewTopics { look, known });
        Budgeted { reader, budget, ready: None, halted, new_topics, admin, kafka: kafka.clone() }
    }

    /// Forgets a batch that nobody took: its events are read again.
    pub fn start_over(&mut self) {
        self.ready = None;
    }

    fn look_for_topics(&mut self) -> Result<()> {
        let Some(NewTopics { known, .. }) = &mut self.new_topics else { return Ok(()) };
        let found: BTreeSet<String> = topics_by_name(self.admin, &self.kafka)?.into_keys().collect();
        if !found.is_subset(known) {
            tracing::info!(topics = found.len(), "there are new topics");
            known.extend(found);
            self.reader.subscribe(known.iter().cloned().collect());
        }
        Ok(())
    }
}

/// The next time to look; never, if there is nothing to look for.
async fn next_look(new_topics: &mut Option<NewTopics>) {
    match new_topics {
        Some(NewTopics { look, .. }) => drop(look.tick().await),
        None => std::future::pending().await,
    }
}

impl EventReader for Budgeted<'_> {
    async fn next(&mut self) -> Result<Option<EventBatch>> {
        while self.ready.is_none() {
            let look = tokio::select! {
                halted = self.halted.wait_for(|halted| *halted) => {
                    // The sender's end counts as a halt.
                    drop(halted);
                    return Ok(None);
                }
                () = next_look(&mut self.new_topics) => true,
                batch = self.reader.next() => match batch? {
                    Some(batch) => {
                        self.ready = Some(batch);
                        false
                    }
                    None => return Ok(None),
                },
            };
            if look {
                self.look_for_topics()?;
            }
        }
        if let Some(batch) = &mut self.ready {
            self.budget.reserve(batch).await;
        }
        Ok(self.ready.take())
    }

    fn applied(&mut self, durable_lsn: Lsn) {
        self.reader.applied(durable_lsn);
    }
}

/// Topics whose names fit the pattern, and each one's table.
pub fn topics_by_name(admin: &Admin, kafka: &KafkaConfig) -> Result<HashMap<String, TableName>> {
    let existing = admin.list()?;
    let settings = &kafka.settings;
    let is_ours =
        |topic: &String| *topic == settings.topics.progress || settings.consumer.dead_letters.as_ref() == Some(topic);
    let fitting = existing.keys().filter(|topic| !is_ours(topic));
    Ok(fitting.filter_map(|topic| Some((topic.clone(), kafka.topics.table(topic)?))).collect())
}
