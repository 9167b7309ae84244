//! What an attempt would start with under a configuration: what is stored, the database, and whether they continue each
//! other. The I/O only reads; what follows of it is decided by what decides it when an attempt starts.

use std::path::Path;

use sooner_api::{Code, Error, ProgressRecord, ProgressStore, Result, SourceTable};
use sooner_delta::{LakeProgress, LakeStore};
use sooner_kafka::cluster::admin::Admin;
use sooner_kafka::producer::opening::no_record;
use sooner_kafka::producer::topic_names::TopicNames;
use sooner_kafka::progress::load::load;
use sooner_kafka::progress::record::TopicProgress;
use sooner_postgres::guard::SlotLimit;
use sooner_postgres::preview::{Names, Preview, preview};
use sooner_schemas::TableName;
use tracing::subscriber::{NoSubscriber, with_default};

use crate::config::{Config, LakeConfig, SourceConfig};
use crate::pipeline::continuity::{self, Continuation};
use crate::pipeline::next_record::{Former, next_record};

/// What is stored of a pipeline, where the configuration says.
#[derive(Default)]
pub struct Stored {
    /// The record; none if there is none.
    pub record: Option<ProgressRecord>,
    /// Topics and offsets beside it, with Kafka.
    pub topics: Option<TopicProgress>,
    /// With Kafka, there is not even a topic for it.
    is_topic_missing: bool,
}

/// How an attempt would start.
pub struct Start {
    /// The record that counts; none if the pipeline begins anew.
    pub former: Option<ProgressRecord>,
    /// The record that it would begin with; if it is refused, the one with which `--recopy` would begin.
    pub next: ProgressRecord,
    /// Tables that would take part.
    pub tables: Vec<SourceTable>,
    /// Why the pipeline would stop instead.
    pub refused: Option<Error>,
    /// What would be done to the publication.
    pub publication: Option<String>,
}

/// Reads what is stored.
pub async fn stored(config: &Config) -> Result<Stored> {
    let Some(kafka) = &config.kafka else {
        let Some(lake) = config.lake.as_ref().filter(|lake| is_there(lake)) else { return Ok(Stored::default()) };
        let mut progress = LakeProgress::new(LakeStore::open(&lake.url, &lake.s3)?, &config.name);
        return Ok(Stored { record: progress.load().await?, ..Stored::default() });
    };
    let settings = kafka.settings.clone();
    // The client blocks.
    let loading = tokio::task::spawn_blocking(move || {
        let is_topic_missing = !Admin::new(&settings)?.list()?.contains_key(&settings.topics.progress);
        let topics = if is_topic_missing { None } else { load(&settings)? };
        let record = topics.as_ref().map(|topics| topics.record.clone());
        Ok(Stored { record, topics, is_topic_missing })
    });
    loading.await.map_err(|error| Error::internal("cannot read the progress record", error))?
}

/// Whether a lake may hold something: opening one in a folder makes the folder.
pub fn is_there(lake: &LakeConfig) -> bool {
    lake.url.contains("://") || Path::new(&lake.url).exists()
}

/// Looks at the database, and works out how an attempt would start. `resumed` are tables that somebody asked for.
pub async fn start(config: &Config, source: &SourceConfig, stored: &Stored, resumed: &[TableName]) -> Result<Start> {
    let selects = source.filter();
    let known = stored.record.as_ref().filter(|_| selects.kept_names.is_some());
    let known = known.map(ProgressRecord::known_names).unwrap_or_default();
    let limit = SlotLimit {
        max_retained_bytes: source.max_retained_wal.map(|bytes| bytes as u64),
        gives_up: source.copies_when_slot_is_lost,
        ..SlotLimit::none()
    };
    let names = Names { slot: &source.slot, publication: &source.publication };
    let mut found = preview(&source.connect, names, &selects, &limit, source.failover, known).await?;
    refuse_topics(config, stored, &mut found.tables);
    let (former, continuation, refused) = match going_on(config, source, stored, &found) {
        Ok((former, continuation)) => (former, continuation, None),
        Err(error) => (None, Continuation::SameServer, Some(error)),
    };
    let keeps_columns = config.lake.as_ref().is_none_or(|lake| lake.maps_columns);
    let next = {
        let former = Former { record: former, keeps_columns };
        // It tells the log what it does, and nothing is done here.
        let next = || next_record(former, found.identity.clone(), continuation, &source.slot, &found.tables, resumed);
        with_default(NoSubscriber::default(), next)
    };
    let publication = publication(source, &found);
    Ok(Start { former: former.cloned(), next, tables: found.tables, refused, publication })
}

/// The record that counts, and how it goes on; an error if the pipeline would stop.
fn going_on<'a>(
    config: &Config,
    source: &SourceConfig,
    stored: &'a Stored,
    found: &Preview,
) -> Result<(Option<&'a ProgressRecord>, Continuation)> {
    let anew = (None, Continuation::SameServer);
    let Some(record) = &stored.record else {
        return match (&config.kafka, &found.unusable) {
            (Some(kafka), _) if found.slot.is_some() => {
                Err(no_record(&kafka.settings.topics.progress, stored.is_topic_missing))
            }
            (_, Some(unusable)) => Err(unusable.clone()),
            _ => Ok(anew),
        };
    };
    match continuity::check(record, &source.slot, &found.identity, found.slot, &found.tables) {
        Ok(continuation) => Ok((Some(record), continuation)),
        Err(error) if error.code == Code::SlotGone && source.copies_when_slot_is_lost => Ok(anew),
        Err(error) => Err(error),
    }
}

/// Tables that cannot have a topic wait.
fn refuse_topics(config: &Config, stored: &Stored, tables: &mut [SourceTable]) {
    let Some(kafka) = &config.kafka else { return };
    let has_topic = |table: &TableName| stored.topics.as_ref().is_some_and(|known| known.topics.contains_key(table));
    let readable = tables.iter().filter(|table| table.blocked.is_none()).map(SourceTable::name);
    let names = TopicNames { pattern: &kafka.topics, subjects: kafka.subjects };
    for (name, error) in names.refused(readable, has_topic) {
        for table in tables.iter_mut().filter(|table| *table.name() == name) {
            table.blocked = Some(error.clone());
        }
    }
}

fn publication(source: &SourceConfig, found: &Preview) -> Option<String> {
    let (name, tables) = (&source.publication, found.published.len());
    match found.creates_publication {
        true => Some(format!("the publication '{name}' is created, of {tables} table(s)")),
        false if tables > 0 => Some(format!("{tables} table(s) are added to the publication '{name}'")),
        false => None,
    }
}
