//! History: a table beside the mirror, or in its place, that keeps every event as rows and never changes one. Readers
//! find in it what was true at any moment, and who changed what in which transaction.
//!
//! [`columns`] says what its columns are, and [`change_type`] what a row says that it is; [`reader`] makes rows of
//! events, and [`table`] commits them. [`views`] are queries of it. Where rows are chained, [`chain`] is the rule,
//! [`links`] chains what is written to the end that [`head`] finds in the table, and [`check`] tells whether all rows
//! are as they were: part by part as [`windows`], with what can be wrong as [`checked`].

pub mod chain;
pub mod change_type;
pub mod check;
pub mod checked;
pub mod columns;
pub mod head;
pub mod links;
pub mod reader;
pub mod table;
pub mod views;
mod windows;
