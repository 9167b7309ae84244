//! Somebody else commits between what is staged and its commit.

use std::collections::BTreeMap;

use sooner_api::{Class, Code, LakeTable};
use sooner_delta::WrittenTable;
use sooner_delta::log::actions::line;
use sooner_delta::log::commit::LogEntry;
use sooner_delta::log::committer::{Committer, Outcome};
use sooner_delta::log::deletion_vector::VectorWriter;
use sooner_delta::log::live_files::LiveFile;
use sooner_delta::log::position_names::PositionNames;
use sooner_delta::log::retention::RetentionSettings;
use sooner_delta::log::transaction::{Kind, Plan, Transaction};
use sooner_delta::store::operations::put;
use sooner_schemas::encode::TupleValue;
use uuid::Uuid;

use crate::support::{Row, World, foreign_file, mark, name, origin, replayed, text};

/// So many rows that a vector of every other one has to be in a file.
const MANY: i64 = 4000;

fn row(b: &str) -> Row {
    (None, b.to_owned())
}

/// A table of rows with these ids, at version 0 and LSN 10.
async fn begun(world: &World, ids: impl IntoIterator<Item = i64>) -> WrittenTable {
    let mut table = world.open().await;
    table.stage(world.inserted(10, ids, "first")).await.unwrap();
    table.commit(mark(10)).await.unwrap();
    table
}

/// Writes an entry of another program's into the log: these files go, those come.
async fn write_entry(world: &World, version: u64, removes: &[LiveFile], adds: &[LiveFile]) {
    let mut text = r#"{"commitInfo":{"operation":"OPTIMIZE","engineInfo":"somebody","txnId":"theirs"}}"#.to_owned();
    text.push('\n');
    for file in removes {
        let remove = file.remove_action(1, false);
        line(&mut text, "remove", remove);
    }
    for file in adds {
        line(&mut text, "add", file.add_action(file.vector.as_ref(), true));
    }
    std::fs::write(world.log_entry(version), text).unwrap();
}

async fn live_files(world: &World) -> Vec<LiveFile> {
    replayed(&world.location()).await.files().iter().map(|(_, file)| file.clone()).collect()
}

#[tokio::test]
async fn whoever_commits_a_slot_second_is_told_to_retry_and_leaves_no_vectors() {
    let world = World::new(1 << 20);
    let mut first = begun(&world, 0..MANY).await;
    let mut second = world.open().await;
    second.stage(world.inserted(20, (0..MANY).step_by(2), "second")).await.unwrap();
    first.stage(world.inserted(20, [1], "one")).await.unwrap();
    first.commit(mark(20)).await.unwrap();

    let error = second.commit(mark(20)).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Retry, Code::CommitOvertaken), "{error}");
    assert_eq!(world.files("deletion_vector").len(), 1, "that of the first one");
    assert!(!world.log_entry(2).exists());

    // The same again on what is there now.
    let mut again = world.open().await;
    again.stage(world.inserted(21, (0..MANY).step_by(2), "second")).await.unwrap();
    let committed = again.commit(mark(21)).await.unwrap();
    assert_eq!((committed.table_version, committed.rows_removed), (2, MANY as u64 / 2));
    assert_eq!(world.files("deletion_vector").len(), 2);
    let expected: BTreeMap<i64, Row> = (0..MANY)
        .map(|id| {
            (
                id,
                row(if id % 2 == 0 {
                    "second"
                } else if id == 1 {
                    "one"
                } else {
                    "first"
                }),
            )
        })
        .collect();
    assert_eq!(world.rows().await, expected);
}

#[tokio::test]
async fn rows_that_somebody_appends_stay_and_are_found_by_key() {
    let world = World::new(1 << 20);
    let mut table = begun(&world, 0..MANY).await;
    table.stage(world.inserted(20, (0..MANY).step_by(2), "ours")).await.unwrap();
    let foreign = foreign_file(&world.location(), "theirs.parquet", &[(9001, "theirs"), (9002, "theirs")]).await;
    write_entry(&world, 1, &[], &[foreign]).await;

    assert_eq!(table.commit(mark(20)).await.unwrap().table_version, 2);
    assert_eq!(world.files("deletion_vector").len(), 1, "the conflict's own are gone, the commit's are there");
    let rows = world.rows().await;
    assert_eq!((rows.len(), &rows[&9001], &rows[&0]), (MANY as usize + 2, &row("theirs"), &row("ours")));

    // The index has learnt of them: a later event replaces such a row.
    table.stage(world.inserted(30, [9001], "ours")).await.unwrap();
    let committed = table.commit(mark(30)).await.unwrap();
    assert_eq!((committed.rows_written, committed.rows_removed), (1, 1));
    assert_eq!(world.rows().await[&9001], row("ours"));
}

#[tokio::test]
async fn rows_are_found_by_key_although_reading_somebody_elses_file_failed_at_first() {
    let world = World::new(1 << 20);
    let mut table = begun(&world, [1, 2, 3]).await;
    table.stage(world.inserted(20, [2, 9], "ours")).await.unwrap();
    let foreign = foreign_file(&world.location(), "theirs.parquet", &[(9, "theirs")]).await;
    write_entry(&world, 1, &[], &[foreign]).await;
    let folder = world.log_entry(0).ancestors().nth(2).unwrap().to_owned();
    let (there, away) = (folder.join("theirs.parquet"), folder.join("away"));
    std::fs::rename(&there, &away).unwrap();
    assert!(table.inspect().await.is_err(), "the file cannot be read");
    std::fs::rename(&away, &there).unwrap();
    table.commit(mark(20)).await.unwrap();
    let expected = [(1, "first"), (2, "ours"), (3, "first"), (9, "ours")];
    assert_eq!(world.rows().await, expected.map(|(id, b)| (id, row(b))).into(), "nothing is there twice");
}

#[tokio::test]
async fn rows_that_somebody_rearranges_are_removed_where_they_are_now() {
    let world = World::new(1 << 20);
    let mut table = begun(&world, [1, 2, 3]).await;
    let old = live_files(&world).await;
    table.stage(world.inserted(20, [2], "changed")).await.unwrap();
    let gone = [text("3"), TupleValue::Null, TupleValue::Null];
    let gone = world.events(|encoder, out| encoder.delete(out, &origin(21, 0), &gone, false).unwrap());
    table.stage(gone).await.unwrap();
    table.seal().await.unwrap();
    let new = [(3, "first"), (2, "first"), (1, "first")];
    let compacted = foreign_file(&world.location(), "compacted.parquet", &new).await;
    write_entry(&world, 1, &old, &[compacted]).await;

    let committed = table.commit(mark(21)).await.unwrap();
    assert_eq!((committed.table_version, committed.rows_written, committed.rows_removed), (2, 1, 2));
    assert_eq!(world.rows().await, BTreeMap::from([(1, row("first")), (2, row("changed"))]));
}

#[tokio::test]
async fn rows_that_somebody_deletes_stay_deleted_beside_ours() {
    let world = World::new(1 << 20);
    let mut table = begun(&world, [1, 2, 3]).await;
    let old = live_files(&world).await;
    table.stage(world.inserted(20, [2], "changed")).await.unwrap();
    let mut shrunk = old[0].clone();
    let mut vectors = VectorWriter::new(Uuid::new_v4());
    shrunk.vector = Some(vectors.add(&[0].into_iter().collect()));
    let vectors = vectors.finish().unwrap();
    put(world.location().store(), &vectors.path, vectors.bytes).await.unwrap();
    write_entry(&world, 1, &old, &[shrunk]).await;

    assert_eq!(table.commit(mark(20)).await.unwrap().rows_removed, 1);
    assert_eq!(world.rows().await, BTreeMap::from([(2, row("changed")), (3, row("first"))]));
    // A row that somebody deleted is only written again.
    table.stage(world.inserted(30, [1], "back")).await.unwrap();
    let committed = table.commit(mark(30)).await.unwrap();
    assert_eq!((committed.rows_written, committed.rows_removed), (1, 0));
    assert_eq!(world.rows().await[&1], row("back"));
}

#[tokio::test]
async fn a_copy_replaces_also_what_somebody_added_meanwhile() {
    let world = World::new(1 << 20);
    let mut table = begun(&world, [1, 2]).await;
    let start = world.events(|encoder, out| encoder.copy_start(out, &origin(20, 0)));
    table.begin_copy(start).await.unwrap();
    table.stage(world.inserted(20, [5], "copied")).await.unwrap();
    let foreign = foreign_file(&world.location(), "theirs.parquet", &[(9001, "theirs")]).await;
    write_entry(&world, 1, &[], &[foreign]).await;
    let committed = table.end_copy(mark(20)).await.unwrap();
    assert_eq!((committed.table_version, committed.rows_removed), (2, 3));
    assert_eq!(world.rows().await, BTreeMap::from([(5, row("copied"))]));
}

#[tokio::test]
async fn columns_that_somebody_else_changed_and_a_log_that_cannot_be_read_need_a_person() {
    let world = World::new(1 << 20);
    let mut table = begun(&world, [1]).await;
    let mut metadata = replayed(&world.location()).await.metadata().clone();
    let schema = metadata["schemaString"].as_str().unwrap().replace("\"b\"", "\"renamed\"");
    metadata["schemaString"] = schema.into();
    let mut text = String::new();
    line(&mut text, "metaData", metadata);
    std::fs::write(world.log_entry(1), text).unwrap();
    table.stage(world.inserted(20, [2], "x")).await.unwrap();
    let error = table.commit(mark(20)).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Operator, Code::TableColumnsChanged), "{error}");

    let world = World::new(1 << 20);
    let mut table = begun(&world, [1]).await;
    std::fs::write(world.log_entry(1), "{\"add\":{\"path\":\"no size\"}}\n").unwrap();
    table.stage(world.inserted(20, [2], "x")).await.unwrap();
    let error = table.commit(mark(20)).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Operator, Code::LogUnreadable), "{error}");
}

/// A plan that removes every other row of the table's one file.
async fn plan(world: &World, id: Uuid) -> Plan {
    let base = replayed(&world.location()).await;
    let (file, _) = base.files().iter().next().unwrap();
    let removed = BTreeMap::from([(file, (0..MANY as u32).step_by(2).collect())]);
    let names = PositionNames::new("shop", &sooner_api::Feed::Slot("s".to_owned()));
    let transaction = Transaction {
        id,
        kind: Kind::Merge,
        pipeline: "shop".to_owned(),
        retention: RetentionSettings::default(),
        columns: None,
        last_column_id: None,
        provenance: Default::default(),
        refilled: Default::default(),
        added: BTreeMap::new(),
        superseded: BTreeMap::new(),
        removed,
        txns: names.versions(&sooner_api::Positions::whole(sooner_schemas::Lsn(20)), mark(20)),
        watermark: Some(mark(20)),
        span: Default::default(),
    };
    transaction.plan(&base, 0)
}

#[tokio::test]
async fn a_commit_that_is_there_already_succeeds_and_keeps_its_vectors() {
    let world = World::new(1 << 20);
    drop(begun(&world, 0..MANY).await);
    let (location, table, id) = (world.location(), name().to_string(), Uuid::new_v4());
    let (committer, plan) = (Committer::new(&location, &table), plan(&world, id).await);
    for _ in 0..2 {
        let outcome = committer.commit(1, id, &plan).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed), "{outcome:?}");
    }
    assert_eq!(world.files("deletion_vector").len(), 1);
    assert_eq!(world.rows().await.len(), MANY as usize / 2);
}

#[tokio::test]
async fn a_commit_whose_version_is_taken_returns_the_other_entry_and_leaves_nothing() {
    let world = World::new(1 << 20);
    drop(begun(&world, 0..MANY).await);
    let (location, table, id) = (world.location(), name().to_string(), Uuid::new_v4());
    let (committer, plan) = (Committer::new(&location, &table), plan(&world, id).await);
    assert!(plan.vectors.is_some());
    assert!(committer.read(1).await.unwrap().is_none());
    write_entry(&world, 1, &[], &[]).await;
    let outcome = committer.commit(1, id, &plan).await.unwrap();
    let Outcome::Conflict(entry) = outcome else { panic!("{outcome:?}") };
    let LogEntry { id: theirs, adds, .. } = *entry;
    assert_eq!((theirs.as_deref(), adds.len()), (Some("theirs"), 0));
    assert!(world.files("deletion_vector").is_empty());
}
