//! Requests for topics with another number of partitions, as files in the state folder: they reach the pipeline's
//! source whether it runs or not, and are removed once they are part of the progress record, or refused.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sooner_kafka::producer::repartition_rules::{RepartitionDesk, RepartitionRequest};
use sooner_schemas::TableName;

/// The requests of a pipeline: one file for each table.
#[derive(Clone, Debug)]
pub struct RepartitionRequests {
    folder: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    table: TableName,
    partitions: i32,
}

impl RepartitionRequests {
    /// The requests in a state folder, which need not exist.
    pub fn new(state_dir: &Path) -> RepartitionRequests {
        RepartitionRequests { folder: state_dir.join("repartitions") }
    }

    /// Asks for a table's topic to have so many partitions, in place of what was asked for before.
    pub fn ask(&self, request: &RepartitionRequest) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let path = self.path(&request.table);
        // Written beside and then moved in, so that a running pipeline never reads half a request.
        let beside = path.with_extension("new");
        let stored = Stored { table: request.table.clone(), partitions: request.partitions };
        std::fs::write(&beside, serde_json::to_vec(&stored)?)?;
        std::fs::rename(beside, path)
    }

    /// What was asked for and is neither recorded nor refused.
    pub fn pending(&self) -> Vec<RepartitionRequest> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let mut pending: Vec<_> = paths
            .filter_map(|path| {
                let Stored { table, partitions } = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
                Some(RepartitionRequest { table, partitions })
            })
            .collect();
        pending.sort_by(|a, b| a.table.cmp(&b.table));
        pending
    }

    /// Forgets a request, unless something else has been asked for meanwhile.
    pub fn forget(&self, request: &RepartitionRequest) {
        if !self.pending().contains(request) {
            return;
        }
        if let Err(error) = std::fs::remove_file(self.path(&request.table)) {
            tracing::warn!(table = %request.table, %error, "cannot remove a request that is settled");
        }
    }

    /// Where the source's writer asks for requests, and settles them.
    pub fn desk(&self) -> RepartitionDesk {
        let (asked, settled) = (self.clone(), self.clone());
        RepartitionDesk {
            asked: Arc::new(move || asked.pending()),
            settled: Arc::new(move |request| settled.forget(request)),
        }
    }

    fn path(&self, table: &TableName) -> PathBuf {
        self.folder.join(format!("{}.json", table.to_string().replace('/', "_")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_until_it_is_settled_and_a_later_one_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let requests = RepartitionRequests::new(&folder.path().join("new"));
        assert!(requests.pending().is_empty());
        let of = |partitions| RepartitionRequest { table: TableName::new("public", "a/b"), partitions };
        requests.ask(&of(5)).unwrap();
        requests.ask(&of(7)).unwrap();
        let desk = requests.desk();
        assert_eq!((desk.asked)(), [of(7)]);
        (desk.settled)(&of(5));
        assert_eq!(requests.pending(), [of(7)], "that one was not settled");
        (desk.settled)(&of(7));
        assert!(requests.pending().is_empty());
    }
}
