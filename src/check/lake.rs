//! Preconditions of the lake.

use sooner_delta::LakeStore;

use std::time::Duration;

use super::Finding;
use crate::config::{LakeConfig, TableBlocks};

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
