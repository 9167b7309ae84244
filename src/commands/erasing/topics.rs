//! Topics and dead letters in an erasure: which tables' topics are searched for what, and what is told of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use sooner_delta::DeltaLake;
use sooner_delta::erasure::search::Needles;
use sooner_delta::erasure::subject::Subject;
use sooner_kafka::erasure::sought::{HoldsValue, Sought};
use sooner_kafka::erasure::topics::{ErasedLetters, ErasedTopic, ErasedTopics, SoughtTable, erase_topics};
use sooner_kafka::letters::catalogue::Selection;
use sooner_schemas::TableName;

use super::remains::Remains;
use super::source::concerned;
use crate::commands::dead_letters::desk;
use crate::commands::hold::instant;
use crate::config::{Config, KafkaConfig};

/// What topics have of subjects, and what is left of it.
#[derive(Debug, Default)]
pub struct InTopics {
    /// What they have, and what was done about it.
    pub erased: ErasedTopics,
    /// Open dead letters that were dropped, so that nobody sends their messages again.
    pub letters_dropped: usize,
    /// What is left.
    pub remains: Vec<Remains>,
}

/// Searches the topics of a lake's tables, and the dead letters. With the name of an erasure, writes the tombstones
/// that are missing, and drops dead letters; without, changes nothing. What cannot be searched is told as what is left.
pub async fn in_topics(
    config: &Config,
    lake: &DeltaLake,
    subjects: &[Subject],
    erasure: Option<&str>,
) -> anyhow::Result<InTopics> {
    let Some(kafka) = &config.kafka else { return Ok(InTopics::default()) };
    let all = lake.tables().await?;
    let tables = concerned(lake, &all, subjects).await?;
    let needles = Arc::new(Needles::new(subjects.iter().map(|subject| subject.value.as_str())));
    let holds: HoldsValue = Arc::new(move |bytes| needles.are_in(bytes));
    let others: Arc<BTreeSet<_>> = Arc::new(all.iter().map(|table| kafka.topics.topic(table)).collect());
    let sought = tables.into_iter().map(|table| sought(kafka, table, subjects, (&holds, &others))).collect();
    let anywhere = Sought { columns: Vec::new(), holds: holds.clone() };
    let asked = erase_topics(&kafka.settings, &kafka.registry, sought, anywhere, erasure.map(str::to_owned));
    let erased = match asked.await {
        Ok(erased) => erased,
        Err(error) => return Ok(InTopics { remains: vec![not_searched(&error)], ..InTopics::default() }),
    };
    let mut found = InTopics { remains: of_topics(&erased, erasure.is_some()), ..InTopics::default() };
    let letters = erased.dead_letters.iter().flat_map(|letters| letters.found.letters.iter().copied()).collect();
    found.erased = erased;
    if erasure.is_some() {
        match drop_letters(config, letters).await {
            Ok(dropped) => found.letters_dropped = dropped,
            Err(error) => found.remains.push(not_searched(&error)),
        }
    }
    Ok(found)
}

fn sought(
    kafka: &KafkaConfig,
    table: TableName,
    subjects: &[Subject],
    (holds, others): (&HoldsValue, &Arc<BTreeSet<String>>),
) -> SoughtTable {
    let meant = subjects.iter().filter(|subject| subject.concerns(&table));
    let columns = meant.map(|subject| (subject.column.clone(), subject.value.clone())).collect();
    let base = kafka.topics.topic(&table);
    SoughtTable { table, base, others: others.clone(), sought: Sought { columns, holds: holds.clone() } }
}

/// Marks open letters as dropped. Their messages stay as long as the topic keeps them.
async fn drop_letters(
    config: &Config,
    letters: BTreeSet<sooner_kafka::message::letter_headers::LetterId>,
) -> sooner_api::Result<usize> {
    if letters.is_empty() {
        return Ok(0);
    }
    Ok(desk(config, false)?.drop_letters(Selection::Several(letters)).await?.len())
}

fn not_searched(error: &sooner_api::Error) -> Remains {
    Remains {
        place: "topics".to_owned(),
        why: format!("they could not be searched: {}: {}", error.what, error.why),
        until: None,
        to_do: format!("{}; then erase again", error.remedy),
        found: true,
    }
}

fn of_topics(erased: &ErasedTopics, is_erased: bool) -> Vec<Remains> {
    let of_topics = erased.topics.iter().flat_map(|topic| of_topic(topic, is_erased));
    of_topics.chain(erased.dead_letters.iter().flat_map(of_letters)).collect()
}

/// What a person does about what is left until a moment, or for ever unless something else is done.
fn to_do(until: Option<i64>, forever: &str) -> String {
    match until {
        Some(_) => "erase again after that".to_owned(),
        None => format!("{forever}; then erase again"),
    }
}

/// What is left in a topic, and until when.
fn of_topic(erased: &ErasedTopic, is_erased: bool) -> Vec<Remains> {
    let ErasedTopic { topic, keeping, found, .. } = erased;
    let remains = |why: String, until: Option<i64>, forever: &str| Remains {
        place: format!("topic {topic}"),
        why: format!("{why}; cleanup.policy={}", keeping.cleanup_policy),
        until: until.map(instant),
        to_do: to_do(until, forever),
        found: true,
    };
    let kept_until = found.newest_millis.and_then(|written| keeping.retention_end(written));
    let mut left = Vec::new();
    if found.messages > 0 && !keeping.is_compacted() {
        let why = format!("{} messages of {} rows", found.messages, found.rows);
        left.push(remains(why, kept_until, NOTHING_ENDS));
    }
    if found.messages > 0 && keeping.is_compacted() {
        let replaced_millis = [erased.written_millis, found.newest_tombstone_millis].into_iter().flatten().max();
        let compacted = replaced_millis.and_then(|replaced| keeping.compaction_end(replaced));
        let until = [kept_until, compacted].into_iter().flatten().min().filter(|_| found.living == 0);
        let standing = match is_erased {
            true => format!("{} tombstones were written, {} stood there", erased.tombstones_written, found.tombstones),
            false => format!("{} tombstones are missing, {} stand there", erased.tombstones_missing, found.tombstones),
        };
        let why = format!("{} messages of {} rows until they are compacted; {standing}", found.messages, found.rows);
        left.push(remains(why, until, NO_LAG));
    }
    if found.living > 0 && keeping.is_compacted() {
        let why = format!("{} of these rows live, by their last message that can be read", found.living);
        left.push(remains(why, kept_until, LIVING));
    }
    if found.undecoded > 0 {
        let why = format!("{} messages could not be decoded, and were searched by their bytes alone", found.undecoded);
        left.push(remains(why, None, UNDECODED));
    }
    if found.elsewhere > 0 {
        let why = format!("{} messages have a value without a key, or in another column or a header", found.elsewhere);
        left.push(remains(why, kept_until, NOTHING_ENDS));
    }
    let tombstones = found.tombstones + erased.tombstones_written;
    if found.keys_hold && tombstones > 0 {
        let written = [erased.written_millis, found.newest_tombstone_millis].into_iter().flatten().max();
        let compacted = written.and_then(|written| keeping.compaction_end(written));
        let until = compacted.map(|compacted| compacted.saturating_add(keeping.delete_retention_ms));
        let lasting = format!("{tombstones} tombstones, whose keys have the value");
        left.push(remains(lasting, until, NO_LAG));
    }
    left
}

/// What ends messages that retention leaves alone.
const NOTHING_ENDS: &str = "set retention.ms of the topic, or delete records with kafka-delete-records.sh, which removes \
                            others' before them, too";
/// What makes compaction come.
const NO_LAG: &str = "set max.compaction.lag.ms of the topic, or wait until its cleaner has come";
/// What ends messages of rows that live.
const LIVING: &str =
    "delete the rows at the source, if it has them; compaction keeps the last message of a row that lives";

const UNDECODED: &str = "see that the registry has all schemas of the topic";

fn of_letters(letters: &ErasedLetters) -> Vec<Remains> {
    let of_living = (letters.found.of_living > 0).then(|| Remains {
        place: format!("topic {}", letters.topic),
        why: format!("{} dead letters hold a value and are of rows that live", letters.found.of_living),
        until: None,
        to_do: "replay or drop them (`sooner dead-letters`); then erase again".to_owned(),
        found: true,
    });
    of_gone(letters).into_iter().chain(of_living).collect()
}

fn of_gone(letters: &ErasedLetters) -> Option<Remains> {
    let newest = letters.found.newest_millis.filter(|_| !letters.found.letters.is_empty())?;
    let compacted = letters.written_millis.and_then(|written| letters.keeping.compaction_end(written));
    let until = letters.keeping.retention_end(newest).into_iter().chain(compacted).min();
    let forever = if letters.keeping.is_compacted() { NO_LAG } else { NOTHING_ENDS };
    Some(Remains {
        place: format!("topic {}", letters.topic),
        why: format!(
            "{} dead letters hold a value or are of such a row; cleanup.policy={}",
            letters.found.letters.len(),
            letters.keeping.cleanup_policy
        ),
        until: until.map(instant),
        to_do: to_do(until, forever),
        found: true,
    })
}
