//! Preconditions of the lake.

use std::time::Duration;

use futures::{StreamExt, stream};
use sooner_api::MemoryBudget;
use sooner_delta::{DeltaLake, LakeStore, PartLimits};

use super::Finding;
use crate::config::{LakeConfig, TableBlocks};

/// Mark of Delta's own library for the JVM in what an entry says of its writer.
const JVM_ENGINE: &str = "Delta-Lake/";
/// Entries of each table's log that are looked at, from the last one back.
const INSPECTED_ENTRIES: usize = 10;
/// Tables that are looked at side by side.
const INSPECTED_AT_ONCE: usize = 16;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Requests of a commit, about: it puts a data file and a log entry; a checkpoint reads the entry again, and whoever
/// writes the data file again reads it in two or three parts.
const REQUESTS_PER_COMMIT: f64 = 6.0;
/// Files of a commit before they are written again.
const FILES_PER_COMMIT: f64 = 1.2;

/// Checks that the lake can be written and that its store honours conditional puts, by writing a probe object.
pub async fn inspect(lake: &LakeConfig) -> Vec<Finding> {
    let opened = LakeStore::open(&lake.url, &lake.s3);
    let probed = match opened {
        Ok(store) => store.probe().await,
        Err(error) => Err(error),
    };
    vec![match probed {
        Ok(()) => Finding::ok("lake", format!("{} is writable, and conditional puts are honoured", lake.url)),
        Err(error) => Finding::error("lake", &error),
    }]
}

/// Whether others write tables by log stores that may overwrite entries of the log.
pub async fn log_stores(lake: &LakeConfig, pipeline: &str) -> Vec<Finding> {
    let Ok(store) = LakeStore::open(&lake.url, &lake.s3) else { return Vec::new() };
    // Nothing is written.
    let limits = PartLimits { part_bytes: 0, budget: MemoryBudget::new(0) };
    let tables = DeltaLake::new(store, pipeline, limits);
    let names = tables.tables().await.unwrap_or_default();
    let asked = names.iter().map(async |name| (name, tables.other_writers(name, INSPECTED_ENTRIES).await));
    let found: Vec<_> = stream::iter(asked).buffered(INSPECTED_AT_ONCE).collect().await;
    let unsafe_writes =
        found.into_iter().filter_map(|(name, writers)| {
            // What cannot be read is told by other checks, and by the pipeline.
            let writers = writers.unwrap_or_default();
            writers.into_iter().find(|(engine, _)| engine.contains(JVM_ENGINE)).map(|(engine, version)| {
            let finding = format!(
                "{engine} has written version {version} of {name}; its log stores for {} put an entry where there is \
                 one already, and what sooner had written there would be lost, noticed and copied again",
                if lake.url.starts_with("s3:") { "S3, but for the one with DynamoDB," } else { "local disks" }
            );
            let remedy = match lake.url.starts_with("s3:") {
                true => "set spark.delta.logStore.s3.impl and spark.delta.logStore.s3a.impl to \
                         io.delta.storage.S3DynamoDBLogStore there, unless that is done already",
                false => "let it only read, or write while sooner does not; deltalake (Python, Polars) is safe",
            };
            Finding::warning("log stores", finding, remedy)
        })
        });
    unsafe_writes.collect()
}

/// What a table costs at most, by its freshness: one that changes all the time is committed to that often.
pub fn costs(lake: &LakeConfig, tables: &TableBlocks) -> Vec<Finding> {
    let mut lines = vec![format!("a table that changes all the time makes, at most, {}", cost(lake.freshness))];
    lines.extend(tables.freshnesses().map(|(pattern, freshness)| format!("{pattern}: {}", cost(freshness))));
    lines.into_iter().map(|line| Finding::ok("freshness", line)).collect()
}

/// What commits at such intervals amount to.
fn cost(freshness: Duration) -> String {
    let commits = DAY.as_secs_f64() / freshness.as_secs_f64();
    format!(
        "{} commits, {} requests and {} files a day (freshness {})",
        rounded(commits),
        rounded(commits * REQUESTS_PER_COMMIT),
        rounded(commits * FILES_PER_COMMIT),
        humantime::format_duration(freshness)
    )
}

/// A number with two digits that count.
fn rounded(number: f64) -> String {
    let unit = 10f64.powf(number.max(1.0).log10().floor() - 1.0).max(1.0);
    format!("{:.0}", (number / unit).round() * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_follow_the_freshness() {
        let expected = "86000 commits, 520000 requests and 100000 files a day (freshness 1s)";
        assert_eq!(cost(Duration::from_secs(1)), expected);
        assert_eq!(cost(Duration::from_secs(3600)), "24 commits, 140 requests and 29 files a day (freshness 1h)");
    }
}
