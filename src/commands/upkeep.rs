//! `sooner optimize` and `sooner vacuum`: what the pipeline does for its tables by itself, done now. Both may run
//! beside it, or without it.

use bytesize::ByteSize;
use sooner_api::{Error, MemoryBudget};
use sooner_delta::{DeltaLake, LakeStore, Optimized, PartLimits, SortColumns, Vacuumed};
use sooner_schemas::TableName;

use super::trimming::trim;
use super::{parse_name, print};
use crate::config::Config;
use crate::memory::MemoryShares;

/// Writes tables in as few files as possible; all tables of the pipeline, if none are named.
pub async fn run_optimize(config: &Config, tables: &[String]) -> anyhow::Result<()> {
    let (lake, names) = chosen(config, tables).await?;
    let mut report = Report::default();
    for name in &names {
        report.take(name, lake.optimize(name).await, |optimized| optimized_line(name, optimized));
    }
    report.end(config, tables)
}

/// Removes from histories what they keep no longer, and deletes the files of tables that no version needs which is
/// kept; or only says how much that is. Of all tables of the pipeline, if none are named.
pub async fn run_vacuum(config: &Config, tables: &[String], dry_run: bool) -> anyhow::Result<()> {
    let (lake, names) = chosen(config, tables).await?;
    let mut report = Report::default();
    for name in &names {
        match trim(config, &lake, name, dry_run).await {
            Ok(told) => print(&told.unwrap_or_default()),
            // What was asked for besides is done.
            Err(error) => report.failed.push(error),
        }
        report.take(name, lake.vacuum(name, !dry_run).await, |found| vacuumed_line(name, found, dry_run));
    }
    report.end(config, tables)
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
#[derive(Default)]
struct Report {
    done: usize,
    not_ours: Option<TableName>,
    failed: Vec<anyhow::Error>,
}

impl Report {
    fn take<T>(&mut self, table: &TableName, outcome: Result<Option<T>, Error>, line: impl FnOnce(T) -> String) {
        match outcome {
            Ok(Some(done)) => {
                self.done += 1;
                print(&line(done));
            }
            Ok(None) => self.not_ours = Some(table.clone()),
            Err(error) => self.failed.push(error.into()),
        }
    }

    /// An error, if a table failed, or one that was named is not the pipeline's.
    fn end(self, config: &Config, named: &[String]) -> anyhow::Result<()> {
        if let Some(table) = self.not_ours.filter(|_| !named.is_empty()) {
            anyhow::bail!(not_ours(config, &table));
        }
        if !self.failed.is_empty() {
            let list = self.failed.iter().map(|error| format!("\n  - {error:#}")).collect::<String>();
            anyhow::bail!("{} table(s) failed:{list}", self.failed.len());
        }
        if self.done == 0 {
            print("the lake has no table of this pipeline yet\n");
        }
        Ok(())
    }
}

fn optimized_line(table: &TableName, optimized: Optimized) -> String {
    let Optimized { files_before, files_after } = optimized;
    match files_before == files_after {
        true => format!("{table}: {}, as before\n", files(files_after)),
        false => format!("{table}: {}, where there were {files_before}\n", files(files_after)),
    }
}

fn vacuumed_line(table: &TableName, found: Vacuumed, dry_run: bool) -> String {
    let Vacuumed { files: count, bytes } = found;
    match (count, dry_run) {
        (0, _) => format!("{table}: nothing to delete\n"),
        (_, true) => format!("{table}: would delete {}, {}\n", files(count), ByteSize(bytes)),
        (_, false) => format!("{table}: deleted {}, {}\n", files(count), ByteSize(bytes)),
    }
}

fn files(count: usize) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}
