//! The ports: what a source, an event log, a lake table and a progress store promise each other.
//!
//! Each has a production and a simulated implementation. None has default methods.

mod error;
mod ports;
mod progress;

pub use error::{Class, Error, Result};
pub use ports::{Clock, Committed, EventReader, EventWriter, Lake, LakeTable, SchemaRegistry, Source, Staged};
pub use progress::{ProgressRecord, ProgressStore, TablePhase, TableProgress};
