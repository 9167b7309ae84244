//! Where each live row lies, by its key.

pub mod build;
pub mod entries;
mod filter;
pub mod index_store;
pub mod key;
pub mod key_index;
pub mod manifest;
mod merging;
mod page;
pub mod segment;
pub mod staged_keys;
pub mod table_index;
