//! The topics of a pipeline, as the API shows them: by what a running process knows of them anyway. No broker is asked
//! and no topic is read, so they may be looked at every second; `sooner topics advise` measures.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};
use sooner_schemas::TableName;
use sooner_schemas::naming::TopicPattern;

use crate::status::{Status, TableStatus};

/// Rates are those of this time at least, in microseconds.
const RATE_MICROS: i64 = 10_000_000;

/// What answers on topics need beside the status.
#[derive(Clone, Debug, Default)]
pub struct TopicView {
    topics: Option<TopicPattern>,
    dead_letters: Option<String>,
    looks: Arc<Mutex<Looks>>,
}

impl TopicView {
    /// The view of a pipeline whose tables have such topics, and that has this topic of dead letters. Without topics
    /// there is nothing to see.
    pub fn new(topics: Option<TopicPattern>, dead_letters: Option<String>) -> TopicView {
        TopicView { topics, dead_letters, looks: Arc::default() }
    }

    /// The topics by this status, and how many dead letters there were; with a limit, only so many, those with most
    /// that is unread first. Remembers where topics end, for their rates.
    pub fn show(&self, status: &Status, dead_letters: u64, limit: Option<usize>) -> Value {
        let rates = self.looks.lock().unwrap_or_else(PoisonError::into_inner).rates(Look::at(status));
        let mut tables: Vec<_> = status.tables.iter().filter(|_| self.topics.is_some()).collect();
        let read = tables.iter().filter(|(_, table)| !table.partitions.is_empty()).count();
        if let Some(limit) = limit {
            tables.sort_by_key(|(_, table)| Reverse((!table.partitions.is_empty(), table.lag_messages)));
            tables.truncate(limit);
        }
        let shown = self.topics.iter().flat_map(|topics| {
            let rate = |table: &TableName| rates.get(table).copied();
            tables.iter().map(move |(name, table)| topic(name, topics.topic(name), table, rate(name)))
        });
        let dead_letters = self.dead_letters.as_ref().map(|topic| json!({ "topic": topic, "messages": dead_letters }));
        json!({ "topics": shown.collect::<Vec<_>>(), "read": read, "dead_letters": dead_letters })
    }
}

/// Where the topics ended at a moment: the sum of their partitions' ends.
#[derive(Clone, Debug, Default)]
struct Look {
    at_micros: i64,
    ends: BTreeMap<TableName, i64>,
}

impl Look {
    fn at(status: &Status) -> Look {
        let known = status.tables.iter().filter(|(_, table)| !table.partitions.is_empty());
        Look { at_micros: status.updated_micros, ends: known.map(|(name, table)| (name.clone(), end(table))).collect() }
    }
}

/// The last two looks that are a while apart.
#[derive(Debug, Default)]
struct Looks {
    before: Option<Look>,
    last: Option<Look>,
}

impl Looks {
    /// Offsets per second that were written since a look that is a while ago, or since the first one; keeps this one.
    /// A topic that ends before it did is another one, or has fewer partitions here.
    fn rates(&mut self, now: Look) -> BTreeMap<TableName, f64> {
        let since = self.before.as_ref().or(self.last.as_ref()).filter(|look| look.at_micros < now.at_micros);
        let rates = since.map(|since| {
            let seconds = (now.at_micros - since.at_micros) as f64 / 1e6;
            let written = |(table, end): (&TableName, &i64)| {
                let written = (end - since.ends.get(table)?) as f64;
                (written >= 0.0).then(|| (table.clone(), written / seconds))
            };
            now.ends.iter().filter_map(written).collect()
        });
        let is_due = self.last.as_ref().is_none_or(|last| now.at_micros - last.at_micros >= RATE_MICROS);
        if is_due {
            self.before = self.last.replace(now);
        }
        rates.unwrap_or_default()
    }
}

/// A topic, as it is shown.
#[derive(Debug, Serialize)]
struct ShownTopic {
    table: TableName,
    topic: String,
    /// Partitions that are read by this process; 0 where it reads none.
    partitions: usize,
    unread: Option<u64>,
    /// The sum of their ends.
    end_offsets: Option<i64>,
    /// The ends of transactions take offsets, too.
    offsets_per_second: Option<f64>,
    /// The partition with the most offsets, and its share of them.
    largest_partition: Option<i32>,
    largest_share: Option<f64>,
}

fn topic(table: &TableName, topic: String, status: &TableStatus, offsets_per_second: Option<f64>) -> ShownTopic {
    let is_read = !status.partitions.is_empty();
    let all = end(status);
    let ends = status.partitions.iter().map(|(partition, offsets)| (*partition, offsets.end_offset.unwrap_or(0)));
    // Of partitions that are as large, the first.
    let largest = ends.rev().max_by_key(|(_, end)| *end).filter(|_| all > 0);
    ShownTopic {
        table: table.clone(),
        topic: status.topic.as_ref().map_or(topic, |moved| moved.topic.clone()),
        partitions: status.partitions.len(),
        unread: status.lag_messages,
        end_offsets: is_read.then_some(all),
        offsets_per_second,
        largest_partition: largest.map(|(partition, _)| partition),
        largest_share: largest.map(|(_, end)| end as f64 / all as f64),
    }
}

fn end(table: &TableStatus) -> i64 {
    table.partitions.values().filter_map(|offsets| offsets.end_offset).sum()
}

#[cfg(test)]
mod tests {
    use sooner_api::{PartitionOffsets, TableState};

    use super::*;

    fn status(seconds: i64, ends: &[i64]) -> Status {
        let mut table = TableStatus::new(TableState::Streaming { copied_lsn: None });
        let offsets = |end: &i64| PartitionOffsets { next_offset: 0, end_offset: Some(*end) };
        table.partitions = (0..).zip(ends.iter().map(offsets)).collect();
        let mut status = Status { updated_micros: seconds * 1_000_000, ..Status::default() };
        status.tables.insert(TableName::new("public", "t"), table);
        status
    }

    fn view() -> TopicView {
        TopicView::new(Some(TopicPattern::debezium("shop")), Some("dead".to_owned()))
    }

    #[test]
    fn rates_are_those_of_a_while_however_often_somebody_looks() {
        let view = view();
        let rate = |seconds: i64, end: i64| {
            view.show(&status(seconds, &[end, 0]), 0, None)["topics"][0]["offsets_per_second"].as_f64()
        };
        assert_eq!(rate(100, 50), None);
        assert_eq!(rate(102, 90), Some(20.0));
        assert_eq!(rate(110, 250), Some(20.0), "since the first look");
        assert_eq!(rate(112, 610), Some(560.0 / 12.0));
        assert_eq!(rate(120, 1250), Some(60.0));
        assert_eq!(rate(122, 1250), Some(1000.0 / 12.0), "since the look at 110");
        assert_eq!(rate(124, 3), None, "it is another topic");
    }

    #[test]
    fn a_topic_is_shown_with_its_largest_partition() {
        let shown = view().show(&status(100, &[10, 70, 20]), 3, None);
        let topic = &shown["topics"][0];
        assert_eq!((&topic["topic"], &topic["partitions"]), (&json!("shop.public.t"), &json!(3)));
        assert_eq!((&topic["largest_partition"], &topic["largest_share"]), (&json!(1), &json!(0.7)));
        assert_eq!((&topic["end_offsets"], &topic["unread"]), (&json!(100), &Value::Null));
        assert_eq!(shown["dead_letters"], json!({ "topic": "dead", "messages": 3 }));
        let unknown = view().show(&status(100, &[]), 0, None);
        let topic = &unknown["topics"][0];
        assert_eq!((&topic["partitions"], &topic["largest_share"]), (&json!(0), &Value::Null));
        let mut two = status(100, &[5]);
        let mut fuller = two.tables[&TableName::new("public", "t")].clone();
        fuller.lag_messages = Some(9);
        two.tables.insert(TableName::new("public", "z"), fuller);
        let first = view().show(&two, 0, Some(1));
        assert_eq!((&first["topics"][0]["table"], &first["read"]), (&json!("public.z"), &json!(2)));
        assert_eq!(first["topics"].as_array().unwrap().len(), 1);
        assert_eq!(
            TopicView::new(None, None).show(&status(100, &[5]), 0, None)["topics"],
            json!([]),
            "there is no Kafka"
        );
    }
}
