//! Versions that are held: they can be read whatever the table's retention is, until their cut ends or is dropped.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sooner_api::{Code, LakeTable};
use sooner_delta::cuts::Cut;
use sooner_delta::log::replay::delta_table;
use sooner_delta::log::retention::Retention;
use sooner_delta::maintenance::checkpoint::write_checkpoint;
use sooner_delta::maintenance::log_cleanup::clean_log;
use sooner_delta::maintenance::vacuum::{delete, find_unneeded};
use sooner_schemas::Lsn;

use crate::support::{World, mark, name};

const KEEPS_NOTHING: Retention = Retention { deleted_files: Duration::ZERO, log: Some(Duration::ZERO) };
const DAY: Duration = Duration::from_secs(24 * 3600);

fn cut(name: &str, until: Option<SystemTime>) -> Cut {
    let until_millis = until.map(|until| until.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64);
    let tables = BTreeMap::new();
    Cut { name: name.to_owned(), lsn: Lsn(1), commit_micros: 0, made_micros: 0, until_millis, tables }
}

/// Commits of the same rows, each of which leaves the files before it without live rows.
async fn commit(world: &World, lsns: std::ops::RangeInclusive<u64>) {
    let mut table = world.open().await;
    for lsn in lsns {
        table.stage(world.inserted(lsn, 1..=3, &lsn.to_string())).await.unwrap();
        table.commit(mark(lsn)).await.unwrap();
    }
}

/// All that upkeep does, on a day in the future.
async fn look_after(world: &World, version: u64, days: u32) {
    let (location, now) = (world.location(), SystemTime::now() + DAY * days);
    tokio::time::sleep(Duration::from_millis(5)).await;
    write_checkpoint(&location, version, &KEEPS_NOTHING).await.unwrap();
    clean_log(&location, &KEEPS_NOTHING, now).await.unwrap();
    let unneeded = find_unneeded(&location, version, &KEEPS_NOTHING, now).await.unwrap();
    delete(&location, unneeded.into_iter().map(|object| object.path).collect()).await.unwrap();
}

/// Files of a version, if it can be read, of which none may be missing.
async fn files_of(world: &World, version: u64) -> Option<usize> {
    let mut table = delta_table(&world.location());
    table.load_version(version).await.ok()?;
    let paths: Vec<_> = table.get_file_uris().unwrap().collect();
    let there = world.files("part-");
    paths.iter().all(|path| there.iter().any(|name| path.ends_with(name))).then_some(paths.len())
}

#[tokio::test]
async fn a_version_that_a_cut_names_can_be_read_until_the_cut_is_dropped() {
    let world = World::new(1 << 20);
    commit(&world, 1..=4).await;
    let versions = BTreeMap::from([(name(), (Some(2), None))]);
    let made = world.lake().make_cut(cut("q3", None), versions.clone()).await.unwrap();
    assert_eq!(made.tables[&name()].mirror.as_ref().unwrap().version, 2);
    assert_eq!(world.lake().make_cut(cut("q3", None), versions).await.unwrap_err().code, Code::CutExists);
    commit(&world, 5..=9).await;
    look_after(&world, 8, 30).await;
    assert_eq!((files_of(&world, 2).await, files_of(&world, 8).await), (Some(1), Some(1)));
    assert!(files_of(&world, 5).await.is_none(), "nobody holds that one");
    commit(&world, 10..=12).await;
    look_after(&world, 11, 60).await;
    assert_eq!((files_of(&world, 2).await, files_of(&world, 11).await), (Some(1), Some(1)));
    assert_eq!(world.lake().cuts().await.unwrap(), [made]);
    assert!(world.lake().drop_cut("q3").await.unwrap() && !world.lake().drop_cut("q3").await.unwrap());
    look_after(&world, 11, 60).await;
    assert!(files_of(&world, 2).await.is_none());
    assert_eq!(world.files("part-").len(), 1, "what only the cut needed is gone");
    assert_eq!(world.rows().await.len(), 3);
}

#[tokio::test]
async fn a_cut_holds_until_its_day() {
    let world = World::new(1 << 20);
    commit(&world, 1..=3).await;
    let versions = BTreeMap::from([(name(), (Some(1), None))]);
    world.lake().make_cut(cut("q3", Some(SystemTime::now() + DAY * 40)), versions).await.unwrap();
    commit(&world, 4..=6).await;
    look_after(&world, 5, 30).await;
    assert_eq!(files_of(&world, 1).await, Some(1));
    look_after(&world, 5, 60).await;
    assert!(files_of(&world, 1).await.is_none());
}
