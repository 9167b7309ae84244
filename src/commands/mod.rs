//! The commands of `sooner`: the larger ones have a file each.

pub mod init;
pub mod run;
pub mod status;
pub mod teardown;

use std::io::Write;

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
/// pipeline's last status does not list is an error.
pub fn resume(config: &Config, table: &str) -> anyhow::Result<()> {
    let not_a_name = || anyhow::anyhow!("'{table}' is not a table's name. To do: write it as schema.table");
    let name: TableName = table.parse().map_err(|_| not_a_name())?;
    let status = crate::status::load(&config.state_dir)?;
    if let Some(status) = &status
        && !status.tables.contains_key(&name)
    {
        let known: Vec<_> = status.tables.keys().map(ToString::to_string).collect();
        anyhow::bail!("there is no table '{name}' in this pipeline. Its tables: {}", known.join(", "));
    }
    Requests::new(&config.state_dir).resume(&name)?;
    let when = match status {
        Some(status) if status::is_running(&status) => "now",
        _ => "when it starts",
    };
    print(&format!(
        "the pipeline '{}' will copy {name} again {when}; follow it with `sooner status --watch`\n",
        config.name
    ));
    Ok(())
}
