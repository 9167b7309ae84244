//! Delta Lake as a sink. Enters: batches of events; leaves: new versions of tables.
//!
//! Six wings, in reading order: [`store`] is where the lake lies, [`rows`] are columns and files, [`index`] finds rows
//! by key, [`log`] knows versions of a table and how one follows another, [`merge`] makes commits of events, and
//! [`maintenance`] keeps tables fast. [`lake`] opens tables; [`table`] is one of them, of which readers see a
//! [`generation`].

mod clock;
pub mod effort;
pub mod generation;
mod generations;
pub mod index;
pub mod lake;
mod lake_progress;
pub mod log;
pub mod maintenance;
pub mod merge;
pub mod rows;
pub mod settings;
pub mod store;
pub mod table;

pub use index::index_store::IndexSettings;
pub use lake::{DeltaLake, Vacuumed};
pub use lake_progress::LakeProgress;
pub use log::retention::RetentionSettings;
pub use log::shape::{ShownColumn, TableShape, table_shape};
pub use maintenance::optimize::Optimized;
pub use merge::parts::PartLimits;
pub use settings::SortColumns;
pub use store::lake_store::{LakeStore, S3Settings};
pub use table::DeltaTable;
