//! The commands of `sooner`: the larger ones have a file each.

pub mod events;
pub mod init;
pub mod run;
pub mod status;
pub mod teardown;
pub mod upkeep;
pub mod wait;

use std::io::Write;

use sooner_api::CopyRequest;
use sooner_postgres::Client;
use sooner_postgres::chunk::check_condition;
use sooner_postgres::client::Mode;
use sooner_schemas::TableName;

use crate::config::Config;
use crate::control::Requests;

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

/// Runs `sooner resume TABLE`: requests that the pipeline copy a table again, now or when it starts. A table that the
/// pipeline does not know is an error.
pub fn resume(config: &Config, table: &str) -> anyhow::Result<()> {
    ask(config, CopyRequest { table: parse_name(table)?, condition: None })
}

/// Runs `sooner copy TABLE [--where CONDITION]`: requests that the pipeline copy a table again, or those of its rows
/// that fulfil an SQL condition. One that Postgres does not take is an error.
pub async fn copy(config: &Config, table: &str, condition: Option<String>) -> anyhow::Result<()> {
    let table = parse_name(table)?;
    let source = config.source()?;
    // Where tables keep their names, only the pipeline knows what this one is called by now; it refuses what is wrong.
    if let Some(condition) = condition.as_ref().filter(|_| source.kept_names.is_none()) {
        let mut client = Client::connect(&source.connect, Mode::Sql).await?;
        check_condition(&mut client, &table, condition).await?;
    }
    ask(config, CopyRequest { table, condition })
}

/// Parses the name of a table, as a person wrote it.
pub fn parse_name(table: &str) -> anyhow::Result<TableName> {
    table.parse().map_err(|_| anyhow::anyhow!("'{table}' is not a table's name. To do: write it as schema.table"))
}

fn ask(config: &Config, request: CopyRequest) -> anyhow::Result<()> {
    let name = &request.table;
    let status = crate::status::load(&config.state_dir)?;
    // One that has just started does not know its tables yet.
    if let Some(status) = status.as_ref().filter(|status| !status.tables.is_empty())
        && !status.tables.contains_key(name)
    {
        let known: Vec<_> = status.tables.keys().map(ToString::to_string).collect();
        anyhow::bail!("there is no table '{name}' in this pipeline. Its tables: {}", known.join(", "));
    }
    Requests::new(&config.state_dir).ask(&request)?;
    let when = match status {
        Some(status) if status::is_running(&status) => "now",
        _ => "when it starts",
    };
    let what = match request.condition {
        None => format!("copy {name} again"),
        Some(_) => format!("copy those rows of {name} again"),
    };
    print(&format!("the pipeline '{}' will {what} {when}; follow it with `sooner status --watch`\n", config.name));
    Ok(())
}
