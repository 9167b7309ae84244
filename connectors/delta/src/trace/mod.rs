//! Where a row lies in a table of the lake, which commit brought it there or took it away, and whether it is what an
//! event says. For whoever asks why a row is old: everything is read from the store, so a running pipeline, and its key
//! index, are left alone.
//!
//! [`row_trace`] is what is asked and answered; [`pruning`] leaves files out by their statistics, [`search`] looks
//! through the others, [`history`] goes back through the log, and [`comparison`] compares values. [`look`] does it all.

pub mod comparison;
pub mod history;
pub mod look;
pub mod pruning;
pub mod row_trace;
pub mod search;
