//! What advice on a topic follows from, and what it says.

use std::time::Duration;

use serde::Serialize;
use sooner_kafka::cluster::settings::PartitionBy;
use sooner_kafka::survey::frequent_keys::KeyShare;
use sooner_kafka::survey::key_counters::RuleShares;
use sooner_kafka::survey::topic_sample::TopicSample;

/// So many of the most frequent keys are told.
const KEYS_TOLD: usize = 5;

/// What was measured of a table's topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Partitions that the topic has.
    pub partitions: i32,
    /// The time that was looked at, in seconds.
    pub window_seconds: f64,
    /// Messages that were written in that time; exact if all of them were read.
    pub messages: u64,
    /// Messages that were read, for their keys and sizes.
    pub messages_read: u64,
    /// Messages per second over all of that time.
    pub messages_per_second: f64,
    /// Messages per second in the busiest twelfth of it.
    pub peak_messages_per_second: f64,
    /// Bytes of keys and values per second over all of that time.
    pub bytes_per_second: f64,
    /// Share of the messages that are rows of a copy, from 0 to 1.
    pub copied_share: f64,
    /// The partition that most was written to; none if nothing was.
    pub largest_partition: Option<LargestPartition>,
    /// Offsets that the consumer group has not committed; none where it has committed nothing, or may not be asked.
    pub unread_offsets: Option<u64>,
    /// Columns of the key by which events are partitioned; none for the whole key.
    pub partition_by: Option<Vec<String>>,
    /// The most frequent keys by that rule.
    pub heaviest_keys: Vec<HeavyKey>,
    /// Shares of keys by each rule that was looked at, the one in force first.
    #[serde(skip)]
    pub rules: Vec<RuleShares>,
}

/// A partition, and its share of the messages, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LargestPartition {
    /// The partition.
    pub partition: i32,
    /// Its share.
    pub share: f64,
}

/// A key, and its share of the messages that have a key, from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeavyKey {
    /// The key, or those columns of it that count: `tenant=7`.
    pub key: String,
    /// Its share.
    pub share: f64,
}

impl Figures {
    /// The figures of a sample of a topic whose events are partitioned like this.
    pub fn of(sample: TopicSample, by: &PartitionBy, unread_offsets: Option<u64>) -> Figures {
        let keys = sample.rules.first().map(|rule| rule.shares.keys.as_slice()).unwrap_or_default();
        let told = |key: &KeyShare| HeavyKey { key: key.text.clone(), share: key.share };
        Figures {
            partitions: sample.partitions.len() as i32,
            window_seconds: sample.window.as_secs_f64(),
            messages: sample.messages().round() as u64,
            messages_read: sample.messages_read(),
            messages_per_second: sample.messages_per_second(),
            peak_messages_per_second: sample.peak_messages_per_second(),
            bytes_per_second: sample.bytes() / sample.window.as_secs_f64(),
            copied_share: sample.copied_share(),
            largest_partition: sample
                .largest_partition()
                .map(|(partition, share)| LargestPartition { partition, share }),
            unread_offsets,
            partition_by: match by {
                PartitionBy::Key => None,
                PartitionBy::Columns(columns) => Some(columns.clone()),
            },
            heaviest_keys: keys.iter().take(KEYS_TOLD).map(told).collect(),
            rules: sample.rules,
        }
    }

    /// The time that was looked at, as a person reads it: `1h`.
    pub fn window(&self) -> String {
        humantime::format_duration(Duration::from_secs(self.window_seconds as u64)).to_string()
    }

    /// Bytes per second in the busiest part of the time.
    pub fn peak_bytes_per_second(&self) -> f64 {
        let mean = self.messages_per_second.max(f64::MIN_POSITIVE);
        self.bytes_per_second * self.peak_messages_per_second / mean
    }
}

/// What is around a topic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Surroundings {
    /// Members of the consumer group; 1 at least.
    pub members: usize,
    /// Messages per second that one of them reads.
    pub consumer_rate: f64,
    /// The topic's share of all messages of the pipeline at their peaks, from 0 to 1.
    pub load_share: f64,
    /// Partitions that the cluster may still get.
    pub spare_partitions: i32,
}

/// What a finding says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The topic has as many partitions as it needs.
    Keep,
    /// The topic needs more partitions.
    AddPartitions,
    /// The topic needs more partitions than the brokers should get.
    Limit,
    /// Other columns of the key part the messages more evenly.
    PartitionBy,
    /// One key has too much, and no columns part it: only another table, with a topic of its own, does.
    SplitTable,
    /// Partitions are uneven, though no key has too much.
    Uneven,
    /// What was measured does not suffice.
    Measure,
}

/// One thing that was found of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it says.
    pub verdict: Verdict,
    /// Why, with the figures.
    pub reason: String,
    /// What to do; none where there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding with its reason, and what to do if there is something to do.
    pub fn new(verdict: Verdict, reason: String, remedy: Option<String>) -> Finding {
        Finding { verdict, reason, remedy }
    }
}

/// Partitions that each rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Needed {
    /// So many consumers read the peak's messages, with headroom.
    pub by_rate: i32,
    /// So many partitions take the peak's bytes, with headroom.
    pub by_size: i32,
    /// So many members of the group share the topic.
    pub by_consumers: i32,
}

/// Advice on a topic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Advice {
    /// Partitions that the topic should have; never fewer than it has.
    #[serde(rename = "advised_partitions")]
    pub partitions: i32,
    /// Partitions that each rule asks for; none if nothing was measured.
    pub needed: Option<Needed>,
    /// What was found.
    #[serde(rename = "advice")]
    pub findings: Vec<Finding>,
}

/// A share as a person reads it: `80.1 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
