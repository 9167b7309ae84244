//! The program: configuration, the two loops, and the commands around them. `ARCHITECTURE.md` leads through it.

pub mod advice;
pub mod allocator;
pub mod bars;
pub mod check;
pub mod clock;
pub mod commands;
pub mod config;
pub mod control;
pub mod cut_desk;
pub mod direct;
pub mod http;
pub mod journal;
pub mod letters;
pub mod memory;
pub mod pipeline;
pub mod plan;
pub mod pulse;
pub mod repartitions;
pub mod running;
pub mod sink_record;
pub mod standby;
pub mod status;
pub mod table_status;
pub mod totals;
pub mod trace;
pub mod verifications;
