//! The progress record in the lake, and the single requests to a store that it is made of.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use object_store::path::Path;
use sooner_api::{Class, Code, Error, ProgressChange, ProgressRecord, ProgressStore, TableProgress, TableState};
use sooner_delta::store::operations::{Put, discard, get, put, put_new, retrying};
use sooner_delta::{LakeProgress, LakeStore, S3Settings};
use sooner_schemas::{Lsn, TableName};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> LakeStore {
        LakeStore::open(&self.0.path().display().to_string(), &S3Settings::default()).unwrap()
    }

    fn open(&self, pipeline: &str) -> LakeProgress {
        LakeProgress::new(self.store(), pipeline)
    }

    fn object(&self, number: u64) -> PathBuf {
        self.0.path().join(format!("_sooner/shop/{number:020}.json"))
    }

    fn objects(&self) -> Vec<u64> {
        (0..20).filter(|number| self.object(*number).exists()).collect()
    }

    /// A path below the lake.
    fn path(&self, name: &str) -> Path {
        self.store().prefix().clone().join(name)
    }
}

fn record(slot: &str) -> ProgressRecord {
    ProgressRecord { slot: slot.to_owned(), ..ProgressRecord::default() }
}

fn change(lsn: u64, table: &str) -> ProgressChange {
    let progress = TableProgress::new(TableState::Streaming { copied_lsn: Some(Lsn(lsn)) }, Some(7));
    let tables = BTreeMap::from([(TableName::new("public", table), progress)]);
    ProgressChange { confirmed_lsn: Some(Lsn(lsn)), tables, ..ProgressChange::default() }
}

#[tokio::test]
async fn the_last_whole_record_but_one_is_kept_with_the_changes_after_it() {
    let folder = Folder::new();
    let mut progress = folder.open("shop");
    progress.save(&record("a")).await.unwrap();
    progress.save(&record("b")).await.unwrap();
    progress.save_change(&change(5, "t")).await.unwrap();
    assert_eq!(folder.objects(), [1, 2, 3]);
    progress.save(&record("c")).await.unwrap();
    assert_eq!(folder.objects(), [2, 3, 4]);
    // Whoever opens it goes on deleting where the other one stopped.
    let mut later = folder.open("shop");
    assert_eq!(later.load().await.unwrap(), Some(record("c")));
    later.save(&record("d")).await.unwrap();
    assert_eq!(folder.objects(), [4, 5]);
}

#[tokio::test]
async fn a_whole_record_forgets_the_changes_before_it_and_takes_those_after() {
    let folder = Folder::new();
    let mut progress = folder.open("shop");
    progress.save(&record("a")).await.unwrap();
    progress.save_change(&change(5, "before")).await.unwrap();
    progress.save(&record("b")).await.unwrap();
    progress.save_change(&change(7, "after")).await.unwrap();
    progress.save_change(&change(6, "later")).await.unwrap();
    let loaded = folder.open("shop").load().await.unwrap().unwrap();
    assert_eq!((loaded.slot.as_str(), loaded.confirmed_lsn), ("b", Lsn(7)));
    let names: Vec<_> = loaded.tables.keys().map(|name| name.table.as_str()).collect();
    assert_eq!(names, ["after", "later"]);
}

#[tokio::test]
async fn a_second_process_is_told_and_may_go_on_once_it_has_loaded() {
    let folder = Folder::new();
    let (mut first, mut second) = (folder.open("shop"), folder.open("shop"));
    first.save(&record("first")).await.unwrap();
    let error = second.save(&record("second")).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Retry, Code::PipelineTakenOver));
    assert!(error.what.contains("'shop'"), "{error}");
    assert_eq!(second.load().await.unwrap(), Some(record("first")));
    second.save(&record("second")).await.unwrap();
    assert_eq!(first.save_change(&change(1, "t")).await.unwrap_err().code, Code::PipelineTakenOver);
    assert_eq!(folder.open("shop").load().await.unwrap(), Some(record("second")));
}

#[tokio::test]
async fn a_record_whose_response_was_lost_counts_as_saved() {
    let folder = Folder::new();
    folder.open("shop").save(&record("a")).await.unwrap();
    let mut retried = folder.open("shop");
    retried.save(&record("a")).await.unwrap();
    retried.save_change(&change(3, "t")).await.unwrap();
    assert_eq!(folder.objects(), [1, 2]);
}

#[tokio::test]
async fn pipelines_and_other_files_are_kept_apart() {
    let folder = Folder::new();
    folder.open("shop").save(&record("a")).await.unwrap();
    assert_eq!(folder.open("other").load().await.unwrap(), None);
    std::fs::write(folder.object(1).with_file_name("notes.json"), "mine").unwrap();
    std::fs::write(folder.object(1).with_file_name("99.txt"), "mine").unwrap();
    assert_eq!(folder.open("shop").load().await.unwrap(), Some(record("a")));
}

#[tokio::test]
async fn a_sequence_of_objects_that_somebody_changed_is_refused() {
    let folder = Folder::new();
    let mut progress = folder.open("shop");
    progress.save(&record("a")).await.unwrap();
    for lsn in [1, 2] {
        progress.save_change(&change(lsn, "t")).await.unwrap();
    }
    let second = std::fs::read(folder.object(2)).unwrap();
    let whole = std::fs::read(folder.object(1)).unwrap();
    std::fs::write(folder.object(2), &whole).unwrap();
    let error = folder.open("shop").load().await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Operator, Code::ProgressUnreadable));
    assert!(error.what.contains("00000000000000000002.json"), "{error}");
    // What the changes build on is a change, or gone.
    std::fs::write(folder.object(2), &second).unwrap();
    std::fs::write(folder.object(1), &second).unwrap();
    assert_eq!(folder.open("shop").load().await.unwrap_err().code, Code::ProgressUnreadable);
    std::fs::remove_file(folder.object(1)).unwrap();
    let error = folder.open("shop").load().await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Retry, Code::ProgressMissing));
}

#[tokio::test]
async fn sinks_that_share_a_record_see_each_others_tables() {
    let folder = Folder::new();
    let shared = || LakeProgress::shared(folder.store(), "shop");
    let (mut first, mut second) = (shared(), shared());
    first.save_change(&change(9, "a")).await.unwrap();
    second.save_change(&change(4, "b")).await.unwrap();
    first.save_change(&change(10, "c")).await.unwrap();
    let loaded = shared().load().await.unwrap().unwrap();
    assert_eq!((loaded.tables.len(), loaded.confirmed_lsn), (3, Lsn(10)));
}

#[tokio::test]
async fn only_the_first_of_many_writes_a_new_object() {
    let folder = Folder::new();
    let (root, path) = (folder.store().root(), folder.path("new").join("object"));
    let writes = (0..8u8).map(|writer| {
        let (root, path) = (root.clone(), path.clone());
        tokio::spawn(async move { (writer, put_new(&*root, &path, Bytes::from(vec![writer; 3])).await.unwrap()) })
    });
    let outcomes: Vec<_> = futures::future::join_all(writes).await.into_iter().map(Result::unwrap).collect();
    let created = outcomes.iter().filter(|(_, outcome)| *outcome == Put::Created);
    let winners: Vec<u8> = created.map(|(writer, _)| *writer).collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(get(&*root, &path).await.unwrap(), Some(Bytes::from(vec![winners[0]; 3])));
}

#[tokio::test]
async fn an_object_is_replaced_by_a_put_and_created_anew_once_it_is_discarded() {
    let folder = Folder::new();
    let (root, path) = (folder.store().root(), folder.path("object"));
    assert_eq!(get(&*root, &path).await.unwrap(), None);
    discard(&*root, &path).await;
    put(&*root, &path, Bytes::from_static(b"one")).await.unwrap();
    assert_eq!(put_new(&*root, &path, Bytes::from_static(b"two")).await.unwrap(), Put::Exists);
    assert_eq!(get(&*root, &path).await.unwrap().as_deref(), Some(&b"one"[..]));
    put(&*root, &path, Bytes::from_static(b"three")).await.unwrap();
    assert_eq!(get(&*root, &path).await.unwrap().as_deref(), Some(&b"three"[..]));
    discard(&*root, &path).await;
    assert_eq!(put_new(&*root, &path, Bytes::new()).await.unwrap(), Put::Created);
    assert_eq!(get(&*root, &path).await.unwrap(), Some(Bytes::new()));
}

#[tokio::test]
async fn what_does_not_pass_by_itself_is_tried_once() {
    for error in [Error::operator(Code::FileDamaged, "a", "b", "c"), Error::internal("a", "b")] {
        let tries = AtomicU32::new(0);
        let failed = retrying(|| async {
            tries.fetch_add(1, Ordering::Relaxed);
            Err::<(), _>(error.clone())
        });
        assert_eq!(failed.await, Err(error.clone()));
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn a_probe_leaves_nothing_behind() {
    let folder = Folder::new();
    folder.store().probe().await.unwrap();
    assert_eq!(std::fs::read_dir(folder.0.path().join("_sooner")).map_or(0, Iterator::count), 0);
}

#[test]
fn locations_that_are_no_lake_are_refused() {
    for location in ["ftp://host/lake", "http://host/lake", "file://host/lake", "s3:// bad"] {
        let error = LakeStore::open(location, &S3Settings::default()).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Operator, Code::LakeUrlInvalid), "{location}");
        assert!(error.what.contains(location), "{error}");
    }
}

#[test]
fn a_folders_url_is_that_of_the_lake_with_odd_names_encoded() {
    let folder = Folder::new();
    let url = folder.store().folder_url(&["odd schema", "t"]);
    assert!(url.as_str().ends_with("/odd%20schema/t/"), "{url}");
    let url = format!("file://{}", folder.0.path().display());
    let store = LakeStore::open(&url, &S3Settings::default()).unwrap();
    assert_eq!(store.prefix(), folder.store().prefix());
}
