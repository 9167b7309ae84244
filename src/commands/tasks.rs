//! Does the tasks that a running process is asked for: what the commands do, with the configuration that the file has
//! by then, into places of the lake. Each can be begun again after its process has died.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde_json::{Value, json};
use sooner_api::{Code, Result};
use sooner_delta::LakeStore;
use sooner_delta::audit::chain::Head;
use sooner_delta::cuts::Cut;
use sooner_delta::export::{MANIFEST, Manifest, export_cut, manifest_at};
use sooner_delta::results::ResultFolder;
use sooner_schemas::TableName;

use super::cut::{existing, export_act, export_told};
use super::report::named;
use super::upkeep::open_lake;
use super::verifying::at_cut::verify_cut;
use super::verifying::tables::with_repair;
use super::verifying::{Report, Verdict};
use super::{backfill, history_chain, replay};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::reports::making::Maker;
use crate::side_thread::SideThread;
use crate::tasks::desk::TaskDesk;
use crate::tasks::{Done, EventFormat, EventSource, Wanted};
use crate::until::{parse_from, parse_to};

/// Tables and runs that are told of in what a task came to, at most.
const MOST_TOLD: usize = 50;

/// Does what is asked for at the desk, as long as the thread is kept.
pub fn start(config: &Config, path: &Path) -> Result<(TaskDesk, SideThread)> {
    let file: Arc<Path> = path.into();
    TaskDesk::start(&config.state_dir, move |name, wanted| {
        let file = file.clone();
        async move { done(&Config::load(&file)?, &name, wanted).await }
    })
}

async fn done(config: &Config, name: &str, wanted: Wanted) -> anyhow::Result<Done> {
    match wanted {
        Wanted::CutExport { cut, to } => export(config, &cut, to).await,
        Wanted::CutVerification { cut, tables } => verify(config, &cut, &tables).await,
        Wanted::Backfill { report, from, to } => fill(config, &report, (&from, &to)).await,
        Wanted::Replay { table, from, to, source, format } => {
            let file = match format {
                EventFormat::Jsonl => format!("{name}.jsonl"),
                EventFormat::Parquet => format!("{name}.parquet"),
            };
            replayed(config, table, (&from, &to), (source, &file)).await
        }
        Wanted::HistoryVerification { table, head } => check(config, &table, head).await,
    }
}

async fn export(config: &Config, name: &str, to: Option<String>) -> anyhow::Result<Done> {
    let (lake, cut) = (open_lake(config)?, existing(config, name).await?);
    let url = to.unwrap_or_else(|| ResultFolder::of_lake(&lake, "exports").below(name).url().to_owned());
    let target = LakeStore::open(&url, &config.lake()?.s3)?;
    let exporting = async {
        let manifest = match export_cut(&lake, &cut, &target).await {
            Err(error) if error.code == Code::CutExists => match manifest_at(&target).await? {
                Some(manifest) if is_of(&manifest, &cut, lake.pipeline()) => manifest,
                _ => return Err(error.into()),
            },
            exported => exported?,
        };
        let told = json!({
            "url": url,
            "manifest": format!("{}/{MANIFEST}", url.trim_end_matches('/')),
            "lsn": manifest.lsn,
            "tables": manifest.tables.len(),
            "histories": manifest.histories.len(),
            "files": manifest.files().count(),
            "rows": manifest.files().map(|file| file.rows).sum::<u64>(),
            "bytes": manifest.files().map(|file| file.bytes).sum::<u64>(),
        });
        Ok((Done { good: true, result: told }, export_told(&manifest)))
    };
    recorded(config, export_act(name, &url).through_http(), exporting).await
}

/// Whether an export is the one that is wanted: its process may have died before it could say so.
fn is_of(manifest: &Manifest, cut: &Cut, pipeline: &str) -> bool {
    (manifest.cut.as_str(), manifest.lsn, manifest.pipeline.as_str()) == (&cut.name, cut.lsn, pipeline)
}

async fn verify(config: &Config, cut: &str, tables: &[TableName]) -> anyhow::Result<Done> {
    let act = Act::new("verification", json!({"tables": tables, "repair": false, "at": cut})).through_http();
    let (mut equal, mut different, mut unverified, mut reports) = (0, 0, 0, Vec::new());
    let verifying = async {
        let each = |report: &Report| {
            match report.verdict {
                Verdict::Equal => equal += 1,
                Verdict::Different { .. } => different += 1,
                Verdict::Unverified { .. } => unverified += 1,
            }
            if report.verdict != Verdict::Equal && reports.len() < MOST_TOLD {
                reports.push(with_repair(report, None)?);
            }
            Ok(())
        };
        let (good, told) = verify_cut(config, cut, tables, each).await?;
        let counts = json!({ "equal": equal, "different": different, "unverified": unverified });
        let result = json!({ "cut": cut, "counts": counts, "reports": reports });
        Ok((Done { good, result }, told))
    };
    recorded(config, act, verifying).await
}

async fn fill(config: &Config, report: &str, (from, to): (&str, &str)) -> anyhow::Result<Done> {
    let settings = named(config, report)?;
    let url = Maker::new(config)?.runs(settings)?.url().to_owned();
    let mut failures = Vec::new();
    let filling = async {
        let each = |due: crate::schedule::Due, outcome: Result<_>| {
            if let Err(error) = outcome
                && failures.len() < MOST_TOLD
            {
                failures.push(json!({ "due": due.to_string(), "error": error }));
            }
        };
        let filled = backfill::fill(config, settings, (from, to), each).await?;
        let mut result = json!(filled);
        result["url"] = json!(url);
        result["failures"] = json!(failures);
        Ok((Done { good: filled.failed == 0, result }, json!(filled)))
    };
    recorded(config, backfill::act(report, from, to).through_http(), filling).await
}

/// Events are written beside the state, and then copied to the lake as they are.
async fn replayed(
    config: &Config,
    table: TableName,
    (from, to): (&str, &str),
    (source, file): (Option<EventSource>, &str),
) -> anyhow::Result<Done> {
    let folder = ResultFolder::of_lake(&open_lake(config)?, "replays");
    let ends = parse_from(from).and_then(|from| Ok((from, parse_to(to)?))).map_err(anyhow::Error::msg)?;
    let range = replay::range_of(config, ends.0, ends.1).await?;
    let url = format!("{}/{file}", folder.url().trim_end_matches('/'));
    let act = replay::act(&table, range, &url).through_http();
    let replaying = async {
        let scratch = Scratch::new(&config.state_dir)?;
        let path = scratch.0.join(file);
        let into = path.to_str().context("the path of state_dir is not UTF-8. To do: give it another one")?;
        let mut report = replay::replay(config, table, range, (source, into)).await?;
        folder.upload(file, &path).await?;
        report.into = url;
        let told = report.json();
        Ok((Done { good: true, result: told.clone() }, told))
    };
    recorded(config, act, replaying).await
}

/// A folder for what is on its way to the lake, which is removed in the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    /// What a former task left there is removed.
    fn new(state_dir: &Path) -> anyhow::Result<Scratch> {
        let scratch = Scratch(state_dir.join("tasks").join("scratch"));
        scratch.clear();
        let what = || format!("cannot create {}. To do: see to the disk of state_dir", scratch.0.display());
        std::fs::create_dir_all(&scratch.0).with_context(what)?;
        Ok(scratch)
    }

    fn clear(&self) {
        // What is left takes only space, until the next task.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
    }
}

async fn check(config: &Config, table: &TableName, head: Option<String>) -> anyhow::Result<Done> {
    let head = head.map(|head| head.parse::<Head>()).transpose().map_err(anyhow::Error::msg)?;
    let act = history_chain::act(table, head.as_ref()).through_http();
    let checking = async {
        let checked = history_chain::checked(config, table, head.as_ref()).await?;
        let result: Value = history_chain::shown(table, &checked)?;
        Ok((Done { good: checked.is_good(), result }, history_chain::of_audit(&checked)))
    };
    recorded(config, act, checking).await
}
