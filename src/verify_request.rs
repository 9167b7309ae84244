//! A verification that a listener is asked for: a file in the state folder, which the pipeline sees to beside its
//! schedule, also after a restart.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sooner_schemas::TableName;

use crate::control::remove;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// The tables; all of the pipeline if none are named.
    pub tables: Vec<TableName>,
    /// Whether what differs is repaired.
    pub repair: bool,
}

/// The request of a pipeline: one at a time.
#[derive(Clone, Debug)]
pub struct VerifyRequests {
    state_dir: PathBuf,
}

impl VerifyRequests {
    /// Those in a state folder, which need not exist.
    pub fn new(state_dir: &Path) -> VerifyRequests {
        VerifyRequests { state_dir: state_dir.to_owned() }
    }

    /// Asks; false if something is asked for already. What was said of the one before is forgotten.
    pub fn ask(&self, request: &VerifyRequest) -> io::Result<bool> {
        std::fs::create_dir_all(&self.state_dir)?;
        // Written beside and then linked, so that nobody reads half of it, nor asks over another's.
        let beside = self.state_dir.join("verify.asking");
        std::fs::write(&beside, serde_json::to_vec(request)?)?;
        let linked = std::fs::hard_link(&beside, self.file());
        std::fs::remove_file(beside)?;
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            linked => linked?,
        }
        remove(&self.failure_file())?;
        Ok(true)
    }

    /// What is asked for; none if nothing is.
    pub fn pending(&self) -> Option<VerifyRequest> {
        serde_json::from_slice(&std::fs::read(self.file()).ok()?).ok()
    }

    /// The request was seen to, or could not be: then with why.
    pub fn answer(&self, failure: Option<&str>) -> io::Result<()> {
        if let Some(why) = failure {
            std::fs::write(self.failure_file(), why)?;
        }
        remove(&self.file())
    }

    /// Why the last request came to nothing, if it did.
    pub fn failure(&self) -> Option<String> {
        std::fs::read_to_string(self.failure_file()).ok()
    }

    fn file(&self) -> PathBuf {
        self.state_dir.join("verify.asked")
    }

    fn failure_file(&self) -> PathBuf {
        self.state_dir.join("verify.failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_verification_is_asked_for_at_a_time_and_one_that_fails_says_why_until_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let requests = VerifyRequests::new(&folder.path().join("state"));
        assert_eq!(requests.pending(), None);
        let request = VerifyRequest { tables: vec![TableName::new("public", "t")], repair: true };
        let other = VerifyRequest { tables: Vec::new(), repair: false };
        assert!(requests.ask(&request).unwrap() && !requests.ask(&other).unwrap());
        assert_eq!(requests.pending(), Some(request));
        requests.answer(Some("the database is away")).unwrap();
        assert_eq!((requests.pending(), requests.failure().as_deref()), (None, Some("the database is away")));
        assert!(requests.ask(&other).unwrap());
        assert_eq!((requests.pending(), requests.failure()), (Some(other), None));
        requests.answer(None).unwrap();
        assert_eq!((requests.pending(), requests.failure()), (None, None));
    }
}
