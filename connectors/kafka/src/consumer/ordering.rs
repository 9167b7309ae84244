//! How far topics are read at a time: up to what a progress record covers, where their writer keeps records; or as
//! messages arrive.

use std::collections::{HashMap, HashSet};

use sooner_api::Result;
use sooner_schemas::TableName;
use sooner_schemas::event::Watermark;

use crate::progress::copies::Copies;
use crate::progress::follower::ProgressFollower;
use crate::progress::record::TopicProgress;

/// How topics are put in order.
pub enum Ordering {
    /// A source of ours writes them, and says in a progress topic how far it is: partitions are read up to each record,
    /// in commit order.
    ByRecord(Box<RecordOrder>),
    /// Another producer of Debezium's events writes them: each partition is read as it comes.
    ByArrival,
}

/// Where the records are.
pub struct RecordOrder {
    follower: ProgressFollower,
    /// The record that is being read up to.
    target: Option<TopicProgress>,
    /// The one before it, in case that its events have to be read again.
    reached: Option<TopicProgress>,
    copies: Copies,
    last_watermark: Option<Watermark>,
}

/// What a record that was reached means.
pub struct Reached {
    /// The record.
    pub record: TopicProgress,
    /// Tables whose copy it completes, each with what it is complete to.
    pub ended_copies: Vec<(TableName, Watermark)>,
    /// The stream's watermark, if it moves on.
    pub watermark: Option<Watermark>,
}

impl Ordering {
    /// By the records that a follower reads.
    pub fn by_record(follower: ProgressFollower) -> Ordering {
        Ordering::ByRecord(Box::new(RecordOrder {
            follower,
            target: None,
            reached: None,
            copies: Copies::default(),
            last_watermark: None,
        }))
    }

    /// Whether a record tells how far to read.
    pub fn has_records(&self) -> bool {
        matches!(self, Ordering::ByRecord(_))
    }

    /// Whether the next record has to come before anything is read.
    pub fn waits_for_record(&self) -> bool {
        matches!(self, Ordering::ByRecord(order) if order.target.is_none())
    }

    /// The next record; never, where there are none. Cancelling loses nothing.
    pub async fn next_record(&mut self) -> Result<TopicProgress> {
        match self {
            Ordering::ByRecord(order) => order.follower.next().await,
            Ordering::ByArrival => std::future::pending().await,
        }
    }

    /// Reads up to a record from now on.
    pub fn set_target(&mut self, record: TopicProgress) {
        if let Ordering::ByRecord(order) = self {
            order.target = Some(record);
        }
    }

    /// Up to which offsets a topic is to be read; none without a bound.
    pub fn targets(&self, topic: &str, generation: i64) -> Option<&[i64]> {
        match self {
            Ordering::ByRecord(order) => order.target.as_ref().map(|target| target.offsets_of(topic, generation)),
            Ordering::ByArrival => None,
        }
    }

    /// Gives the target up: something that it covers cannot be seen, and comes with a later record.
    pub fn give_up_target(&mut self) {
        if let Ordering::ByRecord(order) = self {
            order.target = None;
        }
    }

    /// Everything up to the target has been read; of tables that `is_beyond` names, more than that.
    pub fn reach(&mut self, is_beyond: impl Fn(&TopicProgress, &TableName) -> bool) -> Option<Reached> {
        let Ordering::ByRecord(order) = self else { return None };
        let record = order.target.take()?;
        Some(order.reach(record, is_beyond))
    }

    /// Starts over: what was read up to the last record is read again, as far as tables have not got it.
    pub fn start_over(&mut self) {
        if let Ordering::ByRecord(order) = self {
            order.target = order.target.take().or(order.reached.take());
            order.copies = Copies::default();
            order.last_watermark = None;
        }
    }

    /// The tables of topics that records have named since the start.
    pub fn tables(&self) -> HashMap<String, TableName> {
        let Ordering::ByRecord(order) = self else { return HashMap::new() };
        order.target.iter().chain(&order.reached).flat_map(TopicProgress::tables_by_topic).collect()
    }
}

impl RecordOrder {
    fn reach(&mut self, record: TopicProgress, is_beyond: impl Fn(&TopicProgress, &TableName) -> bool) -> Reached {
        let origin = |record: &TopicProgress| (record.record.system_id.clone(), record.record.timeline);
        if self.reached.as_ref().is_some_and(|former| origin(former) != origin(&record)) {
            // Another server counts from another start.
            self.last_watermark = None;
        }
        // Of a transaction that is split, some of its events may be here.
        let ended_copies = match record.split {
            None => self.copies.newly_ended(&record, |table| is_beyond(&record, table)),
            Some(_) => Vec::new(),
        };
        let former = self.last_watermark.map(|watermark| watermark.commit_lsn).unwrap_or_default();
        let watermark = record.watermark().filter(|watermark| watermark.commit_lsn >= former);
        self.last_watermark = watermark.or(self.last_watermark);
        self.reached = Some(record.clone());
        Reached { record, ended_copies, watermark }
    }
}

/// Topics that a record names and nobody has subscribed to yet.
pub fn new_topics<'a>(record: &'a TopicProgress, subscribed: &HashSet<String>) -> Vec<&'a str> {
    let topics = record.topics.values().map(|offsets| offsets.topic.as_str());
    topics.filter(|topic| !subscribed.contains(*topic)).collect()
}
