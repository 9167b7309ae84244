//! How far a copy is, so that a break costs only what was on its way.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use sooner_schemas::Lsn;

/// How far a copy is at its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    /// Tells it from other copies of the table: the ordinal of the event that began it.
    pub id: u64,
    /// Rows that have been handed on.
    pub rows: u64,
    /// What has not been handed on.
    pub rest: CopyRest,
}

/// The part of a table that a copy has not handed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyRest {
    /// File whose blocks these are: of another one, they hold other rows.
    pub file_node: u32,
    /// Blocks that have not been read.
    pub blocks: Vec<Range<u32>>,
    /// Rows that are only known in part, each as the texts of its key columns, in the key's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Box<[Box<str>]>>,
    /// Which run of the server it was, from crash to crash: rows that were handed on may be lost in one.
    #[serde(default)]
    pub run: String,
    /// What has been handed on is complete, at the earliest, once the stream has got here.
    pub snapshot_lsn: Lsn,
}

/// A copy in the lake that nobody sees before it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LakeCopy {
    /// Tells it from other copies of the table.
    pub id: u64,
    /// Number of the last entry in its log.
    pub version: u64,
}

/// A copy that goes on after a break, as far as whoever stores this takes part in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedCopy {
    /// How far it is at the source; none if that is stored elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<CopyProgress>,
    /// How far it is in the lake; none if that is stored elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lake: Option<LakeCopy>,
    /// Everything of the table before this LSN is part of it: what comes from here on is still needed.
    pub complete_lsn: Lsn,
}
