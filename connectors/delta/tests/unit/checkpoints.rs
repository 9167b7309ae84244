//! Checkpoints that are made of the last one and of what came after it; and the end of what no version needs any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{Duration, SystemTime};

use deltalake_core::checkpoints::create_checkpoint;
use serde_json::{Value, json};
use sooner_api::LakeTable;
use sooner_delta::log::last_checkpoint::{ClassicCheckpoint, LastCheckpoint};
use sooner_delta::log::replay::{delta_table, replay};
use sooner_delta::log::retention::Retention;
use sooner_delta::maintenance::checkpoint::{Written, write_checkpoint};
use sooner_delta::maintenance::vacuum::{delete, find_unneeded};
use sooner_schemas::Position;
use sooner_schemas::encode::TupleValue;

use crate::support::{World, mark, origin, text};

const DAY: Duration = Duration::from_secs(24 * 3600);
const KEEPS_ALL: Retention = Retention { deleted_files: DAY, log: None };
/// What went before now is not needed.
const KEEPS_NOTHING: Retention = Retention { deleted_files: Duration::ZERO, log: None };

/// A table with so many commits, each of which inserts two rows, and deletes the first one of the commit before.
async fn table(world: &World, commits: u64) {
    let mut table = world.open().await;
    for lsn in 1..=commits {
        let rows = world.events(|encoder, out| {
            for id in [2 * lsn, 2 * lsn + 1] {
                let id = id.to_string();
                encoder.insert(out, &origin(lsn, id.len() as u64), &[text(&id), TupleValue::Null, text("x")]).unwrap();
            }
            let before = (2 * lsn - 2).to_string();
            encoder.delete(out, &origin(lsn, 9), &[text(&before), TupleValue::Null, TupleValue::Null], false).unwrap();
        });
        table.stage(rows).await.unwrap();
        table.commit(mark(lsn)).await.unwrap();
    }
}

/// Puts an entry of somebody else; its actions are one per line.
fn foreign(world: &World, version: u64, actions: &[Value]) {
    let text: String = actions.iter().map(|action| format!("{action}\n")).collect();
    std::fs::write(world.log_entry(version), text).unwrap();
}

fn hide_entries(world: &World, versions: std::ops::RangeInclusive<u64>) {
    for version in versions {
        std::fs::remove_file(world.log_entry(version)).unwrap();
    }
}

/// What a reader of the log finds: files with their deleted rows and statistics, and positions.
async fn state(world: &World) -> (BTreeMap<String, String>, BTreeMap<String, i64>, Value) {
    let version = replay(&world.location(), &["sooner/shop/s", "theirs", "later"]).await.unwrap();
    let files = version.files().iter().map(|(_, file)| {
        (file.key().to_owned(), format!("{:?} {:?} {:?}", file.deleted, file.vector, file.add.get("stats")))
    });
    let txns = version.txns().iter().map(|(name, version)| (name.clone(), *version));
    (files.collect(), txns.collect(), version.metadata().clone())
}

async fn written(world: &World, version: u64, retention: &Retention) -> Option<Written> {
    write_checkpoint(&world.location(), version, retention).await.unwrap()
}

#[tokio::test]
async fn a_checkpoint_of_a_checkpoint_says_what_the_whole_log_says() {
    let world = World::new(1 << 20);
    table(&world, 8).await;
    foreign(
        &world,
        8,
        &[
            json!({"commitInfo": {"txnId": "theirs", "operation": "STREAMING UPDATE"}}),
            json!({"txn": {"appId": "theirs", "version": 41}}),
        ],
    );
    let expected = state(&world).await;
    for version in [3, 4, 8] {
        assert!(written(&world, version, &KEEPS_ALL).await.is_some(), "{version}");
    }
    let last = ClassicCheckpoint { version: 8, parts: None };
    assert_eq!(LastCheckpoint::read(&world.location()).await.unwrap(), LastCheckpoint::Classic(last));
    hide_entries(&world, 0..=8);
    assert_eq!(state(&world).await, expected);
    assert_eq!(expected.1.get("theirs"), Some(&41), "what others keep there stays");
    foreign(&world, 9, &[json!({"txn": {"appId": "later", "version": 1}})]);
    assert!(written(&world, 9, &KEEPS_ALL).await.is_some());
    hide_entries(&world, 9..=9);
    assert_eq!(state(&world).await.1.len(), expected.1.len() + 1);
}

#[tokio::test]
async fn it_is_made_of_another_writers_checkpoint_as_well() {
    let world = World::new(1 << 20);
    table(&world, 6).await;
    let mut theirs = delta_table(&world.location());
    theirs.load_version(3).await.unwrap();
    create_checkpoint(&theirs, None).await.unwrap();
    let expected = state(&world).await;
    assert!(written(&world, 5, &KEEPS_ALL).await.is_some());
    hide_entries(&world, 0..=5);
    assert_eq!(state(&world).await, expected);
}

#[tokio::test]
async fn nothing_is_written_where_a_later_checkpoint_is_there() {
    let world = World::new(1 << 20);
    table(&world, 4).await;
    assert!(written(&world, 3, &KEEPS_ALL).await.is_some());
    assert_eq!(written(&world, 3, &KEEPS_ALL).await, None);
    assert_eq!(written(&world, 2, &KEEPS_ALL).await, None);
}

#[tokio::test]
async fn a_log_without_its_first_entries_and_without_a_hint_is_replayed_by_what_knows_it() {
    let world = World::new(1 << 20);
    table(&world, 6).await;
    written(&world, 3, &KEEPS_ALL).await;
    let expected = state(&world).await;
    hide_entries(&world, 0..=3);
    std::fs::remove_file(world.log_entry(0).with_file_name("_last_checkpoint")).unwrap();
    written(&world, 5, &KEEPS_ALL).await;
    assert!(world.log_entry(5).with_extension("checkpoint.parquet").exists());
    hide_entries(&world, 4..=5);
    assert_eq!(state(&world).await, expected);
}

#[tokio::test]
async fn files_that_went_before_the_table_keeps_them_are_deleted_with_a_checkpoint_and_no_others() {
    let world = World::new(1 << 20);
    table(&world, 6).await;
    let mut table = world.open().await;
    let start = world.events(|encoder, out| encoder.copy_start(out, &origin(30, Position::FIRST_COPIED)));
    table.begin_copy(start).await.unwrap();
    table.stage(world.inserted(31, [7], "copied")).await.unwrap();
    table.end_copy(mark(31)).await.unwrap();
    let version = table.version().unwrap();
    let before = world.files("part-").len();
    assert_eq!(written(&world, version - 1, &KEEPS_ALL).await.unwrap().deleted, 0);
    assert_eq!(world.files("part-").len(), before, "readers of former versions need them");
    tokio::time::sleep(Duration::from_millis(5)).await;
    let deleted = written(&world, version, &KEEPS_NOTHING).await.unwrap().deleted;
    let former: String =
        (0..version).map(|version| std::fs::read_to_string(world.log_entry(version)).unwrap()).collect();
    let left = world.files("part-").into_iter().filter(|name| former.contains(&**name)).collect::<Vec<_>>();
    assert!(deleted >= 6 && left.is_empty(), "{deleted} deleted, {left:?} left");
    assert!(world.files("deletion_vector").is_empty());
    assert_eq!(world.rows().await.keys().copied().collect::<Vec<_>>(), [7]);
}

fn age(world: &World, name: &str, by: Duration) {
    let path = world.log_entry(0).parent().unwrap().with_file_name(name);
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - by).unwrap();
}

async fn unneeded(world: &World, retention: &Retention) -> BTreeSet<String> {
    let found = find_unneeded(&world.location(), 1, retention, SystemTime::now()).await.unwrap();
    found.into_iter().map(|object| object.path.to_string()).collect()
}

#[tokio::test]
async fn files_that_no_log_mentions_go_once_they_are_old_enough_to_be_nobodys() {
    let world = World::new(1 << 20);
    table(&world, 4).await;
    let folder = world.log_entry(0).parent().unwrap().parent().unwrap().to_owned();
    for name in ["part-orphan.parquet", "part-young.parquet", "notes.txt", "deletion_vector_x.bin"] {
        std::fs::write(folder.join(name), "x").unwrap();
    }
    let live = state(&world).await.0;
    for name in live.keys().map(String::as_str).chain(["part-orphan.parquet", "notes.txt", "deletion_vector_x.bin"]) {
        age(&world, name, 8 * DAY);
    }
    age(&world, "part-young.parquet", 6 * DAY);
    let expected = BTreeSet::from(["part-orphan.parquet", "deletion_vector_x.bin"].map(str::to_owned));
    assert_eq!(unneeded(&world, &KEEPS_ALL).await, expected, "live ones are needed, however old they are");
    written(&world, 2, &KEEPS_ALL).await;
    assert_eq!(unneeded(&world, &KEEPS_ALL).await, expected, "with a checkpoint, too");
    let found = find_unneeded(&world.location(), 1, &KEEPS_ALL, SystemTime::now()).await.unwrap();
    let paths = found.into_iter().map(|object| object.path).collect();
    assert_eq!(delete(&world.location(), paths).await.unwrap(), 2);
    assert!(unneeded(&world, &KEEPS_ALL).await.is_empty());
    assert_eq!(world.rows().await.len(), 5);
}

#[tokio::test]
async fn files_of_a_copy_that_goes_on_are_needed_though_readers_do_not_see_them() {
    let world = World::new(1 << 20);
    table(&world, 2).await;
    let mut table = world.open().await;
    let start = world.events(|encoder, out| encoder.copy_start(out, &origin(30, Position::FIRST_COPIED)));
    table.begin_copy(start).await.unwrap();
    table.stage(world.inserted(31, [7], "copied")).await.unwrap();
    table.commit(mark(31)).await.unwrap();
    assert!(table.unfinished_copy().is_some());
    // There are too few files yet for any to be written again.
    for name in world.files("part-") {
        age(&world, &name, 9 * DAY);
    }
    assert!(unneeded(&world, &KEEPS_ALL).await.is_empty());
}

#[tokio::test]
async fn nothing_goes_where_the_log_cannot_be_read() {
    let world = World::new(1 << 20);
    table(&world, 3).await;
    for name in world.files("part-") {
        age(&world, &name, 9 * DAY);
    }
    hide_entries(&world, 0..=0);
    let error = find_unneeded(&world.location(), 1, &KEEPS_ALL, SystemTime::now()).await.unwrap_err();
    assert!(error.remedy.contains("nothing is deleted"), "{error}");
}

#[tokio::test]
async fn files_that_somebody_takes_up_again_meanwhile_are_spared() {
    let world = World::new(1 << 20);
    table(&world, 2).await;
    let version = replay(&world.location(), &[]).await.unwrap();
    let (_, file) = version.files().iter().next().unwrap();
    foreign(&world, 2, &[json!({"remove": file.remove_action(1, true)})]);
    // Between the version of the checkpoint and the moment when files are deleted.
    foreign(&world, 3, &[json!({"add": file.add_action(file.vector.as_ref(), true)})]);
    let written = written(&world, 2, &KEEPS_NOTHING).await.unwrap();
    assert!(world.files("part-").contains(&file.key().to_owned()), "{written:?}");
    assert_eq!(world.rows().await.len(), 3);
}

#[tokio::test]
async fn the_log_of_a_copy_says_nothing_of_the_files_that_readers_see() {
    let world = World::new(1 << 20);
    table(&world, 2).await;
    for name in world.files("part-") {
        age(&world, &name, 9 * DAY);
    }
    let next = world.location().next_generation(7);
    assert!(find_unneeded(&next, 0, &KEEPS_ALL, SystemTime::now()).await.is_err());
    // What is left of a copy's log is nobody's.
    let left = world.log_entry(0).parent().unwrap().with_file_name("_sooner_next").join("7/_delta_log");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("00000000000000000003.json"), "{}").unwrap();
    assert!(unneeded(&world, &KEEPS_ALL).await.is_empty());
}

#[tokio::test]
async fn a_table_whose_own_last_entry_was_cleaned_up_is_still_its_own() {
    let world = World::new(1 << 20);
    let mut table = world.open().await;
    table.stage(world.inserted(1, [1], "x")).await.unwrap();
    table.commit(mark(1)).await.unwrap();
    // Others have made nothing of it, but a checkpoint.
    foreign(&world, 1, &[json!({"commitInfo": {"operation": "VACUUM END", "txnId": uuid::Uuid::new_v4()}})]);
    written(&world, 1, &KEEPS_ALL).await;
    hide_entries(&world, 0..=0);
    table.inspect().await.unwrap();
    table.stage(world.inserted(2, [1], "y")).await.unwrap();
    table.commit(mark(2)).await.unwrap();
    assert_eq!(world.rows().await.len(), 1);
}

#[tokio::test]
async fn an_own_entry_that_is_replaced_below_another_writers_is_missed() {
    let world = World::new(1 << 20);
    let mut table = world.open().await;
    table.stage(world.inserted(1, [1], "x")).await.unwrap();
    table.commit(mark(1)).await.unwrap();
    table.stage(world.inserted(2, [2], "x")).await.unwrap();
    table.commit(mark(2)).await.unwrap();
    let theirs = || json!({"commitInfo": {"operation": "WRITE", "txnId": uuid::Uuid::new_v4()}});
    foreign(&world, 2, &[theirs()]);
    table.inspect().await.unwrap();
    // Somebody slow, whose log store asks for nothing.
    foreign(&world, 1, &[theirs()]);
    let error = table.inspect().await.unwrap_err();
    assert_eq!(error.code, sooner_api::Code::CopyNeeded, "{error}");
}
