//! `sooner optimize` and `sooner vacuum`: what the pipeline does for its tables by itself, done now. Both may run
//! beside it, or without it.

use bytesize::ByteSize;
use serde_json::{Map, Value, json};
use sooner_api::{Error, MemoryBudget};
use sooner_delta::{DeltaLake, LakeStore, Optimized, PartLimits, SortColumns, Vacuumed};
use sooner_schemas::TableName;

use super::trimming::{Asked, TrimTold, trim};
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::memory::MemoryShares;

/// What `sooner optimize` is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct Optimizing {
    /// Names of tables: schema.table; all tables of the pipeline if none are named.
    pub tables: Vec<String>,
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// What `sooner vacuum` is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct Vacuuming {
    /// Names of tables: schema.table; all tables of the pipeline if none are named.
    pub tables: Vec<String>,
    /// Only say what would be deleted.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// Runs `sooner optimize`.
pub async fn run_optimize(config: &Config, asked: &Optimizing) -> anyhow::Result<()> {
    let optimized = async { Ok(((), optimize(config, asked, print).await?)) };
    recorded(config, Act::new("optimized", json!({"tables": asked.tables})), optimized).await
}

/// Writes tables in as few files as possible; all tables of the pipeline, if none are named. Tells of each, and returns
/// their figures.
pub async fn optimize(config: &Config, asked: &Optimizing, tell: fn(&str)) -> anyhow::Result<Value> {
    let (lake, names) = chosen(config, &asked.tables).await?;
    let mut report = Report::new(tell);
    for name in &names {
        report.take(name, lake.optimize(name).await, |optimized| optimized_line(name, &optimized, asked.json));
    }
    report.end(config, &asked.tables, asked.json)
}

/// Runs `sooner vacuum`.
pub async fn run_vacuum(config: &Config, asked: &Vacuuming) -> anyhow::Result<()> {
    let trimming = Asked { is_dry: asked.dry_run, through_http: false };
    let vacuumed = async { Ok(((), vacuum(config, asked, trimming, print).await?)) };
    if asked.dry_run {
        return vacuumed.await.map(|((), _)| ());
    }
    recorded(config, Act::new("vacuumed", json!({"tables": asked.tables})), vacuumed).await
}

/// Removes from histories what they keep no longer, and deletes the files of tables that no version needs which is
/// kept; or only says how much that is. Of all tables of the pipeline, if none are named. Tells of each, and returns
/// their figures.
pub async fn vacuum(config: &Config, asked: &Vacuuming, trimming: Asked, tell: fn(&str)) -> anyhow::Result<Value> {
    let (lake, names) = chosen(config, &asked.tables).await?;
    let mut report = Report::new(tell);
    for name in &names {
        match trim(config, &lake, name, trimming).await {
            Ok(Some(told)) => report.add_history(name, &told, asked.json),
            Ok(None) => {}
            // What was asked for besides is done.
            Err(error) => report.failed.push(error),
        }
        report.take(name, lake.vacuum(name, !asked.dry_run).await, |found| vacuumed_line(name, &found, asked));
    }
    report.end(config, &asked.tables, asked.json)
}

/// The lake of a configuration, for a command.
pub fn open_lake(config: &Config) -> anyhow::Result<DeltaLake> {
    let settings = config.lake()?;
    let shares = MemoryShares::of(config.memory_bytes);
    let limits = PartLimits { part_bytes: shares.part_bytes, budget: MemoryBudget::new(shares.parts_bytes) };
    let blocks = config.tables.clone();
    let lake = DeltaLake::new(LakeStore::open(&settings.url, &settings.s3)?, &config.name, limits);
    Ok(lake.with_sort_columns(SortColumns::new(move |table| blocks.sort_columns(table))))
}

/// The lake, and the tables that are meant.
async fn chosen(config: &Config, tables: &[String]) -> anyhow::Result<(DeltaLake, Vec<TableName>)> {
    let lake = open_lake(config)?;
    let names = match tables {
        [] => lake.tables().await?,
        tables => tables.iter().map(|name| parse_name(name)).collect::<anyhow::Result<_>>()?,
    };
    Ok((lake, names))
}

fn not_ours(config: &Config, table: &TableName) -> Error {
    let why = format!("the lake has no such table of the pipeline '{}'", config.name);
    let remedy = "see `sooner status` for the pipeline's tables";
    Error::operator(sooner_api::Code::TableForeign, format!("cannot find {table}"), why, remedy)
}

/// What became of the tables: one table's trouble does not keep a command from the others.
struct Report {
    tell: fn(&str),
    done: Map<String, Value>,
    histories: Map<String, Value>,
    not_ours: Option<TableName>,
    failed: Vec<anyhow::Error>,
}

/// What became of a table: as it is printed, and as it is recorded.
struct Line {
    printed: String,
    figures: Value,
}

impl Report {
    fn new(tell: fn(&str)) -> Report {
        Report { tell, done: Map::new(), histories: Map::new(), not_ours: None, failed: Vec::new() }
    }

    /// What became of a table's history.
    fn add_history(&mut self, table: &TableName, told: &TrimTold, json: bool) {
        (self.tell)(&match json {
            true => format!("{}\n", json!({"table": table, "history": told.figures})),
            false => told.line.clone(),
        });
        self.histories.insert(table.to_string(), told.figures.clone());
    }

    fn take<T>(&mut self, table: &TableName, outcome: Result<Option<T>, Error>, line: impl FnOnce(T) -> Line) {
        match outcome {
            Ok(Some(done)) => {
                let Line { printed, figures } = line(done);
                (self.tell)(&printed);
                let mut figures = figures;
                if let Some(history) = self.histories.remove(&table.to_string()) {
                    figures["history"] = history;
                }
                self.done.insert(table.to_string(), figures);
            }
            Ok(None) => self.not_ours = Some(table.clone()),
            Err(error) => self.failed.push(error.into()),
        }
    }

    /// What is recorded; an error, if a table failed, or one that was named is not the pipeline's.
    fn end(mut self, config: &Config, named: &[String], json: bool) -> anyhow::Result<Value> {
        if let Some(table) = self.not_ours.filter(|_| !named.is_empty()) {
            anyhow::bail!(not_ours(config, &table));
        }
        if !self.failed.is_empty() {
            if let [_] = &self.failed[..] {
                return Err(self.failed.remove(0));
            }
            let list = self.failed.iter().map(|error| format!("\n  - {error:#}")).collect::<String>();
            anyhow::bail!("{} table(s) failed:{list}", self.failed.len());
        }
        if self.done.is_empty() && !json {
            (self.tell)("the lake has no table of this pipeline yet\n");
        }
        Ok(Value::Object(self.done))
    }
}

fn optimized_line(table: &TableName, optimized: &Optimized, json: bool) -> Line {
    let Optimized { files_before: before, files_after: after } = *optimized;
    let printed = match (json, before == after) {
        (true, _) => format!("{}\n", json!({"table": table, "files_before": before, "files_after": after})),
        (false, true) => format!("{table}: {}, as before\n", files(after)),
        (false, false) => format!("{table}: {}, where there were {before}\n", files(after)),
    };
    Line { printed, figures: json!({"files_before": before, "files_after": after}) }
}

fn vacuumed_line(table: &TableName, found: &Vacuumed, asked: &Vacuuming) -> Line {
    let Vacuumed { files: count, bytes } = *found;
    let printed = match (asked.json, count, asked.dry_run) {
        (true, ..) => {
            let told = json!({"table": table, "files": count, "bytes": bytes, "deleted": !asked.dry_run});
            format!("{told}\n")
        }
        (_, 0, _) => format!("{table}: nothing to delete\n"),
        (_, _, true) => format!("{table}: would delete {}, {}\n", files(count), ByteSize(bytes)),
        (_, _, false) => format!("{table}: deleted {}, {}\n", files(count), ByteSize(bytes)),
    };
    Line { printed, figures: json!({"files": count, "bytes": bytes}) }
}

fn files(count: usize) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}
