//! What became of dead letters, and what can be done about them: they are listed, shown, sent again, and done without.
//!
//! [`catalogue`] knows which letters are open, from the records of the dead-letter topic that [`topic`] reads.
//! [`contents`] shows what is in one. [`handling`] marks letters, and `resending` sends messages to their topics again
//! unless [`newest`] finds a newer one of their key; [`outcome`] says what became of them.

pub mod catalogue;
pub mod contents;
pub mod handling;
pub mod newest;
pub mod outcome;
mod resending;
pub mod topic;
