//! Puts a planned commit into the log, or finds out what stands in its way.

use std::time::Duration;

use serde_json::{Map, Value};
use sooner_api::{Class, Code, Error, Result, failpoint};
use uuid::Uuid;

use super::actions::log_path;
use super::commit::{AddedFile, Commit, LogEntry};
use super::deletion_vector::{self, vector_path};
use super::live_files::LiveFile;
use super::transaction::Plan;
use crate::store::location::TableLocation;
use crate::store::operations::{Put, discard, get, put, put_new};

/// How often a commit gives way to others before it gives up.
pub const MAX_CONFLICTS: u32 = 50;
/// How often a put whose outcome is unknown is tried.
const ATTEMPTS: u32 = 6;

/// What became of a commit.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the log.
    Committed,
    /// Somebody else has this version, and nothing of the commit is left.
    Conflict(Box<LogEntry>),
    /// Nobody can tell yet. The same commit may be tried again; another one must not, before the log was read.
    Unknown(Error),
}

/// Commits to one table.
pub struct Committer<'a> {
    location: &'a TableLocation,
    table: &'a str,
}

impl<'a> Committer<'a> {
    /// Commits to the table at a location, which messages call `table`.
    pub fn new(location: &'a TableLocation, table: &'a str) -> Committer<'a> {
        Committer { location, table }
    }

    /// Puts a plan as this version, under the transaction's id.
    pub async fn commit(&self, version: u64, id: Uuid, plan: &Plan) -> Result<Outcome> {
        if let Some(vectors) = &plan.vectors {
            put(self.location.store(), &vectors.path, vectors.bytes.clone()).await?;
            failpoint("vectors_put");
        }
        let outcome = self.put_entry(version, id, plan).await?;
        if matches!(outcome, Outcome::Conflict(_)) && plan.vectors.is_some() {
            // This version is another's for good, so nothing will ever refer to them.
            discard(self.location.store(), &vector_path(id)).await;
        }
        Ok(outcome)
    }

    async fn put_entry(&self, version: u64, id: Uuid, plan: &Plan) -> Result<Outcome> {
        let path = log_path(version);
        let mut pause = Duration::from_millis(100);
        let mut last_error = self.undecided(version);
        for _ in 0..ATTEMPTS {
            match put_new(self.location.store(), &path, plan.text.clone()).await {
                Ok(Put::Created) => {
                    failpoint("log_entry_put");
                    return Ok(Outcome::Committed);
                }
                Ok(Put::Exists) => match self.read(version).await? {
                    Some(entry) if entry.id == Some(id.to_string()) => return Ok(Outcome::Committed),
                    Some(entry) => return Ok(Outcome::Conflict(Box::new(entry))),
                    // S3 also answers so while another put of that name is under way.
                    None => last_error = self.undecided(version),
                },
                Err(error) if error.class == Class::Retry => last_error = error,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(Outcome::Unknown(last_error))
    }

    /// Reads an entry of the log; none if the version does not exist.
    pub async fn read(&self, version: u64) -> Result<Option<LogEntry>> {
        let path = log_path(version);
        let Some(text) = get(self.location.store(), &path).await? else { return Ok(None) };
        LogEntry::parse(&text).map(Some).map_err(|error| {
            let what = format!("cannot read {path} of the lake table {}", self.table);
            Error::operator(Code::LogUnreadable, what, error, "restore the table's log")
        })
    }

    /// Reads the deletion vectors of another writer's entry, so that it can be applied.
    pub async fn load(&self, entry: LogEntry) -> Result<Commit> {
        let LogEntry { id, txns, adds, removes, metadata, protocol, .. } = entry;
        let id = id.and_then(|id| id.parse().ok());
        let mut commit = Commit { id, txns, removes, metadata, protocol, adds: Vec::with_capacity(adds.len()) };
        for add in adds {
            commit.adds.push(AddedFile { id: None, file: load_file(self.location, add).await? });
        }
        Ok(commit)
    }

    fn undecided(&self, version: u64) -> Error {
        Error::retry(
            Code::CommitUndecided,
            format!("cannot commit to the lake table {}", self.table),
            format!("version {version} is neither there nor free"),
            "nothing; it is tried again",
        )
    }
}

/// The error of a commit that others were faster than [`MAX_CONFLICTS`] times.
pub fn contended(table: &str) -> Error {
    Error::retry(
        Code::CommitContended,
        format!("cannot commit to the lake table {table}"),
        format!("other writers were faster {MAX_CONFLICTS} times in a row"),
        "let other writers commit less often; it is tried again",
    )
}

/// A live file from its add action, with the rows that its deletion vector removes.
pub async fn load_file(location: &TableLocation, add: Map<String, Value>) -> Result<LiveFile> {
    let mut file = LiveFile::from_add(add).ok_or_else(|| {
        let what = format!("cannot read the log of the lake table {}", location.url);
        let remedy = "restore the table's log, or move the table away and let it be copied again";
        Error::operator(Code::LogUnreadable, what, "an add action lacks path or size", remedy)
    })?;
    if let Some(vector) = &file.vector {
        file.deleted = deletion_vector::read(location.store(), vector).await?;
    }
    Ok(file)
}
