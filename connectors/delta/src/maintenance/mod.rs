//! What keeps a table fast to read.

pub mod checkpoint;
pub mod leftovers;
