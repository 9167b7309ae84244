//! What is asked of a row in the lake, and what is answered.

use std::sync::Arc;
use std::time::Instant;

use sooner_api::Positions;
use sooner_schemas::Lsn;
use sooner_schemas::event::EventSchema;

/// A row that is looked for.
#[derive(Clone, Debug)]
pub struct RowQuestion {
    /// Schemas of key and value.
    pub schema: Arc<EventSchema>,
    /// Key message.
    pub key: Vec<u8>,
    /// Value message with the row as it is at its source; none if it is not there.
    pub row: Option<Vec<u8>>,
    /// Whether the row's values are wanted.
    pub with_values: bool,
    /// When the search gives up.
    pub deadline: Instant,
}

/// A table, and a row of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowTrace {
    /// Version of the table; none if there is no table.
    pub version: Option<u64>,
    /// LSN up to which its log says that it is complete.
    pub watermark: Option<Lsn>,
    /// What of its feed its log says that it has.
    pub positions: Option<Positions>,
    /// Who made the version, and when.
    pub last_commit: Option<CommitFacts>,
    /// How the search for the row went.
    pub search: SearchExtent,
    /// The row, if it was found.
    pub row: Option<LakeRow>,
    /// The commit that the row's file came with, or that the row went with; none if it was not found.
    pub commit: Option<CommitFacts>,
    /// Version back to which the log was read for that; none if it was not read.
    pub looked_back_to: Option<u64>,
}

/// How many files of a table were searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchExtent {
    /// Files of the version.
    pub files: usize,
    /// Files that could hold the row, by their statistics.
    pub candidates: usize,
    /// Files of these that were read.
    pub read: usize,
}

impl SearchExtent {
    /// Whether a row that was not found is not there.
    pub fn is_whole(&self) -> bool {
        self.read >= self.candidates
    }
}

/// A row in the lake.
#[derive(Clone, Debug, PartialEq)]
pub struct LakeRow {
    /// Path of its file below the table, as the log has it.
    pub file: String,
    /// Its position in the file, counted from zero.
    pub number: u32,
    /// Columns in which it is not what it is at its source; none if that was not compared.
    pub differences: Option<Vec<String>>,
    /// Names and values of its columns, if they are wanted; of a value that is NULL there is no text.
    pub values: Vec<(String, Option<String>)>,
}

/// What an entry of the log says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitFacts {
    /// Version that it made.
    pub version: u64,
    /// When it was made, in milliseconds since 1970.
    pub at_millis: Option<i64>,
    /// Operation, such as `MERGE`.
    pub operation: Option<String>,
    /// Who made it, such as `sooner/0.1.0`.
    pub engine: Option<String>,
    /// LSN up to which the table was complete with it, where it says so.
    pub watermark: Option<Lsn>,
}
