//! The keys that the next commit touches: where the row of each lies, or that it has none any more. The latest are in
//! memory; those of a large transaction go to sorted runs on the local disk, which end with the commit.
//!
//! Unlike an index, this is no cache: if a run cannot be read, what is staged is lost, and the events are read again.

use std::io;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};

use super::entries::Entry;
use super::index_store::IndexStore;
use super::key::{KeyHash, KeyMap};
use super::key_index::{FileId, RowAddress};
use super::merging::{first_to_merge, merge, write_run};
use super::segment::{Scan, Segment};

/// Keys of one piece of what a commit touches.
const TOUCHED_KEYS: usize = 64 << 10;
/// Pages of the disk that are read for them at once.
const TOUCHED_PAGES: usize = 256;
/// After an error of the disk, keys stay in memory for so long.
const PAUSE: Duration = Duration::from_secs(60);
/// Mark in the number of the file of a row that is gone. Files are numbered one by one, and never get there.
const GONE: FileId = 1 << 31;
/// A key without a row, now and before.
const NOWHERE: RowAddress = RowAddress { file: FileId::MAX, row: 0 };

/// Keys that the next commit touches.
#[derive(Default)]
pub struct StagedKeys {
    /// None before the first key.
    store: Option<Arc<IndexStore>>,
    /// Newer than all runs.
    head: KeyMap<RowAddress>,
    /// Keys of the head that the store knows of.
    counted: usize,
    /// From the oldest to the newest.
    runs: Vec<Arc<Segment>>,
    rests_until: Option<Instant>,
}

/// What a key that is staged became, as it is stored.
fn gone(former: Option<RowAddress>) -> RowAddress {
    former.map_or(NOWHERE, |row| RowAddress { file: row.file | GONE, ..row })
}

/// The row that a key has, as it is stored; none if that is gone.
fn present(stored: RowAddress) -> Option<RowAddress> {
    (stored.file & GONE == 0).then_some(stored)
}

/// The row that a key has, or had before it was gone.
fn last_row(stored: RowAddress) -> Option<RowAddress> {
    (stored != NOWHERE).then_some(RowAddress { file: stored.file & !GONE, ..stored })
}

impl StagedKeys {
    /// Notes in this order that the rows of keys lie there now, or nowhere. Returns the rows that are superseded by
    /// that.
    pub async fn place(
        &mut self,
        places: Vec<(KeyHash, Option<RowAddress>)>,
        store: &Arc<IndexStore>,
    ) -> io::Result<Vec<RowAddress>> {
        self.store.get_or_insert_with(|| store.clone());
        if !self.runs.is_empty() {
            let unknown = places.iter().map(|(key, _)| *key).filter(|key| !self.head.contains_key(key)).collect();
            let known = self.in_runs(unknown).await?;
            self.head.extend(known);
        }
        self.head.reserve(places.len());
        let mut superseded = Vec::new();
        for (key, row) in places {
            let former = self.head.get(&key).copied();
            superseded.extend(former.and_then(present));
            self.head.insert(key, row.unwrap_or_else(|| gone(former.and_then(last_row))));
        }
        self.count();
        let rests = self.rests_until.is_some_and(|until| Instant::now() < until);
        if !rests
            && store.must_spill(self.head.len())
            && let Err(error) = self.spill(store).await
        {
            tracing::warn!(%error, "cannot write keys of a transaction to disk; they stay in memory for a while");
            self.rests_until = Some(Instant::now() + PAUSE);
        }
        Ok(superseded)
    }

    /// Where the rows of those of these keys lie that are staged; or lay, if they are gone: only the second event of a
    /// changed key, whose first one was sealed, asks for such a row.
    pub async fn rows_of(&self, keys: &[KeyHash]) -> io::Result<KeyMap<RowAddress>> {
        let (mut rows, mut unknown) = (KeyMap::default(), Vec::new());
        for key in keys {
            match self.head.get(key) {
                Some(stored) => rows.extend(last_row(*stored).map(|row| (*key, row))),
                None => unknown.push(*key),
            }
        }
        if !self.runs.is_empty() {
            let found = self.in_runs(unknown).await?.into_iter();
            rows.extend(found.filter_map(|(key, stored)| Some((key, last_row(stored)?))));
        }
        Ok(rows)
    }

    /// All keys that have a new row, or none any more, piece by piece: what the table has of them goes.
    pub async fn touched(&mut self) -> io::Result<Touched> {
        if self.runs.is_empty() {
            return Ok(Touched { keys: self.head.keys().copied().collect(), scan: None });
        }
        let scan = self.whole_run().await?.map(|run| run.scan(TOUCHED_PAGES)).transpose()?;
        Ok(Touched { keys: Vec::new(), scan })
    }

    /// Whether no key is touched.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.runs.is_empty()
    }

    /// Keys with their rows, and keys that have none, if all of them are in memory.
    pub fn in_memory(&self) -> Option<(Vec<Entry>, Vec<KeyHash>)> {
        if !self.runs.is_empty() {
            return None;
        }
        let (mut rows, mut none) = (Vec::with_capacity(self.head.len()), Vec::new());
        for (key, stored) in &self.head {
            match present(*stored) {
                Some(row) => rows.push((*key, row)),
                None => none.push(*key),
            }
        }
        Some((rows, none))
    }

    /// One run of all keys. Merged so that only files are left which the commit wrote, it has the keys that have rows.
    pub async fn whole_run(&mut self) -> io::Result<Option<Arc<Segment>>> {
        if let Some(store) = self.store.clone() {
            self.spill(&store).await?;
            self.merge_runs(0, &store).await?;
        }
        if !self.head.is_empty() || self.runs.len() > 1 {
            return Err(io::Error::other("the disk takes no keys"));
        }
        Ok(self.runs.first().cloned())
    }

    async fn in_runs(&self, mut keys: Vec<KeyHash>) -> io::Result<Vec<Entry>> {
        let (runs, Some(store)) = (self.runs.clone(), self.store.clone()) else { return Ok(Vec::new()) };
        keys.sort_unstable();
        keys.dedup();
        let found = spawn_blocking(move || {
            let mut rows: Vec<Option<RowAddress>> = vec![None; keys.len()];
            for run in runs.iter().rev() {
                run.locate(&keys, &mut rows, &store.cache)?;
            }
            Ok(keys.into_iter().zip(rows).filter_map(|(key, row)| Some((key, row?))).collect())
        });
        found.await.map_err(io::Error::other)?
    }

    /// Moves what is in memory to a run.
    async fn spill(&mut self, store: &Arc<IndexStore>) -> io::Result<()> {
        let Some(path) = store.new_run_path().filter(|_| !self.head.is_empty()) else { return Ok(()) };
        // Until the run is there, the keys are in memory twice.
        let mut entries: Vec<Entry> = self.head.iter().map(|(key, row)| (*key, *row)).collect();
        let written = spawn_blocking(move || {
            let run = temporary(write_run(&mut entries, &path));
            if run.is_err() {
                let _ = std::fs::remove_file(&path);
            }
            run
        });
        self.runs.push(Arc::new(written.await.map_err(io::Error::other)??));
        self.head = KeyMap::default();
        self.count();
        match first_to_merge(&self.runs.iter().map(|run| run.len()).collect::<Vec<_>>()) {
            Some(first) => self.merge_runs(first, store).await,
            None => Ok(()),
        }
    }

    /// Makes one of the runs from `first` on.
    async fn merge_runs(&mut self, first: usize, store: &Arc<IndexStore>) -> io::Result<()> {
        let Some(path) = store.new_run_path().filter(|_| self.runs.len() > first + 1) else { return Ok(()) };
        let runs = self.runs[first..].to_vec();
        let merged =
            spawn_blocking(move || temporary(merge(&runs.iter().map(AsRef::as_ref).collect::<Vec<_>>(), None, &path)));
        let merged = merged.await.map_err(io::Error::other)??;
        self.runs.truncate(first);
        self.runs.push(Arc::new(merged));
        Ok(())
    }

    /// Tells the store how many keys are in memory.
    fn count(&mut self) {
        let before = std::mem::replace(&mut self.counted, self.head.len());
        if let Some(store) = &self.store {
            store.count(before, self.counted);
        }
    }
}

/// A run whose file goes with it.
fn temporary(run: io::Result<Segment>) -> io::Result<Segment> {
    run.inspect(|run| run.make_obsolete(true))
}

impl Drop for StagedKeys {
    fn drop(&mut self) {
        self.head = KeyMap::default();
        self.count();
    }
}

/// Keys that a commit touches, piece by piece.
pub struct Touched {
    keys: Vec<KeyHash>,
    scan: Option<Scan>,
}

impl Touched {
    /// The next keys; none if there are no more.
    pub async fn next(&mut self) -> io::Result<Option<Vec<KeyHash>>> {
        if let Some(mut scan) = self.scan.take() {
            let read = spawn_blocking(move || {
                let keys = scan.by_ref().take(TOUCHED_KEYS).map(|entry| entry.map(|(key, _)| key));
                keys.collect::<io::Result<Vec<_>>>().map(|keys| (keys, scan))
            });
            let (keys, scan) = read.await.map_err(io::Error::other)??;
            (self.keys, self.scan) = (keys, Some(scan));
        }
        Ok(Some(std::mem::take(&mut self.keys)).filter(|keys| !keys.is_empty()))
    }
}
