//! The program: configuration, the two loops, and the commands around them. `ARCHITECTURE.md` leads through it.

pub mod budget;
pub mod check;
pub mod clock;
pub mod commands;
pub mod config;
pub mod direct;
pub mod ledger;
pub mod pipeline;
pub mod status;
