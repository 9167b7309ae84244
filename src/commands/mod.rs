//! The commands of `sooner`: the larger ones have a file each.

pub mod init;
pub mod run;
pub mod status;

use std::io::Write;

use crate::config::Config;
use crate::pipeline::control;

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
    let status = crate::status::load(&config.state_dir)?;
    if let Some(status) = &status
        && !status.tables.contains_key(table)
    {
        let known: Vec<_> = status.tables.keys().map(String::as_str).collect();
        anyhow::bail!("there is no table '{table}' in this pipeline. Its tables: {}", known.join(", "));
    }
    control::request_resume(&config.state_dir, table)?;
    let when = match status {
        Some(status) if status::is_running(&status) => "now",
        _ => "when it starts",
    };
    print(&format!(
        "the pipeline '{}' will copy {table} again {when}; follow it with `sooner status --watch`\n",
        config.name
    ));
    Ok(())
}
