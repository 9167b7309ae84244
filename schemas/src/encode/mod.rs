//! From a row as Postgres sends it (one text per column) to the Avro bytes of a change event.
//!
//! [`Encoder`] is compiled once per relation and then writes straight into a batch: there is no value tree between.
//! Which value of which column could not be written is told by [`ValueError`]; the event is then taken back whole.

mod encoder;
mod row;
mod value;

pub use encoder::{Encoder, Origin, SchemaIds, Snapshot};
pub use row::{RowPlan, UNEXPECTED_NULL};
pub(crate) use value::write_value;
pub use value::{PLACEHOLDER, UUID_PLACEHOLDER};

/// Why a value has no place in its target type. A phrase that follows "because".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unholdable(pub &'static str);

/// One column of a row, as pgoutput and COPY tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TupleValue<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the change did not touch and Postgres therefore left out.
    Unavailable,
    /// Postgres' text for the value.
    Text(&'a [u8]),
}

/// A value that the event's schema cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column '{column}' holds a value that its target type cannot hold: {reason}")]
pub struct ValueError {
    /// Name of the column.
    pub column: String,
    /// Why.
    pub reason: Unholdable,
}
