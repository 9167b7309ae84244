//! A row as Postgres sends it, and the value in it that could not be written.

use crate::unholdable::Unholdable;

/// One column of a row, as pgoutput or COPY sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TupleValue<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the change did not touch and Postgres therefore left out.
    Unavailable,
    /// Postgres' text for the value.
    Text(&'a [u8]),
}

/// Error: a value cannot be represented under the event's schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column '{column}' holds a value that its target type cannot hold: {reason}")]
pub struct ValueError {
    /// Name of the column.
    pub column: String,
    /// Reason why it cannot be represented.
    pub reason: Unholdable,
}
