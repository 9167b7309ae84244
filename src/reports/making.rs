//! One run of a report: a cut is asked for, its tables are written as plain files, the engine reads them, and what it
//! wrote is stored. Whatever dies meanwhile, the next attempt begins again with the same cut, and what is complete
//! stays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sooner_api::{Class, Clock, Code, Error, MemoryBudget, Result};
use sooner_delta::cuts::Cut;
use sooner_delta::history::views::{self, AsOf};
use sooner_delta::replaying::knowledge::history_knowledge;
use sooner_delta::report_data::{LocalTable, parquet_rows, rows_of};
use sooner_delta::results::measure;
use sooner_delta::trim::Moment;
use sooner_delta::{DeltaLake, LakeStore, PartLimits, S3Settings};
use sooner_schemas::TableName;

use super::engine::{execute, failed, version};
use super::manifest::{MadeFrom, Manifest, Outcome, ResultFile, TableRead, instant};
use super::runs::RunStore;
use super::script::{
    Outputs, RunTold, columns_script, cut_views_script, exact_query, files_query, parse_columns, result_script,
    views_script,
};
use super::turn::Turn;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::cut_desk::CutRequests;
use crate::cut_sql::{self, Engine};
use crate::pipeline::cutting::CutRequest;
use crate::report_settings::{CUT_PREFIX, Format, ReportSettings};
use crate::schedule::Due;

/// How long a cut is waited for before others have their turn.
const CUT_LIMIT: Duration = Duration::from_secs(600);
/// How often it is looked whether the cut is there.
const CUT_INTERVAL: Duration = Duration::from_millis(100);
/// Digits of a result's hash in its file's name.
const NAME_DIGITS: usize = 16;

/// What runs are made with.
#[derive(Clone, Debug)]
pub struct Maker {
    /// The lake.
    pub lake: DeltaLake,
    /// Settings of its store, and of those that results go to.
    pub s3: S3Settings,
    /// The state folder.
    pub state_dir: PathBuf,
}

/// A run that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The report.
    pub settings: &'a ReportSettings,
    /// Its runs.
    pub store: &'a RunStore,
    /// Name of the run.
    pub name: &'a str,
    /// When it is due.
    pub due: Due,
}

/// What a run's query reads.
#[derive(Debug)]
pub struct Input<'a> {
    /// The cut, and what of it is read.
    pub cut: &'a Cut,
    /// What is read.
    pub made_from: MadeFrom,
    /// The tables.
    pub tables: BTreeMap<TableName, TableRead>,
    /// Each table with the query that reads it.
    pub views: Vec<(TableName, String)>,
    /// When the run began, in microseconds since 1970.
    pub started_micros: i64,
}

impl Maker {
    /// For the lake of a configuration.
    pub fn new(config: &Config) -> Result<Maker> {
        let settings = config.lake()?;
        // No table is written.
        let limits = PartLimits { part_bytes: 0, budget: MemoryBudget::new(0) };
        let lake = DeltaLake::new(LakeStore::open(&settings.url, &settings.s3)?, &config.name, limits);
        Ok(Maker { lake, s3: settings.s3.clone(), state_dir: config.state_dir.clone() })
    }

    /// The runs of a report.
    pub fn runs(&self, settings: &ReportSettings) -> Result<RunStore> {
        RunStore::open(&self.lake, &self.s3, settings)
    }

    /// Makes a run of a cut, unless it is complete already.
    pub async fn make(&self, run: Run<'_>, turn: &Turn) -> Result<Manifest> {
        let cut_name = cut_name(run.settings, run.name);
        let manifest = match run.store.manifest(run.name).await? {
            Some(made) => made,
            None if run.settings.format == Format::Views => self.views(run, &cut_name, turn).await?,
            None => {
                let started_micros = SystemClock.now_micros();
                let cut = self.cut(&cut_name, run.settings, run.due).await?;
                let folder = turn.scratch().map_err(|error| unusable(&self.state_dir, error))?;
                let local = self.lake.tables_to(&cut, &folder.join("in")).await?;
                let mut views: Vec<_> =
                    local.iter().map(|(table, local)| (table.clone(), files_query(&local.files))).collect();
                let mut tables: BTreeMap<_, _> =
                    local.iter().map(|(table, local)| (table.clone(), read_of(local))).collect();
                for (table, read, query) in self.of_histories(&cut, &folder.join("in")).await? {
                    tables.insert(table.clone(), read);
                    views.push((table, query));
                }
                let input = Input { cut: &cut, made_from: MadeFrom::Cut, tables, views, started_micros };
                self.produce(run, input, &folder).await?
            }
        };
        // What is left there costs only space, until the next run.
        let _ = turn.clear();
        self.release(&cut_name, run.settings).await;
        Ok(manifest)
    }

    /// Tables of a cut that have nothing but a history, each as that tells it. Those that it cannot tell are left out,
    /// so that a query which names them fails.
    async fn of_histories(&self, cut: &Cut, folder: &Path) -> Result<Vec<(TableName, TableRead, String)>> {
        let mut alone = cut.clone();
        alone.tables.retain(|_, versions| versions.mirror.is_none());
        let mut told = Vec::new();
        for (table, history) in self.lake.histories_to(&alone, folder).await? {
            let query = history.described.as_of(views::Engine::DuckDbFiles, &AsOf::Lsn(cut.lsn.0));
            if let Some(query) = self.if_known(&table, cut, query).await? {
                told.push((table, read_of(&history.table), query));
            }
        }
        Ok(told)
    }

    /// A query of a table's history, without its end, unless the history cannot tell the table as of a cut.
    async fn if_known(&self, table: &TableName, cut: &Cut, query: Option<String>) -> Result<Option<String>> {
        let known = history_knowledge(&self.lake, table).await?;
        match known.map(|known| known.check(table, Some(&Moment::Lsn(cut.lsn.0)))) {
            Some(Err(error)) => {
                tracing::warn!(%table, %error, "a table that has only a history is not in a report");
                Ok(None)
            }
            _ => Ok(query.map(|query| query.trim_end().trim_end_matches(';').to_owned())),
        }
    }

    /// Stores statements that read a cut, for each engine, and for DuckDB the query as a view.
    async fn views(&self, run: Run<'_>, cut_name: &str, turn: &Turn) -> Result<Manifest> {
        let (settings, started_micros) = (run.settings, SystemClock.now_micros());
        let cut = self.cut(cut_name, settings, run.due).await?;
        let folder = turn.scratch().map_err(|error| unusable(&self.state_dir, error))?;
        let told = RunTold { due: run.due, as_of: instant(cut.commit_micros), lsn: cut.lsn.to_string() };
        let mut of_histories = Vec::new();
        for (table, _) in cut.tables.iter().filter(|(_, versions)| versions.mirror.is_none()) {
            let described = self.lake.describe_history(table).await?;
            let query = described.and_then(|known| known.as_of(views::Engine::DuckDb, &AsOf::Lsn(cut.lsn.0)));
            let query = self.if_known(table, &cut, query).await?;
            of_histories.extend(query.map(|query| (table.clone(), query)));
        }
        let mut files = Vec::new();
        for (engine, ending) in [
            (Engine::Duckdb, "duckdb.sql"),
            (Engine::Spark, "spark.sql"),
            (Engine::Trino, "trino.sql"),
            (Engine::Polars, "polars.py"),
        ] {
            let text = match engine {
                Engine::Duckdb => cut_views_script(settings, &told, &cut, &of_histories),
                _ => cut_sql::text(&cut, engine),
            };
            let written = folder.join(ending);
            std::fs::write(&written, text).map_err(|error| unusable(&self.state_dir, error))?;
            files.push(upload(run, &written, ending).await?);
        }
        let mut tables = BTreeMap::new();
        for (table, found) in cut.tables.iter().filter_map(|(table, versions)| Some((table, versions.mirror.as_ref()?)))
        {
            let rows = rows_of(&self.lake, table, found).await?;
            let (url, version) = (found.url.clone(), found.version);
            tables.insert(table.clone(), TableRead { url, version, rows, unproven: None });
        }
        let outcome = Outcome {
            tables,
            engine_version: String::new(),
            rows: 0,
            files,
            started_micros,
            finished_micros: SystemClock.now_micros(),
        };
        let manifest = Manifest::new(settings, run.name, run.due, (MadeFrom::Cut, &cut), self.lake.pipeline(), outcome);
        run.store.complete(manifest).await
    }

    /// Has the engine run the query over what it reads, and stores what it wrote.
    pub async fn produce(&self, run: Run<'_>, input: Input<'_>, folder: &Path) -> Result<Manifest> {
        let (settings, cut) = (run.settings, input.cut);
        let what = format!("cannot make the report '{}' that was due at {}", settings.name, run.due);
        let out = folder.join("out");
        // Of the run before, where several are made of the same input.
        let _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir_all(&out).map_err(|error| unusable(&self.state_dir, error))?;
        let outputs = Outputs::of(&out);
        let as_of = match input.made_from {
            MadeFrom::Cut => instant(cut.commit_micros),
            MadeFrom::History => run.due.to_string(),
        };
        let told = RunTold { due: run.due, as_of, lsn: cut.lsn.to_string() };
        let remedy = "name an engine that runs DuckDB's SQL from standard input, and write one query in sql";
        let views = views_script(settings, &told, &input.views);
        let run_script = async |script: String| {
            execute(&settings.engine, &(views.clone() + &script), &out, settings.time_limit, &what).await
        };
        run_script(columns_script(&settings.sql, &outputs)).await?;
        let columns = std::fs::read_to_string(&outputs.columns).ok().and_then(|text| parse_columns(&text));
        let columns = columns.ok_or_else(|| failed(&what, "the engine did not tell its columns".to_owned(), remedy))?;
        run_script(result_script(&exact_query(&settings.sql, &columns), settings.format, &outputs)).await?;
        let engine_version = version(&outputs).map_err(|why| failed(&what, why, remedy))?;
        let rows = parquet_rows(&outputs.parquet)?;
        let written = match settings.format {
            Format::Parquet | Format::Views => &outputs.parquet,
            Format::Csv => &outputs.csv,
        };
        let file = upload(run, written, settings.format.extension()).await?;
        let outcome = Outcome {
            tables: input.tables,
            engine_version,
            rows,
            files: vec![file],
            started_micros: input.started_micros,
            finished_micros: SystemClock.now_micros(),
        };
        let origin = (input.made_from, cut);
        let manifest = Manifest::new(settings, run.name, run.due, origin, self.lake.pipeline(), outcome);
        run.store.complete(manifest).await
    }

    /// The cut of this name, with all that was committed before a moment. The running pipeline makes it, if there is
    /// none yet.
    pub async fn cut(&self, name: &str, settings: &ReportSettings, from: Due) -> Result<Cut> {
        if let Some(cut) = self.lake.cut(name).await? {
            return Ok(cut);
        }
        let (requests, asked) = (CutRequests::new(&self.state_dir), Instant::now());
        let keep = settings.keep.map(|keep| i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
        let request = CutRequest {
            name: name.to_owned(),
            tables: settings.tables.clone(),
            from_lsn: None,
            from_micros: Some(from.micros()),
            until_millis: keep.map(|keep| (SystemClock.now_micros() / 1000).saturating_add(keep)),
        };
        requests.ask(&request).map_err(|error| unusable(&self.state_dir, error))?;
        loop {
            if let Some(cut) = self.lake.cut(name).await? {
                return Ok(cut);
            }
            if let Some(error) = requests.failure(name) {
                return Err(error);
            }
            if asked.elapsed() > CUT_LIMIT {
                requests.withdraw(name).map_err(|error| unusable(&self.state_dir, error))?;
                return Err(no_cut(name));
            }
            tokio::time::sleep(CUT_INTERVAL).await;
        }
    }

    /// Drops the cut of a run that is complete, unless it is kept for longer.
    pub async fn release(&self, cut_name: &str, settings: &ReportSettings) {
        if settings.keep.is_some() {
            return;
        }
        if let Err(error) = self.lake.drop_cut(cut_name).await {
            tracing::warn!(cut = cut_name, %error, "cannot drop the cut of a report");
        }
    }
}

/// Stores a file of a run, named by what is in it, so that attempts never write over each other's.
async fn upload(run: Run<'_>, written: &Path, ending: &str) -> Result<ResultFile> {
    let measured = measure(written).await?;
    let digits = measured.sha256.get(..NAME_DIGITS).unwrap_or_default();
    let name = format!("{}-{digits}.{ending}", run.settings.name);
    run.store.folder(run.name).upload(&name, written).await?;
    Ok(ResultFile { name, bytes: measured.bytes, sha256: measured.sha256 })
}

/// Name of the cut of a run.
pub fn cut_name(settings: &ReportSettings, run: &str) -> String {
    format!("{CUT_PREFIX}{}.{run}", settings.name)
}

/// What a manifest says of a table that was written to files.
pub fn read_of(local: &LocalTable) -> TableRead {
    TableRead { url: local.url.clone(), version: local.version, rows: local.rows, unproven: None }
}

/// The state folder cannot be written to.
pub fn unusable(state_dir: &Path, error: std::io::Error) -> Error {
    let remedy = "see that the folder can be written to, and that its disk has room for the report's tables";
    Error::retry(Code::ReportFailed, format!("cannot use the state folder {}", state_dir.display()), error, remedy)
}

fn no_cut(name: &str) -> Error {
    Error {
        class: Class::Retry,
        ..Error::operator(
            Code::CutImpossible,
            format!("cannot make the cut '{name}' yet"),
            "the pipeline does not run, rests, or copies one of its tables",
            "see `sooner status`",
        )
    }
}
