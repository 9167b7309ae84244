//! What a result says of itself. A run that has a manifest is complete; all else in its folder was broken off.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sooner_delta::cuts::Cut;
use sooner_schemas::{Lsn, TableName};

use crate::report_settings::{Format, ReportSettings};
use crate::schedule::Due;

/// What the rows of a run were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MadeFrom {
    /// The tables of the cut.
    Cut,
    /// Histories of the tables, which the cut held, as of the time at which the run was due.
    History,
}

/// What one run made, and of what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the report.
    pub report: String,
    /// Name of the run, which is that of its folder.
    pub run: String,
    /// Pipeline.
    pub pipeline: String,
    /// When it was due.
    pub due: String,
    /// What its rows were read from.
    pub made_from: MadeFrom,
    /// Everything that was committed up to this moment of the server's clock is in it. A run that was made late has
    /// what was there later than it was due.
    pub as_of: String,
    /// How long after it was due that is, in seconds.
    pub late_seconds: i64,
    /// The cut.
    pub cut: CutTold,
    /// When the run began, and when its result was complete.
    pub started: String,
    /// See `started`.
    pub finished: String,
    /// The tables that the query could read.
    pub tables: BTreeMap<TableName, TableRead>,
    /// The query.
    pub query: String,
    /// SHA-256 of the query, as hexadecimal digits.
    pub query_sha256: String,
    /// The engine's command.
    pub engine: Vec<String>,
    /// What the engine says of its version.
    pub engine_version: String,
    /// What made the run.
    pub written_by: String,
    /// Form of the files.
    pub format: Format,
    /// Number of rows.
    pub rows: u64,
    /// The files.
    pub files: Vec<ResultFile>,
}

/// The cut of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutTold {
    /// Its name.
    pub name: String,
    /// Every transaction up to this commit LSN is in it, and no other.
    pub lsn: Lsn,
    /// When the last of them was committed, by the server's clock.
    pub committed: String,
    /// When it was made.
    pub made: String,
    /// Until when it is kept; none if it was dropped once the run was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<String>,
}

/// A table that a query could read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRead {
    /// Where it lies in the lake: the mirror, or the history.
    pub url: String,
    /// Its version.
    pub version: u64,
    /// Number of its rows.
    pub rows: u64,
    /// What its history cannot tell of the time at which the run was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproven: Option<String>,
}

/// A file of a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultFile {
    /// Name in the run's folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, as hexadecimal digits.
    pub sha256: String,
}

/// What an engine made, beside what is known of its run.
#[derive(Debug)]
pub struct Outcome {
    /// The tables that it could read.
    pub tables: BTreeMap<TableName, TableRead>,
    /// What it says of its version.
    pub engine_version: String,
    /// Number of rows.
    pub rows: u64,
    /// The files.
    pub files: Vec<ResultFile>,
    /// When the run began, in microseconds since 1970.
    pub started_micros: i64,
    /// When its result was complete.
    pub finished_micros: i64,
}

impl Manifest {
    /// The manifest of a run.
    pub fn new(
        settings: &ReportSettings,
        run: &str,
        due: Due,
        (made_from, cut): (MadeFrom, &Cut),
        pipeline: &str,
        outcome: Outcome,
    ) -> Manifest {
        let as_of_micros = match made_from {
            MadeFrom::Cut => cut.commit_micros,
            MadeFrom::History => due.micros(),
        };
        Manifest {
            report: settings.name.clone(),
            run: run.to_owned(),
            pipeline: pipeline.to_owned(),
            due: due.to_string(),
            made_from,
            as_of: instant(as_of_micros),
            late_seconds: (as_of_micros - due.micros()).div_euclid(1_000_000),
            cut: CutTold {
                name: cut.name.clone(),
                lsn: cut.lsn,
                committed: instant(cut.commit_micros),
                made: instant(cut.made_micros),
                kept_until: cut.until_millis.map(|until| instant(until.saturating_mul(1000))),
            },
            started: instant(outcome.started_micros),
            finished: instant(outcome.finished_micros),
            tables: outcome.tables,
            query: settings.sql.clone(),
            query_sha256: sha256(settings.sql.as_bytes()),
            engine: settings.engine.clone(),
            engine_version: outcome.engine_version,
            written_by: concat!("sooner ", env!("CARGO_PKG_VERSION")).to_owned(),
            format: settings.format,
            rows: outcome.rows,
            files: outcome.files,
        }
    }
}

/// A time in microseconds since 1970, as RFC 3339.
pub fn instant(micros: i64) -> String {
    let since = Duration::from_micros(u64::try_from(micros).unwrap_or_default());
    humantime::format_rfc3339_micros(UNIX_EPOCH + since).to_string()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
