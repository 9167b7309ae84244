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

impl TupleValue<'_> {
    /// Bytes of the value's text; 0 if there is none.
    pub fn size_bytes(&self) -> usize {
        match self {
            TupleValue::Null | TupleValue::Unavailable => 0,
            TupleValue::Text(text) => text.len(),
        }
    }
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
