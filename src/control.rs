//! Requests to a pipeline, as files in its state folder: they reach it whether it runs or not.

use std::io;
use std::path::{Path, PathBuf};

use sooner_schemas::TableName;

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

    /// Asks for a table to be copied again.
    pub fn resume(&self, table: &TableName) -> io::Result<()> {
        std::fs::create_dir_all(self.folder())?;
        // Written beside and then moved in, so that a running pipeline never reads half a name.
        let beside = self.state_dir.join("resume.new");
        std::fs::write(&beside, table.to_string())?;
        std::fs::rename(beside, self.file(table))
    }

    /// The tables that were asked for and not granted yet.
    pub fn pending(&self) -> Vec<TableName> {
        let entries = std::fs::read_dir(self.folder()).into_iter().flatten().flatten();
        entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()?.parse().ok()).collect()
    }

    /// Forgets requests that have been granted. One that cannot be removed is granted again.
    pub fn forget(&self, tables: &[TableName]) {
        for table in tables {
            match std::fs::remove_file(self.file(table)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%table, %error, "cannot remove a granted request; its table will be copied once more");
                }
                _ => {}
            }
        }
    }

    fn folder(&self) -> PathBuf {
        self.state_dir.join("resume")
    }

    fn file(&self, table: &TableName) -> PathBuf {
        self.folder().join(table.to_string().replace('/', "_"))
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
        let tables = [TableName::new("public", "a/b"), TableName::new("odd.schema", "t")];
        for table in &tables {
            requests.resume(table).unwrap();
        }
        let mut pending = requests.pending();
        pending.sort();
        assert_eq!(pending, [tables[1].clone(), tables[0].clone()]);
        requests.forget(&pending);
        requests.forget(&pending);
        assert!(requests.pending().is_empty());
    }
}
