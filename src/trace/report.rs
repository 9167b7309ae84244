//! What is known of a row at each hop, what is wrong there, and what that means.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sooner_api::{Error, Side};
use sooner_schemas::{Lsn, TableName};

/// A row on its way.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Table.
    pub table: TableName,
    /// The row's key, by column.
    pub key: BTreeMap<String, String>,
    /// What it comes to.
    pub verdict: Verdict,
    /// What is known at each hop.
    #[serde(flatten)]
    pub hops: Hops,
}

/// The hops of a row.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hops {
    /// The source.
    pub postgres: PostgresHop,
    /// The pipeline between source and lake.
    pub stream: StreamHop,
    /// The topic; none without Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaHop>,
    /// The lake.
    pub lake: LakeHop,
}

/// Something that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// A problem with its remedy.
    pub fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { reason: reason.into(), remedy: remedy.into() }
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Problem {
        Problem::new(format!("{}: {}", error.what, error.why), error.remedy.clone())
    }
}

/// Texts of values by column; of NULL there is none.
pub type Values = BTreeMap<String, Option<String>>;

/// The row in Postgres.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PostgresHop {
    /// Why nothing, or not everything, is known of it.
    pub problem: Option<Problem>,
    /// Whether the row is there; none if nobody knows.
    pub exists: Option<bool>,
    /// Whether the publication's row filter lets it through; true without a filter.
    pub is_published: bool,
    /// The transaction that wrote it last.
    pub xmin: Option<u32>,
    /// When that was committed, in microseconds since 1970; only with `track_commit_timestamp`.
    pub committed_micros: Option<i64>,
    /// Where the server's log ended when the row was read.
    pub server_lsn: Option<Lsn>,
    /// Its values, if they are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
}

/// The pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StreamHop {
    /// Why it does not go on with the table.
    pub problem: Option<Problem>,
    /// Whether a process of it runs with this state folder.
    pub is_running: bool,
    /// What the table is doing; none if the pipeline does not know the table.
    pub phase: Option<String>,
    /// Sides that are paused.
    pub paused: BTreeSet<Side>,
    /// Up to where the slot has been confirmed.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// Log that the slot makes Postgres keep, in bytes.
    pub retained_bytes: Option<u64>,
    /// Log that the table in the lake lacks, in bytes.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest event of the table that is not visible yet, in seconds.
    pub lag_seconds: Option<f64>,
    /// The table in the lake is complete up to here.
    pub complete_to_lsn: Option<Lsn>,
}

/// The row's topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KafkaHop {
    /// Why the row waits there, or nothing is known of it.
    pub problem: Option<Problem>,
    /// Topic.
    pub topic: String,
    /// Number of its partitions.
    pub partitions: Option<i32>,
    /// Partition of the key.
    pub partition: Option<i32>,
    /// First offset that the partition still has.
    pub first_offset: Option<i64>,
    /// Its end, for a consumer that reads committed messages.
    pub end_offset: Option<i64>,
    /// The offset from which on all messages were looked at.
    pub looked_back_to_offset: Option<i64>,
    /// Offset of the key's last event; none if none was found.
    pub offset: Option<i64>,
    /// Offset of the tombstone after it, if there is one.
    pub tombstone_offset: Option<i64>,
    /// Debezium's letter for its operation.
    pub op: Option<String>,
    /// Commit LSN of its transaction.
    pub commit_lsn: Option<Lsn>,
    /// Its number in the transaction.
    pub ordinal: Option<u64>,
    /// Its commit time at the source, in microseconds since 1970.
    pub event_micros: Option<i64>,
    /// When its message was written, in microseconds since 1970.
    pub written_micros: Option<i64>,
    /// Offset of a later event of the whole table: a truncate, or the start of a copy.
    pub whole_table_offset: Option<i64>,
    /// The next offset of the partition that the lake has not got.
    pub sink_next_offset: Option<i64>,
}

/// The row in the lake.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LakeHop {
    /// Why nothing, or not everything, is known of it.
    pub problem: Option<Problem>,
    /// The table's version; none if there is no table.
    pub version: Option<u64>,
    /// When it was made, in microseconds since 1970.
    pub version_micros: Option<i64>,
    /// The table is complete up to here, as its log says; a table that nothing happens to is further than that.
    pub watermark_lsn: Option<Lsn>,
    /// Whether the row is there; none if nobody knows.
    pub exists: Option<bool>,
    /// Its file, below the table.
    pub file: Option<String>,
    /// Its position in the file, counted from zero.
    pub row: Option<u32>,
    /// Columns in which it differs from Postgres; none if that was not compared.
    pub differences: Option<Vec<String>>,
    /// The commit that its file came with; of a row that is not there, the one that it went with.
    pub commit: Option<LakeCommit>,
    /// Version back to which the log was read for that.
    pub looked_back_to_version: Option<u64>,
    /// Files of the table.
    pub files: usize,
    /// Files that may hold the row, by their statistics.
    pub files_in_question: usize,
    /// Files of these that were read.
    pub files_read: usize,
    /// Its values, if they are wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
}

/// A commit to the table in the lake.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LakeCommit {
    /// Version that it made.
    pub version: u64,
    /// When, in microseconds since 1970.
    pub at_micros: Option<i64>,
    /// Operation, such as `MERGE`.
    pub operation: Option<String>,
    /// Who made it.
    pub engine: Option<String>,
    /// The table was complete up to here with it, where that is told.
    pub watermark_lsn: Option<Lsn>,
}

/// How the row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The lake has it as Postgres does.
    UpToDate,
    /// A change of it is on its way, or waits.
    Waiting,
    /// The lake has it otherwise, although all changes of it have arrived.
    Differs,
    /// It cannot be told.
    Unknown,
}

/// Where a row waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// At the source.
    Postgres,
    /// In the pipeline.
    Stream,
    /// In the topic.
    Kafka,
    /// In the lake.
    Lake,
}

/// What all hops come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How the row is.
    pub outcome: Outcome,
    /// Where it waits, or what is wrong; none if it is up to date.
    pub hop: Option<Hop>,
    /// One sentence.
    pub sentence: String,
    /// What to do; none if there is nothing to do.
    pub remedy: Option<String>,
}
