//! Changes of tables at their source, as they are told to people.

use sooner_schemas::{Lsn, TableName};

/// What was noticed of a table at its source: its columns, its key, or rows that changed without an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableChange {
    /// Table.
    pub table: TableName,
    /// How far the stream had been read; none before it was started.
    pub lsn: Option<Lsn>,
    /// What changed: "column 'a' was added".
    pub what: String,
    /// What is done about it.
    pub outcome: Outcome,
}

/// What a change of a table comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rows that are there stay right.
    Metadata,
    /// All rows are copied again.
    Copied,
    /// A person is needed.
    Waits,
}
