//! `sooner health`: whether the pipeline is well, by what it last wrote; for probes that run a command.

use super::print;
use super::status::is_running;
use crate::config::Config;
use crate::http::health::{Check, Health, checks};
use crate::status::load;

/// Prints what is not well, with its remedy; returns whether the pipeline runs and moves. Tables that wait for a person
/// do not make it ill: restarting it would not mend them.
pub fn run(config: &Config) -> anyhow::Result<bool> {
    let Some(status) = load(&config.state_dir)?.filter(is_running) else {
        print(&format!("the pipeline '{}' does not run\n", config.name));
        return Ok(false);
    };
    // A process whose loops stand still goes on writing its status, and says so there.
    let checks = checks(&status);
    let ill: Vec<_> = checks.iter().filter(|check| check.health != Health::Ok).collect();
    for Check { name, reason, remedy, health, .. } in &ill {
        print(&format!("{name}: {health:?}: {reason}. To do: {remedy}.\n"));
    }
    if ill.is_empty() {
        print("all is well\n");
    }
    let is_of_process = |check: &&Check| matches!(check.name.as_str(), "pipeline" | "progress" | "slot");
    Ok(!checks.iter().filter(is_of_process).any(|check| check.health == Health::Error))
}
