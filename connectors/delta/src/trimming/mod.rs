//! The end of a history's rows that are older than its table keeps them.
//!
//! [`rule`] decides which rows go, without I/O, and [`unsent`] knows which columns the source left out of them.
//! [`event_rows`] reads of data files what that takes, [`held`] are the subjects whose rows stay, and [`held_rows`]
//! says which rows and files these are; [`reach`] says how far a history is trimmed at once, and [`judging`] what goes
//! of each file. [`rewriting`] commits what is left, as another writer would, beside a running pipeline.

pub mod event_rows;
pub mod held;
pub mod held_rows;
pub mod judging;
pub mod reach;
pub mod rewriting;
pub mod rule;
pub mod unsent;
