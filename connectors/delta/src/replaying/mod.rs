//! The events of a table within a range, in commit order, for whoever has to be fed again. Enters: rows of a history,
//! from the lake or made of a topic's events; leaves: JSON lines in Debezium's envelope, or a Parquet file.
//!
//! [`range`] says what is wanted, and [`survey`] whether all of it is known, given the [`facts`] of rows in order.
//! [`history_rows`] reads a history in order, [`topic_rows`] makes the same rows of events. [`envelope`] makes lines of
//! them, with values as [`value_json`] writes them, and [`output`] writes either form.
//! [`knowledge`] says of which moments a history can tell its table.

pub mod envelope;
pub mod facts;
mod file_cursor;
pub mod history_rows;
pub mod knowledge;
pub mod output;
pub mod range;
pub mod survey;
pub mod topic_rows;
mod value_json;
