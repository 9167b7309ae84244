//! What takes long and is asked of a running process: tasks, and what becomes of each.

pub mod desk;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sooner_api::{Clock, Code, Error};
use sooner_schemas::TableName;

use crate::clock::SystemClock;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Wanted {
    /// A cut is written as Parquet files, to a place of its own in the lake.
    CutExport {
        /// Name of the cut.
        cut: String,
    },
    /// Tables of a cut are compared with their histories.
    CutVerification {
        /// Name of the cut.
        cut: String,
        /// The tables; all of the cut if none are named.
        tables: Vec<TableName>,
    },
    /// Runs of a report are made for times that have passed.
    Backfill {
        /// Name of the report.
        report: String,
        /// From when on, as a person wrote it.
        from: String,
        /// Until when, as a person wrote it.
        to: String,
    },
    /// Events of a table are written to a file of the lake.
    Replay {
        /// The table.
        table: TableName,
        /// From where on, as a person wrote it.
        from: String,
        /// To where, as a person wrote it.
        to: String,
        /// Where they are read.
        source: Option<EventSource>,
        /// How they are written.
        format: EventFormat,
    },
    /// The chain of a table's history is checked.
    HistoryVerification {
        /// The table.
        table: TableName,
        /// A former end of the chain, SEQUENCE:HASH.
        head: Option<String>,
    },
    /// The whole audit trail is checked.
    AuditVerification {
        /// A former end of the chain, SEQUENCE:HASH.
        head: Option<String>,
    },
    /// The run of a report is made that was due at a moment.
    ReportRun {
        /// Name of the report.
        report: String,
        /// When it was due, as a person wrote it.
        due: String,
    },
    /// Tables are written in as few files as possible.
    Optimize {
        /// The tables; all of the pipeline if none are named.
        tables: Vec<TableName>,
    },
    /// Files are deleted that no version needs which is kept, and rows of histories that these keep no longer.
    Vacuum {
        /// The tables; all of the pipeline if none are named.
        tables: Vec<TableName>,
        /// It is only found out what would go.
        dry_run: bool,
    },
}

/// Where events of a table are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum EventSource {
    /// In the table's history in the lake.
    History,
    /// On the table's topic.
    Topic,
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventFormat {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// The columns of a history.
    Parquet,
}

/// What a task came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Whether all is as it should be; false if a check found something, or a part could not be made.
    pub good: bool,
    /// What is told of it.
    pub result: Value,
}

/// Where a task stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Standing {
    /// It waits for others.
    Waiting,
    /// It is being done.
    Begun,
    /// It was done.
    Done(Done),
    /// It could not be done.
    Failed {
        /// Why.
        error: Error,
    },
}

/// A task, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its name, which begins with the time at which it was asked for.
    pub name: String,
    /// What is to be done.
    pub wanted: Wanted,
    /// When it was asked for, in microseconds since 1970.
    pub asked_micros: i64,
    /// When it ended, in microseconds since 1970.
    pub ended_micros: Option<i64>,
    /// How often it was begun.
    pub attempts: u32,
    /// How often of these something was away, so that it is begun again.
    #[serde(default)]
    pub retries: u32,
    /// It is not begun again before this moment, in microseconds since 1970.
    #[serde(default)]
    pub not_before_micros: i64,
    /// Where it stands.
    #[serde(flatten)]
    pub standing: Standing,
}

impl Task {
    /// Whether nothing is left to be done.
    pub fn is_over(&self) -> bool {
        matches!(self.standing, Standing::Done(_) | Standing::Failed { .. })
    }

    /// It could not be done.
    fn fail(&mut self, error: Error) {
        self.standing = Standing::Failed { error };
        self.ended_micros = Some(SystemClock.now_micros());
    }
}

impl Wanted {
    /// What is said of a failure that does not say so itself.
    fn failure(&self) -> (Code, String) {
        match self {
            Wanted::CutExport { cut, .. } => (Code::CutImpossible, format!("cannot export the cut '{cut}'")),
            Wanted::CutVerification { cut, .. } => (Code::CutImpossible, format!("cannot verify the cut '{cut}'")),
            Wanted::Backfill { report, .. } => (Code::ReportFailed, format!("cannot fill the report '{report}'")),
            Wanted::Replay { table, .. } => (Code::ReplayImpossible, format!("cannot replay events of {table}")),
            Wanted::HistoryVerification { table, .. } => {
                (Code::CutUnproven, format!("cannot check the chain of the history of {table}"))
            }
            Wanted::AuditVerification { .. } => (Code::CutUnproven, "cannot check the audit trail".to_owned()),
            Wanted::ReportRun { report, .. } => (Code::ReportFailed, format!("cannot make the report '{report}'")),
            Wanted::Optimize { .. } => (Code::TableForeign, "cannot optimize all of these tables".to_owned()),
            Wanted::Vacuum { .. } => (Code::TableForeign, "cannot vacuum all of these tables".to_owned()),
        }
    }
}
