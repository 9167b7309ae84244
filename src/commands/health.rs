//! `sooner health`: whether the pipeline is well, by what it last wrote; for probes that run a command.

use std::time::Duration;

use super::print;
use super::status::is_running;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::http::health::{Check, Health, checks};
use crate::status::load;
use sooner_api::Clock;

/// Silence after which a process counts as stalled, where `[http]` does not say so.
const STALLED_AFTER: Duration = Duration::from_secs(300);

/// Prints what is not well, with its remedy; returns whether the pipeline runs and moves. Tables that wait for a person
/// do not make it ill: restarting it would not mend them.
pub fn run(config: &Config) -> anyhow::Result<bool> {
    let Some(status) = load(&config.state_dir)?.filter(is_running) else {
        print(&format!("the pipeline '{}' does not run\n", config.name));
        return Ok(false);
    };
    let stalled_after = config.http.as_ref().map_or(STALLED_AFTER, |http| http.stalled_after);
    let checks = checks(&status, status.updated_micros, SystemClock.now_micros(), stalled_after);
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
