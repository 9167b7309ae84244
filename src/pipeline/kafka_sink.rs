//! The sink's side of a pipeline with Kafka: from topics to the lake. Where to read from is what the tables' logs say.
//!
//! An attempt joins the group. Whenever partitions come or go, the sink loop ends with what is complete committed, the
//! tables of what is held are opened, and the loop starts again from their positions.

use std::collections::{BTreeSet, HashMap};

use sooner_api::{Class, Code, Error, LakeTable, ProgressRecord, ProgressStore, Result, TablePhase};
use sooner_delta::{AppIds, DeltaLake, DeltaTable, LakeStore};
use sooner_kafka::cluster::admin::{Admin, nothing_written, topic_gone};
use sooner_kafka::consumer::dead_letters::DeadLetters;
use sooner_kafka::consumer::group::{GroupMember, TopicPartition};
use sooner_kafka::consumer::lag::{LagGauge, PartitionOffsets};
use sooner_kafka::consumer::reader::{KafkaReader, Settlement, Writer};
use sooner_kafka::consumer::remainder::has_messages;
use sooner_kafka::progress::follower::ProgressFollower;
use sooner_kafka::progress::record::{self, TopicOffsets, TopicProgress};
use sooner_kafka::registry::client::Registry;
use sooner_kafka::registry::schema_cache::SchemaCache;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::watch;

use super::budgeted::{Budgeted, topics_by_name};
use super::sink::{SinkLoop, SinkSettings};
use super::worker::WorkerSettings;
use super::{CONFIRM_INTERVAL, End, LOOK_INTERVAL, attempts, control, halt_on_request};
use crate::budget::MemoryBudget;
use crate::clock::SystemClock;
use crate::config::{Config, KafkaConfig, LakeConfig, WrittenBy};
use crate::ledger::Ledger;
use crate::status::StatusBoard;

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
    settlement: Settlement,
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
        let dead_letters = self.dead_letters(&admin).await?;
        let fetch_bytes = self.kafka.settings.consumer.fetch_bytes;
        let mut reader = KafkaReader::new(self.join(&admin).await?, writer, schemas, dead_letters, fetch_bytes);
        reader.subscribe(topics.keys().cloned().collect());
        // In one process with a source, requests are the source's: it copies the table again, and the copy's start
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
        let shown = tokio::spawn(show_lag(self.board.clone(), reader.lag(), self.kafka.clone()));
        let ended = self.follow(&admin, topics, reader, halted).await;
        watcher.abort();
        shown.abort();
        ended?;
        Ok(if *stop.borrow() { End::Stopped } else { End::Again })
    }

    async fn join(&self, admin: &Admin) -> Result<GroupMember> {
        let mut settings = self.kafka.settings.clone();
        settings.consumer.protocol = admin.group_protocol().await?;
        GroupMember::join(&settings)
    }

    async fn dead_letters(&self, admin: &Admin) -> Result<Option<DeadLetters>> {
        let settings = &self.kafka.settings;
        let Some(topic) = &settings.consumer.dead_letters else { return Ok(None) };
        let limit_bytes = admin.ensure_dead_letter_topic(topic).await?;
        DeadLetters::open(settings, topic, limit_bytes).map(Some)
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
        let known = topics.keys().cloned().collect();
        let mut reader = Budgeted::new(reader, budget.clone(), halted.clone(), admin, &self.kafka, known);
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
            tracing::info!(partitions = held.settlement.positions.len(), tables = held.tables.len(), "reading");
            reader.start_over();
            if let Err(error) = reader.reader.settle(held.settlement) {
                // They took long to open, and are asked for again in a moment.
                self.keep(held.tables);
                return Err(error);
            }
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
            self.keep(tables);
            if *halted.borrow() {
                return Ok(());
            }
        }
    }

    /// Keeps tables that are in good order, so that their key indexes need not be built again.
    fn keep(&mut self, tables: Vec<DeltaTable>) {
        self.open_tables.extend(tables.into_iter().map(|table| (table.name().clone(), table)));
    }

    /// The topics to read, and each one's table.
    async fn topics(&self, admin: &Admin) -> Result<HashMap<String, TableName>> {
        let settings = &self.kafka.settings;
        match self.kafka.written_by {
            WrittenBy::Sooner => {
                let existing = admin.list()?;
                admin.check_progress_topic(&existing).await?;
                match record::load(settings)? {
                    Some(record) => Ok(record.tables_by_topic()),
                    None => Err(nothing_written(&settings.topics.progress, "is empty")),
                }
            }
            WrittenBy::Debezium => {
                let found = topics_by_name(admin, &self.kafka)?;
                if found.is_empty() {
                    return Err(Error::retry(
                        Code::NoTopics,
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
    async fn open(
        &mut self,
        admin: &Admin,
        topics: &HashMap<String, TableName>,
        places: Vec<TopicPartition>,
    ) -> Result<Held> {
        let mut by_topic: HashMap<String, BTreeSet<i32>> = HashMap::new();
        for (topic, partition) in places {
            by_topic.entry(topic).or_default().insert(partition);
        }
        let partitions = admin.list()?;
        let record = match self.kafka.written_by {
            WrittenBy::Sooner => record::load(&self.kafka.settings)?,
            WrittenBy::Debezium => None,
        };
        // Topics that the source wrote to before are none of a table's any more.
        let current = record.as_ref().map(TopicProgress::tables_by_topic);
        let topics = current.as_ref().unwrap_or(topics);
        let mut held = Held::default();
        let mut former = std::mem::take(&mut self.open_tables);
        for (topic, mine) in by_topic {
            let Some(name) = topics.get(&topic) else { continue };
            held.settlement.tables.insert(topic.clone(), name.clone());
            let all = partitions.get(&topic).copied().unwrap_or_default();
            let known = former.remove(name);
            let recorded = record.as_ref().and_then(|record| record.topic(&topic));
            let phase = match self.open_table(admin, &topic, name, all, &mine, recorded, known, &mut held).await {
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
        recorded: Option<&TopicOffsets>,
        known: Option<DeltaTable>,
        held: &mut Held,
    ) -> Result<()> {
        let tells_watermark = self.kafka.written_by == WrittenBy::Sooner;
        let whole = mine.len() as i32 == partitions;
        let mut app_ids = AppIds::topic(&self.config.name, topic, partitions, whole, tells_watermark);
        if let Some(recorded) = recorded {
            app_ids = app_ids.with_generation(&self.config.name, topic, recorded.generation);
            held.settlement.generations.insert(topic.to_owned(), recorded.generation);
        }
        let table = match known {
            // Under other names, its log says something else.
            Some(known) if *known.app_ids() == app_ids && known.is_current().await? => known,
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
            // Up to here there were events; none where nobody tells, or nothing was written.
            let written = recorded.and_then(|recorded| recorded.next_offsets.get(*partition as usize)).copied();
            let next = table.next_offsets().get(partition).filter(|_| !table.is_of_former_topic()).copied();
            let (from, unread) = match next {
                Some(next) => (next, next < first && written.is_none_or(|written| next < written)),
                // Debezium's topics are read from what is left of them; ours start with the table's first event.
                None if tells_watermark => {
                    let from = recorded.map_or(0, |recorded| recorded.first_offset(*partition));
                    (from, first > from && written.is_none_or(|written| written > from))
                }
                None => (first, false),
            };
            if from > end {
                let why = format!("partition {partition} ends at offset {end}, and the table has events up to {from}");
                held.settlement.closed.insert(topic.to_owned(), topic_gone(topic, &why).to_string());
            } else if unread {
                held.settlement
                    .closed
                    .insert(topic.to_owned(), removed(topic, *partition, from, first, name).to_string());
            }
            let from = from.clamp(first, end);
            let from = match written.filter(|written| *written > from) {
                Some(written) => self.skip_compacted(admin, topic, *partition, from, written).await?,
                None => from,
            };
            held.settlement.positions.insert(place, from);
        }
        if table.is_of_former_topic() {
            let why = waits_for_copy(topic, name, self.kafka.written_by).to_string();
            held.settlement.closed.entry(topic.to_owned()).or_insert(why);
        } else if let Some(lsn) = table.watermark_lsn().filter(|_| whole) {
            held.settlement.applied.insert(topic.to_owned(), lsn);
        }
        held.tables.push(table);
        Ok(())
    }

    /// Where to read from: compaction may have left nothing of the last events, and nobody is to wait for them.
    async fn skip_compacted(&self, admin: &Admin, topic: &str, partition: i32, from: i64, written: i64) -> Result<i64> {
        let settings = &self.kafka.settings;
        // Who may not ask for a topic's settings goes by its own.
        let described = admin.describe(topic, partition + 1).await;
        let is_compacted = described.map_or(settings.topics.is_compacted(), |state| state.is_compacted());
        let is_there = !is_compacted || has_messages(settings, topic, partition, from..written)?;
        Ok(if is_there { from } else { written })
    }
}

/// What the table holds came another way: from another topic, or in direct mode.
fn waits_for_copy(topic: &str, table: &TableName, written_by: WrittenBy) -> Error {
    let what = format!("the lake table {table} was not read from this topic {topic}");
    match written_by {
        WrittenBy::Sooner => Error::operator(
            Code::CopyAwaited,
            what,
            "its writer began again, so the start of a copy comes first",
            format!("nothing, if it goes on by itself in a moment; otherwise `sooner resume {table}` at the source"),
        ),
        WrittenBy::Debezium => Error::operator(
            Code::CopyAwaited,
            what,
            "this pipeline filled it another way before, and nothing in the topic says where that ends",
            "move the table away; it is built again from the topic",
        ),
    }
}

fn removed(topic: &str, partition: i32, from: i64, first: i64, table: &TableName) -> Error {
    Error::operator(
        Code::EventsExpired,
        format!("events of {table} are gone before they were read"),
        format!(
            "{topic}/{partition} starts at offset {first}, and the table needs it from {from}: retention removed the \
             events between"
        ),
        format!(
            "`sooner resume {table}` at the source writes the table again, and it goes on from there; raise the topic's \
             retention above the longest time that the sink may be down"
        ),
    )
}

/// Shows how many messages of each table have not been read.
async fn show_lag(board: StatusBoard, lag: LagGauge, kafka: KafkaConfig) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        board.update(|status| {
            for (name, table) in &mut status.tables {
                let Some(name) = TableName::parse(name) else { continue };
                table.partitions = lag.of_topic(&kafka.topics.topic(&name));
                let unread = |offsets: &PartitionOffsets| offsets.unread(kafka.written_by == WrittenBy::Sooner);
                let messages = table.partitions.values().map(unread).sum();
                table.lag_messages = Some(messages);
                table.unread_micros = lag.reading_micros().filter(|_| messages > 0);
            }
        });
    }
}

/// Passes a stop on.
async fn pass_on(mut stop: watch::Receiver<bool>, halt: watch::Sender<bool>) {
    // The sender's end counts as a stop.
    let _ = stop.wait_for(|stop| *stop).await;
    halt.send_replace(true);
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
