//! The key index on disk: whatever becomes of it, rows are found by their keys.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::LakeTable;
use sooner_delta::index::index_store::IndexStore;
use sooner_delta::index::key_index::RowAddress;
use sooner_delta::index::manifest::{Described, DescribedFile, Manifest};
use sooner_delta::index::staged_keys::StagedKeys;
use sooner_delta::index::table_index::TableIndex;
use sooner_delta::log::actions::line;
use sooner_delta::{IndexSettings, WrittenTable};
use sooner_schemas::encode::TupleValue;
use uuid::Uuid;

use crate::support::{Row, World, foreign_file, mark, name, origin, replayed, text};

/// Indexes of which next to nothing stays in memory.
fn settings(folder: PathBuf) -> IndexSettings {
    IndexSettings { table_keys: 64, ..IndexSettings::new(Some(folder), 1 << 20) }
}

fn address(file: u32, row: u32) -> RowAddress {
    RowAddress { file, row }
}

/// An index and what it should say.
struct Model {
    folder: tempfile::TempDir,
    store: Arc<IndexStore>,
    index: TableIndex,
    /// As of the last commit, and as of the last one that the disk knows.
    rows: BTreeMap<u128, RowAddress>,
    commits: u32,
    random: StdRng,
}

impl Model {
    fn new(seed: u64) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let store = IndexStore::new(&settings(folder.path().into()));
        let index = TableIndex::new(&store, &name());
        Model { folder, store, index, rows: BTreeMap::new(), commits: 0, random: StdRng::seed_from_u64(seed) }
    }

    fn key(&mut self) -> u128 {
        u128::from(self.random.random_range(0..400u32)).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C5A_1B2D_3E4F) >> 16
            << 16
    }

    async fn commit(&mut self, keys: usize) {
        self.commits += 1;
        let mut places = Vec::new();
        for row in 0..keys as u32 {
            let key = self.key();
            let place = (!self.random.random_ratio(1, 4)).then_some(address(self.commits, row));
            places.push((key, place));
            match place {
                Some(row) => self.rows.insert(key, row),
                None => self.rows.remove(&key),
            };
        }
        let mut staged = StagedKeys::default();
        for places in places.chunks(50) {
            staged.place(places.to_vec(), &self.store).await.unwrap();
        }
        self.index.apply(staged, HashSet::from([self.commits])).await;
        self.settle().await;
    }

    async fn settle(&mut self) {
        let live: HashSet<u32> = self.rows.values().map(|row| row.file).collect();
        let files = live.iter().map(|id| DescribedFile { id: *id, path: id.to_string(), deleted: 0 });
        let described = Described {
            table_id: "t".into(),
            version: self.commits.into(),
            commit: Uuid::nil(),
            secret: (1, 2),
            key: "k".into(),
            last_file: self.commits,
            files: files.collect(),
        };
        self.index.settle(|| described).await;
    }

    /// Rows are found; of those that are gone, only addresses that were theirs.
    async fn check(&mut self) {
        let keys: Vec<u128> = (0..60).map(|_| self.key()).collect();
        let found: BTreeMap<_, _> = self.index.locate(keys.clone()).await.unwrap().into_iter().collect();
        for key in keys {
            match self.rows.get(&key) {
                Some(row) => assert_eq!(found.get(&key), Some(row), "after {} commits", self.commits),
                None => assert!(found.get(&key).is_none_or(|row| !self.rows.values().any(|live| live == row))),
            }
        }
    }

    /// Another process opens what is on the disk; files that it does not know are read again.
    async fn reopen(&mut self) {
        let store = IndexStore::new(&settings(self.folder.path().into()));
        let Some(manifest) = store.load(&name()) else { return };
        let known: HashSet<u32> = manifest.described.files.iter().map(|file| file.id).collect();
        let last_file = manifest.described.last_file;
        self.index = TableIndex::open(&store, &name(), manifest).unwrap();
        assert!(self.rows.values().all(|row| known.contains(&row.file) || row.file > 0) && last_file <= self.commits);
        let unknown = self.rows.iter().filter(|(_, row)| !known.contains(&row.file));
        self.index.absorb(unknown.map(|(key, row)| (*key, *row)).collect()).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_index_says_what_a_map_says_whenever_it_is_opened_again(seed: u64, steps in prop::collection::vec(0..12u8, 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new(seed);
            for step in steps {
                match step {
                    0 => model.reopen().await,
                    1 => model.commit(200).await,
                    2 => model.index.compact().await,
                    keys => model.commit(usize::from(keys)).await,
                }
                model.check().await;
            }
        });
    }
}

#[tokio::test]
async fn many_commits_leave_few_segments_and_hardly_more_entries_than_keys() {
    let mut model = Model::new(7);
    for _ in 0..400 {
        model.commit(50).await;
        tokio::task::yield_now().await;
    }
    // Merges run beside.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    model.commit(50).await;
    model.check().await;
    let segments = std::fs::read_dir(model.store.folder(&name()).unwrap()).unwrap();
    let (segments, entries) = (segments.count(), model.index.len());
    assert!(segments < 20 && entries < 3000, "{segments} files, {entries} entries of {} keys", model.rows.len());
}

#[tokio::test]
async fn while_the_disk_takes_nothing_keys_stay_in_memory() {
    let mut model = Model::new(3);
    let file = model.folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    model.store = IndexStore::new(&settings(file));
    model.index = TableIndex::new(&model.store, &name());
    for _ in 0..20 {
        model.commit(100).await;
        model.check().await;
    }
}

async fn commit(world: &World, table: &mut WrittenTable, lsn: u64, ids: impl IntoIterator<Item = i64>, b: &str) {
    table.stage(world.inserted(lsn, ids, b)).await.unwrap();
    table.commit(mark(lsn)).await.unwrap();
}

/// A table of 300 keys whose index lies on disk.
async fn table(world: &World) -> WrittenTable {
    let mut table = world.open().await;
    for lsn in 10..13 {
        commit(world, &mut table, lsn, (lsn as i64 - 10) * 100..(lsn as i64 - 9) * 100, "first").await;
    }
    assert!(manifest(world).is_some(), "it is on disk");
    table
}

fn manifest(world: &World) -> Option<Manifest> {
    IndexStore::new(&world.indexes()).load(&name())
}

fn rows(ids: impl IntoIterator<Item = i64>, b: &str) -> BTreeMap<i64, Row> {
    ids.into_iter().map(|id| (id, (None, b.to_owned()))).collect()
}

/// Changes every third row, and looks whether each is there once.
async fn change_and_check(world: &World, table: &mut WrittenTable, lsn: u64, mut expected: BTreeMap<i64, Row>) {
    let changed: Vec<i64> = (0..300).step_by(3).collect();
    commit(world, table, lsn, changed.clone(), "changed").await;
    expected.extend(rows(changed, "changed"));
    assert_eq!(world.rows().await, expected);
}

#[tokio::test]
async fn a_process_goes_on_with_the_index_of_the_one_before() {
    let world = World::new(1 << 20);
    let mut first = table(&world).await;
    // The disk does not know of this one.
    commit(&world, &mut first, 20, [1, 2, 400], "late").await;
    drop(first);
    let secret = manifest(&world).unwrap().described.secret;
    let mut second = world.open().await;
    let mut expected = rows(0..300, "first");
    expected.extend(rows([1, 2, 400], "late"));
    change_and_check(&world, &mut second, 30, expected).await;
    assert_eq!(manifest(&world).unwrap().described.secret, secret, "it was not built again");
}

#[tokio::test]
async fn a_damaged_index_is_built_again() {
    for damage in ["manifest", "segment", "segment is gone", "segment while it is used"] {
        let world = World::new(1 << 20);
        let mut table = table(&world).await;
        if damage != "segment while it is used" {
            drop(table);
            table = world.open().await;
        }
        let folder = world.indexes().folder.unwrap().read_dir().unwrap().next().unwrap().unwrap().path();
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let is_manifest = entry.file_name() == "manifest.json";
            match damage {
                "manifest" if is_manifest => std::fs::write(entry.path(), "{").unwrap(),
                "segment is gone" if !is_manifest => std::fs::remove_file(entry.path()).unwrap(),
                "segment" | "segment while it is used" if !is_manifest => {
                    let bytes = std::fs::read(entry.path()).unwrap();
                    std::fs::write(entry.path(), bytes.iter().map(|byte| !byte).collect::<Vec<_>>()).unwrap();
                }
                _ => {}
            }
        }
        if damage == "manifest" {
            drop(table);
            table = world.open().await;
        }
        change_and_check(&world, &mut table, 30, rows(0..300, "first")).await;
    }
}

#[tokio::test]
async fn files_that_others_wrote_while_nobody_ran_are_found_and_those_that_they_removed_are_not() {
    let world = World::new(1 << 20);
    drop(table(&world).await);
    // Somebody has written two of three files again as one.
    let version = replayed(&world.location()).await;
    let low: Vec<_> = (0..200).map(|id| (id, "first")).collect();
    let theirs = foreign_file(&world.location(), "theirs.parquet", &low).await;
    let mut entry = "{\"commitInfo\":{\"operation\":\"OPTIMIZE\",\"txnId\":\"theirs\"}}\n".to_owned();
    for (_, file) in version.files().iter() {
        if !file.add["stats"].as_str().unwrap().contains("\"maxValues\":{\"id\":299") {
            line(&mut entry, "remove", file.remove_action(1, false));
        }
    }
    line(&mut entry, "add", theirs.add_action(None, false));
    std::fs::write(world.log_entry(version.next_number()), entry).unwrap();
    let mut table = world.open().await;
    change_and_check(&world, &mut table, 30, rows(0..300, "first")).await;
}

#[tokio::test]
async fn an_index_of_another_history_of_the_table_is_not_trusted() {
    let world = World::new(1 << 20);
    drop(table(&world).await);
    // The last entry is another one than the index describes: the folder was restored, and written to.
    let last = world.log_entry(manifest(&world).unwrap().described.version);
    let entry = std::fs::read_to_string(&last).unwrap();
    let commit = manifest(&world).unwrap().described.commit.to_string();
    std::fs::write(&last, entry.replace(&commit, &Uuid::new_v4().to_string())).unwrap();
    let secret = manifest(&world).unwrap().described.secret;
    let mut table = world.open().await;
    let expected = world.rows().await;
    change_and_check(&world, &mut table, 30, expected).await;
    drop(table);
    assert_ne!(manifest(&world).map(|manifest| manifest.described.secret), Some(secret));
}

#[tokio::test]
async fn rows_that_came_back_while_nobody_ran_are_not_there_twice() {
    let world = World::new(1 << 20);
    let mut table = table(&world).await;
    let gone = world.events(|encoder, out| {
        for id in ["5", "6"] {
            encoder.delete(out, &origin(20, 0), &[text(id), TupleValue::Null, TupleValue::Null], false).unwrap();
        }
    });
    table.stage(gone).await.unwrap();
    table.commit(mark(20)).await.unwrap();
    // Enough for the disk to know of it.
    commit(&world, &mut table, 21, 300..400, "first").await;
    assert_eq!(manifest(&world).unwrap().described.version, table.version().unwrap());
    drop(table);
    let version = replayed(&world.location()).await;
    let file = version.files().iter().find(|(_, file)| !file.deleted.is_empty()).unwrap().1;
    let mut entry = "{\"commitInfo\":{\"operation\":\"OPTIMIZE\",\"txnId\":\"theirs\"}}\n".to_owned();
    line(&mut entry, "remove", file.remove_action(1, false));
    line(&mut entry, "add", file.add_action(None, false));
    std::fs::write(world.log_entry(version.next_number()), entry).unwrap();
    let mut table = world.open().await;
    commit(&world, &mut table, 30, [5], "new").await;
    let mut expected = rows(0..400, "first");
    expected.extend(rows([5], "new"));
    assert_eq!(world.rows().await, expected);
}
