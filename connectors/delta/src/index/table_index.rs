//! The address of each live row of a table by its key: recent changes in memory, the rest in segments on disk, which
//! are merged in the background. It is a cache, rebuilt from the table's key columns where it is lost.
//!
//! What it says of a key is the last address that the key's row had. If the row is gone the address remains, so whoever
//! asks has to look whether the table still has a row there. Numbers of files are never given twice, so none is taken
//! for another.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sooner_schemas::TableName;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};
use uuid::Uuid;

use super::entries::Entry;
use super::index_store::IndexStore;
use super::key::KeyHash;
use super::key_index::{FileId, KeyIndex};
use super::manifest::{Described, Manifest};
use super::merging::{Merging, first_to_merge, fits_one, merge, runs_to_merge, write_run};
use super::segment::{Segment, locate_in};
use super::staged_keys::StagedKeys;

/// Commits after which the index on disk is brought up to date, so that a start has little to catch up with.
const COMMITS_BEHIND: u32 = 250;
/// Keys that are looked up by one thread, at least.
const LEAST_KEYS_AT_ONCE: usize = 4 << 10;
/// After an error of the disk, so long it is left alone.
const PAUSE: Duration = Duration::from_secs(60);

/// The index of one table.
pub struct TableIndex {
    store: Arc<IndexStore>,
    /// None where it is kept in memory.
    folder: Option<PathBuf>,
    head: KeyIndex,
    /// Keys of the head that the store knows of.
    counted: usize,
    /// From the oldest to the newest.
    segments: Vec<Arc<Segment>>,
    merging: Option<Merging>,
    /// Segments that others have taken the place of, and that the disk's manifest may still name.
    retired: Vec<Arc<Segment>>,
    /// What the segments describe, if they are known to the disk's manifest.
    described: Option<Described>,
    /// Commits since the head was written.
    commits_behind: u32,
    rests_until: Option<Instant>,
    /// Keys were lost on their way to the disk, or there.
    lacks_keys: bool,
}

impl TableIndex {
    /// An index without keys.
    pub fn new(store: &Arc<IndexStore>, table: &TableName) -> TableIndex {
        TableIndex {
            folder: store.folder(table),
            store: store.clone(),
            head: KeyIndex::default(),
            counted: 0,
            segments: Vec::new(),
            merging: None,
            retired: Vec::new(),
            described: None,
            commits_behind: 0,
            rests_until: None,
            lacks_keys: false,
        }
    }

    /// Opens what a former process has left of an index.
    pub fn open(store: &Arc<IndexStore>, table: &TableName, manifest: Manifest) -> io::Result<TableIndex> {
        let mut index = TableIndex::new(store, table);
        let folder = index.folder.clone().unwrap_or_default();
        for name in &manifest.segments {
            index.segments.push(Arc::new(Segment::open(&folder.join(name))?));
        }
        index.described = Some(manifest.described);
        Ok(index)
    }

    /// Last addresses of these keys; keys that are not indexed are left out. An error says that the disk cannot be
    /// read, or not be trusted.
    pub async fn locate(&self, keys: Vec<KeyHash>) -> io::Result<Vec<Entry>> {
        if self.lacks_keys {
            return Err(io::Error::other("keys were lost on their way to the disk, or there"));
        }
        let mut found = Vec::with_capacity(keys.len());
        let mut others = Vec::new();
        for key in keys {
            match self.head.get(key) {
                Some(row) => found.push((key, row)),
                None => others.push(key),
            }
        }
        if self.segments.is_empty() || others.is_empty() {
            return Ok(found);
        }
        others.sort_unstable();
        // Each core looks for a part of them, which lies together on disk.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let part = others.len().div_ceil(cores).max(LEAST_KEYS_AT_ONCE);
        let parts: Vec<_> = others
            .chunks(part)
            .map(|keys| {
                let (segments, store, keys) = (self.segments.clone(), self.store.clone(), keys.to_vec());
                spawn_blocking(move || locate_in(&segments, &store.cache, keys))
            })
            .collect();
        for part in parts {
            found.extend(part.await.map_err(io::Error::other)??);
        }
        Ok(found)
    }

    /// Follows a commit, which wrote these files.
    pub async fn apply(&mut self, staged: StagedKeys, files: HashSet<FileId>) {
        let Some((rows, none)) = staged.in_memory() else {
            if let Err(error) = self.adopt(staged, files).await {
                self.lacks_keys = true;
                self.rest(&error);
            }
            return;
        };
        for key in none {
            self.head.remove(key);
        }
        if rows.len() > self.store.limits.most_keys {
            return self.absorb(rows).await;
        }
        for (key, row) in rows {
            self.head.insert(key, row);
        }
        self.count();
    }

    /// Takes the rows of a large commit from the disk: they become the newest segment.
    async fn adopt(&mut self, mut staged: StagedKeys, files: HashSet<FileId>) -> io::Result<()> {
        // The head is asked first, and would be older than the segment.
        self.flush().await?;
        let (Some(run), Some(path)) = (staged.whole_run().await?, self.new_path()) else {
            return Err(io::Error::other("there is no place for the keys of a commit"));
        };
        let written = spawn_blocking(move || {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            merge(&[&run], Some(&files), &path)
        });
        self.segments.push(Arc::new(written.await.map_err(io::Error::other)??));
        // The disk's manifest is to know of so many.
        self.commits_behind = COMMITS_BEHIND;
        Ok(())
    }

    /// Takes many keys with the addresses that their rows have now.
    pub async fn absorb(&mut self, mut entries: Vec<Entry>) {
        let is_run = entries.len() >= self.store.limits.small_keys && self.folder.is_some();
        if is_run {
            // The head is asked first.
            for (key, _) in &entries {
                self.head.remove(*key);
            }
            let Some(unwritten) = self.write(entries).await else {
                // The disk's manifest is to know of so many.
                self.commits_behind = COMMITS_BEHIND;
                return self.count();
            };
            entries = unwritten;
        }
        for (key, row) in entries {
            self.head.insert(key, row);
        }
        self.count();
    }

    /// Tells the store how many keys are in memory.
    fn count(&mut self) {
        let before = std::mem::replace(&mut self.counted, self.head.len());
        self.store.count(before, self.counted);
    }

    /// After a commit: moves keys to disk, where there are many in memory, merges segments, and brings the disk's
    /// manifest up to date. `describe` describes the version that the commit made.
    pub async fn settle(&mut self, describe: impl FnOnce() -> Described) {
        self.commits_behind += 1;
        if self.folder.is_none() || self.lacks_keys || self.rests_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let is_merge_done = self.merging.as_ref().is_some_and(|merging| merging.task.is_finished());
        let is_flush_due = self.is_flush_due();
        let starts_merge = self.merging.is_none() && self.first_to_merge().is_some();
        if !is_merge_done && !is_flush_due && !starts_merge {
            return;
        }
        if let Err(error) = self.work(describe(), is_merge_done, is_flush_due).await {
            self.rest(&error);
        }
    }

    async fn work(&mut self, now: Described, is_merge_done: bool, is_flush_due: bool) -> io::Result<()> {
        let live = now.files.iter().map(|file| file.id).collect();
        if is_merge_done {
            self.take_merged().await?;
        }
        let is_new = self.described.is_none();
        if is_flush_due {
            self.flush().await?;
            if self.lacks_keys {
                return Err(io::Error::other("keys were lost on their way to the disk"));
            }
            self.described = Some(now);
        } else if let Some(described) = &mut self.described {
            // Segments may know younger files than the version that they describe.
            described.last_file = now.last_file;
        }
        if is_merge_done || is_flush_due {
            self.save(is_new)?;
        }
        self.start_merge(live);
        Ok(())
    }

    /// The table is another one by name and history: what was described of it does not hold.
    pub fn describe_anew(&mut self) {
        self.described = None;
    }

    /// Takes keys into an index that is being built. Its runs become fewer as they come, or they would take twice as
    /// much of the disk in the end. Should a manifest name one of them, and the process die, it is built again.
    pub async fn build(&mut self, entries: Vec<Entry>) {
        self.absorb(entries).await;
        if let Some(first) = runs_to_merge(&self.sizes()) {
            let former = self.retired.len();
            self.merge_from(first).await;
            self.retired.drain(former..).for_each(|segment| segment.make_obsolete(true));
        }
    }

    /// Merges all segments into one, before anything else happens.
    pub async fn compact(&mut self) {
        self.merge_from(0).await;
    }

    async fn merge_from(&mut self, first: usize) {
        let segments = self.segments[first..].to_vec();
        if segments.len() < 2 || self.merging.is_some() || !fits_one(&segments) {
            return;
        }
        let Some(path) = self.new_path() else { return };
        let merged =
            spawn_blocking(move || merge(&segments.iter().map(AsRef::as_ref).collect::<Vec<_>>(), None, &path));
        match merged.await.map_err(io::Error::other).and_then(|merged| merged) {
            Ok(segment) => self.replace(first..self.segments.len(), segment),
            Err(error) => {
                self.lacks_keys |= is_damage(&error);
                self.rest(&error);
            }
        }
    }

    /// Number of entries; keys that have several count several times.
    pub fn len(&self) -> u64 {
        self.head.len() as u64 + self.segments.iter().map(|segment| segment.len()).sum::<u64>()
    }

    /// Bytes that it takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.disk_bytes()).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_flush_due(&self) -> bool {
        let (keys, limits) = (self.head.len(), &self.store.limits);
        let is_small = self.segments.is_empty() && keys < limits.small_keys;
        keys >= limits.most_keys
            || (keys >= limits.least_keys && self.store.is_pressed())
            || (!is_small && (self.commits_behind >= COMMITS_BEHIND || self.described.is_none()))
    }

    async fn flush(&mut self) -> io::Result<()> {
        let entries: Vec<Entry> = self.head.iter().collect();
        if !entries.is_empty() {
            if self.write(entries).await.is_some() {
                return Err(io::Error::other("a segment could not be written"));
            }
            self.head = KeyIndex::default();
            self.count();
        }
        self.commits_behind = 0;
        Ok(())
    }

    /// Writes entries as the newest segment; gives them back if the disk does not take them.
    async fn write(&mut self, mut entries: Vec<Entry>) -> Option<Vec<Entry>> {
        let path = self.new_path()?;
        let written = spawn_blocking(move || {
            let created = std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")));
            let segment = created.and_then(|()| write_run(&mut entries, &path));
            if segment.is_err() {
                let _ = std::fs::remove_file(&path);
            }
            (segment, entries)
        });
        match written.await {
            Ok((Ok(segment), _)) => self.segments.push(Arc::new(segment)),
            Ok((Err(error), entries)) => {
                self.rest(&error);
                return Some(entries);
            }
            // A panic took them along, and the runtime has reported it.
            Err(_) => self.lacks_keys = true,
        }
        None
    }

    fn new_path(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{}.segment", Uuid::new_v4())))
    }

    /// Starts to merge the newest segments, if there are many of similar size.
    fn start_merge(&mut self, live: HashSet<FileId>) {
        let (None, Some(first), Some(path)) = (&self.merging, self.first_to_merge(), self.new_path()) else { return };
        let segments = self.segments[first..].to_vec();
        if fits_one(&segments) {
            self.merging = Some(Merging::start(first, segments, live, path));
        }
    }

    fn first_to_merge(&self) -> Option<usize> {
        first_to_merge(&self.sizes())
    }

    fn sizes(&self) -> Vec<u64> {
        self.segments.iter().map(|segment| segment.len()).collect()
    }

    /// Takes what a merge has made.
    async fn take_merged(&mut self) -> io::Result<()> {
        let Some(Merging { first, count, live, task }) = self.merging.take() else { return Ok(()) };
        let merged = task.await.map_err(io::Error::other)?;
        let merged = merged.inspect_err(|error| self.lacks_keys |= is_damage(error))?;
        merged.make_obsolete(false);
        self.replace(first..first + count, merged);
        // Rows of the others are not in it: should such a file come back, it has to be read again.
        if let Some(described) = &mut self.described {
            described.files.retain(|file| live.contains(&file.id));
        }
        Ok(())
    }

    fn replace(&mut self, range: std::ops::Range<usize>, by: Segment) {
        self.retired.extend(self.segments.splice(range, [Arc::new(by)]));
    }

    /// Writes the manifest. Where the index `is_new`, what a former one has left goes.
    fn save(&mut self, is_new: bool) -> io::Result<()> {
        let (Some(folder), Some(described)) = (&self.folder, &self.described) else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        let names = self.segments.iter().filter_map(|segment| segment.path().file_name()?.to_str().map(str::to_owned));
        let manifest = Manifest::new(described.clone(), names.collect());
        manifest.save(folder)?;
        self.retired.drain(..).for_each(|segment| segment.make_obsolete(true));
        if is_new && self.merging.is_none() {
            manifest.remove_others(folder);
        }
        Ok(())
    }

    /// The disk is left alone for a while: keys stay in memory.
    fn rest(&mut self, error: &io::Error) {
        let folder = self.folder.as_deref().unwrap_or(Path::new("")).display();
        tracing::warn!(%folder, %error, "cannot write the key index to disk; it stays in memory, and is tried again");
        self.rests_until = Some(Instant::now() + PAUSE);
    }
}

impl Drop for TableIndex {
    fn drop(&mut self) {
        self.store.count(self.counted, 0);
    }
}

/// Whether an error says that what was written is not there any more.
fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}
