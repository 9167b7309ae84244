//! Requests to a pipeline, as files in its state folder: they reach it whether it runs or not.

use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sooner_api::{Clock, CopyRequest, Side};
use sooner_schemas::TableName;

use crate::clock::SystemClock;
use crate::repartitions::RepartitionRequests;

/// A side of a pipeline, as a person names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedSide {
    /// From the database to the topics.
    Source,
    /// From the topics to the lake.
    Sink,
}

/// The sides that are meant: both, unless one is named.
pub fn sides(named: Option<NamedSide>) -> Vec<Side> {
    match named {
        None => vec![Side::Source, Side::Sink],
        Some(NamedSide::Source) => vec![Side::Source],
        Some(NamedSide::Sink) => vec![Side::Sink],
    }
}

/// Removes a request's file, which may be gone already.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// End of the names of requests that have begun.
const BEGUN: &str = ".begun";

fn has_begun(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == &BEGUN[1..])
}

/// The requests of a pipeline.
#[derive(Clone, Debug)]
pub struct Requests {
    state_dir: PathBuf,
}

impl Requests {
    /// The requests in a state folder, which need not exist.
    pub fn new(state_dir: &Path) -> Requests {
        Requests { state_dir: state_dir.to_owned() }
    }

    /// Creates the folders, as those of this process.
    pub fn prepare(&self) -> io::Result<()> {
        std::fs::create_dir_all(self.folder())
    }

    /// Asks for a whole table to be copied again.
    pub fn resume(&self, table: &TableName) -> io::Result<()> {
        self.ask(&CopyRequest { table: table.clone(), condition: None })
    }

    /// Asks for rows of a table to be copied again. What is asked for already is asked for once.
    pub fn ask(&self, request: &CopyRequest) -> io::Result<()> {
        if self.pending().contains(request) {
            return Ok(());
        }
        std::fs::create_dir_all(self.folder())?;
        // Written beside and then moved in, so that a running pipeline never reads half a request.
        let unique = format!("{}.{}", SystemClock.now_micros(), std::process::id());
        let beside = self.state_dir.join(format!("request.{unique}"));
        std::fs::write(&beside, serde_json::to_vec(request)?)?;
        let name = format!("{}.{unique}", request.table.to_string().replace('/', "_"));
        std::fs::rename(beside, self.folder().join(name))
    }

    /// What was asked for and not granted yet.
    pub fn pending(&self) -> Vec<CopyRequest> {
        let mut pending: Vec<_> = self.files().into_iter().map(|(_, request)| request).collect();
        pending.sort_by(|a, b| (&a.table, &a.condition).cmp(&(&b.table, &b.condition)));
        pending
    }

    /// Tables that are to be copied whole.
    pub fn whole_tables(&self) -> Vec<TableName> {
        let whole = self.pending().into_iter().filter(|request| request.condition.is_none());
        whole.map(|request| request.table).collect()
    }

    /// Forgets requests that have been granted, and returns those that cannot be removed: whoever starts next grants
    /// them again.
    pub fn forget(&self, granted: &[CopyRequest]) -> Vec<CopyRequest> {
        let mut left = Vec::new();
        for (path, request) in self.files().into_iter().filter(|(_, request)| granted.contains(request)) {
            if let Err(error) = std::fs::remove_file(path) {
                let table = &request.table;
                tracing::warn!(%table, %error, "cannot remove a granted request; its table will be copied once more");
                left.push(request);
            }
        }
        left
    }

    /// Takes note that a request is seen to from now on: it is not withdrawn any more.
    pub fn begin(&self, begun: &CopyRequest) {
        for (path, _) in self.files().into_iter().filter(|(path, request)| request == begun && !has_begun(path)) {
            let mut name = path.clone().into_os_string();
            name.push(BEGUN);
            if let Err(error) = std::fs::rename(&path, name) {
                tracing::debug!(%error, "cannot mark a request");
            }
        }
    }

    /// Withdraws requests for a table that have not begun; returns how many there were, and how many go on.
    pub fn withdraw(&self, table: &TableName) -> (usize, usize) {
        let files = self.files().into_iter().filter(|(_, request)| request.table == *table);
        let (begun, waiting): (Vec<_>, Vec<_>) = files.partition(|(path, _)| has_begun(path));
        let withdrawn = waiting.iter().filter(|(path, _)| std::fs::remove_file(path).is_ok()).count();
        (withdrawn, begun.len())
    }

    /// Requests for topics with another number of partitions, in the same state folder.
    pub fn repartitions(&self) -> RepartitionRequests {
        RepartitionRequests::new(&self.state_dir)
    }

    /// Asks a side to rest until it is told to go on, also over restarts.
    pub fn pause(&self, side: Side) -> io::Result<()> {
        std::fs::create_dir_all(&self.state_dir)?;
        std::fs::write(self.pause_file(side), [])
    }

    /// Lets a side go on; false if it did not rest.
    pub fn unpause(&self, side: Side) -> io::Result<bool> {
        match std::fs::remove_file(self.pause_file(side)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a side is to rest.
    pub fn is_paused(&self, side: Side) -> bool {
        self.pause_file(side).exists()
    }

    fn pause_file(&self, side: Side) -> PathBuf {
        self.state_dir.join(match side {
            Side::Source => "paused.source",
            Side::Sink => "paused.sink",
        })
    }

    fn files(&self) -> Vec<(PathBuf, CopyRequest)> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten().flatten().map(|entry| entry.path());
        entries
            .filter_map(|path| Some((path.clone(), serde_json::from_slice(&std::fs::read(path).ok()?).ok()?)))
            .collect()
    }

    fn folder(&self) -> PathBuf {
        self.state_dir.join("requests")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_until_it_is_granted() {
        let folder = tempfile::tempdir().unwrap();
        let requests = Requests::new(folder.path());
        assert!(requests.pending().is_empty());
        let request = |schema: &str, table: &str, condition: Option<&str>| CopyRequest {
            table: TableName::new(schema, table),
            condition: condition.map(str::to_owned),
        };
        let asked = [
            request("odd.schema", "t", None),
            request("public", "a/b", None),
            request("public", "a/b", Some("id < 5")),
            request("public", "a/b", Some("id > 5")),
        ];
        for request in &asked {
            requests.ask(request).unwrap();
            requests.ask(request).unwrap();
        }
        assert_eq!(requests.pending(), asked);
        assert_eq!(requests.whole_tables(), [asked[0].table.clone(), asked[1].table.clone()]);
        requests.forget(&asked[1..]);
        requests.forget(&asked[1..]);
        assert_eq!(requests.pending(), asked[..1]);
        let table = &asked[0].table;
        assert_eq!((requests.withdraw(table), requests.withdraw(table)), ((1, 0), (0, 0)));
        requests.ask(&asked[0]).unwrap();
        requests.begin(&asked[0]);
        requests.begin(&asked[0]);
        assert_eq!((requests.withdraw(table), requests.pending()), ((0, 1), asked[..1].to_vec()), "it has begun");
        requests.forget(&asked[..1]);
        assert!(requests.pending().is_empty());
    }

    #[test]
    fn a_side_rests_until_it_is_told_to_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let requests = Requests::new(&folder.path().join("new"));
        requests.pause(Side::Source).unwrap();
        assert!(requests.is_paused(Side::Source) && !requests.is_paused(Side::Sink));
        assert_eq!((requests.unpause(Side::Source).unwrap(), requests.unpause(Side::Source).unwrap()), (true, false));
        assert!(!requests.is_paused(Side::Source));
    }
}
