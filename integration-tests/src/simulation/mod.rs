//! A world in memory, driven by a seed: a database with a history, an event log that fails, a lake that loses answers.
//! The real halves of a pipeline run over it. Time is tokio's paused clock, which jumps to the next timer.
//!
//! Worlds with an even seed use the real log inside the process ([`direct`]); those with an odd one have topics and two
//! sinks between which partitions move ([`topic_world`]).

pub mod chance;
pub mod database;
pub mod database_port;
pub mod direct;
pub mod entry;
pub mod faulty;
pub mod history;
pub mod lake;
pub mod progress;
pub mod source;
pub mod topic_world;
pub mod topics;
pub mod world;

use world::{Summary, World};

/// Runs the world of a seed until everything is confirmed; panics unless its lake then equals its database.
pub async fn run(seed: u64) -> Summary {
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::new(seed, folder.path());
    let mut summary = match seed % 2 {
        0 => direct::run(&world).await,
        _ => topic_world::run(&world).await,
    };
    assert_eq!(world.lake.rows(), world.database.history().rows(), "seed {seed}: the lake differs");
    assert_eq!(world.database.confirmed(), Some(world.database.history().end()), "seed {seed}: log is held back");
    summary.facts = world.trace.take();
    let count = |needle: &str| summary.facts.iter().filter(|fact| fact.contains(needle)).count();
    (summary.parked, summary.copies) = (count("Parked {"), count("CopyBegun"));
    let goes_on = |fact: &&String| fact.starts_with("CopyBegun") && fact.ends_with(", 1)");
    summary.resumed = summary.facts.iter().filter(goes_on).count();
    summary
}
