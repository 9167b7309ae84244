//! One run at a time, whoever makes it: the pipeline, or a command beside it. A lock on a file of the state folder,
//! which the system releases when its process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is looked whether it is free.
const INTERVAL: Duration = Duration::from_millis(200);

/// Somebody's turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _locked: File,
    folder: PathBuf,
}

impl Turn {
    /// Takes the turn in a state folder; none if somebody else has it.
    pub fn take(state_dir: &Path) -> io::Result<Option<Turn>> {
        let folder = state_dir.join("reports");
        std::fs::create_dir_all(&folder)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("turn"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Turn { _locked: file, folder })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits for the turn.
    pub async fn wait(state_dir: &Path) -> io::Result<Turn> {
        loop {
            if let Some(turn) = Turn::take(state_dir)? {
                return Ok(turn);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// An empty folder for what a run needs meanwhile; what a former one left there is removed.
    pub fn scratch(&self) -> io::Result<PathBuf> {
        self.clear()?;
        let folder = self.folder.join("scratch");
        std::fs::create_dir_all(&folder)?;
        folder.canonicalize()
    }

    /// Removes that folder.
    pub fn clear(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(self.folder.join("scratch")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_has_the_turn_and_finds_an_empty_folder() {
        let folder = tempfile::tempdir().unwrap();
        let turn = Turn::take(folder.path()).unwrap().unwrap();
        std::fs::write(turn.scratch().unwrap().join("left"), "x").unwrap();
        assert!(Turn::take(folder.path()).unwrap().is_none());
        drop(turn);
        let next = Turn::wait(folder.path()).await.unwrap();
        assert_eq!(std::fs::read_dir(next.scratch().unwrap()).unwrap().count(), 0);
    }
}
