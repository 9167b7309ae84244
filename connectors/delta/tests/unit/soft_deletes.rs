//! A mirror that keeps the rows which its source deletes: one row for each key, whatever happens to it.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use sooner_api::{Alteration, Feed, Lake, LakePosition, LakeTable, Rows, Staged};
use sooner_delta::rows::stored_file;
use sooner_delta::{Deletes, Ways, WaysToWrite, WrittenTable};
use sooner_schemas::Position;
use sooner_schemas::encode::{Origin, Snapshot, TupleValue};

use crate::support::{World, mark, name, origin, replayed, text};

async fn open(world: &World, deletes: Deletes) -> WrittenTable {
    let ways = Ways { deletes, ..Ways::default() };
    let lake = world.lake().with_ways(WaysToWrite::new(move |_| ways));
    lake.open(&name(), &Feed::Slot("s".to_owned())).await.unwrap()
}

/// Where an event stands that was committed so many microseconds after 1970 as its LSN says.
fn at(lsn: u64, ordinal: u64) -> Origin {
    Origin { source_micros: lsn as i64, ..origin(lsn, ordinal) }
}

fn deleted(world: &World, lsn: u64, ids: &[i64]) -> Rows {
    world.events(|encoder, out| {
        for (ordinal, id) in (0..).zip(ids) {
            let id = id.to_string();
            let old = [text(&id), TupleValue::Null, TupleValue::Null];
            encoder.delete(out, &at(lsn, ordinal), &old, false).unwrap();
        }
    })
}

/// Updates of rows from which the text that may be null is left out.
fn updated(world: &World, lsn: u64, id: i64, b: &str) -> Rows {
    world.events(|encoder, out| {
        let id = id.to_string();
        let row = [text(&id), TupleValue::Unavailable, text(b)];
        encoder.update(out, &at(lsn, 0), None, &row).unwrap();
    })
}

fn truncated(world: &World, lsn: u64) -> Rows {
    world.events(|encoder, out| encoder.truncate(out, &at(lsn, 0)))
}

/// A copy of these rows, at an LSN.
async fn copy(world: &World, table: &mut WrittenTable, lsn: u64, ids: &[i64], b: &str) {
    begin(world, table, lsn, ids, b).await;
    table.end_copy(sooner_schemas::event::Watermark { commit_micros: lsn as i64, ..mark(lsn) }).await.unwrap();
}

async fn begin(world: &World, table: &mut WrittenTable, lsn: u64, ids: &[i64], b: &str) {
    let copied = |ordinal| Origin { snapshot: Snapshot::Yes, ..at(lsn, Position::FIRST_COPIED + ordinal) };
    table.begin_copy(world.events(|encoder, out| encoder.copy_start(out, &copied(0)))).await.unwrap();
    let rows = world.events(|encoder, out| {
        for (ordinal, id) in (1..).zip(ids) {
            let id = id.to_string();
            let row = [text(&id), text("large"), text(b)];
            encoder.read(out, &copied(ordinal), &row).unwrap();
        }
    });
    table.stage(rows).await.unwrap();
}

/// By key: the text that is never null, and when the row was deleted. What an update left out is there.
async fn rows(world: &World) -> BTreeMap<i64, (String, Option<i64>)> {
    let (location, mut rows) = (world.location(), BTreeMap::new());
    for (_, file) in replayed(&location).await.files().iter() {
        let mut position = 0u32;
        let mut batches = stored_file::open(&location.table, &file.path, file.size, None, None, 1000).await.unwrap();
        while let Some(batch) = futures::StreamExt::next(&mut batches).await {
            let batch: RecordBatch = batch.unwrap();
            let ids = batch.column_by_name("id").unwrap().as_primitive::<Int64Type>();
            let a = batch.column_by_name("a").unwrap().as_string::<i32>();
            let b = batch.column_by_name("b").unwrap().as_string::<i32>();
            let marks =
                batch.column_by_name("_deleted_at").map(|marks| marks.as_primitive::<TimestampMicrosecondType>());
            for row in 0..batch.num_rows() {
                if !file.deleted.contains(position) {
                    assert!(b.value(row) != "updated" || a.value(row) == "large");
                    let gone = marks.filter(|marks| marks.is_valid(row)).map(|marks| marks.value(row));
                    let twice = rows.insert(ids.value(row), (b.value(row).to_owned(), gone));
                    assert_eq!(twice, None, "two live rows have the key {}", ids.value(row));
                }
                position += 1;
            }
        }
    }
    rows
}

fn expected(rows: &[(i64, &str, Option<i64>)]) -> BTreeMap<i64, (String, Option<i64>)> {
    rows.iter().map(|(id, b, gone)| (*id, ((*b).to_owned(), *gone))).collect()
}

#[tokio::test]
async fn a_deleted_row_stays_until_its_key_comes_again() {
    let world = World::new(1 << 20);
    let mut table = open(&world, Deletes::Soft).await;
    copy(&world, &mut table, 10, &[1, 2, 3, 4], "copied").await;
    // From a file, from memory, unknown to the table, and twice.
    table.stage(deleted(&world, 20, &[1, 99])).await.unwrap();
    table.stage(updated(&world, 21, 2, "updated")).await.unwrap();
    table.stage(deleted(&world, 22, &[2])).await.unwrap();
    table.commit(mark(22)).await.unwrap();
    assert_eq!(
        rows(&world).await,
        expected(&[(1, "copied", Some(20)), (2, "updated", Some(22)), (3, "copied", None), (4, "copied", None)])
    );
    table.stage(deleted(&world, 23, &[1])).await.unwrap();
    table.stage(world.inserted(24, [2, 5], "again")).await.unwrap();
    table.stage(deleted(&world, 25, &[5])).await.unwrap();
    table.seal().await.unwrap();
    table.stage(deleted(&world, 26, &[3, 5])).await.unwrap();
    table.stage(world.inserted(27, [6], "new")).await.unwrap();
    table.seal().await.unwrap();
    table.stage(deleted(&world, 28, &[6])).await.unwrap();
    table.commit(mark(28)).await.unwrap();
    let now = [
        (1, "copied", Some(20)),
        (2, "again", None),
        (3, "copied", Some(26)),
        (4, "copied", None),
        (5, "again", Some(25)),
        (6, "new", Some(28)),
    ];
    assert_eq!(rows(&world).await, expected(&now));
    // Another process, which has no key index yet.
    let mut table = open(&world, Deletes::Soft).await;
    table.stage(world.inserted(30, [1], "back")).await.unwrap();
    table.stage(deleted(&world, 31, &[4])).await.unwrap();
    table.commit(mark(31)).await.unwrap();
    let found = rows(&world).await;
    assert_eq!((found[&1].1, found[&4].1, found.len()), (None, Some(31), 6));
}

#[tokio::test]
async fn a_truncate_deletes_all_rows_that_are_there() {
    let world = World::new(1 << 20);
    let mut table = open(&world, Deletes::Soft).await;
    copy(&world, &mut table, 10, &[1, 2, 3], "copied").await;
    table.stage(deleted(&world, 20, &[1])).await.unwrap();
    table.commit(mark(20)).await.unwrap();
    for is_new_process in [false, true] {
        if is_new_process {
            table = open(&world, Deletes::Soft).await;
        }
        let lsn = if is_new_process { 40 } else { 30 };
        if !is_new_process {
            table.stage(updated(&world, lsn, 2, "updated")).await.unwrap();
            table.stage(world.inserted(lsn, [4], "staged")).await.unwrap();
        }
        table.truncate(truncated(&world, lsn + 1)).await.unwrap();
        table.stage(world.inserted(lsn + 2, [3], "back")).await.unwrap();
        table.commit(mark(lsn + 2)).await.unwrap();
        let now = [(1, "copied", Some(20)), (2, "updated", Some(31)), (3, "back", None), (4, "staged", Some(31))];
        assert_eq!(rows(&world).await, expected(&now), "a new process: {is_new_process}");
    }
    table.stage(world.inserted(50, [4], "back")).await.unwrap();
    table.stage(deleted(&world, 51, &[3])).await.unwrap();
    table.commit(mark(51)).await.unwrap();
    let found = rows(&world).await;
    assert_eq!((found[&3].1, found[&4].1, found.len()), (Some(51), None, 4));
}

#[tokio::test]
async fn a_copy_keeps_what_was_deleted_and_deletes_what_it_lacks() {
    for is_durable in [false, true] {
        let world = World::new(1 << 20);
        let mut table = open(&world, Deletes::Soft).await;
        copy(&world, &mut table, 10, &[1, 2, 3, 4], "first").await;
        table.stage(deleted(&world, 20, &[1, 2])).await.unwrap();
        table.commit(mark(20)).await.unwrap();
        table.stage(deleted(&world, 25, &[4])).await.unwrap();
        begin(&world, &mut table, 30, &[2, 5], "second").await;
        if is_durable {
            table.commit(mark(31)).await.unwrap();
            let copy = table.unfinished_copy();
            table = open(&world, Deletes::Soft).await;
            assert!(table.resume_copy(copy).await.unwrap());
        }
        table.stage(deleted(&world, 32, &[5])).await.unwrap();
        table.truncate(truncated(&world, 33)).await.unwrap();
        table.stage(world.inserted(34, [2], "new")).await.unwrap();
        table.end_copy(sooner_schemas::event::Watermark { commit_micros: 40, ..mark(40) }).await.unwrap();
        let now = [
            (1, "first", Some(20)),
            (2, "new", None),
            (3, "first", Some(40)),
            (4, "first", Some(25)),
            (5, "second", Some(32)),
        ];
        assert_eq!(rows(&world).await, expected(&now), "durable: {is_durable}");
        table.stage(world.inserted(50, [1, 5], "back")).await.unwrap();
        table.commit(mark(50)).await.unwrap();
        let found = rows(&world).await;
        assert_eq!((found[&1].1, found[&5].1, found.len()), (None, None, 5));
        // What is not to be kept any more goes with a copy.
        let stored = LakePosition {
            version: table.version().unwrap(),
            positions: table.positions().cloned(),
            watermark: mark(50),
        };
        assert_eq!(open(&world, Deletes::Soft).await.altered_since(&stored).await.unwrap(), None);
        let mut table = open(&world, Deletes::Hard).await;
        let altered = table.altered_since(&stored).await.unwrap();
        assert!(matches!(altered, Some(Alteration::Rows(why)) if why.contains("deletes")));
        let staged = table.stage(world.inserted(60, [9], "later")).await.unwrap();
        assert!(matches!(staged, Staged::NeedsCopy(_)));
        copy(&world, &mut table, 70, &[1], "third").await;
        assert_eq!(rows(&world).await, expected(&[(1, "third", None)]));
        assert_eq!(replayed(&world.location()).await.columns().len(), 3);
        // The column comes back without one.
        let mut table = open(&world, Deletes::Soft).await;
        table.truncate(truncated(&world, 80)).await.unwrap();
        table.commit(mark(80)).await.unwrap();
        assert_eq!(rows(&world).await, expected(&[(1, "third", Some(80))]));
    }
}
