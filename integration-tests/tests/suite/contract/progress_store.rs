//! Stores of progress: in the lake, shared by sinks, and simulated.

use std::collections::BTreeMap;

use integration_tests::simulation::progress::SimulatedProgress;
use sooner_api::{Code, ProgressChange, ProgressRecord, ProgressStore, TableProgress, TableState};
use sooner_delta::{LakeProgress, LakeStore, S3Settings};
use sooner_schemas::{Lsn, TableName};

fn change(table: &str, lsn: u64) -> ProgressChange {
    let state = TableState::Streaming { copied_lsn: Some(Lsn(lsn)) };
    let tables = BTreeMap::from([(TableName::new("public", table), TableProgress::new(state, Some(1)))]);
    ProgressChange { confirmed_lsn: Some(Lsn(lsn)), tables, ..ProgressChange::default() }
}

/// What was saved last is loaded, by whoever comes next; what a change does not name stays.
async fn keeps_what_was_saved<P: ProgressStore>(open: impl Fn() -> P) {
    let mut store = open();
    assert_eq!(store.load().await.unwrap(), None);
    let mut record = ProgressRecord { slot: "s".into(), system_id: "7".into(), ..ProgressRecord::default() };
    store.save(&record).await.unwrap();
    for (number, table) in ["a", "b", "a", "c"].into_iter().enumerate() {
        let change = change(table, 10 + number as u64);
        store.save_change(&change).await.unwrap();
        record.apply(change);
        assert_eq!(open().load().await.unwrap().as_ref(), Some(&record));
    }
    let mut next = open();
    next.load().await.unwrap();
    next.save_change(&change("d", 20)).await.unwrap();
    record.apply(change("d", 20));
    assert_eq!(open().load().await.unwrap(), Some(record));
}

/// Of two processes that run one pipeline, the one that saves second fails and has changed nothing.
async fn tells_who_comes_second<P: ProgressStore>(open: impl Fn() -> P) {
    let (mut first, mut second) = (open(), open());
    first.save(&ProgressRecord::default()).await.unwrap();
    second.load().await.unwrap();
    first.save_change(&change("a", 5)).await.unwrap();
    let stored = open().load().await.unwrap();
    assert_eq!(second.save_change(&change("b", 6)).await.unwrap_err().code, Code::PipelineTakenOver);
    assert_eq!(second.save(&ProgressRecord::default()).await.unwrap_err().code, Code::PipelineTakenOver);
    assert_eq!(open().load().await.unwrap(), stored);
    // Who loads again goes on from there.
    second.load().await.unwrap();
    second.save_change(&change("b", 6)).await.unwrap();
    assert_eq!(first.save_change(&change("a", 7)).await.unwrap_err().code, Code::PipelineTakenOver);
}

fn lake(folder: &tempfile::TempDir) -> LakeStore {
    LakeStore::open(&folder.path().display().to_string(), &S3Settings::default()).unwrap()
}

#[tokio::test]
async fn a_record_in_the_lake_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    keeps_what_was_saved(|| LakeProgress::new(lake(&folder), "one")).await;
    tells_who_comes_second(|| LakeProgress::new(lake(&folder), "two")).await;
    // Sinks that share a record do not come second: each has tables of its own.
    keeps_what_was_saved(|| LakeProgress::shared(lake(&folder), "three")).await;
}

#[tokio::test]
async fn a_simulated_record_keeps_the_contract() {
    let store = SimulatedProgress::default();
    keeps_what_was_saved(|| store.clone()).await;
    let store = SimulatedProgress::default();
    tells_who_comes_second(|| store.clone()).await;
}
