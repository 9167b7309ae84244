//! `sooner plan`: what a changed configuration would do, before it is done.

use std::path::Path;

use super::print;
use super::status::is_running;
use crate::config::Config;
use crate::plan::plan;
use crate::plan::render::render;
use crate::status::load;

/// Prints what the configuration in a file would do; returns whether it would do anything. Nothing is changed.
pub async fn run(config: &Config, path: &Path, json: bool) -> anyhow::Result<bool> {
    let runs = load(&config.state_dir)?.is_some_and(|status| is_running(&status));
    let plan = plan(path, runs).await?;
    print(&match json {
        true => format!("{}\n", serde_json::to_string_pretty(&plan)?),
        false => render(&plan),
    });
    Ok(plan.has_changes)
}
