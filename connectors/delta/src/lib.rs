//! Delta Lake as a sink. Enters: batches of events; leaves: new versions of tables.
//!
//! In reading order: [`lake`] opens tables in a [`store`], [`table`] is one of them, `intake` takes events, `pending`
//! collapses them, `seal` turns them into rows, `commit` makes them visible. [`columns`] maps types, [`key`] and [`index`] find rows,
//! [`deletion_vector`] and [`data_file`] are formats, `snapshot` and `actions` are the log.

mod actions;
mod app_ids;
pub mod builder;
pub mod columns;
mod commit;
pub mod data_file;
pub mod deletion_vector;
mod foreign_commits;
pub mod index;
mod intake;
pub mod key;
pub mod lake;
mod live_files;
mod local_disk;
mod pending;
mod progress;
pub mod rows;
mod seal;
mod snapshot;
mod staging;
pub mod store;
pub mod table;

pub use app_ids::AppIds;
pub use lake::DeltaLake;
pub use progress::LakeProgress;
pub use store::{LakeStore, S3Settings};
pub use table::DeltaTable;
