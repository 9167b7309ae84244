//! What keeps a table fast to read.

pub mod blanking;
pub mod checkpoint;
pub mod choice;
pub mod compaction;
pub mod gathering;
pub mod holding;
pub mod holds;
pub mod leftovers;
pub mod log_cleanup;
pub mod optimize;
pub mod past;
mod past_entry;
pub mod reconcile;
pub mod refill;
pub mod rewrite;
pub mod schedule;
pub mod sorting;
pub mod upkeep;
pub mod vacuum;
