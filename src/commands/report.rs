//! `sooner report`: what reports there are, what has become of their runs, and runs that somebody asks for.

use std::fmt::Write;

use serde_json::{Value, json};
use sooner_api::{Clock, Code, Error};

use super::print;
use crate::audit::trail::{Act, recorded};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::report_settings::{Format, ReportSettings};
use crate::reports::making::{Maker, Run, cut_name};
use crate::reports::manifest::{MadeFrom, Manifest};
use crate::reports::runs::{ErasedRun, RunFiles, RunStore};
use crate::reports::turn::Turn;
use crate::schedule::{Due, parse_moment};
use crate::told::operator_error;

/// Runs that are shown.
const SHOWN: usize = 30;
/// What the name of a run begins with that was asked for, and was not due.
const ASKED: &str = "asked-";
/// A run that is so much younger than it was due is called late.
const LATE_SECONDS: i64 = 60;

/// What is to be done about reports.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Lists the reports: when they are due next, and what they made last.
    List {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows a report and its last runs: what they made, of which cut, and why one has failed.
    Show {
        /// Its name.
        name: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Makes a report now, beside its schedule. The pipeline has to run: it makes the cut.
    Run {
        /// Its name.
        name: String,
        /// The run that was due at this UTC time, such as 2026-01-31T22:00:00Z: one that failed or was missed. It has
        /// what is there now, and says so. One that is complete stays as it is.
        #[arg(long)]
        due: Option<String>,
        /// Print the manifest as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs `sooner report …`.
pub async fn run(config: &Config, action: Action) -> anyhow::Result<()> {
    match action {
        Action::List { json } => list(config, json).await,
        Action::Show { name, json } => show(config, named(config, &name)?, json).await,
        Action::Run { name, due, json } => {
            let act = Act::new("report_run", json!({"report": name, "due": due}));
            recorded(config, act, make(config, named(config, &name)?, due.as_deref(), json)).await
        }
    }
}

/// The report of this name.
pub fn named<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a ReportSettings> {
    config.reports.iter().find(|report| report.name == name).ok_or_else(|| {
        let known: Vec<_> = config.reports.iter().map(|report| report.name.as_str()).collect();
        let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        anyhow::anyhow!("the configuration has no report '{name}'. To do: name one of its [[report]] sections; {known}")
    })
}

fn now() -> Due {
    Due::of_micros(SystemClock.now_micros())
}

/// A report, and what has become of its runs.
struct Listed<'a> {
    settings: &'a ReportSettings,
    last: Option<Manifest>,
    /// The run that was due last, and what has become of it.
    latest: Option<(String, &'static str)>,
    made: usize,
    failed: usize,
    erased: usize,
    url: String,
}

async fn all(config: &Config) -> anyhow::Result<Vec<Listed<'_>>> {
    if config.reports.is_empty() {
        return Ok(Vec::new());
    }
    let maker = Maker::new(config)?;
    let mut all = Vec::new();
    for settings in &config.reports {
        let store = maker.runs(settings)?;
        let runs = store.list().await?;
        let last = runs.iter().rev().find(|(run, files)| files.made && Due::of_name(run).is_some());
        let last = match last {
            Some((run, _)) => store.manifest(run).await?,
            None => None,
        };
        let due = runs.iter().rev().find(|(run, _)| Due::of_name(run).is_some());
        let latest = due.map(|(run, files)| (run.clone(), state(*files)));
        let count = |is: fn(&RunFiles) -> bool| runs.values().filter(|files| is(files)).count();
        let (made, failed) = (count(|files| files.made), count(|files| files.failed && !files.made));
        let erased = count(|files| files.erased && !files.made);
        all.push(Listed { settings, last, latest, made, failed, erased, url: store.url().to_owned() });
    }
    Ok(all)
}

/// All reports as JSON, for an empty name; otherwise the one of this name, with its runs.
pub async fn described(config: &Config, name: &str) -> anyhow::Result<Value> {
    if !name.is_empty() {
        let settings = named(config, name)?;
        let store = Maker::new(config)?.runs(settings)?;
        return Ok(shown(settings, &store, &runs(&store).await?));
    }
    let all = all(config).await?.into_iter().map(|listed| {
        let mut value = head(listed.settings, &listed.url);
        value["last"] = json!(listed.last);
        value["latest"] = json!(listed.latest.map(|(run, state)| json!({ "run": run, "state": state })));
        value["runs_made"] = json!(listed.made);
        value["runs_failed"] = json!(listed.failed);
        value["runs_erased"] = json!(listed.erased);
        value
    });
    Ok(all.collect())
}

async fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&described(config, "").await?)?));
        return Ok(());
    }
    let told = all(config).await?;
    let head = ["REPORT", "NEXT", "LAST", "ROWS", "RUNS", "FAILED", "ERASED"];
    let [name, next, last, rows, runs, failed, erased] = head;
    let mut text = format!("{name:<24} {next:<21} {last:<21} {rows:>8} {runs:>6} {failed:>6} {erased:>6}\n");
    for Listed { settings, last, made, failed, erased, .. } in &told {
        let next = settings.schedule.next_after(now()).map_or_else(|| "-".to_owned(), |due| due.to_string());
        let (due, rows) =
            last.as_ref().map_or_else(|| ("-", "-".to_owned()), |last| (&last.due, last.rows.to_string()));
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "{:<24} {next:<21} {due:<21} {rows:>8} {made:>6} {failed:>6} {erased:>6}", settings.name);
    }
    print(if told.is_empty() { "the configuration has no [[report]]\n" } else { &text });
    Ok(())
}

fn head(settings: &ReportSettings, url: &str) -> Value {
    json!({
        "report": settings.name,
        "schedule": settings.schedule.pattern,
        "time_zone": settings.schedule.zone.name(),
        "next_due": settings.schedule.next_after(now()).map(|due| due.to_string()),
        "output": url,
    })
}

/// A run: its name, which of its files there are, its manifest, or why it failed, or what erased it.
type ShownRun = (String, RunFiles, Option<Manifest>, Option<Error>, Option<ErasedRun>);

/// The last runs, the newest first.
async fn runs(store: &RunStore) -> anyhow::Result<Vec<ShownRun>> {
    let mut runs = Vec::new();
    for (run, files) in newest(store.list().await?) {
        let manifest = if files.made { store.manifest(&run).await? } else { None };
        let error = if files.failed && !files.made { store.failure(&run).await? } else { None };
        let erased = if files.erased && !files.made { store.erased(&run).await? } else { None };
        runs.push((run, files, manifest, error, erased));
    }
    Ok(runs)
}

fn shown(settings: &ReportSettings, store: &RunStore, runs: &[ShownRun]) -> Value {
    let runs = runs.iter().map(|(run, files, manifest, error, erased)| {
        json!({ "run": run, "state": state(*files), "manifest": manifest, "error": error, "erased": erased })
    });
    let mut value = head(settings, store.url());
    value["runs"] = runs.collect();
    value
}

async fn show(config: &Config, settings: &ReportSettings, json: bool) -> anyhow::Result<()> {
    let store = Maker::new(config)?.runs(settings)?;
    let runs = runs(&store).await?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&shown(settings, &store, &runs))?));
        return Ok(());
    }
    let (schedule, next) = (&settings.schedule, settings.schedule.next_after(now()));
    let mut text = format!("report '{}': {} ({})", settings.name, schedule.pattern, schedule.zone.name());
    let _ = writeln!(text, "{}", next.map_or_else(String::new, |due| format!(", next at {due}")));
    let _ = writeln!(text, "  results: {}", store.url());
    for (run, files, manifest, error, erased) in &runs {
        let _ = match (manifest, erased, error) {
            (Some(manifest), ..) => writeln!(text, "  {run}: {}", line(manifest)),
            (None, Some(ErasedRun { erasure, at, .. }), _) => writeln!(text, "  {run}: erased by '{erasure}' at {at}"),
            (None, None, Some(error)) => writeln!(text, "  {run}: FAILED: {error}"),
            (None, None, None) => writeln!(text, "  {run}: {}", state(*files)),
        };
    }
    print(&text);
    Ok(())
}

/// The last runs, the newest first: by the time that they were due, or asked for.
fn newest(runs: std::collections::BTreeMap<String, RunFiles>) -> Vec<(String, RunFiles)> {
    let mut runs: Vec<_> = runs.into_iter().collect();
    runs.sort_by_key(|(run, _)| std::cmp::Reverse(Due::of_name(run.strip_prefix(ASKED).unwrap_or(run))));
    runs.truncate(SHOWN);
    runs
}

fn state(files: RunFiles) -> &'static str {
    match files {
        RunFiles { made: true, .. } => "made",
        RunFiles { erased: true, .. } => "erased",
        RunFiles { failed: true, .. } => "failed",
        _ => "not made yet",
    }
}

fn line(manifest: &Manifest) -> String {
    let late = match manifest.late_seconds {
        late if late > LATE_SECONDS => {
            let late = humantime::format_duration(std::time::Duration::from_secs(late.unsigned_abs()));
            format!("; LATE: as of {}, {late} after it was due", manifest.as_of)
        }
        _ => String::new(),
    };
    let origin = match manifest.made_from {
        MadeFrom::Cut => format!("at {}", manifest.cut.lsn),
        MadeFrom::History => "from histories".to_owned(),
    };
    let what = match manifest.format {
        Format::Views => "views".to_owned(),
        _ => format!("{} rows", manifest.rows),
    };
    let files: Vec<_> = manifest.files.iter().map(|file| file.name.as_str()).collect();
    let unproven = manifest.tables.iter().filter_map(|(table, read)| Some((table, read.unproven.as_ref()?)));
    let unproven: String = unproven.map(|(table, why)| format!("; UNPROVEN: {table}: {why}")).collect();
    format!("{what} {origin}, in {}{late}{unproven}", files.join(", "))
}

/// Returns what the audit trail is told of the run.
async fn make(
    config: &Config,
    settings: &ReportSettings,
    due: Option<&str>,
    json: bool,
) -> anyhow::Result<((), Value)> {
    let (manifest, store) = made(config, settings, due).await?;
    print(&told(&manifest, &store, json)?);
    Ok(((), json!({"run": manifest.run})))
}

/// Makes the run that was due at a moment, which a person wrote, or one beside the schedule.
pub async fn made(
    config: &Config,
    settings: &ReportSettings,
    due: Option<&str>,
) -> anyhow::Result<(Manifest, RunStore)> {
    let (due, name) = match due {
        Some(text) => {
            let due =
                parse_moment(text, settings.schedule.zone, false).map_err(|why| anyhow::anyhow!("--due: {why}"))?;
            if settings.schedule.between(due, due, 1).is_empty() || due > now() {
                anyhow::bail!(
                    "the report '{}' was not due at {due}. To do: see `sooner report show {}`, or leave --due out",
                    settings.name,
                    settings.name
                );
            }
            (due, due.name())
        }
        None => asked_now(),
    };
    make_run(config, settings, (due, &name)).await
}

/// Makes the report of this name now; returns its manifest. That it failed is noted as what became of the run, since
/// nobody waits for it.
pub async fn made_now(config: &Config, name: &str) -> anyhow::Result<Value> {
    let ((due, run), settings) = (asked_now(), named(config, name)?);
    let error = match make_run(config, settings, (due, &run)).await {
        Ok((manifest, _)) => return Ok(json!(manifest)),
        Err(error) => operator_error(error, Code::ReportFailed, "cannot make the report"),
    };
    let maker = Maker::new(config)?;
    maker.runs(settings)?.fail(&run, &error).await?;
    maker.release(&cut_name(settings, &run), settings).await;
    Err(error.into())
}

fn asked_now() -> (Due, String) {
    let now = now();
    (now, format!("{ASKED}{}", now.name()))
}

async fn make_run(
    config: &Config,
    settings: &ReportSettings,
    (due, name): (Due, &str),
) -> anyhow::Result<(Manifest, RunStore)> {
    let maker = Maker::new(config)?;
    let store = maker.runs(settings)?;
    let turn = Turn::wait(&config.state_dir).await?;
    let manifest = maker.make(Run { settings, store: &store, name, due }, &turn).await?;
    Ok((manifest, store))
}

/// What a person, or a program, is told of a run.
pub fn told(manifest: &Manifest, store: &RunStore, json: bool) -> anyhow::Result<String> {
    Ok(match json {
        true => format!("{}\n", serde_json::to_string_pretty(manifest)?),
        false => format!("{}: {}\n  {}\n", manifest.run, line(manifest), store.folder(&manifest.run).url()),
    })
}
