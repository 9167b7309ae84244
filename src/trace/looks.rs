//! Asks Postgres, the stored records, Kafka and the lake about one row. Only reads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use sooner_api::{Code, Error, Feed, MemoryBudget, ProgressRecord, ProgressStore, Result, TableProgress};
use sooner_delta::trace::row_trace::{RowQuestion, RowTrace};
use sooner_delta::{DeltaLake, LakeProgress, LakeStore, PartLimits};
use sooner_kafka::WrittenBy;
use sooner_kafka::key_search::{KeyPlace, KeySearch, find_key};
use sooner_kafka::progress::load::load;
use sooner_kafka::progress::record::TopicProgress;
use sooner_kafka::registry::reader::SchemaReader;
use sooner_postgres::Client;
use sooner_postgres::client::Mode;
use sooner_postgres::encoders::EncoderFactory;
use sooner_postgres::row_lookup::{LookupTable, RowNow, find_table};
use sooner_postgres::slot;
use sooner_schemas::encode::{Encoder, Origin, Snapshot, TupleValue};
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::policy::ValuePolicy;
use sooner_schemas::{Lsn, Position, Relation, TableName};

use crate::config::{Config, KafkaConfig, SourceConfig};
use crate::direct::LocalSchemas;
use crate::memory::MemoryShares;

/// What the pipeline has stored of itself.
#[derive(Default)]
pub struct Stored {
    /// In the lake.
    pub lake: Option<ProgressRecord>,
    /// On the progress topic.
    pub topics: Option<TopicProgress>,
}

impl Stored {
    /// Reads the records. One that cannot be read counts as none: the hop that it lies at says why.
    pub async fn read(config: &Config) -> Stored {
        let mut stored = Stored::default();
        stored.read_lake(config).await;
        if let Some(kafka) = config.kafka.as_ref().filter(|kafka| kafka.written_by == WrittenBy::Sooner) {
            let settings = kafka.settings.clone();
            let loaded = tokio::task::spawn_blocking(move || load(&settings)).await;
            stored.topics = loaded.ok().and_then(Result::ok).flatten();
        }
        stored
    }

    /// Reads the lake's record again; what was read before stays if that fails.
    pub async fn read_lake(&mut self, config: &Config) {
        if let Some(lake) = &config.lake
            && let Ok(store) = LakeStore::open(&lake.url, &lake.s3)
        {
            let mut progress = match config.kafka {
                Some(_) => LakeProgress::shared(store, &config.name),
                None => LakeProgress::new(store, &config.name),
            };
            self.lake = progress.load().await.unwrap_or(self.lake.take());
        }
    }

    /// What is stored of a table: by its source, or else by its sink.
    pub fn table(&self, table: &TableName) -> Option<&TableProgress> {
        let of_source = self.topics.as_ref().and_then(|topics| topics.record.tables.get(table));
        of_source.or_else(|| self.of_sink(table))
    }

    /// What the sink, or a pipeline without Kafka, has stored of a table.
    pub fn of_sink(&self, table: &TableName) -> Option<&TableProgress> {
        self.lake.as_ref().and_then(|record| record.tables.get(table))
    }
}

/// A table in Postgres, and a connection.
pub struct Source {
    client: Client,
    /// The table.
    pub table: LookupTable,
}

impl Source {
    /// Connects, and looks the table up; by its object id where tables keep their names.
    pub async fn open(source: &SourceConfig, table: &TableName, stored: &Stored) -> Result<Option<Source>> {
        let mut client = Client::connect(&source.connect, Mode::Sql).await?;
        let oid = source.kept_names.as_ref().and_then(|_| stored.table(table)?.oid);
        let found = find_table(&mut client, &source.publication, source.through_roots, table, oid).await?;
        Ok(found.map(|table| Source { client, table }))
    }

    /// Looks up the row of a key.
    pub async fn row(&mut self, key: &[String]) -> Result<RowNow> {
        self.table.row(&mut self.client, key).await
    }

    /// Looks at the pipeline's slot: how it stands, and why it cannot be read, if so.
    pub async fn slot(&mut self, source: &SourceConfig) -> Result<(Option<slot::Slot>, Option<Error>)> {
        let name = &source.slot;
        let Some(found) = slot::find(&mut self.client, name).await? else {
            let what = format!("the slot '{name}' cannot be read");
            let remedy = "`sooner run` creates it, unless the pipeline had got somewhere: then it says what to do";
            return Ok((None, Some(Error::operator(Code::SlotGone, what, "it does not exist", remedy))));
        };
        let problem = slot::check(name, &found, &source.connect.database).err();
        Ok((Some(found), problem))
    }
}

/// A row as the events of its table carry it.
pub struct RowCodec {
    encoder: Encoder,
    relation: Relation,
}

impl RowCodec {
    /// Compiles it for a table. Schemas get ids of its own, and are not registered anywhere.
    pub async fn new(config: &Config, relation: &Relation) -> Result<RowCodec> {
        let database = config.source.as_ref().map_or("", |source| source.connect.database.as_str());
        let factory = match &config.kafka {
            Some(kafka) => {
                let policies = config.source.as_ref().map(SourceConfig::policies);
                let policies = policies.unwrap_or_else(|| Arc::new(|_, _| ValuePolicy::default()));
                kafka.encoders(LocalSchemas::default(), database, policies)
            }
            None => {
                let mut factory = EncoderFactory::new(LocalSchemas::default(), &config.name, database);
                if let Some(source) = &config.source {
                    factory.policies = source.policies_of_lake();
                }
                factory
            }
        };
        Ok(RowCodec { encoder: factory.build(relation).await?, relation: relation.clone() })
    }

    /// Schemas of key and value.
    pub fn schema(&self) -> &Arc<EventSchema> {
        self.encoder.schema()
    }

    /// Key message of the texts of a key, in the order of the key.
    pub fn key(&self, texts: &[String]) -> Result<Vec<u8>> {
        let mut row = vec![TupleValue::Null; self.relation.columns.len()];
        for (&column, text) in self.relation.key.iter().zip(texts) {
            row[column] = TupleValue::Text(text.as_bytes());
        }
        let mut events = TableEvents::new(self.schema().clone());
        self.encoder.delete(&mut events, &nowhere(), &row, false).map_err(|error| {
            let what = format!("cannot look up this key in {}", self.relation.name);
            Error::operator(Code::ValueUnholdable, what, error, "write the key's values as Postgres shows them")
        })?;
        Ok(events.events.first().map(|event| events.bytes[event.key.clone()].to_vec()).unwrap_or_default())
    }

    /// Value message of a row.
    pub fn value(&self, values: &[Option<String>]) -> Result<Vec<u8>> {
        let row: Vec<_> = values.iter().map(|text| tuple_value(text.as_deref())).collect();
        let mut events = TableEvents::new(self.schema().clone());
        self.encoder.read(&mut events, &nowhere(), &row).map_err(|error| {
            let what = format!("a row of {} cannot be carried", self.relation.name);
            let remedy = "correct the value at the source, or set unholdable of the table's [[table]]";
            Error::operator(Code::ValueUnholdable, what, error, remedy)
        })?;
        Ok(events.events.first().map(|event| events.bytes[event.value.clone()].to_vec()).unwrap_or_default())
    }
}

fn tuple_value(text: Option<&str>) -> TupleValue<'_> {
    text.map_or(TupleValue::Null, |text| TupleValue::Text(text.as_bytes()))
}

/// Origin of events that go nowhere.
fn nowhere() -> Origin {
    let position = Position { commit_lsn: Lsn(0), ordinal: 0 };
    Origin { position, lsn: Lsn(0), xid: 0, source_micros: 0, now_micros: 0, snapshot: Snapshot::Yes }
}

/// Name of a table's topic.
pub fn topic_of(kafka: &KafkaConfig, stored: &Stored, table: &TableName) -> String {
    let written = stored.topics.as_ref().and_then(|topics| topics.topics.get(table));
    written.map_or_else(|| kafka.topics.topic(table), |offsets| offsets.topic.clone())
}

/// Finds the last event of a key in its topic.
pub async fn topic_place(
    kafka: &KafkaConfig,
    topic: String,
    schema: &EventSchema,
    key: &[u8],
    deadline: Instant,
) -> Result<KeyPlace> {
    let registry = SchemaReader::new(&kafka.registry)?;
    let knows_partition = kafka.written_by == WrittenBy::Sooner;
    let search = KeySearch { topic, key: key.to_vec(), knows_partition, deadline };
    find_key(&kafka.settings, &registry, schema.key.clone(), search).await
}

/// Where a table's events come from.
pub fn feed_of(config: &Config, stored: &Stored, table: &TableName, place: Option<&KeyPlace>) -> Option<Feed> {
    let Some(kafka) = &config.kafka else { return Some(Feed::Slot(config.source.as_ref()?.slot.clone())) };
    let written = stored.topics.as_ref().and_then(|topics| topics.topics.get(table));
    let partitions = place.map(|place| place.partitions);
    let partitions = partitions.or_else(|| i32::try_from(written?.next_offsets.len()).ok()).unwrap_or(1);
    Some(Feed::Topic {
        topic: topic_of(kafka, stored, table),
        generation: written.map(|offsets| offsets.generation),
        partitions,
        assigned: (0..partitions).collect::<BTreeSet<_>>(),
        in_commit_order: kafka.written_by == WrittenBy::Sooner,
    })
}

/// Looks for a row in the lake.
pub async fn lake_row(config: &Config, table: &TableName, feed: &Feed, question: &RowQuestion) -> Result<RowTrace> {
    let settings = config.lake()?;
    let part_bytes = MemoryShares::of(config.memory_bytes).part_bytes;
    // Nothing is written.
    let limits = PartLimits { part_bytes, budget: MemoryBudget::new(part_bytes) };
    let lake = DeltaLake::new(LakeStore::open(&settings.url, &settings.s3)?, &config.name, limits);
    lake.trace(table, feed, question).await
}
