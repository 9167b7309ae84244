//! Encodes a row as Postgres sends it (one text per column) as the Avro bytes of a change event.
//!
//! [`Encoder`] is compiled once per relation and then writes straight into a batch, without an intermediate tree of
//! values. Images of rows are written before their transaction is known to be committed; the envelope is finished
//! after. A value that cannot be written is reported as [`ValueError`] with its column; nothing of its event remains in
//! the batch.

mod encoder;
mod images;
mod masking;
mod row;
mod tuple;

pub use encoder::{Encoder, Origin, Snapshot};
pub use images::{ImageWriter, Images, SchemaIds};
pub use masking::{Masking, UnknownKey};
pub use row::{RowPlan, UNEXPECTED_NULL};
pub use tuple::{RowChange, TupleValue, ValueError};
