//! A table to which rows are only added: each row once, whatever comes again, and what is done about changes.

use std::collections::BTreeMap;

use sooner_api::{Alteration, Code, Feed, Lake, LakePosition, LakeTable, Positions, Rows, Staged};
use sooner_delta::{OnChange, Ways, WaysToWrite, WrittenTable};
use sooner_schemas::encode::{Snapshot, TupleValue};
use sooner_schemas::{Lsn, Position};

use crate::support::{Row, World, columns, encoder, events, mark, name, origin, replayed, text};

async fn open(world: &World, append: Option<OnChange>) -> WrittenTable {
    let ways = Ways { mirror: append.is_none(), append, ..Ways::default() };
    let lake = world.lake().with_ways(WaysToWrite::new(move |_| ways));
    lake.open(&name(), &Feed::Slot("s".to_owned())).await.unwrap()
}

pub fn start(world: &World, lsn: u64) -> Rows {
    world.events(|encoder, out| encoder.copy_start(out, &copied(lsn, 0)))
}

fn copied(lsn: u64, ordinal: u64) -> sooner_schemas::encode::Origin {
    let at = origin(lsn, Position::FIRST_COPIED + ordinal);
    sooner_schemas::encode::Origin { snapshot: Snapshot::Yes, ..at }
}

pub fn read(world: &World, lsn: u64, ids: &[i64], b: &str) -> Rows {
    world.events(|encoder, out| {
        for (ordinal, id) in (1..).zip(ids) {
            encoder.read(out, &copied(lsn, ordinal), &[text(&id.to_string()), TupleValue::Null, text(b)]).unwrap();
        }
    })
}

fn updated(world: &World, lsn: u64, id: i64) -> Rows {
    world.events(|encoder, out| {
        encoder.update(out, &origin(lsn, 0), None, &[text(&id.to_string()), TupleValue::Null, text("new")]).unwrap();
    })
}

fn deleted(world: &World, lsn: u64, id: i64) -> Rows {
    world.events(|encoder, out| {
        encoder
            .delete(out, &origin(lsn, 0), &[text(&id.to_string()), TupleValue::Null, TupleValue::Null], false)
            .unwrap();
    })
}

fn values(ids: &[(i64, &str)]) -> BTreeMap<i64, Row> {
    ids.iter().map(|(id, b)| (*id, (None, (*b).to_owned()))).collect()
}

/// A copy of these rows, at an LSN.
pub async fn copy(world: &World, table: &mut WrittenTable, lsn: u64, ids: &[i64], b: &str) {
    table.begin_copy(start(world, lsn)).await.unwrap();
    table.stage(read(world, lsn, ids, b)).await.unwrap();
    table.end_copy(mark(lsn)).await.unwrap();
}

#[tokio::test]
async fn what_comes_twice_is_added_once_and_nothing_is_read_or_rewritten() {
    let world = World::new(1 << 20);
    let mut table = open(&world, Some(OnChange::Park)).await;
    copy(&world, &mut table, 10, &[1, 2], "copied").await;
    table.stage(world.inserted(20, [3, 4], "a")).await.unwrap();
    table.stage(world.inserted(20, [3, 4], "again, in the same commit")).await.unwrap();
    table.commit(mark(20)).await.unwrap();
    table.stage(world.inserted(20, [3, 4], "again, in the next one")).await.unwrap();
    table.stage(world.inserted(30, [5], "b")).await.unwrap();
    table.commit(mark(30)).await.unwrap();
    let mut table = open(&world, Some(OnChange::Park)).await;
    table.stage(world.inserted(30, [5], "again, to another process")).await.unwrap();
    table.stage(world.inserted(40, [6], "c")).await.unwrap();
    table.commit(mark(40)).await.unwrap();
    let expected = values(&[(1, "copied"), (2, "copied"), (3, "a"), (4, "a"), (5, "b"), (6, "c")]);
    assert_eq!(world.rows().await, expected);
    let version = replayed(&world.location()).await;
    assert!(version.files().iter().all(|(_, file)| file.deleted.is_empty()));
    assert_eq!(table.size().unwrap().index_keys, None, "it has an index");
}

#[tokio::test]
async fn changes_stop_the_table_or_are_ignored() {
    let world = World::new(1 << 20);
    let mut table = open(&world, Some(OnChange::Park)).await;
    copy(&world, &mut table, 10, &[1, 2], "copied").await;
    let truncate = || world.events(|encoder, out| encoder.truncate(out, &origin(20, 0)));
    for (what, refused) in [
        ("UPDATE", table.stage(updated(&world, 20, 1)).await),
        ("DELETE", table.stage(deleted(&world, 20, 1)).await),
        ("TRUNCATE", table.truncate(truncate()).await),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.code, Code::RowChanged);
        assert!(error.why.contains(what) && error.remedy.contains("on_change"), "{error}");
    }
    table.discard();
    let mut table = open(&world, Some(OnChange::Ignore)).await;
    table.stage(updated(&world, 20, 1)).await.unwrap();
    table.stage(deleted(&world, 30, 2)).await.unwrap();
    table.truncate(truncate()).await.unwrap();
    let renamed = world.events(|encoder, out| {
        let old = [text("2"), TupleValue::Null, TupleValue::Null];
        encoder.delete(out, &origin(40, 0), &old, false).unwrap();
        encoder.insert_renamed(out, &origin(40, 1), &old, &[text("7"), TupleValue::Null, text("moved")]).unwrap();
    });
    table.stage(renamed).await.unwrap();
    table.stage(world.inserted(50, [3], "new")).await.unwrap();
    table.commit(mark(50)).await.unwrap();
    assert_eq!(world.rows().await, values(&[(1, "copied"), (2, "copied"), (3, "new")]));
}

#[tokio::test]
async fn changes_during_a_copy_are_part_of_it() {
    let world = World::new(1 << 20);
    let mut table = open(&world, Some(OnChange::Park)).await;
    table.begin_copy(start(&world, 10)).await.unwrap();
    table.stage(read(&world, 10, &[1, 2, 3], "copied")).await.unwrap();
    table.commit(mark(15)).await.unwrap();
    table.stage(world.inserted(20, [3, 4], "both the copy and the stream have 3")).await.unwrap();
    table.stage(deleted(&world, 21, 1)).await.unwrap();
    table.end_copy(mark(21)).await.unwrap();
    let both = "both the copy and the stream have 3";
    assert_eq!(world.rows().await, values(&[(2, "copied"), (3, both), (4, both)]));
    table.stage(world.inserted(30, [5], "after")).await.unwrap();
    table.commit(mark(30)).await.unwrap();
    assert_eq!(world.rows().await.len(), 4);
}

/// A copy that is durable before it ends, and one that is not, keep what the source has removed, once.
#[tokio::test]
async fn a_copy_again_keeps_what_was_ignored_and_doubles_nothing() {
    for is_durable in [false, true] {
        let world = World::new(1 << 20);
        let mut table = open(&world, Some(OnChange::Ignore)).await;
        copy(&world, &mut table, 10, &[1, 2], "first").await;
        table.stage(world.inserted(20, [3, 4], "streamed")).await.unwrap();
        table.commit(mark(20)).await.unwrap();
        table.stage(world.inserted(25, [5], "not committed")).await.unwrap();
        table.stage(deleted(&world, 26, 5)).await.unwrap();
        table.begin_copy(start(&world, 26)).await.unwrap();
        table.stage(read(&world, 26, &[1, 3], "second")).await.unwrap();
        if is_durable {
            table.commit(mark(27)).await.unwrap();
            let copy = table.unfinished_copy();
            // Another process goes on, and hears of no row any more.
            table = open(&world, Some(OnChange::Ignore)).await;
            assert!(table.resume_copy(copy).await.unwrap());
        }
        table.stage(deleted(&world, 28, 3)).await.unwrap();
        table.end_copy(mark(30)).await.unwrap();
        let kept = [(1, "second"), (2, "first"), (3, "streamed"), (4, "streamed"), (5, "not committed")];
        assert_eq!(world.rows().await, values(&kept), "durable: {is_durable}");
        table.stage(world.inserted(40, [6], "after")).await.unwrap();
        table.commit(mark(40)).await.unwrap();
        copy(&world, &mut table, 50, &[6], "third").await;
        assert_eq!(world.rows().await.len(), 6);
        // What is followed again has to be copied.
        let stored = LakePosition {
            version: table.version().unwrap(),
            positions: table.positions().cloned(),
            watermark: mark(40),
        };
        for (append, is_other) in [(Some(OnChange::Ignore), false), (Some(OnChange::Park), true), (None, true)] {
            let mut table = open(&world, append).await;
            let altered = table.altered_since(&stored).await.unwrap();
            assert_eq!(matches!(altered, Some(Alteration::Rows(why)) if why.contains("on_change")), is_other);
            let staged = table.stage(world.inserted(60, [9], "later")).await.unwrap();
            assert_eq!(matches!(staged, Staged::NeedsCopy(_)), is_other);
        }
        let mut table = open(&world, None).await;
        copy(&world, &mut table, 70, &[6], "mirrored").await;
        assert_eq!(world.rows().await, values(&[(6, "mirrored")]));
        let mut table = open(&world, None).await;
        assert_eq!(table.altered_since(&stored).await.unwrap(), None);
        table.stage(updated(&world, 80, 6)).await.unwrap();
        table.commit(mark(80)).await.unwrap();
        assert_eq!(world.rows().await, values(&[(6, "new")]));
        assert_eq!(table.positions(), Some(&Positions::whole(Lsn(80))));
    }
}

#[tokio::test]
async fn without_a_key_rows_are_added_as_often_as_they_come_and_not_while_they_are_copied() {
    let mut world = World::new(1 << 20);
    world.encoder = encoder(columns(), vec![]);
    let mut table = open(&world, Some(OnChange::Park)).await;
    copy(&world, &mut table, 10, &[1, 2], "copied").await;
    let twice = events(&world.encoder, |encoder, out| {
        for ordinal in 0..2 {
            encoder.insert(out, &origin(20, ordinal), &[text("3"), TupleValue::Null, text("twice")]).unwrap();
        }
    });
    table.stage(twice).await.unwrap();
    table.commit(mark(20)).await.unwrap();
    let rows = replayed(&world.location()).await.files().size().rows;
    assert_eq!(rows, 4);
    table.begin_copy(start(&world, 30)).await.unwrap();
    table.stage(read(&world, 30, &[1], "copied")).await.unwrap();
    let error = table.stage(world.inserted(31, [4], "meanwhile")).await.unwrap_err();
    assert_eq!(error.code, Code::KeyMissing);
    table.discard();
    let mut table = open(&world, Some(OnChange::Ignore)).await;
    let error = table.begin_copy(start(&world, 40)).await.unwrap_err();
    assert!(error.remedy.contains("ADD PRIMARY KEY"), "{error}");
}
