//! Rows of a table: columns and their types, values of events as Arrow arrays, data files.

pub mod builder;
pub mod column_mapping;
pub mod columns;
pub mod data_file;
pub mod fitting;
pub mod lake_column;
pub mod lake_type;
pub mod mark;
pub mod reader;
pub mod source_block;
pub mod statistics;
pub mod stored_file;
