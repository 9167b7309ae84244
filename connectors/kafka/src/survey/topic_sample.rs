//! A topic, measured: how much was written to each partition lately, and by which keys. What was written when follows
//! from the brokers' index of times; sizes and keys from the last messages of each partition, of which a bounded number
//! is read.

use std::ops::{ControlFlow, Range};
use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use sooner_api::Result;

use super::key_counters::{Counters, FindSchema, KeyCounters, RuleShares};
use crate::cluster::range_reader::{Isolation, RangeReader};
use crate::cluster::settings::{KafkaSettings, PartitionBy};
use crate::message::headers::FoundHeaders;

/// Parts of the time that is looked at, of which the busiest counts as the peak.
const SLICES: u32 = 12;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleLimits {
    /// What was written in this time until now.
    pub window: Duration,
    /// Of each partition, so many of its last offsets are read at most.
    pub messages: usize,
    /// Of each partition, so many bytes are read at most.
    pub bytes: u64,
}

/// What was measured of a partition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PartitionSample {
    /// The first offset that is still there.
    pub begin_offset: i64,
    /// The offset after the last message of a transaction that has ended.
    pub end_offset: i64,
    /// Offsets that were written in each part of the time that was looked at, the oldest first. The ends of
    /// transactions take offsets, too.
    pub written: Vec<i64>,
    /// Offsets that were read.
    pub offsets_read: i64,
    /// Messages that were read.
    pub messages_read: u64,
    /// Bytes of their keys and values.
    pub bytes_read: u64,
    /// How many of them are rows of a copy, or the start of one.
    pub copied_read: u64,
}

impl PartitionSample {
    /// How many messages so many offsets are, as those are that were read.
    fn messages_of(&self, offsets: i64) -> f64 {
        offsets as f64 * self.messages_read as f64 / self.offsets_read.max(1) as f64
    }

    /// Messages that were written in the time that was looked at; exact if all of them were read.
    pub fn messages(&self) -> f64 {
        self.messages_of(self.written.iter().sum())
    }

    /// Bytes of those messages.
    pub fn bytes(&self) -> f64 {
        self.messages() * self.bytes_read as f64 / self.messages_read.max(1) as f64
    }

    /// How many messages of that time each one that was read stands for.
    fn weight(&self) -> f64 {
        self.messages() / self.messages_read.max(1) as f64
    }
}

/// What was measured of a topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicSample {
    /// The time that was looked at.
    pub window: Duration,
    /// Its partitions.
    pub partitions: Vec<PartitionSample>,
    /// Shares of its keys by each rule of partitioning, the one in force first; empty if no key was read.
    pub rules: Vec<RuleShares>,
}

impl TopicSample {
    /// Messages that were written in that time.
    pub fn messages(&self) -> f64 {
        self.partitions.iter().map(PartitionSample::messages).sum()
    }

    /// Messages that were read.
    pub fn messages_read(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.messages_read).sum()
    }

    /// Bytes of the messages that were written in that time.
    pub fn bytes(&self) -> f64 {
        self.partitions.iter().map(PartitionSample::bytes).sum()
    }

    /// Messages per second over all of that time.
    pub fn messages_per_second(&self) -> f64 {
        self.messages() / self.window.as_secs_f64()
    }

    /// Messages per second in the busiest part of that time.
    pub fn peak_messages_per_second(&self) -> f64 {
        let slice = self.window.as_secs_f64() / f64::from(SLICES);
        let written = |number: usize| {
            let messages = |partition: &PartitionSample| {
                partition.written.get(number).map_or(0.0, |offsets| partition.messages_of(*offsets))
            };
            self.partitions.iter().map(messages).sum::<f64>()
        };
        (0..SLICES as usize).map(written).fold(0.0, f64::max) / slice
    }

    /// Share of what was read that are rows of a copy, from 0 to 1.
    pub fn copied_share(&self) -> f64 {
        let copied = self.partitions.iter().map(|partition| partition.copied_read as f64 * partition.weight());
        copied.sum::<f64>() / self.messages().max(f64::MIN_POSITIVE)
    }

    /// The partition that most was written to, with its share of the messages, from 0 to 1; none if nothing was.
    pub fn largest_partition(&self) -> Option<(i32, f64)> {
        let all = self.messages();
        let of = |(number, partition): (usize, &PartitionSample)| (number as i32, partition.messages() / all);
        let shares = self.partitions.iter().enumerate().map(of).filter(|_| all > 0.0);
        shares.max_by(|one, other| one.1.total_cmp(&other.1).then_with(|| other.0.cmp(&one.0)))
    }
}

/// Measures topics, one after the other. Joins no group.
pub struct Survey {
    reader: RangeReader,
    by: PartitionBy,
    limits: SampleLimits,
}

impl Survey {
    /// Sets up a reader of committed messages; nothing is read yet.
    pub fn open(settings: &KafkaSettings, limits: SampleLimits) -> Result<Survey> {
        let reader = RangeReader::open(settings, Isolation::Committed)?;
        Ok(Survey { reader, by: settings.producer.partition_by.clone(), limits })
    }

    /// Measures a topic of so many partitions, until this moment in milliseconds since 1970. May take seconds: call it
    /// where blocking is allowed.
    pub fn topic(
        &self,
        topic: &str,
        partitions: i32,
        now_millis: i64,
        find: &mut FindSchema<'_>,
    ) -> Result<TopicSample> {
        let window = self.limits.window;
        let since = self.offsets_since(topic, partitions, now_millis)?;
        let mut keys = KeyCounters::new(&self.by);
        let mut samples = Vec::new();
        for partition in 0..partitions {
            let (begin, end) = self.reader.bounds(topic, partition)?;
            let since: Vec<_> = since.iter().map(|offsets| offsets[partition as usize]).collect();
            let mut sample = PartitionSample { begin_offset: begin, end_offset: end, ..PartitionSample::default() };
            sample.written = written(&since, begin, end);
            let first = end - sample.written.iter().sum::<i64>().min(self.limits.messages as i64);
            let mut counters = Counters::new();
            self.read(topic, partition, first..end, &mut sample, |key| keys.add(&mut counters, key, find))?;
            keys.take(counters, sample.weight());
            samples.push(sample);
        }
        Ok(TopicSample { window, partitions: samples, rules: keys.shares() })
    }

    /// For the beginning of each part of the time, the offset that it has in each partition; none where nothing was
    /// written since.
    fn offsets_since(&self, topic: &str, partitions: i32, now_millis: i64) -> Result<Vec<Vec<Option<i64>>>> {
        let slice = (self.limits.window.as_millis() as i64 / i64::from(SLICES)).max(1);
        let starts = (1..=i64::from(SLICES)).rev().map(|slices| now_millis - slices * slice);
        starts.map(|start| self.reader.offsets_since(topic, partitions, start)).collect()
    }

    fn read(
        &self,
        topic: &str,
        partition: i32,
        offsets: Range<i64>,
        sample: &mut PartitionSample,
        mut take_key: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (start, end) = (offsets.start, offsets.end);
        let mut is_full = None;
        self.reader.read(topic, partition, offsets, |message: &BorrowedMessage<'_>| {
            sample.messages_read += 1;
            sample.bytes_read += (message.key_len() + message.payload_len()) as u64;
            let position = FoundHeaders::read(message.headers()).position;
            sample.copied_read += u64::from(position.is_some_and(|position| position.is_copied()));
            if let Some(key) = message.key().filter(|key| !key.is_empty()) {
                take_key(key)?;
            }
            if sample.bytes_read >= self.limits.bytes {
                is_full = Some(message.offset() + 1);
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        sample.offsets_read = is_full.unwrap_or(end) - start;
        Ok(())
    }
}

/// Offsets that were written in each part of the time, where each part begins at the offset that is known of it.
fn written(since: &[Option<i64>], begin: i64, end: i64) -> Vec<i64> {
    let mut starts: Vec<_> = since.iter().map(|offset| offset.unwrap_or(end).clamp(begin, end.max(begin))).collect();
    starts.push(end.max(begin));
    // Producers' clocks may differ, so that a later time has an earlier offset.
    for number in (0..starts.len() - 1).rev() {
        starts[number] = starts[number].min(starts[number + 1]);
    }
    starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_when_follows_from_the_offsets_of_times() {
        assert_eq!(written(&[Some(3), Some(10), None], 5, 30), [5, 20, 0]);
        assert_eq!(written(&[Some(10), Some(7), None], 5, 30), [0, 23, 0], "a clock went back");
        assert_eq!(written(&[None, None], 0, 0), [0, 0]);
    }

    #[test]
    fn what_was_read_stands_for_what_was_written() {
        let busy = PartitionSample {
            written: [vec![0; 10], vec![60, 120]].concat(),
            offsets_read: 20,
            messages_read: 10,
            bytes_read: 1_000,
            copied_read: 5,
            ..PartitionSample::default()
        };
        let idle = PartitionSample { written: vec![0; 12], ..PartitionSample::default() };
        let window = Duration::from_secs(120);
        let sample = TopicSample { window, partitions: vec![idle.clone(), busy], rules: Vec::new() };
        assert_eq!((sample.messages(), sample.bytes()), (90.0, 9_000.0), "every other offset is a message");
        assert_eq!((sample.messages_per_second(), sample.peak_messages_per_second()), (0.75, 6.0));
        assert_eq!(sample.copied_share(), 0.5);
        assert_eq!(sample.largest_partition(), Some((1, 1.0)));
        assert_eq!(TopicSample { window, partitions: vec![idle], rules: Vec::new() }.largest_partition(), None);
    }
}
