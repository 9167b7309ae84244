//! The source's side: batches of events become Kafka transactions, each with a progress record.

mod beginning;
pub mod opening;
pub mod pacing;
pub mod partition_ends;
pub mod present_names;
pub mod record_keeper;
pub mod recovery;
pub mod refusals;
pub mod repartition;
pub mod repartition_rules;
pub mod replay;
pub mod route;
pub mod successor;
pub mod topic_names;
pub mod transaction_writer;
pub mod writer;
