//! What happens, as typed facts. Status, metrics, pages and logs are readers of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sooner_schemas::event::{Op, Watermark};
use sooner_schemas::{Lsn, Relation, TableName};

use crate::{Committed, Error, TableChange, TableSize, TableState};

/// Receives facts, from several tasks at once. Never waits and never fails.
pub trait Telemetry: Clone + Send + Sync + 'static {
    /// Takes a fact.
    fn record(&self, fact: Fact<'_>);
}

/// Which half of the pipeline speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// From the database to the event log.
    Source,
    /// From the event log to the lake.
    Sink,
}

/// How much of its log a slot makes the server keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStanding {
    /// Log that is kept for the slot, in bytes.
    pub retained_bytes: u64,
    /// Log in bytes that was not confirmed. A transaction that is open for long has more of it kept.
    pub unconfirmed_bytes: u64,
    /// Log in bytes that may be written before the slot is lost (`safe_wal_size`); none if the server sets no limit.
    pub safe_bytes: Option<i64>,
    /// Availability of the slot's log: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Bytes of large transactions that the server has written to its disk while it decoded them for the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spilled_bytes: Option<u64>,
    /// How far the server's clock is ahead of this machine's, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ahead_micros: Option<i64>,
    /// Standbys that the server waits for before it sends anything (`synchronized_standby_slots`), and that are not
    /// connected.
    #[serde(default)]
    pub standbys_missing: u32,
}

/// The topics of a table whose events move, or have moved, from one to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicStanding {
    /// Topic that its events go to.
    pub topic: String,
    /// Number of partitions of that.
    pub partitions: usize,
    /// Topics that its events were on before, the oldest first. They are kept as their retention says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archived: Vec<String>,
    /// Topic that is to take the present one's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<SuccessorStanding>,
}

/// A topic that is being filled to take another one's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessorStanding {
    /// Topic.
    pub topic: String,
    /// Number of its partitions.
    pub partitions: usize,
    /// Messages of the present topic that are not in it yet, about.
    pub messages_left: i64,
}

/// A table that takes part.
#[derive(Clone, Copy, Debug)]
pub struct TakesPart<'a> {
    /// Table.
    pub table: &'a TableName,
    /// Its state.
    pub state: &'a TableState,
    /// Rows, as the planner estimates; none if it was never analysed.
    pub estimated_rows: Option<u64>,
    /// Names of its columns that Postgres does not send.
    pub unsent: &'a [String],
}

/// Something that happened.
#[derive(Debug)]
pub enum Fact<'a> {
    /// These tables take part, and no others.
    Tables(Vec<TakesPart<'a>>),
    /// What a table is at its source, as its rows are written from now on.
    Shape(&'a TableName, &'a Arc<Relation>),
    /// A table's state, as one side has it.
    State(Side, &'a TableName, &'a TableState),
    /// So many rows of a table were read by its copy, and so many bytes of events made of them.
    RowsCopied(&'a TableName, u64, u64),
    /// A copy of the table begins, or goes on after a break: its rows are counted from this number.
    CopyBegun(&'a TableName, u64),
    /// A table changed at its source.
    Changed(&'a TableChange),
    /// Events of a table became visible.
    Committed {
        /// Table.
        table: &'a TableName,
        /// What the commit did.
        committed: &'a Committed,
        /// Events that it carried.
        events: u64,
        /// How long it took.
        took: Duration,
        /// Commit time at the source of the last of them, in microseconds since 1970; none of copied rows.
        commit_micros: Option<i64>,
    },
    /// So many events of a table were read from the source, by their operation.
    Read(&'a TableName, Op, u64),
    /// Brokers made a side's client wait so long, because it exceeds a quota of theirs; zero if they do not.
    Throttled(Side, Duration),
    /// A Kafka transaction was committed, and took so long from its first message on.
    Sent(Duration),
    /// So many more messages have gone to the dead letters.
    DeadLetters(u64),
    /// Memory of events that wait.
    Memory {
        /// Bytes that are taken.
        taken_bytes: usize,
        /// Bytes that may be taken.
        limit_bytes: usize,
        /// Whether somebody waits for room: what is read waits for what is written.
        is_pressed: bool,
    },
    /// What a table in the lake consists of.
    Size(&'a TableName, TableSize),
    /// How far the sink is, at this time in microseconds since 1970.
    Coverage {
        /// The wall clock.
        now_micros: i64,
        /// Whole transactions have been read up to here. Tables that are not behind are complete to it.
        read: Watermark,
        /// Tables of which something is not visible yet, each with what it is complete to.
        behind: Vec<(&'a TableName, Watermark)>,
        /// Tables that do not follow the stream: the watermark says nothing of them.
        apart: Vec<&'a TableName>,
    },
    /// The server's log ends here.
    ServerEnd(Lsn),
    /// The slot's standing, as it was looked up.
    Slot(&'a SlotStanding),
    /// Whole transactions have been read up to here.
    Received(Lsn),
    /// Everything up to here is in the lake.
    Durable(Lsn),
    /// The slot may be confirmed up to here.
    Confirmed(Lsn),
    /// What is unread of a table's topic.
    Unread {
        /// Table.
        table: &'a TableName,
        /// Messages that have not been read, in the partitions that are read here.
        messages: u64,
        /// Time of what is being read at the moment, in microseconds since 1970; none where all has been read.
        reading_micros: Option<i64>,
        /// Where those partitions stand.
        partitions: BTreeMap<i32, PartitionOffsets>,
    },
    /// Where a table's events are, as they move, or have moved, from one topic to another.
    Topic(&'a TableName, TopicStanding),
    /// The pipeline does not move at the moment; it is tried again.
    Interrupted(&'a Error),
    /// It moves again.
    Running,
    /// Whether the sink has joined its consumer group and was given no partitions: others read them all.
    Standby(bool),
    /// A side rests, because somebody asked for it, or goes on.
    Paused(Side, bool),
}

/// Where one partition stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionOffsets {
    /// The offset after the last message that was read.
    pub next_offset: i64,
    /// The last stable offset: the one after the last message of a transaction that has ended. None before brokers
    /// reported it.
    pub end_offset: Option<i64>,
}

impl PartitionOffsets {
    /// Messages that have not been read. The end of a transaction takes an offset too, after its last message; the last
    /// of these is left out, so that nothing is left where all has been read.
    pub fn unread(&self, in_transactions: bool) -> u64 {
        let offsets = self.end_offset.map_or(0, |end| (end - self.next_offset).max(0));
        u64::try_from(if in_transactions { offsets - 1 } else { offsets }).unwrap_or(0)
    }
}

/// Takes no facts.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTelemetry;

impl Telemetry for NoTelemetry {
    fn record(&self, _fact: Fact<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_last_transaction_is_no_message() {
        let at = |next_offset, end_offset| PartitionOffsets { next_offset, end_offset };
        assert_eq!(at(10, None).unread(true), 0);
        assert_eq!(at(10, Some(10)).unread(true), 0);
        assert_eq!(at(10, Some(11)).unread(true), 0);
        assert_eq!(at(10, Some(15)).unread(true), 4);
        assert_eq!(at(10, Some(15)).unread(false), 5);
    }
}
