//! `sooner plan`: what a configuration would do, compared with what runs and what is stored. It is worked out by what
//! decides it when an attempt starts; nothing is changed.

pub mod render;
pub mod settings;
mod start;
pub mod tables;
mod values;

use std::collections::BTreeMap;
use std::path::Path;

use futures::{StreamExt, stream};
use serde::Serialize;
use sooner_api::{Error, Feed, Lake, LakeTable, MemoryBudget, Result, Standing, TableState};
use sooner_delta::store::folder_name::folder_name;
use sooner_delta::{DeltaLake, LakeStore, PartLimits};
use sooner_kafka::producer::opening::moved_from;
use sooner_kafka::producer::present_names::PresentNames;
use sooner_kafka::producer::topic_names::TopicNames;
use sooner_postgres::preview::{Names, left_behind};
use sooner_schemas::TableName;

use crate::config::{Config, SourceConfig};
use crate::control::Requests;
use crate::running::Running;
use settings::{SettingChange, Takes, of_pipeline, of_table};
use start::{Start, Stored, is_there, start, stored};
use tables::{Action, PlannedTable, judge};

/// Tables of the lake that are looked at side by side.
const OPENED_AT_ONCE: usize = 16;

/// What the configuration is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compared {
    /// With the configuration that runs.
    Running,
    /// With the one that ran last.
    LastRun,
    /// Only with what is stored: no configuration is known that ran.
    Nothing,
}

/// Something that follows for the whole pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Consequence {
    /// What.
    pub what: String,
    /// What a person can do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

/// What a configuration would do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The pipeline.
    pub pipeline: String,
    /// What the configuration was compared with.
    pub compared_with: Compared,
    /// Since when that configuration ran, in microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_micros: Option<i64>,
    /// Whether it would do anything.
    pub has_changes: bool,
    /// Whether something takes effect only when the process starts again.
    pub needs_restart: bool,
    /// Why the pipeline would stop; then the tables are what `--recopy` would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Error>,
    /// Settings that differ.
    pub settings: Vec<SettingChange>,
    /// What follows for the whole pipeline.
    pub consequences: Vec<Consequence>,
    /// What becomes of tables; those of which nothing changes are left out.
    pub tables: BTreeMap<TableName, PlannedTable>,
}

/// Works out what the configuration in a file would do. `is_running` says that the pipeline runs at the moment.
pub async fn plan(path: &Path, is_running: bool) -> anyhow::Result<Plan> {
    let config = Config::load(path)?;
    let now = Running::of(path, &config)?;
    let former = Running::load(&config.state_dir);
    let settings = former.as_ref().map(|former| of_pipeline(&former.settings, &now.settings)).unwrap_or_default();
    let known = former.clone().unwrap_or_else(|| now.clone());
    let stored = stored(&config).await?;
    let mut plan = Plan {
        pipeline: config.name.clone(),
        compared_with: match (&former, is_running) {
            (None, _) => Compared::Nothing,
            (Some(_), true) => Compared::Running,
            (Some(_), false) => Compared::LastRun,
        },
        since_micros: former.map(|former| former.since_micros),
        has_changes: false,
        needs_restart: settings.iter().any(|change| change.takes_effect == Takes::Restart),
        refused: None,
        settings,
        consequences: Vec::new(),
        tables: BTreeMap::new(),
    };
    if let Some(source) = &config.source {
        let resumed = Requests::new(&config.state_dir).whole_tables();
        let start = start(&config, source, &stored, &resumed).await?;
        take_start(&mut plan, &config, &stored, &known, start);
        plan.consequences.extend(left(source, &stored, &known).await?);
        refuse_foreign(&mut plan, &config, source).await?;
        let names = stored.record.iter().flat_map(|record| record.tables.iter());
        let followed = names.filter(|(_, progress)| progress.state != TableState::Gone).map(|(name, _)| name);
        take_settings(&mut plan, followed, &known, &now);
    } else {
        let names: Vec<_> = stored.record.iter().flat_map(|record| record.tables.keys().cloned()).collect();
        take_settings(&mut plan, names.iter(), &known, &now);
    }
    plan.consequences.extend(another_lake(&config, &known));
    plan.has_changes =
        plan.refused.is_some() || !(plan.settings.is_empty() && plan.consequences.is_empty() && plan.tables.is_empty());
    Ok(plan)
}

/// What becomes of the tables at the source.
fn take_start(plan: &mut Plan, config: &Config, stored: &Stored, known: &Running, mut start: Start) {
    let moved = move_topics(config, stored, &mut start);
    let values = match &config.source {
        Some(source) if start.refused.is_none() => values::changed(config, source, known, &mut start),
        _ => BTreeMap::new(),
    };
    let selects = config.source.as_ref().map(SourceConfig::filter);
    let names = |table: &TableName| selects.as_ref().is_none_or(|selects| (selects.names)(table));
    plan.tables = judge(start.former.as_ref(), &start.next, &start.tables, names);
    for (name, reason) in moved.into_iter().chain(values) {
        let table = start.tables.iter().find(|table| *table.name() == name);
        plan.tables.insert(name, reason.sized(table));
    }
    for (name, planned) in plan.tables.iter_mut().filter(|(_, planned)| planned.action == Action::Stop) {
        planned.stays.extend(location(known, name).map(|location| format!("its lake table {location}")));
        let topic = stored.topics.as_ref().and_then(|topics| topics.topics.get(name));
        planned.stays.extend(topic.map(|topic| format!("its topic {}", topic.topic)));
    }
    let publication = start.publication.map(|what| Consequence { what, remedy: String::new() });
    plan.consequences.extend(publication);
    plan.refused = start.refused;
}

/// Tables that go to another topic are copied there.
fn move_topics(config: &Config, stored: &Stored, start: &mut Start) -> BTreeMap<TableName, PlannedTable> {
    let mut moved = BTreeMap::new();
    let (Some(kafka), Some(former)) = (&config.kafka, &stored.topics) else { return moved };
    let names = TopicNames { pattern: &kafka.topics, subjects: kafka.subjects };
    let names = PresentNames::new(names, Some(former));
    for (name, progress) in start.next.tables.iter().filter(|(_, progress)| progress.state.takes_events()) {
        let topic = names.topic(name);
        let Some(from) = moved_from(former, name, &topic).filter(|_| progress.oid.is_some()) else { continue };
        let mut planned = PlannedTable::new(Action::Recopy, format!("its topic is {topic}, where it was {from}"));
        planned.stays.push(format!("the topic {from}"));
        moved.insert(name.clone(), planned);
    }
    moved
}

/// What the pipeline leaves behind in the database under the names that it had.
async fn left(source: &SourceConfig, stored: &Stored, known: &Running) -> Result<Vec<Consequence>> {
    let recorded = stored.record.as_ref().map(|record| record.slot.as_str()).filter(|slot| !slot.is_empty());
    let slot = known.text("source", "slot").filter(|slot| *slot != source.slot).or(recorded);
    let publication = known.text("source", "publication");
    let (slot, publication) = (slot.unwrap_or(&source.slot), publication.unwrap_or(&source.publication));
    if (slot, publication) == (&source.slot, &source.publication) {
        return Ok(Vec::new());
    }
    let left = left_behind(&source.connect, Names { slot, publication }).await?;
    let mut found = Vec::new();
    if let Some(standing) = left.slot.filter(|_| slot != source.slot) {
        let kept = bytesize::ByteSize(standing.retained_bytes);
        found.push(Consequence {
            what: format!(
                "the slot '{slot}' stays, and makes Postgres keep all log from where it stands ({kept} by now)"
            ),
            remedy: format!("once nobody needs it: SELECT pg_drop_replication_slot('{slot}')"),
        });
    }
    if left.publication && publication != source.publication {
        found.push(Consequence {
            what: format!("the publication '{publication}' stays"),
            remedy: format!("once nobody needs it: DROP PUBLICATION \"{publication}\""),
        });
    }
    Ok(found)
}

/// Tables that are to be copied to where somebody else's table lies stop.
async fn refuse_foreign(plan: &mut Plan, config: &Config, source: &SourceConfig) -> Result<()> {
    let Some(lake) = config.lake.as_ref().filter(|lake| is_there(lake)) else { return Ok(()) };
    let store = LakeStore::open(&lake.url, &lake.s3)?;
    // Nothing is written.
    let tables = DeltaLake::new(store, &config.name, PartLimits { part_bytes: 0, budget: MemoryBudget::new(0) });
    let feed = Feed::Slot(source.slot.clone());
    let copied = plan.tables.iter().filter(|(_, planned)| planned.action == Action::Copy);
    let copied: Vec<_> = copied.map(|(name, _)| name.clone()).collect();
    let opening = copied.into_iter().map(|name| {
        let (tables, feed) = (tables.clone(), feed.clone());
        async move { (tables.open(&name, &feed).await.map(|table| table.standing()), name) }
    });
    let opened: Vec<_> = stream::iter(opening).buffer_unordered(OPENED_AT_ONCE).collect().await;
    for (standing, name) in opened {
        let stopped = match standing {
            Ok(Standing::Foreign) => {
                let reason = "a table that this pipeline did not make lies where it would be copied to";
                let remedy = "move that table away, or exclude this one".to_owned();
                PlannedTable { remedy, ..PlannedTable::new(Action::Park, reason) }
            }
            Ok(_) => continue,
            Err(error) => {
                let stopped = PlannedTable::new(Action::Park, format!("{}: {}", error.what, error.why));
                PlannedTable { remedy: error.remedy, ..stopped }
            }
        };
        plan.tables.insert(name, stopped);
    }
    Ok(())
}

/// Settings of single tables that differ.
fn take_settings<'a>(plan: &mut Plan, names: impl Iterator<Item = &'a TableName>, known: &Running, now: &Running) {
    let (former, now) = (known.blocks(), now.blocks());
    if former == now {
        return;
    }
    for name in names {
        let settings = of_table(&former, &now, name);
        if !settings.is_empty() {
            let planned = plan.tables.entry(name.clone());
            planned.or_insert_with(|| PlannedTable::new(Action::Settings, "")).settings = settings;
        }
    }
}

/// What another lake means.
fn another_lake(config: &Config, known: &Running) -> Option<Consequence> {
    let (lake, former) = (config.lake.as_ref()?, known.text("lake", "url")?);
    let is_same = former.trim_end_matches('/') == lake.url.trim_end_matches('/');
    let consequence = match &config.kafka {
        None => Consequence {
            what: format!(
                "the tables in {former} stay as they are, and are followed no longer; what the new lake lacks is copied"
            ),
            remedy: "remove them once nobody reads them".to_owned(),
        },
        Some(_) => Consequence {
            what: format!(
                "the tables in {former} stay as they are; sinks read the topics from their beginnings into the new lake"
            ),
            remedy: "where retention has removed events, `sooner resume TABLE` at the source writes the table again"
                .to_owned(),
        },
    };
    (!is_same).then_some(consequence)
}

/// Where a table lies in the lake of the configuration that ran.
fn location(known: &Running, name: &TableName) -> Option<String> {
    let lake = known.text("lake", "url")?;
    let (schema, table) = (folder_name(&name.schema), folder_name(&name.table));
    Some(format!("{}/{schema}/{table}", lake.trim_end_matches('/')))
}
