//! Erasure: rows of a subject go from a table for good, from every file that any version has.
//!
//! [`subject`] says whose rows these are, and [`hashed_subject`] does so without the value; [`objects`] lists data
//! files, and [`finding`] reads every one of a table for them, also rows that vectors hide, and files that only former
//! versions have; [`same_key`] adds the other states of rows that are gone; [`rewriting`] writes live files again
//! without them, beside a running pipeline, where rows of a chain become [`stubs`]; [`deleting`] deletes the former
//! files; [`log_traces`] takes what the log tells of them; [`search`] looks for what is left, in all bytes of the lake,
//! and [`results`] in what reports have made.

pub mod deleting;
pub mod finding;
pub mod hashed_subject;
pub mod log_traces;
pub mod objects;
pub mod results;
pub mod rewriting;
pub mod same_key;
pub mod search;
pub mod stubs;
pub mod subject;
