//! The keys of a transaction, in memory and on disk: what became of each, whatever lies where.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use sooner_delta::IndexSettings;
use sooner_delta::index::index_store::IndexStore;
use sooner_delta::index::key::KeyHash;
use sooner_delta::index::key_index::RowAddress;
use sooner_delta::index::staged_keys::StagedKeys;

/// Of which only so many keys of a table stay in memory.
fn store(folder: &tempfile::TempDir, table_keys: usize) -> Arc<IndexStore> {
    let settings = IndexSettings::new(Some(folder.path().into()), 1 << 20);
    IndexStore::new(&IndexSettings { table_keys, ..settings })
}

fn key(number: u8) -> KeyHash {
    KeyHash::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_0C5A_1B2D_0001) >> 16 << 16
}

fn pair(row: RowAddress) -> (u32, u32) {
    (row.file, row.row)
}

/// What is known of each key that was touched: whether it has a row, and which one it had last.
#[derive(Default)]
struct Model {
    keys: BTreeMap<KeyHash, (bool, Option<RowAddress>)>,
    superseded: BTreeSet<(u32, u32)>,
}

impl Model {
    fn place(&mut self, key: KeyHash, row: Option<RowAddress>) {
        let (had_row, last) = self.keys.get(&key).copied().unwrap_or_default();
        self.superseded.extend(last.filter(|_| had_row).map(pair));
        self.keys.insert(key, (row.is_some(), row.or(last)));
    }
}

async fn check(mut staged: StagedKeys, model: &Model) {
    let keys: Vec<KeyHash> = (0..=u8::MAX).map(key).collect();
    let found: BTreeMap<_, _> =
        staged.rows_of(&keys).await.unwrap().into_iter().map(|(key, row)| (key, pair(row))).collect();
    let expected: BTreeMap<_, _> =
        model.keys.iter().filter_map(|(key, (_, last))| Some((*key, pair((*last)?)))).collect();
    assert_eq!(found, expected);
    let (mut touched, mut all) = (staged.touched().await.unwrap(), BTreeSet::new());
    while let Some(keys) = touched.next().await.unwrap() {
        all.extend(keys);
    }
    assert!(all.iter().eq(model.keys.keys()), "{} keys instead of {}", all.len(), model.keys.len());
    if let Some((rows, none)) = staged.in_memory() {
        assert!(rows.iter().all(|(key, row)| model.keys[key] == (true, Some(*row))));
        assert!(none.iter().all(|key| !model.keys[key].0));
        assert_eq!(rows.len() + none.len(), model.keys.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_became_of_a_key_is_known_wherever_it_lies(
        seals in prop::collection::vec(prop::collection::vec((any::<u8>(), any::<bool>()), 1..60), 1..20),
        table_keys in prop::sample::select(vec![8usize, 40, 100_000]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let (store, mut staged, mut model) = (store(&folder, table_keys), StagedKeys::default(), Model::default());
            let (mut row, mut superseded) = (0, BTreeSet::new());
            for seal in seals {
                let places: Vec<_> = seal.into_iter().map(|(number, has_row)| {
                    row += 1;
                    (key(number), has_row.then_some(RowAddress { file: 1 + row % 3, row }))
                }).collect();
                places.iter().for_each(|(key, row)| model.place(*key, *row));
                superseded.extend(staged.place(places, &store).await.unwrap().into_iter().map(pair));
            }
            assert_eq!(superseded, model.superseded);
            check(staged, &model).await;
        });
        let left = std::fs::read_dir(folder.path().join("_staged")).into_iter().flatten().count();
        prop_assert_eq!(left, 0, "runs go with the keys");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_a_dead_process_has_left_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("_staged");
    std::fs::create_dir(&runs).unwrap();
    // No process has this number.
    std::fs::write(runs.join("999999999.x"), "").unwrap();
    store(&folder, 8);
    assert_eq!(std::fs::read_dir(&runs).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_takes_nothing_keys_stay_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("_staged"), "no folder").unwrap();
    let (store, mut staged, mut model) = (store(&folder, 8), StagedKeys::default(), Model::default());
    for number in 0..100 {
        let place = (key(number), Some(RowAddress { file: 1, row: number.into() }));
        model.place(place.0, place.1);
        staged.place(vec![place], &store).await.unwrap();
    }
    check(staged, &model).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_lost_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut staged) = (store(&folder, 8), StagedKeys::default());
    let places: Vec<_> =
        (0..20).map(|number| (key(number), Some(RowAddress { file: 1, row: number.into() }))).collect();
    staged.place(places, &store).await.unwrap();
    for run in std::fs::read_dir(folder.path().join("_staged")).unwrap() {
        std::fs::remove_file(run.unwrap().path()).unwrap();
    }
    assert!(staged.rows_of(&[key(3)]).await.is_err());
    assert!(staged.touched().await.is_err());
}
