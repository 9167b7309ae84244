//! What is counted while a pipeline runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Upper bounds of the histogram of commits, in seconds.
pub const COMMIT_BOUNDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// What is counted since the process started.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Commits to the lake.
    pub commits: u64,
    /// Seconds that they took.
    pub commit_seconds: f64,
    /// Commits by how long they took.
    pub commit_buckets: [u64; COMMIT_BOUNDS.len() + 1],
    /// Errors that were met, by code.
    pub errors: BTreeMap<String, u64>,
}

impl Totals {
    /// A commit took so long.
    pub fn committed(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.commits += 1;
        self.commit_seconds += seconds;
        let bucket = COMMIT_BOUNDS.partition_point(|bound| *bound < seconds);
        self.commit_buckets[bucket] += 1;
    }

    /// An error was met.
    pub fn failed(&mut self, code: impl fmt::Display) {
        *self.errors.entry(code.to_string()).or_default() += 1;
    }
}
