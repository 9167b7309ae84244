//! Encodes a row as Postgres sends it (one text per column) as the Avro bytes of a change event.
//!
//! [`Encoder`] is compiled once per relation and then writes straight into a batch, without an intermediate tree of
//! values. A value that cannot be written is reported as [`ValueError`] with its column; nothing of its event
//! remains in the batch.

mod encoder;
mod row;
mod value;

pub use encoder::{Encoder, Origin, SchemaIds, Snapshot};
pub use row::{RowPlan, UNEXPECTED_NULL};
pub(crate) use value::write_value;
pub use value::{PLACEHOLDER, UUID_PLACEHOLDER};

/// Reason why a value cannot be represented in its target type: a phrase that follows "because".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unholdable(pub &'static str);

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
