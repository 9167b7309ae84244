//! The table's log: its versions, what a commit changes, and how one is made.

pub mod actions;
pub mod checkpoint_file;
pub mod checkpoint_rows;
pub mod commit;
pub mod committer;
pub mod declaration;
pub mod deletion_vector;
pub mod file_rows;
pub mod horizon;
pub mod kind;
pub mod last_checkpoint;
pub mod live_files;
pub mod other_writers;
pub mod position_names;
pub mod provenance;
pub mod replay;
pub mod retention;
pub mod shape;
pub mod span;
pub mod table_version;
pub mod transaction;
