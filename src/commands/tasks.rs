//! Does the tasks that a running process is asked for: what the commands do, with the configuration that the file has
//! by then, into places of the lake. Each can be begun again after its process has died.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value, json};
use sooner_api::{Code, Error, Result};
use sooner_delta::LakeStore;
use sooner_delta::audit::chain::Head;
use sooner_delta::cuts::{Cut, CutTable, CutVersion};
use sooner_delta::export::{ExportedTable, MANIFEST, Manifest, export_cut, manifest_at};
use sooner_delta::results::ResultFolder;
use sooner_schemas::TableName;
use tokio::sync::Mutex;

use super::cut::{existing, export_told};
use super::report::named;
use super::trimming::Asked;
use super::upkeep::{Optimizing, Vacuuming, open_lake};
use super::verifying::at_cut::verify_cut;
use super::verifying::tables::with_repair;
use super::verifying::{Report, Verdict};
use super::{audit, backfill, history_chain, replay, report, upkeep};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::reports::making::Maker;
use crate::schedule::Due;
use crate::side_thread::SideThread;
use crate::tasks::desk::TaskDesk;
use crate::tasks::{Done, EventFormat, EventSource, Wanted};
use crate::until::{parse_from, parse_to};

/// Tables and runs that are told of in what a task came to, at most.
const MOST_TOLD: usize = 50;
/// Differences that are told of a table, at most, and characters of their keys.
const MOST_EXAMPLES: usize = 20;
const MOST_KEY: usize = 300;
/// Figures of upkeep that are summed up, and where they are in those of a table.
const SUMMED: [(&str, &str); 5] = [
    ("files_before", "/files_before"),
    ("files_after", "/files_after"),
    ("files", "/files"),
    ("bytes", "/bytes"),
    ("history_rows", "/history/rows"),
];
/// How long the lake may take to have all events of a range, before the task waits for its next turn.
const REPLAY_PATIENCE: Duration = Duration::from_secs(60);
/// Size of exported files, and about as much memory as that takes.
const FILE_BYTES: usize = 16 << 20;

/// Does what is asked for at the desk, as long as the thread is kept; not while somebody else has the turn.
pub fn start(config: &Config, path: &Path, turn: Arc<Mutex<()>>) -> Result<(TaskDesk, SideThread)> {
    // Of a process that died.
    Scratch::of(&config.state_dir).clear();
    let file: Arc<Path> = path.into();
    TaskDesk::start(&config.state_dir, move |name, wanted| {
        let (file, turn) = (file.clone(), turn.clone());
        async move {
            let _turn = turn.lock().await;
            done(&config_of(&file)?, &name, wanted).await
        }
    })
}

/// The configuration that the file has by now. One that somebody has broken may be mended: tasks wait for that.
fn config_of(file: &Path) -> Result<Config> {
    Config::load(file).map_err(|error| {
        let what = "cannot read the configuration";
        Error::retry(Code::ConfigurationIncomplete, what, format!("{error:#}"), "mend the file, and it is done then")
    })
}

async fn done(config: &Config, name: &str, wanted: Wanted) -> anyhow::Result<Done> {
    match wanted {
        Wanted::CutExport { cut } => export(config, &cut).await,
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
        Wanted::AuditVerification { head } => {
            let head = head.map(|head| head.parse::<Head>()).transpose().map_err(anyhow::Error::msg)?;
            let (good, result) = audit::verified(config, head.as_ref()).await?;
            Ok(Done { good, result })
        }
        Wanted::ReportRun { report, due } => run_report(config, &report, &due).await,
        Wanted::Optimize { tables } => optimized(config, tables).await,
        Wanted::Vacuum { tables, dry_run } => vacuumed(config, tables, dry_run).await,
    }
}

async fn export(config: &Config, name: &str) -> anyhow::Result<Done> {
    let exporting = async {
        let (lake, cut) = (open_lake(config)?, existing(config, name).await?);
        // A cut of the same name may have been another one.
        let folder = ResultFolder::of_lake(&lake, "exports").below(&format!("{name}-{:X}", cut.lsn.0));
        let target = LakeStore::open(folder.url(), &config.lake()?.s3)?;
        let (manifest, already) = match export_cut(&lake, &cut, &target, FILE_BYTES).await {
            Err(error) if error.code == Code::CutExists => match manifest_at(&target).await? {
                Some(manifest) if is_of(&manifest, &cut) => (manifest, true),
                _ => return Err(error.into()),
            },
            exported => (exported?, false),
        };
        let told = json!({
            "url": folder.url(),
            "manifest": format!("{}/{MANIFEST}", folder.url().trim_end_matches('/')),
            "was_there": already,
            "lsn": manifest.lsn,
            "tables": manifest.tables.len(),
            "histories": manifest.histories.len(),
            "files": manifest.files().count(),
            "rows": manifest.files().map(|file| file.rows).sum::<u64>(),
            "bytes": manifest.files().map(|file| file.bytes).sum::<u64>(),
        });
        Ok((Done { good: true, result: told }, export_told(&manifest)))
    };
    recorded(config, Act::new("cut_exported", json!({"name": name})).through_http(), exporting).await
}

/// Whether an export is that of a cut, with all that is in it: its process may have died before it could say so.
fn is_of(manifest: &Manifest, cut: &Cut) -> bool {
    let exported = |tables: &BTreeMap<TableName, ExportedTable>| -> BTreeMap<TableName, u64> {
        tables.iter().map(|(table, exported)| (table.clone(), exported.version)).collect()
    };
    let in_cut = |of: fn(&CutTable) -> &Option<CutVersion>| -> BTreeMap<TableName, u64> {
        cut.tables.iter().filter_map(|(table, found)| Some((table.clone(), of(found).as_ref()?.version))).collect()
    };
    (&manifest.cut, manifest.lsn) == (&cut.name, cut.lsn)
        && exported(&manifest.tables) == in_cut(|table| &table.mirror)
        && exported(&manifest.histories) == in_cut(|table| &table.history)
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
                reports.push(in_short(with_repair(report, None)?));
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

/// A report with some of its differences, whose keys may be long.
fn in_short(mut report: Value) -> Value {
    if let Some(differences) = report["differences"].as_array_mut() {
        differences.truncate(MOST_EXAMPLES);
        for difference in differences {
            if let Some(key) = difference["key"].as_str().filter(|key| key.len() > MOST_KEY) {
                let short: String = key.chars().take(MOST_KEY).collect();
                difference["key"] = json!(format!("{short}…"));
            }
        }
    }
    report
}

async fn fill(config: &Config, report: &str, (from, to): (&str, &str)) -> anyhow::Result<Done> {
    let filling = async {
        let settings = named(config, report)?;
        let url = Maker::new(config)?.runs(settings)?.url().to_owned();
        let mut failures = Vec::new();
        let each = |due: Due, outcome: Result<_>| {
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
    let act = Act::new("replay", json!({"from": from, "to": to, "source": source})).of_table(&table).through_http();
    let replaying = async {
        let folder = ResultFolder::of_lake(&open_lake(config)?, "replays");
        let ends = parse_from(from).and_then(|from| Ok((from, parse_to(to)?))).map_err(anyhow::Error::msg)?;
        let range = replay::range_of(config, ends.0, ends.1).await?;
        let scratch = Scratch::new(&config.state_dir)?;
        let path = scratch.0.join(file);
        let into = path.to_str().context("the path of state_dir is not UTF-8. To do: give it another one")?;
        let mut report = replay::replay(config, table, range, (source, into, REPLAY_PATIENCE)).await?;
        folder.upload(file, &path).await?;
        report.into = format!("{}/{file}", folder.url().trim_end_matches('/'));
        let told = report.json();
        Ok((Done { good: true, result: told.clone() }, told))
    };
    recorded(config, act, replaying).await
}

/// A folder for what is on its way to the lake, which is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn of(state_dir: &Path) -> Scratch {
        Scratch(state_dir.join("tasks").join("scratch"))
    }

    /// What a former task left there is removed.
    fn new(state_dir: &Path) -> anyhow::Result<Scratch> {
        let scratch = Scratch::of(state_dir);
        scratch.clear();
        let what = || format!("cannot create {}. To do: see to the disk of state_dir", scratch.0.display());
        std::fs::create_dir_all(&scratch.0).with_context(what)?;
        Ok(scratch)
    }

    fn clear(&self) {
        // What is left takes only space, until the next replay or the next process.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.clear();
    }
}

async fn run_report(config: &Config, name: &str, due: &str) -> anyhow::Result<Done> {
    let act = Act::new("report_run", json!({"report": name, "due": due})).through_http();
    let making = async {
        let (manifest, store) = report::made(config, named(config, name)?, Some(due)).await?;
        let result = json!({"manifest": manifest, "url": store.folder(&manifest.run).url()});
        Ok((Done { good: true, result }, json!({"run": manifest.run})))
    };
    recorded(config, act, making).await
}

async fn optimized(config: &Config, tables: Vec<TableName>) -> anyhow::Result<Done> {
    let act = Act::new("optimized", json!({"tables": tables})).through_http();
    let asked = Optimizing { tables: names_of(&tables), json: true };
    let optimizing = async {
        let figures = upkeep::optimize(config, &asked, |_| {}).await?;
        Ok((Done { good: true, result: of_tables(&figures) }, figures))
    };
    recorded(config, act, optimizing).await
}

async fn vacuumed(config: &Config, tables: Vec<TableName>, dry_run: bool) -> anyhow::Result<Done> {
    let act = Act::new("vacuumed", json!({"tables": tables})).through_http();
    let asked = Vacuuming { tables: names_of(&tables), dry_run, json: true };
    let trimming = Asked { is_dry: dry_run, through_http: true };
    let vacuuming = async {
        let figures = upkeep::vacuum(config, &asked, trimming, |_| {}).await?;
        let mut result = of_tables(&figures);
        result["deleted"] = json!(!dry_run);
        Ok((Done { good: true, result }, figures))
    };
    match dry_run {
        true => vacuuming.await.map(|(done, _)| done),
        false => recorded(config, act, vacuuming).await,
    }
}

fn names_of(tables: &[TableName]) -> Vec<String> {
    tables.iter().map(TableName::to_string).collect()
}

/// Figures of tables: how many tables there are, the sum of each figure, and those of some of them.
fn of_tables(figures: &Value) -> Value {
    let all = figures.as_object().into_iter().flatten();
    let sum = |path: &str| all.clone().filter_map(|(_, figures)| figures.pointer(path)?.as_u64()).sum::<u64>();
    let sums: BTreeMap<_, _> = SUMMED.iter().map(|(name, path)| (*name, sum(path))).filter(|sum| sum.1 > 0).collect();
    let told: Map<String, Value> =
        all.clone().take(MOST_TOLD).map(|(name, figures)| (name.clone(), figures.clone())).collect();
    json!({ "count": all.count(), "sums": sums, "tables": told })
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
