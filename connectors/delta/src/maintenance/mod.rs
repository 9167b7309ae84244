//! What keeps a table fast to read.

pub mod checkpoint;
pub mod choice;
pub mod compaction;
pub mod leftovers;
pub mod rewrite;
