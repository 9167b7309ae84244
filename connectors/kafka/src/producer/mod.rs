//! The source's side: batches of events become Kafka transactions, each with a progress record.

pub mod opening;
pub mod pacing;
pub mod partition_ends;
pub mod record_keeper;
pub mod recovery;
pub mod refusals;
pub mod route;
pub mod topic_names;
pub mod transaction_writer;
pub mod writer;
