//! What an index on disk describes: written whole, after its segments, so that a process which dies at any moment
//! leaves either this state or the one before.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::key_index::FileId;

const FILE: &str = "manifest.json";
const FORMAT: u32 = 1;

/// A table's index on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// What it describes.
    pub described: Described,
    /// Names of its segments, from the oldest to the newest.
    pub segments: Vec<String>,
}

/// A version of a table, as an index knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The table's own id in its metadata.
    pub table_id: String,
    /// The version.
    pub version: u64,
    /// The commit that made the version: another history of the table has another one.
    pub commit: Uuid,
    /// Key of the keys' hash.
    pub secret: (u64, u64),
    /// Key columns, and how they are hashed.
    pub key: String,
    /// The highest number that a file was given.
    pub last_file: FileId,
    /// Files whose rows are in the index.
    pub files: Vec<DescribedFile>,
}

/// A file whose rows are in an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedFile {
    /// Its number.
    pub id: FileId,
    /// Its path in the log.
    pub path: String,
    /// Rows that were deleted from it.
    pub deleted: u64,
}

impl Manifest {
    /// An index of these segments.
    pub fn new(described: Described, segments: Vec<String>) -> Manifest {
        Manifest { format: FORMAT, described, segments }
    }

    /// Reads a folder's manifest; none if there is none that this program understands.
    pub fn load(folder: &Path) -> Option<Manifest> {
        let text = std::fs::read(folder.join(FILE)).ok()?;
        serde_json::from_slice(&text).ok().filter(|manifest: &Manifest| manifest.format == FORMAT)
    }

    /// Replaces a folder's manifest.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        let beside = folder.join(format!("{FILE}.new"));
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(beside, folder.join(FILE))
    }

    /// Removes everything from a folder but this manifest and its segments.
    pub fn remove_others(&self, folder: &Path) {
        for path in files_of(folder) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name != FILE && !self.segments.iter().any(|segment| segment == name) {
                remove(&path);
            }
        }
    }
}

/// Removes an index from its folder, the manifest first.
pub fn remove_all(folder: &Path) {
    remove(&folder.join(FILE));
    files_of(folder).iter().for_each(|path| remove(path));
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "could not remove a file of a key index");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> Described {
        Described {
            table_id: "t".into(),
            version: 7,
            commit: Uuid::nil(),
            secret: (u64::MAX, 3),
            key: "id".into(),
            last_file: 9,
            files: vec![DescribedFile { id: 8, path: "a%20b".into(), deleted: 2 }],
        }
    }

    #[test]
    fn a_manifest_is_read_back_and_what_it_does_not_name_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::load(folder.path()), None);
        for name in ["kept", "left"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let manifest = Manifest::new(described(), vec!["kept".to_owned()]);
        manifest.save(folder.path()).unwrap();
        assert_eq!(Manifest::load(folder.path()).as_ref(), Some(&manifest));
        manifest.remove_others(folder.path());
        assert!(folder.path().join("kept").exists() && !folder.path().join("left").exists());
        remove_all(folder.path());
        assert_eq!(files_of(folder.path()).len(), 0);
    }

    #[test]
    fn a_manifest_of_another_program_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::new(described(), Vec::new());
        manifest.format = 2;
        manifest.save(folder.path()).unwrap();
        assert_eq!(Manifest::load(folder.path()), None);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        assert_eq!(Manifest::load(folder.path()), None);
    }
}
