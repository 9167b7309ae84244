//! The source's side of a pipeline with Kafka: from the database to topics, exactly once.
//!
//! An attempt looks at both ends, fences its predecessors, and goes on from the last committed progress record.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sooner_api::{Code, Error, ProgressRecord, Result, TablePhase, TableProgress};
use sooner_kafka::cluster::admin::{Admin, topic_gone};
use sooner_kafka::producer::partition_ends::{OwnedMessage, PartitionEnds};
use sooner_kafka::producer::route::TopicRoute;
use sooner_kafka::producer::transaction_writer::TransactionWriter;
use sooner_kafka::producer::writer::{KafkaWriter, WriterProgress};
use sooner_kafka::progress::record::{TopicOffsets, TopicProgress};
use sooner_kafka::registry::client::Registry;
use sooner_postgres::catalog::Table;
use sooner_postgres::decode::now_micros;
use sooner_postgres::encoders::EncoderFactory;
use sooner_postgres::slot::{self, ExportedSnapshot};
use sooner_postgres::stream::{PostgresStream, StreamSettings};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::watch;

use super::copy_source::CopySource;
use super::kafka_copy::ToCopy;
use super::prepare::{SourceView, find_free_slot, identify, look, next_record, slot_gone};
use super::{End, LOOK_INTERVAL, attempts, control, halt_on_request, source};
use crate::config::{Config, KafkaConfig, SourceConfig};
use crate::status::StatusBoard;
use sooner_kafka::producer::recovery::{end_open_transactions, last_record, take_lost, watch_for_hanging};

/// The source's side.
pub struct KafkaSource {
    config: Config,
    source: SourceConfig,
    kafka: KafkaConfig,
    encoders: Arc<EncoderFactory<Registry>>,
    board: StatusBoard,
    recopy: bool,
}

/// A table and its topic.
struct Route {
    table: Table,
    lane: TopicRoute,
    offsets: TopicOffsets,
    /// Lake tables may hold something that a copy has to replace.
    written: bool,
}

/// What is known before anything is written.
struct Ready {
    routes: Vec<Route>,
    producer: TransactionWriter,
    record: TopicProgress,
    /// Messages that were written before, and are not to be seen.
    again: Vec<OwnedMessage>,
    slot: Option<Lsn>,
}

impl KafkaSource {
    /// Sets the source's side up; touches nothing yet.
    pub fn new(config: Config, recopy: bool, board: StatusBoard) -> Result<KafkaSource> {
        let (source, kafka) = (config.source()?.clone(), config.kafka()?.clone());
        let encoders = kafka.encoders(Registry::new(kafka.registry.clone())?, &source.connect.database);
        Ok(KafkaSource { config, source, kafka, encoders: Arc::new(encoders), board, recopy })
    }

    /// Runs until told to stop. What passes by itself is tried again; what needs a person is returned.
    pub async fn run(&mut self, stop: watch::Receiver<bool>) -> Result<()> {
        let board = self.board.clone();
        attempts(&board, stop, async |stop| self.attempt(stop).await).await
    }

    async fn attempt(&mut self, mut stop: watch::Receiver<bool>) -> Result<End> {
        let resume = control::requested(&self.config.state_dir);
        let mut ready = self.prepare(&resume).await?;
        let tables: Vec<_> = ready.routes.iter().map(|route| route.table.clone()).collect();
        let to_copy = to_copy(&ready);
        let lanes = ready.routes.into_iter().map(|route| route.lane).collect();
        let record = ready.record.clone();
        self.board.show_tables(&record.record.tables, &tables);
        ready.producer.start(ready.record, lanes, &ready.again)?;
        // Only now is it stored what has to be copied.
        self.recopy = false;
        if let Err(error) = control::forget(&self.config.state_dir, &resume) {
            tracing::warn!(%error, "cannot remove a granted request; its table will be copied once more");
        }
        let known = record.record.confirmed_lsn;
        let (start_lsn, snapshot) = tokio::select! {
            // Postgres creates a slot only once all transactions that run have ended.
            _ = stop.wait_for(|stop| *stop) => return Ok(End::Stopped),
            slot = self.slot(ready.slot, known) => slot?,
        };
        if known == Lsn::ZERO {
            // From here on a slot that is gone, or that somebody advanced, is missed.
            ready.producer.start_from(before(start_lsn))?;
        }
        let mut writer = KafkaWriter::start(ready.producer);
        let shown = tokio::spawn(show_progress(self.board.clone(), writer.progress()));
        let until = stop.clone();
        let ended = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => Ok(End::Stopped),
            ended = self.work(&mut writer, to_copy, &tables, start_lsn, snapshot, until) => ended,
        };
        let finished = writer.finish().await;
        shown.abort();
        if let (Err(_), Err(error)) = (&ended, &finished) {
            tracing::warn!(%error, "the writer to Kafka has failed, too");
        }
        let end = ended?;
        finished?;
        Ok(end)
    }

    /// Copies what has to be copied, then streams until something ends it.
    async fn work(
        &self,
        writer: &mut KafkaWriter,
        to_copy: Vec<ToCopy>,
        tables: &[Table],
        start_lsn: Lsn,
        snapshot: Option<ExportedSnapshot>,
        stop: watch::Receiver<bool>,
    ) -> Result<End> {
        if !to_copy.is_empty() {
            let (encoders, board) = (self.encoders.clone(), self.board.clone());
            let copy = CopySource::open(&self.source, snapshot, encoders, board, to_copy.len()).await?;
            copy.copy_to_topics(to_copy, writer).await?;
            writer.settled().await?;
        }
        self.board.update(|status| status.trouble = None);
        let settings = StreamSettings {
            slot: self.source.slot.clone(),
            publication: self.source.publication.clone(),
            tables: streaming(&writer.progress().read(), tables),
            start_lsn,
        };
        let mut stream = PostgresStream::start(&self.source.connect, settings, self.encoders.clone()).await?;
        tracing::info!(lsn = %start_lsn, "streaming to Kafka");
        let (halt, halted) = watch::channel(false);
        let watcher = tokio::spawn(halt_on_request(halt, stop.clone(), self.config.state_dir.clone()));
        let written = writer.progress();
        let streamed = tokio::select! {
            streamed = source::run(&mut stream, writer, halted) => streamed,
            error = watch_for_hanging(self.kafka.settings.clone(), written) => Err(error),
        };
        watcher.abort();
        streamed?;
        Ok(if *stop.borrow() { End::Stopped } else { End::Again })
    }

    /// Every check that could show a gap, before anything is written; the publication and the topics, which may be made.
    async fn prepare(&self, resume: &[String]) -> Result<Ready> {
        let SourceView { mut client, tables } = look(&self.source).await?;
        let slot = find_free_slot(&self.source, &mut client).await?;
        let admin = Admin::new(&self.kafka.settings)?;
        let existing = admin.list()?;
        let missing = !existing.contains_key(&self.kafka.settings.topics.progress);
        if missing {
            admin.check_not_hidden(&self.kafka.settings.topics.progress)?;
        }
        let former = if missing { None } else { last_record(&self.kafka.settings)? }.filter(|_| !self.recopy);
        if former.is_none() && slot.is_some() && !self.recopy {
            return Err(self.no_record(missing));
        }
        admin.ensure_progress_topic(&existing).await?;
        let mut routes = Vec::new();
        for table in tables {
            routes.push(self.route(&admin, &existing, former.as_ref(), table).await?);
        }
        check_distinct(&routes)?;
        let limits: Vec<_> = routes.iter().map(|route| route.lane.limit_bytes).collect();
        // From here on nobody else of this name writes; what they wrote last is known only now.
        let mut producer = TransactionWriter::open(&self.kafka.settings, &limits)?;
        let tails = match &self.kafka.settings.producer.transactional_id {
            Some(_) => Some(PartitionEnds::open(&self.kafka.settings)?),
            None => None,
        };
        if let Some(tails) = &tails {
            end_open_transactions(tails, &mut producer, &self.places(&routes)).await?;
        }
        let former = last_record(&self.kafka.settings)?.filter(|_| !self.recopy);
        let identity = identify(&self.source).await?;
        if let Some(former) = &former {
            check_former(&former.record, &self.source.slot, &identity, slot)?;
        }
        let tables: Vec<_> = routes.iter().map(|route| route.table.clone()).collect();
        let known = former.as_ref().map(|former| former.record.clone());
        let mut record = next_record(known, identity, &self.source.slot, Lsn::ZERO, &tables, resume);
        if let Some(former) = &former {
            begin_moved_topics(former, &mut routes, &mut record);
        }
        let topics = self.topics(&admin, former.as_ref(), &mut routes)?;
        let mut record = TopicProgress { record, topics, ..former.unwrap_or_default() };
        let again = match &tails {
            Some(tails) => take_lost(tails, &mut record, routes.iter().map(|route| &route.lane))?,
            None => Vec::new(),
        };
        Ok(Ready { routes, producer, record, again, slot })
    }

    /// All partitions that are written to.
    fn places(&self, routes: &[Route]) -> Vec<(String, i32)> {
        let of_route = |route: &Route| {
            let topic = route.lane.topic.to_string();
            (0..route.lane.partitions).map(move |partition| (topic.clone(), partition))
        };
        let progress = (self.kafka.settings.topics.progress.clone(), 0);
        routes.iter().flat_map(of_route).chain([progress]).collect()
    }

    async fn route(
        &self,
        admin: &Admin,
        existing: &HashMap<String, i32>,
        former: Option<&TopicProgress>,
        table: Table,
    ) -> Result<Route> {
        let name = &table.relation.name;
        let topic = self.kafka.topics.topic(name);
        let known = former.and_then(|former| former.topics.get(&name.to_string()));
        let recorded = known.filter(|known| known.topic == topic).map(|known| known.next_offsets.len() as i32);
        let state = admin.ensure_data_topic(&topic, existing, recorded).await?;
        let lane = TopicRoute::new(name.clone(), topic.clone(), &state);
        let next_offsets = vec![0; state.partitions as usize];
        let offsets = TopicOffsets {
            topic,
            generation: now_micros(),
            begun_over: self.recopy,
            first_offsets: next_offsets.clone(),
            next_offsets,
            columns: Vec::new(),
        };
        Ok(Route { table, lane, offsets, written: false })
    }

    /// Each topic's offsets: as recorded, if the topic still is what it was; otherwise as it stands.
    fn topics(
        &self,
        admin: &Admin,
        former: Option<&TopicProgress>,
        routes: &mut [Route],
    ) -> Result<BTreeMap<String, TopicOffsets>> {
        let mut topics = BTreeMap::new();
        for route in routes {
            let name = route.table.relation.name.to_string();
            let known = former.and_then(|former| former.topics.get(&name));
            let known = known.filter(|known| *known.topic == *route.lane.topic);
            for partition in 0..route.lane.partitions {
                let (_, end) = admin.offsets(&route.lane.topic, partition)?;
                let recorded = known.and_then(|known| known.next_offsets.get(partition as usize)).copied();
                if let Some(recorded) = recorded.filter(|recorded| *recorded > end) {
                    let why = format!("partition {partition} ends at offset {end}, and {recorded} was used before");
                    return Err(topic_gone(&route.lane.topic, &why));
                }
                route.written |= end > 0;
                route.offsets.next_offsets[partition as usize] = recorded.unwrap_or(end);
                route.offsets.first_offsets[partition as usize] = end;
            }
            if let Some(known) = known {
                let former = former.and_then(|former| former.record.tables.get(&name));
                // Sinks drop what comes to a parked table until a copy's mark.
                let was_parked = former.is_some_and(|table| table.phase == TablePhase::Parked);
                route.offsets.begun_over = known.begun_over || was_parked;
                route.offsets.columns.clone_from(&known.columns);
                route.offsets.generation = known.generation;
                route.offsets.first_offsets.clone_from(&known.first_offsets);
            }
            // Otherwise a topic begins with rows, as Debezium would send them.
            route.written |= route.offsets.begun_over;
            topics.insert(name, route.offsets.clone());
        }
        Ok(topics)
    }

    fn no_record(&self, missing: bool) -> Error {
        let topic = &self.kafka.settings.topics.progress;
        let why = match missing {
            true => format!("the progress topic {topic} is missing, and the slot '{}' exists", self.source.slot),
            false => format!("the progress topic {topic} is empty, and the slot '{}' exists", self.source.slot),
        };
        Error::operator(
            Code::ProgressMissing,
            "cannot tell what is on the topics already",
            why,
            "restore the topic, or correct progress_topic of [kafka]; or start with --recopy, which writes all tables to \
             their topics again",
        )
    }

    /// Where to stream from, and the snapshot of a slot that had to be created.
    async fn slot(&self, found: Option<Lsn>, recorded: Lsn) -> Result<(Lsn, Option<ExportedSnapshot>)> {
        if let Some(confirmed) = found {
            return Ok((confirmed.max(recorded), None));
        }
        let snapshot = slot::create(&self.source.connect, &self.source.slot).await?;
        tracing::info!(slot = self.source.slot, lsn = %snapshot.consistent_lsn, "created the slot");
        Ok((snapshot.consistent_lsn, Some(snapshot)))
    }
}

/// The watermark of a stream that begins at an LSN: a transaction whose commit record starts right there is still to come.
fn before(start_lsn: Lsn) -> Watermark {
    Watermark { commit_lsn: Lsn(start_lsn.0.saturating_sub(1)), end_lsn: start_lsn, commit_micros: now_micros() }
}

/// A record from before the first slot was created knows of no position.
fn check_former(
    former: &ProgressRecord,
    slot_name: &str,
    identity: &slot::SystemIdentity,
    slot: Option<Lsn>,
) -> Result<()> {
    if former.confirmed_lsn == Lsn::ZERO {
        return Ok(());
    }
    match slot {
        Some(confirmed) => slot::check_continuity(former, slot_name, identity, confirmed),
        None => Err(slot_gone(slot_name, former.confirmed_lsn)),
    }
}

/// A table that is to go to another topic than before is copied there: whoever reads that one has nothing of it.
fn begin_moved_topics(former: &TopicProgress, routes: &mut [Route], record: &mut ProgressRecord) {
    for route in routes {
        let name = route.table.relation.name.to_string();
        let Some(known) = former.topics.get(&name).filter(|known| *known.topic != *route.lane.topic) else { continue };
        tracing::warn!(table = name, from = known.topic, to = %route.lane.topic, "another topic: the table is copied there");
        route.offsets.begun_over = true;
        if let Some(progress) = record.tables.get_mut(&name) {
            let oid = progress.oid;
            *progress = TableProgress { phase: TablePhase::Copying, reason: None, oid, copied_lsn: None };
        }
    }
}

fn check_distinct(routes: &[Route]) -> Result<()> {
    let mut seen: HashMap<&str, &TableName> = HashMap::new();
    for Route { lane, .. } in routes {
        if lane.table.schema.contains('.') {
            return Err(Error::operator(
                Code::TopicNameAmbiguous,
                format!("{} cannot go through Kafka", lane.table),
                "the name of its schema has a dot, so schema and table cannot be told apart in a topic's name",
                "rename the schema, or leave its tables out (exclude)",
            ));
        }
        if let Some(other) = seen.insert(&lane.topic, &lane.table) {
            return Err(Error::operator(
                Code::TopicShared,
                format!("{other} and {} would share the topic {}", lane.table, lane.topic),
                "characters that topics do not have become underscores",
                "leave one of them out (exclude), or set topic in [kafka] so that their topics differ",
            ));
        }
    }
    Ok(())
}

fn to_copy(ready: &Ready) -> Vec<ToCopy> {
    let copying = |route: &&Route| {
        let progress = ready.record.record.tables.get(&route.table.relation.name.to_string());
        progress.is_some_and(|progress| progress.phase == TablePhase::Copying)
    };
    let to_copy = ready.routes.iter().filter(copying).map(|route| ToCopy {
        table: route.table.clone(),
        replaces: route.written,
        tells_if_empty: !route.lane.is_compacted,
    });
    to_copy.collect()
}

/// The tables that follow the stream, each with the LSN at or below which events are in its copy.
fn streaming(progress: &TopicProgress, tables: &[Table]) -> HashMap<TableName, Lsn> {
    let known = |table: &Table| {
        let progress = progress.record.tables.get(&table.relation.name.to_string())?;
        let lsn = progress.copied_lsn.unwrap_or_default();
        (progress.phase == TablePhase::Streaming).then(|| (table.relation.name.clone(), lsn))
    };
    tables.iter().filter_map(known).collect()
}

/// Shows what the writer commits.
async fn show_progress(board: StatusBoard, progress: WriterProgress) {
    loop {
        let TopicProgress { record, commit_lsn, .. } = progress.read();
        board.update(|status| {
            status.received_lsn = commit_lsn.max(record.confirmed_lsn);
            status.confirmed_flush_lsn = record.confirmed_lsn;
            for (name, known) in &record.tables {
                status.tables.entry(name.clone()).or_default().source_is(known);
            }
        });
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
