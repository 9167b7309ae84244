//! Reads the events of a range from where they are kept, a history in the lake or a topic: first only what happened,
//! by which it is known that nothing is missing, and then all of it.

pub mod completeness;
mod history;
pub mod target;
mod topic;

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use sooner_api::{Code, Error, Result};
use sooner_delta::replaying::envelope::Origin;
use sooner_delta::replaying::output::{Form, Written};
use sooner_delta::replaying::range::Range;
use sooner_schemas::{Lsn, TableName};

use crate::commands::upkeep::open_lake;
use crate::config::Config;
use crate::tasks::EventSource;

/// Whatever events are written to.
pub type Writer = Box<dyn Write + Send>;

/// The events of a table that are wanted.
pub struct Replay<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The table.
    pub table: TableName,
    /// Which of its events.
    pub range: Range,
    /// How long what is on its way is waited for.
    pub patience: Duration,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Done {
    /// Where it was read.
    pub kept: EventSource,
    /// Number of events.
    pub events: u64,
    /// Number of rows that were read.
    pub rows: u64,
    /// Rows of them that were not written, since their values were erased.
    pub erased: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes.
    pub sha256: String,
    /// Commit LSN of the last event; none if there is none.
    pub last: Option<Lsn>,
}

/// What is told of a replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The table.
    pub table: TableName,
    /// Where its events were read.
    #[serde(rename = "source")]
    pub kept: EventSource,
    /// Transactions after this.
    pub from: String,
    /// Transactions up to this.
    pub to: String,
    /// Commit LSN of the last event; none if there is none.
    #[serde(rename = "last_lsn")]
    pub last: Option<Lsn>,
    /// File that was written.
    pub into: String,
    /// Number of events.
    pub events: u64,
    /// Number of rows that were read: an update may have two.
    pub rows: u64,
    /// Rows of them that were not written, since their values were erased.
    pub erased: u64,
    /// Size of the output.
    pub bytes: u64,
    /// SHA-256 of the output, as hexadecimal digits.
    pub sha256: String,
}

impl Replay<'_> {
    /// Writes the events; an operator error, with what to do, if not all of them are known.
    pub async fn run(&self, kept: Option<EventSource>, form: Form, writer: Writer) -> anyhow::Result<Done> {
        let kept = match kept {
            Some(kept) => kept,
            None if self.has_history().await? => EventSource::History,
            None if self.config.kafka.is_some() => EventSource::Topic,
            None => return Err(without_history(&self.table).into()),
        };
        match kept {
            EventSource::History => self.write_history(form, writer).await,
            EventSource::Topic => self.write_topic(form, writer).await,
        }
    }

    async fn has_history(&self) -> anyhow::Result<bool> {
        Ok(self.config.lake.is_some() && open_lake(self.config)?.describe_history(&self.table).await?.is_some())
    }

    fn origin(&self) -> Origin {
        let prefix = self.config.kafka.as_ref().map(|kafka| kafka.prefix.clone());
        let database = self.config.source.as_ref().map(|source| source.connect.database.clone());
        Origin {
            name: prefix.unwrap_or_else(|| self.config.name.clone()),
            database: database.unwrap_or_default(),
            table: self.table.clone(),
        }
    }

    /// What was written, if it is what had been found.
    fn done(&self, kept: EventSource, written: Written<Writer>, found: (u64, Option<Lsn>)) -> Result<Done> {
        let (rows, last) = found;
        if written.rows != rows {
            let why = format!("{rows} rows were there at first, and {} when they were read", written.rows);
            let what = format!("cannot replay events of {}", self.table);
            return Err(Error::operator(Code::ReplayImpossible, what, why, "begin again"));
        }
        let Written { events, rows, erased, bytes, sha256, .. } = written;
        Ok(Done { kept, events, rows, erased, bytes, sha256, last })
    }
}

/// The error of a table without a history, whose events are not on a topic either.
pub fn without_history(table: &TableName) -> Error {
    Error::operator(
        Code::ReplayImpossible,
        format!("cannot replay events of {table}"),
        "the table has no history in the lake, which only has it as it is now",
        "give it write = [\"mirror\", \"history\"] in a [[table]] block: events from the start of the copy on that it \
         begins with can be replayed then",
    )
}
