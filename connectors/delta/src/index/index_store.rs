//! Where the key indexes of all tables lie, and the memory that they share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use siphasher::sip::SipHasher13;
use sooner_schemas::TableName;
use uuid::Uuid;

use super::manifest::{Manifest, remove_all};
use super::page::PageCache;

/// Bytes that a key in memory takes, about: its entry, and the spare room of the map.
const HEAD_KEY_BYTES: usize = 48;
/// Folder of the runs of keys that commits touch.
const RUNS: &str = "_staged";
/// Characters of a table's name that its folder has.
const NAME_CHARS: usize = 80;

/// What key indexes may use.
#[derive(Clone, Debug)]
pub struct IndexSettings {
    /// Folder on a local disk; none to keep all of them in memory.
    pub folder: Option<PathBuf>,
    /// Bytes of memory of all indexes together.
    pub memory_bytes: usize,
    /// Keys of one table in memory, at most, before they go to disk.
    pub table_keys: usize,
}

impl IndexSettings {
    /// Indexes in a folder, or in memory, that take so much memory.
    pub fn new(folder: Option<PathBuf>, memory_bytes: usize) -> IndexSettings {
        IndexSettings { folder, memory_bytes, table_keys: 64 << 10 }
    }
}

/// How many keys a table has in memory.
#[derive(Debug)]
pub(super) struct HeadLimits {
    /// At most.
    pub most_keys: usize,
    /// A table with fewer keys than this stays in memory: it is built faster than it is read from disk.
    pub small_keys: usize,
    /// At least, before they make room for others.
    pub least_keys: usize,
}

/// The key indexes of a lake's tables.
#[derive(Debug)]
pub struct IndexStore {
    folder: Option<PathBuf>,
    pub(super) cache: PageCache,
    pub(super) limits: HeadLimits,
    /// Keys in memory, of all tables.
    head_keys: AtomicUsize,
    most_head_keys: usize,
}

impl IndexStore {
    /// Half of the memory is for pages, the other half for keys that are not on disk yet.
    pub fn new(settings: &IndexSettings) -> Arc<IndexStore> {
        if let Some(folder) = &settings.folder {
            remove_left_runs(&folder.join(RUNS));
        }
        Arc::new(IndexStore {
            folder: settings.folder.clone(),
            cache: PageCache::new(settings.memory_bytes / 2),
            limits: HeadLimits {
                most_keys: settings.table_keys,
                small_keys: settings.table_keys / 4,
                least_keys: settings.table_keys / 64,
            },
            head_keys: AtomicUsize::new(0),
            most_head_keys: settings.memory_bytes / 2 / HEAD_KEY_BYTES,
        })
    }

    /// Folder of a table's index; none where it is kept in memory.
    pub fn folder(&self, table: &TableName) -> Option<PathBuf> {
        let name = table.to_string();
        let readable = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(NAME_CHARS);
        let hash = SipHasher13::new().hash(name.as_bytes());
        Some(self.folder.as_ref()?.join(format!("{}-{hash:016x}", readable.collect::<String>())))
    }

    /// What a former process has left of a table's index; the rest of its folder is removed.
    pub fn load(&self, table: &TableName) -> Option<Manifest> {
        let folder = self.folder(table)?;
        let manifest = Manifest::load(&folder);
        match &manifest {
            Some(manifest) => manifest.remove_others(&folder),
            None => remove_all(&folder),
        }
        manifest
    }

    /// Removes a table's index from the disk.
    pub fn forget(&self, table: &TableName) {
        if let Some(folder) = self.folder(table) {
            remove_all(&folder);
        }
    }

    /// Where the next run of keys that a commit touches goes; none if they stay in memory.
    pub(super) fn new_run_path(&self) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?.join(RUNS);
        if let Err(error) = std::fs::create_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "cannot write keys to disk; they stay in memory");
            return None;
        }
        Some(folder.join(format!("{}.{}", std::process::id(), Uuid::new_v4())))
    }

    /// Whether so many keys that a commit touches are too many to stay in memory.
    pub(super) fn must_spill(&self, keys: usize) -> bool {
        keys >= self.limits.most_keys || (keys >= self.limits.least_keys && self.is_pressed())
    }

    /// The number of a table's keys in memory has changed.
    pub(super) fn count(&self, before: usize, now: usize) {
        self.head_keys.fetch_add(now, Ordering::Relaxed);
        self.head_keys.fetch_sub(before, Ordering::Relaxed);
    }

    /// Whether all tables together have more keys in memory than they may.
    pub(super) fn is_pressed(&self) -> bool {
        self.head_keys.load(Ordering::Relaxed) > self.most_head_keys
    }
}

/// Removes the runs of processes that have ended. A file is named after its process.
fn remove_left_runs(folder: &Path) {
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let process = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let is_own = process == std::process::id().to_string();
        if is_own || !Path::new("/proc").join(process).exists() {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_has_a_folder_of_its_own_whatever_it_is_called() {
        let settings = IndexSettings::new(Some("/x".into()), 1 << 20);
        let store = IndexStore::new(&settings);
        let folder = |schema: &str, table: &str| store.folder(&TableName::new(schema, table)).unwrap();
        let long = "ä/..".repeat(60);
        let folders = [folder("a", "b_c"), folder("a", "b c"), folder("a_b", "c"), folder("a", &long)];
        for (at, one) in folders.iter().enumerate() {
            assert_eq!(one.parent(), Some(std::path::Path::new("/x")));
            assert!(one.file_name().unwrap().len() < 120);
            assert!(folders[at + 1..].iter().all(|other| other != one));
        }
    }
}
