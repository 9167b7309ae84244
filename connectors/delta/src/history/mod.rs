//! History: a table beside the mirror, or in its place, that keeps every event as rows and never changes one. Readers
//! find in it what was true at any moment, and who changed what in which transaction.
//!
//! [`columns`] says what its columns are, and [`change_type`] what a row says that it is; [`reader`] makes rows of
//! events, and [`table`] commits them. [`views`] are queries of it.

pub mod change_type;
pub mod columns;
pub mod reader;
pub mod table;
pub mod views;
