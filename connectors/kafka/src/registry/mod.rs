//! The schema registry: ids for schemas that are written, schemas for ids that are read.

pub mod client;
pub mod difference;
pub mod glue;
mod http;
pub mod plain;
pub mod reader;
pub mod schema_cache;
pub mod schema_id;
