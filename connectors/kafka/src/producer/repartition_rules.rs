//! Whether a table's topic can get another number of partitions, and how the new topic is called. Without I/O.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{Code, Error};
use sooner_schemas::TableName;
use sooner_schemas::naming::check_topic;

use crate::cluster::settings::KafkaSettings;
use crate::cluster::topic_state::TopicState;
use crate::progress::record::TopicProgress;

/// Most partitions that a topic gets.
pub const MOST_PARTITIONS: i32 = 10_000;

/// Somebody asks for a table's topic to have another number of partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepartitionRequest {
    /// Table.
    pub table: TableName,
    /// Number of partitions.
    pub partitions: i32,
}

/// Where a running writer hears of requests, and says what became of them.
#[derive(Clone)]
pub struct RepartitionDesk {
    /// Requests that wait. They are asked for again and again.
    pub asked: Arc<dyn Fn() -> Vec<RepartitionRequest> + Send + Sync>,
    /// Takes a request that need not wait any more: it is part of the progress record, or was refused.
    pub settled: Arc<dyn Fn(&RepartitionRequest) + Send + Sync>,
}

impl RepartitionDesk {
    /// A desk at which nobody asks for anything.
    pub fn closed() -> RepartitionDesk {
        RepartitionDesk { asked: Arc::new(Vec::new), settled: Arc::new(|_| ()) }
    }
}

/// Checks a request against what is recorded.
pub fn check_request(
    settings: &KafkaSettings,
    progress: &TopicProgress,
    request: &RepartitionRequest,
) -> Result<(), Error> {
    let RepartitionRequest { table, partitions } = request;
    if !(1..=MOST_PARTITIONS).contains(partitions) {
        let why = format!("a topic has from 1 to {MOST_PARTITIONS} partitions, not {partitions}");
        return Err(refused(table, why, "name another number of --partitions"));
    }
    if settings.producer.transactional_id.is_none() {
        let why = "delivery of [kafka] is at-least-once, so events would be on the new topic several times";
        return Err(refused(table, why, "set delivery = \"exactly-once\" in [kafka], and restart the source"));
    }
    let (Some(known), Some(topic)) = (progress.record.tables.get(table), progress.topics.get(table)) else {
        let why = "this pipeline does not write such a table to a topic";
        return Err(refused(table, why, "`sooner status` lists its tables"));
    };
    if topic.next_offsets.len() as i32 == *partitions {
        let why = format!("its topic {} has {partitions} partitions already", topic.topic);
        return Err(refused(table, why, "nothing"));
    }
    if let Some(successor) = progress.successor(table) {
        let why = format!("its events are being written to the new topic {} already", successor.topic);
        return Err(refused(table, why, "wait until that has ended; `sooner status` shows how far it is"));
    }
    if known.relation.as_ref().is_some_and(|relation| relation.key.is_empty()) {
        let why = "it has no key, so all of its rows go to one partition";
        return Err(refused(table, why, "give it a primary key first"));
    }
    Ok(())
}

/// Checks the topic that a table's events are on.
pub fn check_topic_state(table: &TableName, topic: &str, state: &TopicState) -> Result<(), Error> {
    if !state.is_compacted() {
        return Ok(());
    }
    let why = format!(
        "topic {topic} is compacted ({}), so it does not have all events, and no new topic could be given them in order",
        state.cleanup_policy
    );
    let remedy = format!(
        "kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=delete, and \
         cleanup_policy = \"delete\" in [kafka]; restart the source, then ask again"
    );
    Err(refused(table, why, remedy))
}

/// Error of a request that is not granted.
pub fn refused(table: &TableName, why: impl std::fmt::Display, remedy: impl Into<String>) -> Error {
    Error::operator(Code::RepartitionRefused, format!("cannot repartition the topic of {table}"), why, remedy)
}

/// Name of the next topic of a table whose topic is called `base` by the configuration: `<base>.v2`, and so on. One
/// that exists is only taken if it has this number of partitions and `is_unused`.
pub fn next_name(
    base: &str,
    existing: &HashMap<String, i32>,
    partitions: i32,
    is_unused: impl Fn(&str) -> bool,
) -> Result<String, String> {
    let candidates = (2..).map(|number| format!("{base}.v{number}"));
    for name in candidates {
        let is_free = existing.get(&name).is_none_or(|known| *known == partitions && is_unused(&name));
        if is_free {
            return check_topic(&name).map(|()| name);
        }
    }
    Err("there is no free name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_new_or_that_of_an_unused_topic_with_as_many_partitions() {
        let existing = HashMap::from([("t".to_owned(), 2), ("t.v2".to_owned(), 5), ("t.v3".to_owned(), 3)]);
        let next = |partitions, unused: &str| next_name("t", &existing, partitions, |name| name == unused).unwrap();
        assert_eq!(next(5, "t.v2"), "t.v2", "whoever makes topics by himself made it before");
        assert_eq!(next(5, "t.v3"), "t.v4");
        assert_eq!(next(3, "t.v3"), "t.v3");
        assert_eq!(next_name("a", &existing, 1, |_| false).unwrap(), "a.v2");
        assert!(next_name(&"n".repeat(248), &existing, 1, |_| false).is_err());
    }
}
