//! Delta Lake as a sink. Enters: batches of events; leaves: new versions of tables.
//!
//! Thirteen wings, in reading order: [`store`] is where the lake lies, [`rows`] are columns and files, [`index`] finds
//! rows by key, [`log`] knows versions of a table and how one follows another, [`merge`] makes commits of events,
//! [`maintenance`] keeps tables fast, [`erasure`] takes a subject's rows out of every file, [`trimming`] what a history
//! keeps no longer, [`replaying`] reads events of a range again, [`rebuilding`] makes tables of histories as they were,
//! and [`trace`] tells people where a row lies. [`lake`] opens tables, each [`written`] as a [`table`] of which readers
//! see a [`generation`], which mirrors its source or is appended to, as a [`history`], or as both. [`audit`] is the
//! pipeline's own table: what it did, and who asked for what.

pub mod audit;
mod clock;
pub mod current_rows;
pub mod cut_check;
pub mod cut_lease;
pub mod cuts;
pub mod effort;
pub mod erase;
pub mod erasure;
pub mod erasures;
pub mod export;
pub mod generation;
mod generations;
pub mod history;
pub mod index;
pub mod lake;
mod lake_progress;
pub mod legal_holds;
pub mod log;
pub mod maintenance;
pub mod merge;
pub mod past_cuts;
pub mod rebuilding;
mod rebuilt;
pub mod replaying;
pub mod report_data;
pub mod results;
mod row_keys;
pub mod rows;
pub mod settings;
pub mod store;
mod stored_rows;
pub mod table;
pub mod trace;
pub mod trim;
pub mod trimming;
pub mod verification;
pub mod written;

pub use index::index_store::IndexSettings;
pub use lake::{DeltaLake, Vacuumed};
pub use lake_progress::LakeProgress;
pub use log::retention::RetentionSettings;
pub use log::shape::{ShownColumn, TableShape, history_shape, table_shape};
pub use maintenance::optimize::Optimized;
pub use merge::parts::PartLimits;
pub use settings::{Deletes, OnChange, SortColumns, Ways, WaysToWrite};
pub use store::lake_store::{LakeStore, S3Settings};
pub use stored_rows::StoredRows;
pub use table::DeltaTable;
pub use written::WrittenTable;
