//! The audit trail's table: several writers make one chain, a journal is recorded once, and what is changed is found.

use sooner_delta::audit::chain::{AuditEntry, ChainedEntry, Head};
use sooner_delta::audit::check::{Checked, Checker};
use sooner_delta::audit::keys::SigningKey;
use sooner_delta::audit::table::{Appended, AuditTable, JournalPosition};
use sooner_delta::store::location::TableLocation;
use sooner_delta::{LakeStore, S3Settings};

use crate::support::replayed;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";

fn lake() -> (tempfile::TempDir, LakeStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = LakeStore::open(folder.path().to_str().unwrap(), &S3Settings::default()).unwrap();
    (folder, store)
}

fn entry(what: &str) -> AuditEntry {
    AuditEntry {
        at_micros: 1_700_000_000_000_000,
        side: "pipeline".to_owned(),
        kind: "started".to_owned(),
        table: Some("public.t".to_owned()),
        actor: "somebody".to_owned(),
        entry: format!("{{\"what\":\"{what}\"}}"),
    }
}

fn position(from: Option<u64>, to: u64) -> JournalPosition {
    JournalPosition { journal: "a-journal".to_owned(), from, to }
}

async fn all(table: &AuditTable) -> Vec<ChainedEntry> {
    let mut all = Vec::new();
    table.scan(|entry| all.push(entry)).await.unwrap();
    all.sort_by_key(|entry| entry.sequence);
    all
}

async fn check(table: &AuditTable, head: Option<&Head>) -> Checked {
    let keys = [SigningKey::from_pem(KEY).unwrap().public()];
    let mut checker = Checker::new("shop", &keys);
    table.scan(|entry| checker.take(&entry)).await.unwrap();
    checker.finish(head)
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_beside_each_other_make_one_chain_over_checkpoints() {
    let (folder, store) = lake();
    let key = SigningKey::from_pem(KEY).unwrap();
    let table = AuditTable::new(&store, "shop", Some(key));
    assert_eq!((table.head().await.unwrap(), table.scan(|_| {}).await.unwrap()), (None, false));
    let writers = (0..4).map(|writer| {
        let table = table.clone();
        tokio::spawn(async move {
            for number in 0..6 {
                let entries = [entry(&format!("{writer}/{number}/a")), entry(&format!("{writer}/{number}/b"))];
                table.append(&entries, None).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let checked = check(&table, None).await;
    assert!(checked.is_good(), "{:?}", checked.findings);
    assert_eq!((checked.entries, checked.signatures), (48, 24));
    assert_eq!(table.head().await.unwrap().map(|head| head.to_string()), checked.head);
    let log = folder.path().join("_sooner/shop/audit/_delta_log");
    assert!(log.join("_last_checkpoint").exists() && log.join(format!("{:020}.json", 0)).exists());
    // Each writer's entries are in its order, and two of one append lie together.
    let all = all(&table).await;
    for writer in 0..4 {
        let of: Vec<_> = all.iter().filter(|entry| entry.entry.entry.contains(&format!("\"{writer}/"))).collect();
        assert_eq!(of.len(), 12);
        assert!(of.windows(2).all(|pair| pair[0].entry.entry < pair[1].entry.entry));
    }
    assert!(all.chunks(2).all(|pair| pair[0].signature.is_none() && pair[1].signature.is_some()));
}

#[tokio::test]
async fn a_part_of_a_journal_is_recorded_once_whoever_repeats_it() {
    let (_folder, store) = lake();
    let table = AuditTable::new(&store, "shop", None);
    assert_eq!(table.position("a-journal").await.unwrap(), None);
    let first = table.append(&[entry("a")], Some(&position(None, 70))).await.unwrap();
    assert!(matches!(first, Appended::At(Head { sequence: 1, .. })));
    assert_eq!(table.append(&[entry("a")], Some(&position(None, 70))).await.unwrap(), Appended::Overtaken);
    table.append(&[entry("of another process")], None).await.unwrap();
    assert_eq!(table.position("a-journal").await.unwrap(), Some(70));
    assert_eq!(table.position("another").await.unwrap(), None);
    let next = table.append(&[entry("b")], Some(&position(Some(70), 90))).await.unwrap();
    assert!(matches!(next, Appended::At(Head { sequence: 3, .. })));
    assert_eq!(all(&table).await.len(), 3);
}

#[tokio::test]
async fn the_number_of_an_entry_that_was_removed_is_not_given_again() {
    let (folder, store) = lake();
    let table = AuditTable::new(&store, "shop", Some(SigningKey::from_pem(KEY).unwrap()));
    for what in ["a", "b", "c"] {
        table.append(&[entry(what)], None).await.unwrap();
    }
    let head = table.head().await.unwrap().unwrap();
    // The last file is taken out of the log, as a DELETE of another writer would do it.
    let log = folder.path().join("_sooner/shop/audit/_delta_log");
    let text = std::fs::read_to_string(log.join(format!("{:020}.json", 2))).unwrap();
    let add: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let remove =
        serde_json::json!({"remove": {"path": add["add"]["path"], "dataChange": true, "deletionTimestamp": 1}});
    std::fs::write(log.join(format!("{:020}.json", 3)), format!("{remove}\n")).unwrap();
    let told = check(&table, Some(&head)).await;
    assert_eq!(told.findings[0].to_string(), "entry 3 is missing");
    assert!(check(&table, None).await.is_good(), "only the head says so until the next entry");
    table.append(&[entry("d")], None).await.unwrap();
    assert_eq!(check(&table, None).await.findings[0].to_string(), "entry 3 is missing");
}

#[tokio::test]
async fn a_table_of_somebody_else_is_left_alone() {
    let (folder, store) = lake();
    let table = AuditTable::new(&store, "shop", None);
    table.append(&[entry("a")], None).await.unwrap();
    // The folder of one pipeline, taken for that of another.
    let log = folder.path().join("_sooner");
    std::fs::rename(log.join("shop"), log.join("other")).unwrap();
    let error = AuditTable::new(&store, "other", None).append(&[entry("b")], None).await.unwrap_err();
    assert!(error.why.contains("was not made by the pipeline 'other'"), "{error}");
}

#[tokio::test]
async fn entries_of_many_files_are_moved_into_one_and_nothing_of_them_changes() {
    let (folder, store) = lake();
    let table = AuditTable::new(&store, "shop", Some(SigningKey::from_pem(KEY).unwrap()));
    for number in 0..125 {
        table.append(&[entry(&number.to_string())], None).await.unwrap();
    }
    let location = TableLocation::new(
        store.root(),
        store.prefix().clone().join("_sooner").join("shop").join("audit"),
        store.folder_url(&["_sooner", "shop", "audit"]),
    );
    let live = replayed(&location).await.files().iter().count();
    assert!(live < 60, "{live} files are read instead of 125");
    let entries = all(&table).await;
    assert!(entries.iter().zip(0..).all(|(chained, number)| chained.entry == entry(&number.to_string())));
    let checked = check(&table, table.head().await.unwrap().as_ref()).await;
    assert!(checked.is_good() && entries.len() == 125, "{checked:?}");
    let files = std::fs::read_dir(folder.path().join("_sooner/shop/audit")).unwrap().flatten();
    let files = files.filter(|file| file.path().extension().is_some_and(|end| end == "parquet")).count();
    assert!(files > 125, "no file was deleted: {files}");
}
