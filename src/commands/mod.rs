//! The commands of `sooner`: the larger ones have a file each.

pub mod acls;
pub mod advise;
pub mod audit;
pub mod backfill;
pub mod cut;
pub mod dead_letters;
pub mod erase;
pub mod erasing;
pub mod events;
pub mod fleet;
pub mod health;
pub mod history;
mod history_chain;
pub mod hold;
pub mod init;
mod listening;
mod msk_policy;
mod past_cut;
mod past_cut_desk;
pub mod plan;
pub mod readers;
pub mod repartition;
pub mod replay;
pub mod replaying;
pub mod report;
pub mod run;
mod sides;
pub mod status;
pub mod steer;
mod tasks;
pub mod teardown;
pub mod topics;
pub mod trace;
mod trimming;
pub mod upkeep;
pub mod verify;
pub mod verifying;
pub mod wait;

use std::io::Write;

use sooner_schemas::TableName;

use crate::config::Config;

/// Prints to standard output. A failure to write, as to a closed pipe, is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Runs `sooner check`: prints all findings, and returns whether no check failed.
pub async fn check(config: &Config, json: bool) -> anyhow::Result<bool> {
    use crate::check::{Verdict, render, run};
    let findings = run(config).await;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&findings)?));
    } else {
        print(&render(&findings));
    }
    Ok(findings.iter().all(|finding| finding.verdict != Verdict::Failed))
}

/// Parses the name of a table, as a person wrote it.
pub fn parse_name(table: &str) -> anyhow::Result<TableName> {
    table.parse().map_err(|_| anyhow::anyhow!("'{table}' is not a table's name. To do: write it as schema.table"))
}
