//! A row as Postgres sends it, what happened to it, and the value in it that could not be written.

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

/// A change of a row, as Postgres sends it.
#[derive(Clone, Copy, Debug)]
pub enum RowChange<'a> {
    /// A row that a copy read, or that was inserted.
    New(&'a [TupleValue<'a>]),
    /// A row whose key stayed, with the whole row before if the replica identity is full.
    Changed(Option<&'a [TupleValue<'a>]>, &'a [TupleValue<'a>]),
    /// The row that a change of the key made, after the row with the old key.
    Renamed(&'a [TupleValue<'a>], &'a [TupleValue<'a>]),
    /// A row that is gone, of which the whole is known.
    Removed(&'a [TupleValue<'a>]),
    /// A row that is gone, of which only the key is known.
    RemovedKey(&'a [TupleValue<'a>]),
}

impl RowChange<'_> {
    /// Bytes of Postgres' texts in it, which the images hardly exceed.
    pub fn size_bytes(&self) -> usize {
        let row_bytes = |row: &[TupleValue<'_>]| row.iter().map(TupleValue::size_bytes).sum::<usize>();
        match self {
            RowChange::New(row) | RowChange::Changed(None, row) => row_bytes(row),
            RowChange::Changed(Some(old), row) | RowChange::Renamed(old, row) => row_bytes(old) + row_bytes(row),
            RowChange::Removed(old) | RowChange::RemovedKey(old) => row_bytes(old),
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
