//! Requests to a pipeline, as files in its state folder: they reach it whether it runs or not.

use std::io;
use std::path::{Path, PathBuf};

/// Asks for a table to be copied again.
pub fn request_resume(state_dir: &Path, table: &str) -> io::Result<()> {
    let folder = folder(state_dir);
    std::fs::create_dir_all(&folder)?;
    // Written beside and then moved in, so that a running pipeline never reads half a name.
    let beside = state_dir.join("resume.new");
    std::fs::write(&beside, table)?;
    std::fs::rename(beside, folder.join(table.replace('/', "_")))
}

/// The tables that were asked for.
pub fn requested(state_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder(state_dir)).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()).collect()
}

/// Forgets requests that have been granted.
pub fn forget(state_dir: &Path, tables: &[String]) -> io::Result<()> {
    for table in tables {
        match std::fs::remove_file(folder(state_dir).join(table.replace('/', "_"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("resume")
}
