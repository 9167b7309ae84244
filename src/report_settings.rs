//! Settings of a report, as they were checked.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sooner_schemas::TableName;

use crate::schedule::{CatchUp, Schedule};

/// What a result is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Parquet.
    Parquet,
    /// Texts apart by commas, names of columns first.
    Csv,
    /// No rows: statements that read the cut in the languages of engines, and the query as a view of them.
    Views,
}

impl Format {
    /// End of the names of such files.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Parquet => "parquet",
            Format::Csv => "csv",
            Format::Views => "sql",
        }
    }
}

/// A report: a query of a cut, again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportSettings {
    /// Its name.
    pub name: String,
    /// When it is due.
    pub schedule: Schedule,
    /// The tables that it reads; all of the pipeline if none are named.
    pub tables: Vec<TableName>,
    /// The query.
    pub sql: String,
    /// The command that runs SQL, with its arguments: DuckDB's dialect, from standard input.
    pub engine: Vec<String>,
    /// What its results are written as.
    pub format: Format,
    /// Where results go, if not to the lake.
    pub output: Option<String>,
    /// How long its cuts are kept; none to drop them once it is made. Reports of views have one.
    pub keep: Option<Duration>,
    /// What becomes of missed runs.
    pub catch_up: CatchUp,
    /// How long the engine may take.
    pub time_limit: Duration,
}

/// How the names of reports' cuts begin.
pub const CUT_PREFIX: &str = "report.";

/// Checks that a cut which somebody asks for is not named as those of reports are, which come and go with their runs.
pub fn check_not_reserved(cut: &str) -> Result<(), String> {
    match cut.starts_with(CUT_PREFIX) {
        true => {
            Err(format!("'{cut}' is named as a cut of a report, and would go with its runs: begin with another word"))
        }
        false => Ok(()),
    }
}

/// Checks a report's name: letters, digits, `-` and `_`, so that it is a folder's, and part of a cut's.
pub fn check_report_name(name: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match !name.is_empty() && name.len() <= 60 && name.chars().all(is_plain) {
        true => Ok(()),
        false => Err("expected up to 60 letters, digits, '-' and '_'".to_owned()),
    }
}
