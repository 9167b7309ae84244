//! Events into a table: taken in, collapsed by key, sealed into files, and made a transaction. Each way to write a
//! table is a file of its own: [`mirror`], [`append`] and [`soft_delete`].

pub mod append;
pub mod event_plan;
pub mod fill;
pub mod foreign;
pub mod intake;
pub mod mirror;
pub mod own_entry;
pub mod parts;
pub mod pending;
pub mod preview;
pub mod seal;
pub mod sealing;
pub mod soft_delete;
pub mod staging;
