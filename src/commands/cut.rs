//! `sooner cut`: states of all tables as one transaction saw them, which stay readable.

use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sooner_delta::cuts::{Cut, CutVersion, check_cut_name};
use sooner_delta::export::{Manifest, export_cut};
use sooner_delta::{DeltaLake, LakeStore};

use super::past_cut;
use super::upkeep::open_lake;
use super::wait::{Until, parse_until, source_end};
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::cut_desk::CutRequests;
use crate::cut_sql::{self, Engine};
use crate::past_cut_request::{Past, PastCutRequest};
use crate::pipeline::cutting::CutRequest;
use crate::report_settings::check_not_reserved;
use crate::status::load;
use crate::until::micros;

/// Size of exported files.
const EXPORT_BYTES: usize = 64 << 20;
/// How often it is looked whether the cut is there.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is to be done about cuts.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Makes a cut: for each table the version that is complete to one position of the log, and holds nothing that came
    /// later. The running pipeline makes it.
    Create {
        /// Its name: letters, digits, '-', '_' and '.'
        #[arg(value_parser = parse_cut_name)]
        name: String,
        /// Its tables, as schema.table, separated by commas; all of the pipeline if left out.
        #[arg(long, value_delimiter = ',')]
        tables: Vec<String>,
        /// At which position: now; an LSN, such as 0/16B3748; or a UTC time, such as 2026-01-31T22:00:00Z. One that has
        /// passed is found in the tables' logs, or made of their histories: exactly that LSN, or the latest that the
        /// logs know at or before that time. Of one to come it is the first position at or after it.
        #[arg(long, default_value = "now", value_parser = parse_at)]
        at: At,
        /// How long it is kept, such as 7y or 90days; until it is dropped if left out.
        #[arg(long, value_parser = humantime::parse_duration)]
        keep: Option<Duration>,
        /// How long it is waited for at most, such as 10m. What is not made by then is not made.
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
        /// Print the cut as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the cuts.
    List {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows a cut: its position, and its tables with their versions.
    Show {
        /// Its name.
        name: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints how its tables are read, in the language of an engine.
    Sql {
        /// Its name.
        name: String,
        /// The engine.
        #[arg(long, value_enum, default_value = "spark")]
        engine: Engine,
        /// Print JSON: the statement for each table.
        #[arg(long)]
        json: bool,
    },
    /// Writes its tables and histories as plain Parquet files, with a manifest that has their hashes.
    Export {
        /// Its name.
        name: String,
        /// Where to: a folder, or s3://bucket/prefix in the lake's store.
        #[arg(long)]
        to: String,
        /// Print the manifest.
        #[arg(long)]
        json: bool,
    },
    /// Drops a cut. What only it needs is deleted by its tables' upkeep.
    Drop {
        /// Its name.
        name: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// At which position a cut is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Where the source is.
    Now,
    /// A position or a moment, which may have passed.
    Named(Until),
}

fn parse_at(text: &str) -> Result<At, String> {
    if text == "now" { Ok(At::Now) } else { parse_until(text).map(At::Named) }
}

fn parse_cut_name(name: &str) -> Result<String, String> {
    check_cut_name(name).and_then(|()| check_not_reserved(name)).map(|()| name.to_owned())
}

/// Runs `sooner cut …`; false if a cut was not made in time.
pub async fn run(config: &Config, action: Action) -> anyhow::Result<bool> {
    match action {
        Action::Create { name, tables, at, keep, timeout, json } => {
            let act =
                Act::new("cut_created", json!({"name": name, "tables": tables, "keep_seconds": keep.map(seconds)}));
            let asked = Asked { tables, at, keep, timeout, json };
            return recorded(config, act, create(config, name, asked)).await;
        }
        Action::List { json } => list(config, json).await?,
        Action::Show { name, json } => show(&existing(config, &name).await?, json)?,
        Action::Sql { name, engine, json } => {
            let cut = existing(config, &name).await?;
            print(&if json { format!("{}\n", cut_sql::json(&cut, engine)) } else { cut_sql::text(&cut, engine) });
        }
        Action::Export { name, to, json } => {
            recorded(config, export_act(&name, &to), export(config, &name, &to, json)).await?;
        }
        Action::Drop { name, json } => {
            recorded(config, Act::new("cut_dropped", json!({"name": name})), drop_cut(config, &name, json)).await?;
        }
    }
    Ok(true)
}

struct Asked {
    tables: Vec<String>,
    at: At,
    keep: Option<Duration>,
    timeout: Option<Duration>,
    json: bool,
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

/// Returns whether the cut was made, and what the audit trail is told of it.
async fn create(config: &Config, name: String, asked: Asked) -> anyhow::Result<(bool, Value)> {
    let (lake, started) = (open_lake(config)?, Instant::now());
    if lake.cut(&name).await?.is_some() {
        anyhow::bail!("there is a cut '{name}' already. To do: give this one another name, or drop that one");
    }
    let left = || asked.timeout.map(|limit| limit.saturating_sub(started.elapsed()));
    let until_millis = asked.keep.map(|keep| (SystemTime::now() + keep).duration_since(UNIX_EPOCH)).transpose()?;
    let until_millis = until_millis.map(|until| i64::try_from(until.as_millis())).transpose()?;
    let tables = asked.tables.iter().map(|table| parse_name(table)).collect::<anyhow::Result<Vec<_>>>()?;
    if let Some(at) = past_of(config, asked.at).await? {
        let request = PastCutRequest::new(name, tables, at, until_millis);
        let cut = past_cut::make(config, &lake, &request, left).await?;
        show(&cut, asked.json)?;
        return Ok((true, json!(cut)));
    }
    let from_lsn = match asked.at {
        At::Now => position_now(config).await?,
        At::Named(Until::Lsn(lsn)) => Some(lsn),
        At::Named(Until::Time(time)) => {
            let ahead = time.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left().map_or(ahead, |left| left.min(ahead))).await;
            if SystemTime::now() < time {
                print(&format!("the time for the cut '{name}' has not come yet\n"));
                return Ok((false, json!({"made": false})));
            }
            position_now(config).await?
        }
    };
    let request = CutRequest { name: name.clone(), tables, from_lsn, from_micros: None, until_millis };
    match made(&CutRequests::new(&config.state_dir), &lake, &request, left).await? {
        Some(cut) => {
            show(&cut, asked.json)?;
            Ok((true, json!(cut)))
        }
        None => {
            print(&format!(
                "the cut '{name}' was not made in time: the pipeline does not run, or copies one of its tables; see \
                 `sooner status`\n"
            ));
            Ok((false, json!({"made": false})))
        }
    }
}

/// The position that is asked for, if it has passed.
async fn past_of(config: &Config, at: At) -> anyhow::Result<Option<Past>> {
    Ok(match at {
        At::Now => None,
        At::Named(Until::Time(time)) => (time < SystemTime::now()).then(|| Past::Micros(micros(time))),
        At::Named(Until::Lsn(lsn)) => {
            let end = match position_now(config).await? {
                Some(end) => Some(end),
                None => load(&config.state_dir)?.map(|status| status.durable_lsn),
            };
            end.filter(|end| lsn <= *end).map(|_| Past::Lsn(lsn))
        }
    })
}

/// Asks for a cut and waits until it is made; withdraws the request, and returns none, once no time is `left`.
pub async fn made(
    requests: &CutRequests,
    lake: &DeltaLake,
    request: &CutRequest,
    left: impl Fn() -> Option<Duration>,
) -> anyhow::Result<Option<Cut>> {
    requests.ask(request)?;
    loop {
        if let Some(cut) = lake.cut(&request.name).await? {
            return Ok(Some(cut));
        }
        if let Some(error) = requests.failure(&request.name) {
            return Err(error.into());
        }
        if left().is_some_and(|left| left.is_zero()) {
            requests.withdraw(&request.name)?;
            return Ok(None);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What was committed before now is to be in the cut, where the source can be asked what that is.
pub async fn position_now(config: &Config) -> anyhow::Result<Option<sooner_schemas::Lsn>> {
    match config.source {
        Some(_) => source_end(config).await.map(Some),
        None => Ok(None),
    }
}

/// The cut of this name; an error, with what to do, if there is none.
pub async fn existing(config: &Config, name: &str) -> anyhow::Result<Cut> {
    let cut = open_lake(config)?.cut(name).await?;
    cut.ok_or_else(|| anyhow::anyhow!("there is no cut '{name}'. To do: see `sooner cut list`"))
}

async fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let cuts = open_lake(config)?.cuts().await?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&cuts)?));
        return Ok(());
    }
    let mut text = format!("{:<24} {:<16} {:<28} {:>7}  kept until\n", "CUT", "LSN", "COMMITTED", "TABLES");
    for cut in &cuts {
        let until = cut.until_millis.map_or_else(|| "it is dropped".to_owned(), |until| instant(until * 1000));
        let committed = instant(cut.commit_micros);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<24} {:<16} {committed:<28} {:>7}  {until}",
            cut.name,
            cut.lsn.to_string(),
            cut.tables.len()
        );
    }
    print(&text);
    Ok(())
}

fn instant(micros: i64) -> String {
    let since = Duration::from_micros(u64::try_from(micros).unwrap_or_default());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

fn show(cut: &Cut, json: bool) -> anyhow::Result<()> {
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&json!(cut))?));
        return Ok(());
    }
    let mut text = format!(
        "cut '{}': every transaction up to {} ({}), and none after it\n",
        cut.name,
        cut.lsn,
        instant(cut.commit_micros)
    );
    for (table, versions) in &cut.tables {
        for (kind, found) in [("", &versions.mirror), ("history of ", &versions.history)] {
            if let Some(CutVersion { url, version, rebuilt, up_to }) = found {
                let made = if rebuilt.is_some() { ", made of its history" } else { "" };
                let bound = up_to.map_or_else(String::new, |lsn| format!(", its rows with _commit_lsn <= {}", lsn.0));
                let _ = writeln!(text, "  {kind}{table}: version {version} of {url}{made}{bound}");
            }
        }
    }
    print(&text);
    Ok(())
}

/// What the audit trail is told of who exports a cut.
pub fn export_act(name: &str, to: &str) -> Act {
    Act::new("cut_exported", json!({"name": name, "to": to}))
}

/// What the audit trail is told of an export.
pub fn export_told(manifest: &Manifest) -> Value {
    json!({"lsn": manifest.lsn, "tables": manifest.tables, "histories": manifest.histories})
}

async fn export(config: &Config, name: &str, to: &str, json: bool) -> anyhow::Result<((), Value)> {
    let target = LakeStore::open(to, &config.lake()?.s3)?;
    let manifest = export_cut(&open_lake(config)?, &existing(config, name).await?, &target, EXPORT_BYTES).await?;
    let told = export_told(&manifest);
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&manifest)?));
        return Ok(((), told));
    }
    for (kind, all) in [("", &manifest.tables), ("history of ", &manifest.histories)] {
        for (table, exported) in all {
            print(&format!("{kind}{table}: {} rows in {} files\n", exported.rows, exported.files.len()));
        }
    }
    print(&format!("exported the cut '{name}' to {to}\n"));
    Ok(((), told))
}

async fn drop_cut(config: &Config, name: &str, json: bool) -> anyhow::Result<((), Value)> {
    CutRequests::new(&config.state_dir).withdraw(name)?;
    anyhow::ensure!(
        open_lake(config)?.drop_cut(name).await?,
        "there is no cut '{name}'; what may have been held for it is released. To do: see `sooner cut list`"
    );
    match json {
        true => print(&format!("{}\n", json!({"dropped": name}))),
        false => print(&format!("dropped the cut '{name}'\n")),
    }
    Ok(((), Value::Null))
}
