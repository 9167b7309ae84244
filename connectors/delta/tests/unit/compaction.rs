//! Files are written again beside merging: readers find the same rows, in fewer files.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use sooner_api::{LakeTable, Rows, Staged};
use sooner_delta::log::actions::line;
use sooner_delta::log::replay::delta_table;
use sooner_delta::maintenance::gathering::gather;
use sooner_delta::maintenance::sorting::{Source, SourceRow};
use sooner_delta::rows::stored_file;
use sooner_delta::{DeltaLake, Optimized, SortColumns, WrittenTable};
use sooner_schemas::encode::TupleValue;
use sooner_schemas::{Position, Scalar, TableName};
use tokio::time::timeout;

use crate::support::{Row, World, column, columns, encoder, events, foreign_file, mark, name, origin, replayed, text};

const LIMIT: Duration = Duration::from_secs(30);

/// A table that was committed to so often that its files are being written again: each of its keys in a file of its
/// own.
async fn fragmented(world: &World, keys: i64) -> WrittenTable {
    let mut table = world.open().await;
    for key in 0..keys {
        commit(world, &mut table, 10 + key as u64, [key], "first").await;
    }
    table
}

async fn commit(world: &World, table: &mut WrittenTable, lsn: u64, ids: impl IntoIterator<Item = i64>, b: &str) {
    table.stage(world.inserted(lsn, ids, b)).await.unwrap();
    table.commit(mark(lsn)).await.unwrap();
}

/// Waits for files that are written again, and commits them.
async fn maintain(table: &mut WrittenTable) {
    timeout(LIMIT, table.maintenance_due()).await.expect("files are written again");
    table.maintain().await.unwrap();
}

async fn files(world: &World) -> usize {
    replayed(&world.location()).await.files().iter().count()
}

fn rows(ids: impl IntoIterator<Item = i64>, b: &str) -> BTreeMap<i64, Row> {
    ids.into_iter().map(|id| (id, (None, b.to_owned()))).collect()
}

#[tokio::test]
async fn many_small_files_become_one_with_the_same_rows() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 3).await;
    let before = (table.positions().cloned(), table.watermark());
    maintain(&mut table).await;
    assert_eq!((files(&world).await, world.rows().await), (1, rows(0..3, "first")));
    assert_eq!((table.positions().cloned(), table.watermark()), before, "it is complete to where it was");
    let entry = std::fs::read_to_string(world.log_entry(3)).unwrap();
    assert!(entry.contains("OPTIMIZE") && entry.contains("\"dataChange\":false"), "{entry}");
    assert!(!entry.contains("\"dataChange\":true"), "readers of changes see none: {entry}");
    assert!(table.is_current().await.unwrap());
}

#[tokio::test]
async fn rows_are_found_by_key_where_they_lie_afterwards() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 3).await;
    maintain(&mut table).await;
    commit(&world, &mut table, 30, [1], "second").await;
    let mut expected = rows([0, 2], "first");
    expected.extend(rows([1], "second"));
    assert_eq!(world.rows().await, expected);
}

#[tokio::test]
async fn rows_that_change_while_files_are_written_again_are_the_last_ones() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 3).await;
    timeout(LIMIT, table.maintenance_due()).await.unwrap();
    commit(&world, &mut table, 30, [1], "second").await;
    let gone = [text("2"), TupleValue::Null, TupleValue::Null];
    let gone = world.events(|encoder, out| encoder.delete(out, &origin(31, 0), &gone, false).unwrap());
    table.stage(gone).await.unwrap();
    table.commit(mark(31)).await.unwrap();
    // What is staged stays staged.
    table.stage(world.inserted(32, [0], "third")).await.unwrap();
    table.maintain().await.unwrap();
    let mut expected = rows([0], "first");
    expected.extend(rows([1], "second"));
    assert_eq!(world.rows().await, expected);
    table.commit(mark(32)).await.unwrap();
    expected.extend(rows([0], "third"));
    assert_eq!(world.rows().await, expected);
}

#[tokio::test]
async fn whoever_commits_first_is_followed_and_the_files_are_committed_after_that() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 3).await;
    timeout(LIMIT, table.maintenance_due()).await.unwrap();
    // Somebody has rearranged one of the files, and appended rows.
    let before: Vec<_> = replayed(&world.location()).await.files().iter().map(|(_, file)| file.clone()).collect();
    let moved = foreign_file(&world.location(), "theirs.parquet", &[(0, "first"), (1, "first"), (9, "theirs")]).await;
    let mut entry = r#"{"commitInfo":{"operation":"OPTIMIZE","txnId":"theirs"}}"#.to_owned();
    entry.push('\n');
    for file in &before {
        let position = file.add["stats"].as_str().unwrap();
        if !position.contains("\"id\":2") {
            line(&mut entry, "remove", file.remove_action(1, false));
        }
    }
    line(&mut entry, "add", moved.add_action(None, false));
    std::fs::write(world.log_entry(3), entry).unwrap();
    table.maintain().await.unwrap();
    maintain(&mut table).await;
    let mut expected = rows(0..3, "first");
    expected.extend(rows([9], "theirs"));
    assert_eq!(world.rows().await, expected, "nothing is lost, and nothing is there twice");
    commit(&world, &mut table, 40, [0, 9], "last").await;
    expected.extend(rows([0, 9], "last"));
    assert_eq!(world.rows().await, expected);
}

#[tokio::test]
async fn a_file_with_more_rows_than_its_log_says_is_not_written_again() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 1).await;
    let mut theirs = foreign_file(&world.location(), "theirs.parquet", &[(8, "theirs"), (9, "theirs")]).await;
    theirs.add.insert("stats".to_owned(), "{\"numRecords\":1}".into());
    let mut entry = "{\"commitInfo\":{\"operation\":\"WRITE\",\"txnId\":\"theirs\"}}\n".to_owned();
    line(&mut entry, "add", theirs.add_action(None, true));
    std::fs::write(world.log_entry(1), entry).unwrap();
    table.inspect().await.unwrap();
    commit(&world, &mut table, 30, [1], "first").await;
    let ended = timeout(Duration::from_secs(1), table.maintenance_due()).await;
    assert!(ended.is_err(), "rows that nobody knows of would never be deleted");
    let mut expected = rows(0..2, "first");
    expected.extend(rows([8, 9], "theirs"));
    assert_eq!((files(&world).await, world.rows().await), (3, expected));
}

#[tokio::test]
async fn a_copy_gives_up_what_was_under_way() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 3).await;
    timeout(LIMIT, table.maintenance_due()).await.unwrap();
    let start = world.events(|encoder, out| encoder.copy_start(out, &origin(30, Position::FIRST_COPIED)));
    assert_eq!(table.begin_copy(start).await.unwrap(), Staged::Taken);
    table.stage(world.inserted(31, [7], "copied")).await.unwrap();
    table.end_copy(mark(31)).await.unwrap();
    assert!(timeout(Duration::from_millis(300), table.maintenance_due()).await.is_err(), "there is one file");
    assert_eq!(world.rows().await, rows([7], "copied"));
    let written = world.files("part-").len();
    assert_eq!(written, 4, "what was written again is deleted");
}

#[tokio::test]
async fn files_whose_rows_are_all_gone_are_deleted_before_anybody_sees_them() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 3).await;
    timeout(LIMIT, table.maintenance_due()).await.unwrap();
    assert_eq!(world.files("part-").len(), 4);
    let gone = world.events(|encoder, out| {
        for key in ["0", "1", "2"] {
            let row = [text(key), TupleValue::Null, TupleValue::Null];
            encoder.delete(out, &origin(30, 0), &row, false).unwrap();
        }
    });
    table.stage(gone).await.unwrap();
    let version = table.commit(mark(30)).await.unwrap().table_version;
    table.maintain().await.unwrap();
    assert_eq!((table.version(), world.files("part-").len()), (Some(version), 3), "there was nothing to commit");
    assert!(world.rows().await.is_empty());
}

#[tokio::test]
async fn rows_that_are_older_than_a_column_are_null_in_it() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 2).await;
    let mut wider = columns();
    wider.push(column("c", Scalar::Text).nullable());
    let wider = encoder(wider, vec![0]);
    let rows: Rows = events(&wider, |encoder, out| {
        encoder.insert(out, &origin(30, 0), &[text("5"), TupleValue::Null, text("new"), text("c")]).unwrap();
    });
    table.stage(rows).await.unwrap();
    table.commit(mark(30)).await.unwrap();
    maintain(&mut table).await;
    let version = replayed(&world.location()).await;
    let all: Vec<_> = version.files().iter().map(|(_, file)| file).collect();
    assert_eq!((all.len(), all[0].rows), (1, Some(3)));
    let statistics = all[0].add["stats"].as_str().unwrap();
    assert!(statistics.contains("\"c\":2"), "two of three are null: {statistics}");
    assert_eq!(table.name(), &name());
}

#[tokio::test(start_paused = true)]
async fn while_nothing_happens_to_a_table_its_small_files_become_one() {
    let world = World::new(1 << 20);
    let mut table = world.open().await;
    // Too large for a tiny table, and too few files to fill a tier.
    let long = "x".repeat(50);
    for commit_number in 0..3 {
        let ids = (0..1000).map(|id| 1000 * commit_number + id);
        let rows = world.events(|encoder, out| {
            for id in ids {
                let (id, b) = (id.to_string(), format!("{long}{}", id * 7_919 % 10_007));
                encoder
                    .insert(out, &origin(10 + commit_number as u64, 0), &[text(&id), TupleValue::Null, text(&b)])
                    .unwrap();
            }
        });
        table.stage(rows).await.unwrap();
        table.commit(mark(10 + commit_number as u64)).await.unwrap();
    }
    assert_eq!(files(&world).await, 3);
    // A quiet while passes, then the files are written.
    maintain(&mut table).await;
    maintain(&mut table).await;
    assert_eq!((files(&world).await, world.rows().await.len()), (1, 3000));
}

/// Commits so often; each checkpoint that this brings is waited for.
async fn commit_often(world: &World, table: &mut WrittenTable, lsns: std::ops::Range<u64>) {
    for lsn in lsns {
        table.stage(world.inserted(lsn, [lsn as i64 % 5], "x")).await.unwrap();
        let version = table.commit(mark(lsn)).await.unwrap().table_version;
        let checkpoint = world.log_entry(version).with_extension("checkpoint.parquet");
        let asked = Instant::now();
        while (version + 1).is_multiple_of(50) && !checkpoint.exists() && asked.elapsed().as_secs() < 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn entries_that_are_older_than_the_table_keeps_them_go_once_a_checkpoint_stands_for_them() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let world = World::new(1 << 20);
    let mut table = world.open().await;
    commit_often(&world, &mut table, 1..101).await;
    for version in 0..80 {
        let entry = std::fs::File::options().write(true).open(world.log_entry(version)).unwrap();
        entry.set_modified(SystemTime::now() - 31 * DAY).unwrap();
    }
    assert!(world.log_entry(0).exists());
    drop(table);
    let mut table = world.open().await;
    commit_often(&world, &mut table, 101..151).await;
    let asked = Instant::now();
    while world.log_entry(0).exists() {
        assert!(asked.elapsed().as_secs() < 20, "the entry is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!world.log_entry(48).exists(), "a checkpoint stands for it");
    for version in [80, 100] {
        let read = delta_table(&world.location()).load_version(version).await;
        assert!(read.is_ok(), "a younger version is read from a checkpoint on: {read:?}");
    }
    assert_eq!(world.rows().await.len(), 5);
}

#[tokio::test]
async fn a_table_is_optimised_at_once_beside_a_pipeline_that_goes_on_merging() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 2).await;
    let optimized = world.lake().optimize(&name()).await.unwrap();
    assert_eq!(optimized, Some(Optimized { files_before: 2, files_after: 1 }));
    assert_eq!((files(&world).await, world.rows().await), (1, rows(0..2, "first")));
    commit(&world, &mut table, 30, [1, 5], "second").await;
    let mut expected = rows([0], "first");
    expected.extend(rows([1, 5], "second"));
    assert_eq!(world.rows().await, expected);
    let again = world.lake().optimize(&name()).await.unwrap().unwrap();
    assert_eq!((again.files_after, world.rows().await), (1, expected), "rows that are gone are dropped, too");
    let entry = std::fs::read_to_string(world.log_entry(table.version().unwrap() + 1)).unwrap();
    assert!(!entry.contains("deletionVector\":{\"storageType\":\"i\",\"pathOrInlineDv\":\"\""), "{entry}");
    assert_eq!(world.lake().optimize(&name()).await.unwrap().unwrap().files_before, 1, "nothing is left to do");
}

#[tokio::test]
async fn a_table_of_somebody_else_is_neither_optimised_nor_vacuumed() {
    let world = World::new(1 << 20);
    fragmented(&world, 2).await;
    let other = DeltaLake::new(world.store(), "other", world.limits());
    assert_eq!(other.optimize(&name()).await.unwrap(), None);
    assert_eq!(other.vacuum(&name(), true).await.unwrap(), None);
    assert_eq!(other.tables().await.unwrap(), [name()]);
    assert_eq!(files(&world).await, 2);
}

#[tokio::test]
async fn of_two_writers_that_write_the_same_files_again_one_gives_way() {
    let world = World::new(1 << 20);
    let mut table = fragmented(&world, 3).await;
    timeout(LIMIT, table.maintenance_due()).await.unwrap();
    // The table's files are written, and not committed yet.
    world.lake().optimize(&name()).await.unwrap().unwrap();
    table.maintain().await.unwrap();
    assert_eq!((files(&world).await, world.rows().await), (1, rows(0..3, "first")));
    commit(&world, &mut table, 30, [0, 2], "last").await;
    let mut expected = rows([1], "first");
    expected.extend(rows([0, 2], "last"));
    assert_eq!(world.rows().await, expected, "no row is there twice");
}

/// Ids of the rows of the table's largest file, in the order in which they lie there.
async fn ids_in_order(world: &World) -> Vec<i64> {
    let (location, version) = (world.location(), replayed(&world.location()).await);
    let (_, file) = version.files().iter().max_by_key(|(_, file)| file.rows).unwrap();
    let mut ids = Vec::new();
    let read = stored_file::read(&location.table, &file.path, file.size, &["id"], None, |batch| {
        ids.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        Ok(())
    });
    read.await.unwrap();
    ids
}

#[tokio::test]
async fn rows_that_are_written_again_are_sorted_by_their_key_or_by_columns_that_somebody_chose() {
    let world = World::new(1 << 20);
    let mut table = world.open().await;
    for (lsn, ids, b) in [(10, [7, 2, 5], "x"), (11, [3, 9, 1], "y"), (12, [8, 4, 6], "x")] {
        commit(&world, &mut table, lsn, ids, b).await;
    }
    maintain(&mut table).await;
    commit(&world, &mut table, 13, [4, 1, 2], "z").await;
    assert_eq!(ids_in_order(&world).await, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    commit(&world, &mut table, 20, [9, 8], "a").await;
    let by_b = |_: &TableName| vec!["b".to_owned(), "no such column".to_owned(), "id".to_owned()];
    let lake = world.lake().with_sort_columns(SortColumns::new(by_b));
    lake.optimize(&name()).await.unwrap();
    assert_eq!(ids_in_order(&world).await, [8, 9, 5, 6, 7, 3, 1, 2, 4], "of each text by id");
    commit(&world, &mut table, 21, [0, 3], "b").await;
    world.lake().optimize(&name()).await.unwrap();
    assert_eq!(ids_in_order(&world).await, (0..10).collect::<Vec<_>>(), "the table knows its key");
    assert_eq!(world.rows().await.len(), 10);
}

#[tokio::test]
async fn rows_that_are_too_many_for_the_memory_are_written_again_as_they_lie() {
    let world = World::new(4 << 20);
    let mut table = world.open().await;
    // Their keys alone take more than the room for files.
    for part in 0..3 {
        commit(&world, &mut table, 10 + part, (0..25_000).rev().map(|id| id * 3 + part as i64), "x").await;
    }
    let optimized = world.lake().optimize(&name()).await.unwrap().unwrap();
    assert!(optimized.files_after < optimized.files_before, "{optimized:?}");
    let ids = ids_in_order(&world).await;
    assert_eq!(ids[0] - ids[1], 3, "as they were inserted");
    commit(&world, &mut table, 30, [7], "y").await;
    let rows = world.rows().await;
    assert_eq!((rows.len(), rows[&7].1.as_str()), (75_000, "y"));
}

#[tokio::test]
async fn a_few_rows_of_a_large_file_take_little_memory() {
    let world = World::new(1 << 20);
    let mut table = world.open().await;
    commit(&world, &mut table, 10, 0..20_000, "x").await;
    let (location, version) = (world.location(), replayed(&world.location()).await);
    let (id, file) = version.files().iter().next().unwrap();
    let source = Source::open(&location.table, id, file.clone()).await.unwrap();
    let rows: Vec<_> = (0..20_000).step_by(2_000).map(|row| SourceRow { source: 0, row }).collect();
    let gathered = gather(&[source], &rows, version.columns()).await.unwrap();
    assert!(gathered.bytes() < 10_000, "{} bytes for {} rows", gathered.bytes(), rows.len());
    assert_eq!(gathered.batches().next().unwrap().unwrap().num_rows(), 10);
}
