//! The topics of tables, and the dead letters: each is searched, and given the tombstones that are missing where it is
//! compacted. All of it may take as long as reading the topics does.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use tokio::runtime::Handle;

use super::keeping::Keeping;
use super::letters::{FoundLetters, OfTopic, scan_letters};
use super::scan::{Found, Scan, Verdict, scan};
use super::sought::{Decoder, Sought};
use super::tombstones::Tombstones;
use crate::cluster::admin::Admin;
use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::KafkaSettings;
use crate::progress::load::load;
use crate::progress::record::TopicProgress;
use crate::registry::reader::{RegistryKind, SchemaReader};

/// How often a topic is read again because others write messages of the same keys.
const ATTEMPTS: u32 = 5;

/// A table whose topics are searched.
#[derive(Clone)]
pub struct SoughtTable {
    /// The table.
    pub table: TableName,
    /// Name that the configuration gives its topic.
    pub base: String,
    /// Names that it gives the topics of other tables.
    pub others: Arc<BTreeSet<String>>,
    /// What is looked for.
    pub sought: Sought,
}

/// What a topic has of subjects, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErasedTopic {
    /// Its name.
    pub topic: String,
    /// Table whose events it has, or had.
    pub table: TableName,
    /// How long it keeps messages.
    #[serde(flatten)]
    pub keeping: Keeping,
    /// What it has; of tombstones, those from before.
    #[serde(flatten)]
    pub found: Found,
    /// Tombstones that were missing, where the topic is compacted.
    pub tombstones_missing: usize,
    /// Tombstones that were written.
    pub tombstones_written: usize,
    /// When they were written, in milliseconds since 1970; none if none were.
    pub written_millis: Option<i64>,
}

/// What the dead letters have of subjects, and what was done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErasedLetters {
    /// Name of their topic.
    pub topic: String,
    /// How long it keeps messages.
    #[serde(flatten)]
    pub keeping: Keeping,
    /// What it has.
    #[serde(flatten)]
    pub found: FoundLetters,
    /// Tombstones that were missing, where the topic is compacted.
    pub tombstones_missing: usize,
    /// Tombstones that were written.
    pub tombstones_written: usize,
    /// When they were written, in milliseconds since 1970; none if none were.
    pub written_millis: Option<i64>,
}

/// What topics have of subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErasedTopics {
    /// The topics of tables.
    pub topics: Vec<ErasedTopic>,
    /// The dead letters; none where there are none.
    pub dead_letters: Option<ErasedLetters>,
}

/// Searches the topics of these tables, and the dead letters for those and for what is looked for `anywhere`. With the
/// name of an erasure, writes tombstones; without, nothing.
pub async fn erase_topics(
    settings: &KafkaSettings,
    registry: &RegistryKind,
    tables: Vec<SoughtTable>,
    anywhere: Sought,
    erasure: Option<String>,
) -> Result<ErasedTopics> {
    let (settings, registry, runtime) = (settings.clone(), registry.clone(), Handle::current());
    let erasing = tokio::task::spawn_blocking(move || {
        Erasing::open(&settings, &registry, runtime, erasure)?.run(&tables, anywhere)
    });
    erasing.await.map_err(|panic| Error::internal("cannot search topics", panic))?
}

/// Tombstones of a topic.
#[derive(Default)]
struct Written {
    tombstones_missing: usize,
    tombstones_written: usize,
    written_millis: Option<i64>,
}

struct Erasing<'a> {
    settings: &'a KafkaSettings,
    admin: Admin,
    reader: RangeReader,
    decoder: Decoder,
    runtime: Handle,
    existing: HashMap<String, i32>,
    erasure: Option<String>,
    /// None before the first tombstone is missing.
    tombstones: Option<Tombstones>,
}

impl<'a> Erasing<'a> {
    fn open(
        settings: &'a KafkaSettings,
        registry: &RegistryKind,
        runtime: Handle,
        erasure: Option<String>,
    ) -> Result<Erasing<'a>> {
        let admin = Admin::new(settings)?;
        Ok(Erasing {
            settings,
            existing: admin.list()?,
            admin,
            reader: RangeReader::open(settings, Isolation::Committed)?,
            decoder: Decoder::new(SchemaReader::new(registry)?, runtime.clone()),
            runtime,
            erasure,
            tombstones: None,
        })
    }

    fn run(mut self, tables: &[SoughtTable], anywhere: Sought) -> Result<ErasedTopics> {
        let record = match self.existing.contains_key(&self.settings.topics.progress) {
            true => load(self.settings)?,
            false => None,
        };
        let (mut erased, mut by_topic) = (ErasedTopics::default(), HashMap::new());
        for table in tables {
            for topic in names_of(table, record.as_ref(), &self.existing) {
                let (of_topic, of_letters) = self.erase(&topic, table)?;
                erased.topics.push(of_topic);
                by_topic.insert(topic, of_letters);
            }
        }
        if let Some(topic) = &self.settings.consumer.dead_letters {
            erased.dead_letters = self.erase_letters(topic, &by_topic, &anywhere)?;
        }
        Ok(erased)
    }

    fn keeping(&self, topic: &str) -> Result<Keeping> {
        Ok(Keeping::of(&self.runtime.block_on(self.admin.configs(topic))?))
    }

    /// What is done about a topic, and what is looked for in dead letters of it.
    fn erase(&mut self, topic: &str, table: &SoughtTable) -> Result<(ErasedTopic, OfTopic)> {
        let keeping = self.keeping(topic)?;
        let partitions = self.existing.get(topic).copied().unwrap_or_default();
        for _ in 0..ATTEMPTS {
            let Scan { mut found, rows, ends } =
                scan(&self.reader, &mut self.decoder, (topic, partitions), &table.sought)?;
            let mut missing = BTreeSet::new();
            let sought = table.sought.clone();
            let mut of_letters = OfTopic { sought, gone: BTreeSet::new(), living: BTreeSet::new() };
            for ((partition, datum), row) in rows {
                match row.verdict() {
                    Verdict::Tombstones(keys) => {
                        missing.extend(keys.into_iter().map(|key| (partition, key)));
                        of_letters.gone.insert(datum);
                    }
                    Verdict::Lives => drop(of_letters.living.insert(datum)),
                }
            }
            found.living = of_letters.living.len();
            if let Some(Written { tombstones_missing, tombstones_written, written_millis }) =
                self.write(&keeping, topic, &missing, &ends)?
            {
                let erased = ErasedTopic {
                    topic: topic.to_owned(),
                    table: table.table.clone(),
                    keeping,
                    found,
                    tombstones_missing,
                    tombstones_written,
                    written_millis,
                };
                return Ok((erased, of_letters));
            }
        }
        Err(contended(topic))
    }

    fn erase_letters(
        &mut self,
        topic: &str,
        by_topic: &HashMap<String, OfTopic>,
        anywhere: &Sought,
    ) -> Result<Option<ErasedLetters>> {
        let Some(partitions) = self.existing.get(topic).copied() else { return Ok(None) };
        let keeping = self.keeping(topic)?;
        for _ in 0..ATTEMPTS {
            let scanned = scan_letters(&self.reader, &mut self.decoder, (topic, partitions), by_topic, anywhere)?;
            if let Some(Written { tombstones_missing, tombstones_written, written_millis }) =
                self.write(&keeping, topic, &scanned.open, &scanned.ends)?
            {
                return Ok(Some(ErasedLetters {
                    topic: topic.to_owned(),
                    keeping,
                    found: scanned.found,
                    tombstones_missing,
                    tombstones_written,
                    written_millis,
                }));
            }
        }
        Err(contended(topic))
    }

    /// Writes tombstones if the topic is compacted and this is no dry run. None if others have written messages of
    /// these keys meanwhile.
    fn write(
        &mut self,
        keeping: &Keeping,
        topic: &str,
        missing: &BTreeSet<(i32, Vec<u8>)>,
        ends: &[i64],
    ) -> Result<Option<Written>> {
        if !keeping.is_compacted() || missing.is_empty() {
            return Ok(Some(Written::default()));
        }
        let tombstones_missing = missing.len();
        let Some(erasure) = &self.erasure else {
            return Ok(Some(Written { tombstones_missing, ..Written::default() }));
        };
        let tombstones = match self.tombstones.take() {
            Some(open) => self.tombstones.insert(open),
            None => self.tombstones.insert(Tombstones::open(self.settings, erasure)?),
        };
        let is_written = tombstones.write(topic, missing, ends)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let written_millis = Some(since.as_millis() as i64);
        Ok(is_written.then_some(Written { tombstones_missing, tombstones_written: tombstones_missing, written_millis }))
    }
}

/// Topics that have, or had, the events of a table, as far as they exist: those that the progress record names, and
/// those that bear the name of the configuration, or that with the number of a repartition.
fn names_of(table: &SoughtTable, record: Option<&TopicProgress>, existing: &HashMap<String, i32>) -> BTreeSet<String> {
    let is_numbered = |name: &&String| {
        let number = name.strip_prefix(table.base.as_str()).and_then(|rest| rest.strip_prefix(".v"));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
    };
    let mut names: BTreeSet<_> = existing.keys().filter(is_numbered).cloned().collect();
    names.insert(table.base.clone());
    if let Some(record) = record {
        names.extend(record.topics.get(&table.table).map(|known| known.topic.clone()));
        if let Some(lineage) = record.lineages.get(&table.table) {
            names.extend(lineage.former.iter().map(|former| former.topic.clone()));
            names.extend(lineage.successor.as_ref().map(|successor| successor.topic.clone()));
        }
    }
    let owners = record.map(TopicProgress::tables_by_topic).unwrap_or_default();
    let is_anothers = |name: &String| {
        let is_named_so = *name != table.base && table.others.contains(name);
        is_named_so || owners.get(name).is_some_and(|owner| *owner != table.table)
    };
    names.retain(|name| existing.contains_key(name) && !is_anothers(name));
    names
}

fn contended(topic: &str) -> Error {
    Error::retry(
        Code::TransactionOpen,
        format!("cannot write tombstones to topic {topic}"),
        "newer messages of the same keys are written to it at this moment, or are in an open transaction",
        "erase again",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::progress::lineage::{FormerTopic, Lineage};

    #[test]
    fn a_table_has_the_topics_of_its_name_and_those_of_the_record() {
        let table = TableName::new("public", "t");
        let sought = Sought { columns: Vec::new(), holds: Arc::new(|_| false) };
        let others = Arc::new(BTreeSet::from(["shop.t.v3".to_owned()]));
        let asked = SoughtTable { table: table.clone(), base: "shop.t".to_owned(), others, sought };
        let names = ["shop.t", "shop.t.v2", "shop.t.v3", "shop.t.vx", "shop.tv2", "former", "shop.tt"];
        let existing: HashMap<_, _> = names.into_iter().map(|name| (name.to_owned(), 1)).collect();
        let found =
            |record: Option<&TopicProgress>| names_of(&asked, record, &existing).into_iter().collect::<Vec<_>>();
        assert_eq!(found(None), ["shop.t", "shop.t.v2"]);
        let former = ["former", "gone"].map(|name| FormerTopic { topic: name.to_owned(), ..FormerTopic::default() });
        let lineage = Lineage { former: former.to_vec(), ..Lineage::default() };
        let record = TopicProgress { lineages: BTreeMap::from([(table, lineage)]), ..TopicProgress::default() };
        assert_eq!(found(Some(&record)), ["former", "shop.t", "shop.t.v2"]);
    }
}
