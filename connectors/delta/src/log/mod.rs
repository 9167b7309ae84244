//! The table's log: its versions, what a commit changes, and how one is made.

pub mod actions;
pub mod commit;
pub mod committer;
pub mod deletion_vector;
pub mod live_files;
pub mod position_names;
pub mod replay;
pub mod table_version;
pub mod transaction;
