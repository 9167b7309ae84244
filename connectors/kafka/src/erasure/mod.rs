//! Erasure of subjects from topics: [`topics`] finds the topics of tables and has each searched; [`sought`] knows
//! whether a message holds a value, [`scan`] what a topic has of it, and [`keeping`] until when that can be read;
//! [`tombstones`] are written where compaction waits for them, and [`letters`] are dead letters that hold values.

pub mod keeping;
pub mod letters;
pub mod scan;
pub mod sought;
mod tombstones;
pub mod topics;
