//! The ports: what a source, an event log, a lake table and a progress store promise each other; and the words that all
//! of them share: positions, table states, batches, errors.
//!
//! Each port has a production and a simulated implementation. None has default methods.

mod code;
mod error;
mod memory;
mod ports;
mod positions;
mod progress;
mod table_state;

pub use code::Code;
pub use error::{Class, Error, Result};
pub use memory::{MemoryBudget, Reservation};
pub use ports::{Clock, Committed, EventReader, EventWriter, Lake, LakeTable, SchemaRegistry, Source, Staged};
pub use positions::{NextOffsets, Positions};
pub use progress::{ProgressRecord, ProgressStore, TablePhase, TableProgress};
pub use table_state::{TableEffect, TableFact, TableState};
