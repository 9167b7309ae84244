//! What is counted while a pipeline runs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sooner_api::{Fact, Side};
use sooner_schemas::TableName;
use sooner_schemas::event::Op;

/// Upper bounds of the histogram of commits and of Kafka transactions, in seconds.
const COMMIT_BOUNDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Upper bounds of the histogram from commit to commit, in seconds.
const WAY_BOUNDS: [f64; 12] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// How often something took how long.
#[derive(Clone, Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    /// Seconds of all together.
    pub seconds: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], seconds: 0.0 }
    }

    /// Something took so long.
    pub fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.seconds += seconds;
        self.counts[self.bounds.partition_point(|bound| *bound < seconds)] += 1;
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Upper bounds in seconds, each with how many lie below it and above the bound before.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        self.bounds.iter().copied().chain([f64::MAX]).zip(self.counts.iter().copied()).collect()
    }
}

/// What is counted since the process started.
#[derive(Clone, Debug)]
pub struct Totals {
    /// How long commits to the lake took.
    pub commits: Histogram,
    /// How long it took from commits at the source to those of the lake.
    pub ways: Histogram,
    /// How long Kafka transactions took.
    pub transactions: Histogram,
    /// Messages that went to the dead letters.
    pub dead_letters: u64,
    /// Bytes of events that wait, and how many may.
    pub memory: Option<(usize, usize)>,
    /// Whether what is read waits for what is written.
    pub is_pressed: bool,
    /// Errors that were met, by code.
    pub errors: BTreeMap<String, u64>,
    /// Events that were read from the source, by table and operation.
    pub events: BTreeMap<TableName, BTreeMap<&'static str, u64>>,
    /// How long brokers made a side wait lately, because of a quota.
    pub throttled: BTreeMap<Side, Duration>,
    /// Reports, by name.
    pub reports: BTreeMap<String, ReportTotals>,
}

/// What became of a report's runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportTotals {
    /// When it was last made, in microseconds since 1970.
    pub made_micros: Option<i64>,
    /// Runs that failed since the process started.
    pub failed: u64,
}

impl Default for Totals {
    fn default() -> Totals {
        Totals {
            commits: Histogram::new(&COMMIT_BOUNDS),
            ways: Histogram::new(&WAY_BOUNDS),
            transactions: Histogram::new(&COMMIT_BOUNDS),
            dead_letters: 0,
            memory: None,
            is_pressed: false,
            errors: BTreeMap::new(),
            events: BTreeMap::new(),
            throttled: BTreeMap::new(),
            reports: BTreeMap::new(),
        }
    }
}

impl Totals {
    /// Takes what a fact counts.
    pub fn hear(&mut self, fact: &Fact<'_>, now_micros: i64) {
        match fact {
            Fact::Committed { took, commit_micros, .. } => self.committed(*took, *commit_micros, now_micros),
            Fact::Sent(took) => self.transactions.observe(*took),
            Fact::DeadLetters(messages) => self.dead_letters += *messages,
            Fact::Memory { taken_bytes, limit_bytes, is_pressed } => {
                self.memory = Some((*taken_bytes, *limit_bytes));
                self.is_pressed = *is_pressed;
            }
            Fact::Interrupted(error) => self.failed(error.code),
            Fact::Read(table, op, events) => {
                *self.events.entry((*table).clone()).or_default().entry(name_of(*op)).or_default() += events;
            }
            Fact::Throttled(side, wait) => drop(self.throttled.insert(*side, *wait)),
            Fact::ReportMade(report, at_micros) => {
                let known = self.reports.entry((*report).to_owned()).or_default();
                known.made_micros = known.made_micros.max(Some(*at_micros));
            }
            Fact::ReportFailed(report, _) => self.reports.entry((*report).to_owned()).or_default().failed += 1,
            _ => {}
        }
    }

    /// A commit took so long; its last event was committed at the source at the one moment, and is visible at the
    /// other, in microseconds since 1970.
    pub fn committed(&mut self, took: Duration, commit_micros: Option<i64>, now_micros: i64) {
        self.commits.observe(took);
        if let Some(commit_micros) = commit_micros {
            let micros = now_micros.saturating_sub(commit_micros).max(0);
            self.ways.observe(Duration::from_micros(micros.unsigned_abs()));
        }
    }

    /// An error was met.
    pub fn failed(&mut self, code: impl fmt::Display) {
        *self.errors.entry(code.to_string()).or_default() += 1;
    }
}

/// Name of an operation in series.
fn name_of(op: Op) -> &'static str {
    match op {
        Op::Read => "copy",
        Op::Create => "insert",
        Op::Update => "update",
        Op::Delete => "delete",
        Op::Truncate | Op::CopyStart => "truncate",
    }
}
