//! The progress record in the lake: `_sooner/<pipeline>/<number>.json`, each number put only if it is new. Some of
//! these objects are whole records; those after one hold only what changed since, so that storing costs what changed.
//!
//! Two processes that run one pipeline meet here: whoever saves second finds its number taken.

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sooner_api::{Code, Error, ProgressChange, ProgressRecord, ProgressStore, Result, failpoint};

use crate::store::errors::store_error;
use crate::store::lake_store::LakeStore;
use crate::store::operations::{Put, discard, get, put_new, retrying};

/// Changes after which a whole record is written again.
const MAX_CHANGES: u64 = 50;

/// The progress records of one pipeline.
pub struct LakeProgress {
    store: LakeStore,
    folder: Path,
    pipeline: String,
    /// Number of the last object; zero before the first.
    number: u64,
    /// Number of the last whole record.
    whole: u64,
    /// The oldest object that may still be there.
    oldest: u64,
    record: ProgressRecord,
    /// Several processes store in it, each its own tables.
    is_shared: bool,
}

/// An object that holds a change.
#[derive(Debug, Serialize, Deserialize)]
struct StoredChange {
    /// Number of the whole record that it builds on, with all changes between.
    since: u64,
    change: ProgressChange,
}

/// What an object holds.
#[derive(Debug)]
enum Stored {
    Whole(Box<ProgressRecord>),
    Change(StoredChange),
}

impl LakeProgress {
    /// The records of a pipeline in a lake; reads nothing yet.
    pub fn new(store: LakeStore, pipeline: &str) -> LakeProgress {
        let folder = store.prefix().clone().join("_sooner").join(pipeline);
        LakeProgress::at(store, folder, pipeline, false)
    }

    /// A record that the sinks of a pipeline share, `_sooner/<pipeline>/sinks`, in which each one stores the tables
    /// that it reads: whoever comes second stores after what the first has stored.
    pub fn shared(store: LakeStore, pipeline: &str) -> LakeProgress {
        let folder = store.prefix().clone().join("_sooner").join(pipeline).join("sinks");
        LakeProgress::at(store, folder, pipeline, true)
    }

    fn at(store: LakeStore, folder: Path, pipeline: &str, is_shared: bool) -> LakeProgress {
        let record = ProgressRecord::default();
        LakeProgress { store, folder, pipeline: pipeline.to_owned(), number: 0, whole: 0, oldest: 0, record, is_shared }
    }

    fn path(&self, number: u64) -> Path {
        self.folder.clone().join(format!("{number:020}.json"))
    }

    /// Numbers of the oldest and the newest object; none if there is no object.
    async fn bounds(&self) -> Result<Option<(u64, u64)>> {
        retrying(|| async {
            let root = self.store.root();
            let listed = root.list_with_delimiter(Some(&self.folder)).await;
            let objects = listed.map_err(|error| store_error("cannot list the lake", &error))?.objects;
            let numbers = objects
                .iter()
                .filter_map(|object| object.location.filename()?.strip_suffix(".json")?.parse::<u64>().ok());
            let numbers: Vec<_> = numbers.collect();
            Ok(numbers.iter().min().copied().zip(numbers.iter().max().copied()))
        })
        .await
    }

    async fn read(&self, number: u64) -> Result<Stored> {
        let path = self.path(number);
        let Some(bytes) = get(&*self.store.root(), &path).await? else {
            let what = format!("cannot read {path}");
            return Err(Error::retry(Code::ProgressMissing, what, "it was removed just now", "it is tried again"));
        };
        let parsed = match serde_json::from_slice(&bytes) {
            Ok(change) => Ok(Stored::Change(change)),
            Err(_) => serde_json::from_slice(&bytes).map(|record| Stored::Whole(Box::new(record))),
        };
        parsed.map_err(|error| {
            let remedy = "restore it from a former version; or remove the files NUMBER.json there, not the folders \
                          beside them, and start with --recopy";
            Error::operator(Code::ProgressUnreadable, format!("cannot understand {path}"), error, remedy)
        })
    }

    /// Puts the next object; false if its number is taken.
    async fn put_next(&mut self, text: serde_json::Result<Vec<u8>>) -> Result<bool> {
        let text = text.map_err(|error| Error::internal("cannot write the progress record", error))?;
        let text = Bytes::from(text);
        let path = self.path(self.number + 1);
        let root = self.store.root();
        let saved = retrying(|| async {
            match put_new(&*root, &path, text.clone()).await? {
                Put::Created => Ok(true),
                // After a lost response the object that is there may be this one.
                Put::Exists => match get(&*root, &path).await? {
                    Some(found) => Ok(found == text),
                    None => {
                        let what = format!("cannot write {path}");
                        Err(Error::retry(Code::CommitUndecided, what, "it is neither there nor free", "nothing"))
                    }
                },
            }
        });
        let saved = saved.await?;
        self.number += u64::from(saved);
        failpoint("progress_put");
        Ok(saved)
    }

    async fn put_whole(&mut self, record: &ProgressRecord) -> Result<bool> {
        if !self.put_next(serde_json::to_vec_pretty(record)).await? {
            return Ok(false);
        }
        self.record = record.clone();
        let former_whole = std::mem::replace(&mut self.whole, self.number);
        self.prune(former_whole).await;
        Ok(true)
    }

    async fn put_change(&mut self, change: &ProgressChange) -> Result<bool> {
        let mut next = self.record.clone();
        next.apply(change.clone());
        // A record that is shared begins with a change, when nobody has stored anything.
        if self.whole == 0 || self.number - self.whole >= MAX_CHANGES {
            return self.put_whole(&next).await;
        }
        let stored = StoredChange { since: self.whole, change: change.clone() };
        let saved = self.put_next(serde_json::to_vec(&stored)).await?;
        if saved {
            self.record = next;
        }
        Ok(saved)
    }

    /// Deletes what is older than the last whole record but one: that one is kept for a person who wants to look back.
    async fn prune(&mut self, former_whole: u64) {
        let root = self.store.root();
        for number in self.oldest..former_whole {
            discard(&*root, &self.path(number)).await;
        }
        self.oldest = self.oldest.max(former_whole);
    }

    fn second_process(&self) -> Error {
        Error::retry(
            Code::PipelineTakenOver,
            format!("this process no longer runs the pipeline '{}'", self.pipeline),
            "another process of the same name has taken it over",
            "stop one of the two, or give it another name; this one waits until the slot is free",
        )
    }
}

impl ProgressStore for LakeProgress {
    async fn load(&mut self) -> Result<Option<ProgressRecord>> {
        let Some((oldest, newest)) = self.bounds().await? else { return Ok(None) };
        let mut changes = Vec::new();
        let whole = match self.read(newest).await? {
            Stored::Whole(record) => (newest, *record),
            Stored::Change(StoredChange { since, change }) => {
                for number in since + 1..newest {
                    match self.read(number).await? {
                        Stored::Change(stored) => changes.push(stored.change),
                        Stored::Whole(_) => return Err(self.out_of_order(number)),
                    }
                }
                changes.push(change);
                match self.read(since).await? {
                    Stored::Whole(record) => (since, *record),
                    Stored::Change(_) => return Err(self.out_of_order(since)),
                }
            }
        };
        let (number, mut record) = whole;
        changes.into_iter().for_each(|change| record.apply(change));
        (self.number, self.whole, self.oldest) = (newest, number, oldest);
        self.record = record;
        Ok(Some(self.record.clone()))
    }

    async fn save(&mut self, record: &ProgressRecord) -> Result<()> {
        match self.put_whole(record).await? {
            true => Ok(()),
            false => Err(self.second_process()),
        }
    }

    async fn save_change(&mut self, change: &ProgressChange) -> Result<()> {
        while !self.put_change(change).await? {
            if !self.is_shared {
                return Err(self.second_process());
            }
            self.load().await?;
        }
        Ok(())
    }
}

impl LakeProgress {
    fn out_of_order(&self, number: u64) -> Error {
        let remedy = "remove the files NUMBER.json there, not the folders beside them, and start with --recopy";
        let why = "it is not of the kind that the objects after it build on: somebody has changed the folder";
        Error::operator(Code::ProgressUnreadable, format!("cannot understand {}", self.path(number)), why, remedy)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sooner_api::{TableProgress, TableState};
    use sooner_schemas::{Lsn, TableName};

    use super::*;
    use crate::store::lake_store::S3Settings;

    fn open(folder: &tempfile::TempDir) -> LakeProgress {
        let store = LakeStore::open(&folder.path().display().to_string(), &S3Settings::default()).unwrap();
        LakeProgress::new(store, "shop")
    }

    fn change(lsn: u64, table: &str) -> ProgressChange {
        let progress = TableProgress::new(TableState::Streaming { copied_lsn: Some(Lsn(lsn)) }, None);
        ProgressChange {
            confirmed_lsn: Some(Lsn(lsn)),
            tables: BTreeMap::from([(TableName::new("public", table), progress)]),
            ..ProgressChange::default()
        }
    }

    fn objects(folder: &tempfile::TempDir) -> Vec<u64> {
        let files = std::fs::read_dir(folder.path().join("_sooner/shop")).unwrap().flatten();
        let mut sizes: Vec<_> = files.map(|file| file.metadata().unwrap().len()).collect();
        sizes.sort_unstable();
        sizes
    }

    #[tokio::test]
    async fn changes_are_read_back_with_the_record_that_they_build_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = open(&folder);
        assert_eq!(progress.load().await.unwrap(), None);
        progress.save(&ProgressRecord { slot: "s".into(), ..ProgressRecord::default() }).await.unwrap();
        let mut expected = ProgressRecord { slot: "s".into(), ..ProgressRecord::default() };
        for lsn in 1..=3 * MAX_CHANGES {
            let change = change(lsn, &format!("t{}", lsn % 7));
            progress.save_change(&change).await.unwrap();
            expected.apply(change);
        }
        assert_eq!(open(&folder).load().await.unwrap(), Some(expected));
        assert!(objects(&folder).len() as u64 <= 2 * MAX_CHANGES + 2, "what is older is deleted");
    }

    #[tokio::test]
    async fn a_change_costs_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = open(&folder);
        let tables = (0..1000).map(|n| change(1, &format!("table_{n}")).tables.pop_first().unwrap());
        progress.save(&ProgressRecord { tables: tables.collect(), ..ProgressRecord::default() }).await.unwrap();
        progress.save_change(&change(2, "table_5")).await.unwrap();
        let sizes = objects(&folder);
        assert!(sizes[0] * 100 < sizes[1], "{sizes:?}");
    }

    #[tokio::test]
    async fn whoever_saves_second_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (open(&folder), open(&folder));
        first.save(&ProgressRecord::default()).await.unwrap();
        second.load().await.unwrap();
        first.save_change(&change(5, "a")).await.unwrap();
        let error = second.save_change(&change(6, "b")).await.unwrap_err();
        assert_eq!(error.code, Code::PipelineTakenOver);
        assert!(open(&folder).load().await.unwrap().unwrap().tables.contains_key(&TableName::new("public", "a")));
    }

    #[tokio::test]
    async fn sinks_that_share_a_record_store_one_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let shared = || LakeProgress::shared(open(&folder).store, "shop");
        let (mut first, mut second) = (shared(), shared());
        assert_eq!((first.load().await.unwrap(), second.load().await.unwrap()), (None, None));
        for lsn in 1..=2 * MAX_CHANGES {
            first.save_change(&change(lsn, "a")).await.unwrap();
            second.save_change(&change(lsn, "b")).await.unwrap();
        }
        let record = shared().load().await.unwrap().unwrap();
        let expected = [change(2 * MAX_CHANGES, "a"), change(2 * MAX_CHANGES, "b")].map(|change| change.tables);
        assert_eq!(record.tables, expected.into_iter().flatten().collect());
        assert_eq!(open(&folder).load().await.unwrap(), None, "the pipeline's own record is another one");
    }

    #[tokio::test]
    async fn a_record_that_somebody_damaged_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut progress = open(&folder);
        progress.save(&ProgressRecord::default()).await.unwrap();
        std::fs::write(folder.path().join("_sooner/shop/00000000000000000001.json"), "{").unwrap();
        let error = progress.load().await.unwrap_err();
        assert_eq!(error.code, Code::ProgressUnreadable);
        assert!(error.what.contains("00000000000000000001.json"));
    }
}
