//! The schema registry: ids for schemas that are written, schemas for ids that are read.

pub mod client;
pub mod difference;
pub mod schema_cache;
