//! The sink's side of a pipeline with Kafka: from topics to the lake. Where to read from is what the tables' logs say.
//!
//! An attempt joins the group. Whenever partitions come or go, the sink loop ends with what is complete committed, the
//! tables of what is held are opened, and the loop starts again from their positions.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use sooner_api::{Class, Error, EventReader, LakeTable, ProgressRecord, ProgressStore, Result, TablePhase};
use sooner_delta::{AppIds, DeltaLake, DeltaTable, LakeStore};
use sooner_kafka::admin::{Admin, nothing_written, topic_gone};
use sooner_kafka::follow::ProgressFollower;
use sooner_kafka::group::{GroupMember, Place, Positions};
use sooner_kafka::progress;
use sooner_kafka::reader::{KafkaReader, Writer};
use sooner_kafka::registry::Registry;
use sooner_kafka::schemas::SchemaCache;
use sooner_schemas::event::EventBatch;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::sink::{SinkLoop, SinkSettings};
use super::worker::WorkerSettings;
use super::{CONFIRM_INTERVAL, End, attempts, control, halt_on_request};
use crate::budget::MemoryBudget;
use crate::clock::SystemClock;
use crate::config::{Config, KafkaConfig, LakeConfig, WrittenBy};
use crate::ledger::Ledger;
use crate::status::StatusBoard;

/// How often topics that Debezium made are looked for.
const TOPICS_INTERVAL: Duration = Duration::from_secs(5);

/// The sink's side.
pub struct KafkaSink {
    config: Config,
    kafka: KafkaConfig,
    lake_config: LakeConfig,
    store: LakeStore,
    lake: DeltaLake,
    board: StatusBoard,
    /// Tables that the last loop left in good order, so that their key indexes need not be built again.
    open_tables: HashMap<TableName, DeltaTable>,
}

/// What is read, and into which tables.
#[derive(Default)]
struct Held {
    tables: Vec<DeltaTable>,
    names: HashMap<String, TableName>,
    positions: Positions,
    /// Up to where the tables of topics are complete, where that is known.
    applied: HashMap<String, Lsn>,
    /// Topics whose tables cannot go on, and why.
    closed: HashMap<String, String>,
}

impl KafkaSink {
    /// Sets the sink's side up; touches nothing yet.
    pub fn new(config: Config, board: StatusBoard) -> Result<KafkaSink> {
        let (kafka, lake_config) = (config.kafka()?.clone(), config.lake()?.clone());
        let store = LakeStore::open(&lake_config.url, &lake_config.s3)?;
        // Each table is opened under names of its own, by topic.
        let lake = DeltaLake::new(store.clone(), AppIds::direct(&config.name, ""), config.memory_bytes / 4);
        Ok(KafkaSink { config, kafka, lake_config, store, lake, board, open_tables: HashMap::new() })
    }

    /// Runs until told to stop. What passes by itself is tried again; what needs a person is returned.
    pub async fn run(&mut self, stop: watch::Receiver<bool>) -> Result<()> {
        let board = self.board.clone();
        attempts(&board, stop, async |stop| self.attempt(stop).await).await
    }

    async fn attempt(&mut self, stop: watch::Receiver<bool>) -> Result<End> {
        self.store.probe().await?;
        let resume = control::requested(&self.config.state_dir);
        let admin = Admin::new(&self.kafka.settings)?;
        let topics = self.topics(&admin).await?;
        let writer = match self.kafka.written_by {
            WrittenBy::Sooner => Writer::Sooner(ProgressFollower::start(&self.kafka.settings)?),
            WrittenBy::Debezium => Writer::Debezium,
        };
        let schemas = SchemaCache::new(Registry::new(self.kafka.registry.clone())?);
        let mut reader = KafkaReader::new(GroupMember::join(&self.kafka.settings)?, writer, schemas);
        reader.subscribe(topics.keys().cloned().collect());
        // In one process with a source, requests are the source's: it copies the table anew, and the copy's start
        // lets the table go on here too.
        let own_requests = self.config.source.is_none();
        if own_requests && let Err(error) = control::forget(&self.config.state_dir, &resume) {
            tracing::warn!(%error, "cannot remove a granted request");
        }
        let (halt, halted) = watch::channel(false);
        let watcher = match own_requests {
            true => tokio::spawn(halt_on_request(halt, stop.clone(), self.config.state_dir.clone())),
            false => tokio::spawn(pass_on(stop.clone(), halt)),
        };
        let ended = self.follow(&admin, topics, reader, halted).await;
        watcher.abort();
        ended?;
        Ok(if *stop.borrow() { End::Stopped } else { End::Again })
    }

    /// Runs the sink loop from one change of partitions to the next.
    async fn follow(
        &mut self,
        admin: &Admin,
        mut topics: HashMap<String, TableName>,
        reader: KafkaReader,
        mut halted: watch::Receiver<bool>,
    ) -> Result<()> {
        let budget = MemoryBudget::new(self.config.memory_bytes / 2);
        let mut look = tokio::time::interval(TOPICS_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let known = topics.keys().cloned().collect();
        let mut reader = Budgeted {
            reader,
            budget: budget.clone(),
            ready: None,
            halted: halted.clone(),
            // A source of ours tells of new topics in its progress records.
            new_topics: (self.kafka.written_by == WrittenBy::Debezium).then_some(NewTopics { look, known }),
            admin,
            kafka: self.kafka.clone(),
        };
        loop {
            let places = tokio::select! {
                _ = halted.wait_for(|halted| *halted) => return Ok(()),
                places = reader.reader.changed() => places?,
            };
            topics.extend(reader.reader.topics());
            if self.kafka.written_by == WrittenBy::Debezium {
                topics.extend(topics_by_name(admin, &self.kafka)?);
            }
            let held = self.open(admin, &topics, places).await?;
            self.board.update(|status| status.trouble = None);
            tracing::info!(partitions = held.positions.len(), tables = held.tables.len(), "reading");
            reader.ready = None;
            reader.reader.settle(&held.names, held.positions, &held.applied, held.closed)?;
            let settings = SinkSettings {
                worker: WorkerSettings {
                    freshness: self.lake_config.freshness,
                    seal_bytes: self.config.memory_bytes / 8,
                },
                confirm_interval: CONFIRM_INTERVAL,
                start_lsn: Lsn::ZERO,
            };
            let ledger = Ledger::open(Nowhere, ProgressRecord::default()).await?;
            let sink = SinkLoop::start(held.tables, settings, ledger, budget.clone(), self.board.clone(), SystemClock);
            let (_, tables) = sink.run(&mut reader).await?;
            self.open_tables.extend(tables.into_iter().map(|table| (table.name().clone(), table)));
            if *halted.borrow() {
                return Ok(());
            }
        }
    }

    /// The topics to read, and each one's table.
    async fn topics(&self, admin: &Admin) -> Result<HashMap<String, TableName>> {
        let settings = &self.kafka.settings;
        match self.kafka.written_by {
            WrittenBy::Sooner => {
                let existing = admin.list()?;
                admin.check_progress_topic(&existing).await?;
                match progress::load(settings)? {
                    Some(record) => Ok(record.tables_by_topic()),
                    None => Err(nothing_written(&settings.topics.progress, "is empty")),
                }
            }
            WrittenBy::Debezium => {
                let found = topics_by_name(admin, &self.kafka)?;
                if found.is_empty() {
                    return Err(Error::retry(
                        "there is nothing to read",
                        "no topic's name fits topic of [kafka]",
                        "correct prefix or topic of [kafka]; it is looked for again",
                    ));
                }
                Ok(found)
            }
        }
    }

    /// Opens the tables of what is held. One that cannot go on is told so, and the others are read.
    async fn open(&mut self, admin: &Admin, topics: &HashMap<String, TableName>, places: Vec<Place>) -> Result<Held> {
        let mut by_topic: HashMap<String, BTreeSet<i32>> = HashMap::new();
        for (topic, partition) in places {
            by_topic.entry(topic).or_default().insert(partition);
        }
        let partitions = admin.list()?;
        let mut held = Held::default();
        let mut former = std::mem::take(&mut self.open_tables);
        for (topic, mine) in by_topic {
            let Some(name) = topics.get(&topic) else { continue };
            held.names.insert(topic.clone(), name.clone());
            let all = partitions.get(&topic).copied().unwrap_or_default();
            let known = former.remove(name);
            let phase = match self.open_table(admin, &topic, name, all, &mine, known, &mut held).await {
                Ok(()) => (TablePhase::Streaming, None),
                Err(error) if error.class == Class::Operator => {
                    tracing::error!(table = %name, %error, "the table stopped");
                    (TablePhase::Parked, Some(error.to_string()))
                }
                Err(error) => return Err(error),
            };
            self.board.table(name, |status| (status.phase, status.reason) = phase);
        }
        Ok(held)
    }

    #[allow(clippy::too_many_arguments, reason = "one table's share of what is being opened")]
    async fn open_table(
        &self,
        admin: &Admin,
        topic: &str,
        name: &TableName,
        partitions: i32,
        mine: &BTreeSet<i32>,
        known: Option<DeltaTable>,
        held: &mut Held,
    ) -> Result<()> {
        let tells_watermark = self.kafka.written_by == WrittenBy::Sooner;
        let whole = mine.len() as i32 == partitions;
        let app_ids = AppIds::topic(&self.config.name, topic, partitions, whole, tells_watermark);
        let table = match known {
            Some(mut known) if known.is_current().await? => {
                known.set_app_ids(app_ids);
                known
            }
            _ => self.lake.open_as(name, app_ids).await?,
        };
        let most = table.next_offsets().keys().max().map_or(0, |partition| partition + 1);
        if most > partitions {
            let why = format!("the table has events of {most} partitions, and the topic has {partitions}");
            return Err(topic_gone(topic, &why));
        }
        for partition in mine {
            let place = (topic.to_owned(), *partition);
            let (first, end) = admin.offsets(topic, *partition)?;
            let (from, unread) = match table.next_offsets().get(partition) {
                Some(next) => (*next, *next < first),
                // Debezium's topics are read from what is left of them; ours start with the table's first event.
                None if tells_watermark => (0, first > 0),
                None => (first, false),
            };
            if from > end {
                let why = format!("partition {partition} ends at offset {end}, and the table has events up to {from}");
                held.closed.insert(topic.to_owned(), topic_gone(topic, &why).to_string());
            } else if unread {
                held.closed.insert(topic.to_owned(), removed(topic, *partition, from, first, name).to_string());
            }
            held.positions.insert(place, from.clamp(first, end));
        }
        if let Some(lsn) = table.watermark_lsn().filter(|_| whole) {
            held.applied.insert(topic.to_owned(), lsn);
        }
        held.tables.push(table);
        Ok(())
    }
}

/// Topics whose names fit the pattern, and each one's table.
fn topics_by_name(admin: &Admin, kafka: &KafkaConfig) -> Result<HashMap<String, TableName>> {
    let existing = admin.list()?;
    let fitting = existing.keys().filter(|topic| **topic != kafka.settings.topics.progress);
    Ok(fitting.filter_map(|topic| Some((topic.clone(), kafka.topics.table(topic)?))).collect())
}

fn removed(topic: &str, partition: i32, from: i64, first: i64, table: &TableName) -> Error {
    Error::operator(
        format!("events of {table} are gone before they were read"),
        format!(
            "{topic}/{partition} starts at offset {first}, and the table needs it from {from}: retention removed the \
             events between"
        ),
        format!(
            "`sooner resume {table}` at the source writes the table anew, and it goes on from there; raise the topic's \
             retention above the longest time that the sink may be down"
        ),
    )
}

/// Passes a stop on.
async fn pass_on(mut stop: watch::Receiver<bool>, halt: watch::Sender<bool>) {
    // The sender's end counts as a stop.
    let _ = stop.wait_for(|stop| *stop).await;
    halt.send_replace(true);
}

/// A reader whose batches take room from the sink's budget, and that looks for new topics; ends when it is told to.
struct Budgeted<'a> {
    reader: KafkaReader,
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

impl Budgeted<'_> {
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

/// A sink has nothing to store beside its tables.
struct Nowhere;

impl ProgressStore for Nowhere {
    async fn load(&mut self) -> Result<Option<ProgressRecord>> {
        Ok(None)
    }

    async fn save(&mut self, _record: &ProgressRecord) -> Result<()> {
        Ok(())
    }
}
