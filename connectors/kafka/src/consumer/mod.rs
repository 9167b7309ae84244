//! The sink's side: a member of the consumer group reads partitions, which are merged into commit order.

pub mod assembly;
pub mod assignment;
pub mod dead_letters;
pub mod flow;
pub mod format;
pub mod group;
mod group_config;
pub mod intake;
pub mod lag;
pub mod merge;
pub mod offsets_in_flight;
pub mod ordering;
pub mod reader;
pub mod remainder;
mod standby;
pub mod start_point;
pub mod succession;
pub mod table_start;
pub mod topic;
