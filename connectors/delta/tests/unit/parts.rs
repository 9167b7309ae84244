//! Sealed rows: when a file of them is closed, what it holds, and where the row of each key lies.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use sooner_api::{Code, MemoryBudget};
use sooner_delta::PartLimits;
use sooner_delta::index::key_index::{KeyIndex, RowAddress};
use sooner_delta::log::live_files::{FileIds, LiveFile};
use sooner_delta::merge::parts::Parts;
use sooner_delta::rows::columns::{LakeColumn, arrow_schema};
use sooner_delta::rows::lake_type::LakeType;
use sooner_delta::rows::stored_file;
use sooner_delta::store::location::TableLocation;

const ROOM: usize = 1 << 20;

fn location() -> TableLocation {
    let url = url::Url::parse("memory:///t/").unwrap();
    TableLocation::new(Arc::new(InMemory::new()), Path::from("t"), url)
}

fn batch(values: &[i64]) -> RecordBatch {
    let column = LakeColumn {
        name: "x".to_owned(),
        lake_type: LakeType::Long,
        nullable: false,
        number: None,
        stored: None,
        missing: None,
    };
    let values: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    RecordBatch::try_new(arrow_schema(&[column]), vec![values]).unwrap()
}

fn limits(part_bytes: usize) -> PartLimits {
    PartLimits { part_bytes, budget: MemoryBudget::new(ROOM) }
}

async fn values(location: &TableLocation, file: &LiveFile, rows: Option<&[u32]>) -> Vec<i64> {
    let mut values = Vec::new();
    let read = stored_file::read(&location.table, &file.path, file.size, &["x"], rows, |batch| {
        values.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        Ok(())
    });
    read.await.unwrap();
    values
}

#[tokio::test]
async fn a_file_that_is_full_is_closed_and_the_next_rows_lie_in_another() {
    let (location, ids, limits) = (location(), FileIds::default(), limits(1));
    let mut parts = Parts::default();
    let first = parts.append(&batch(&[1, 2]), &ids).unwrap();
    assert!(parts.is_open(first.file) && parts.file(first.file).is_none());
    parts.close_if_full(&location, &limits).await.unwrap();
    assert!(!parts.is_open(first.file));
    let second = parts.append(&batch(&[3]), &ids).unwrap();
    assert_eq!((first.row, second.row), (0, 0));
    assert_ne!(first.file, second.file);
    parts.close(&location).await.unwrap();
    let found: Vec<_> = parts.written().values().map(|file| file.rows).collect();
    assert_eq!(found, [Some(2), Some(1)]);
    assert_eq!(values(&location, parts.file(second.file).unwrap(), None).await, [3]);
}

#[tokio::test]
async fn rows_of_an_open_file_follow_each_other_and_are_read_by_position() {
    let (location, ids, limits) = (location(), FileIds::default(), limits(ROOM));
    let mut parts = Parts::default();
    let mut firsts = Vec::new();
    for start in [0, 3, 6] {
        firsts.push(parts.append(&batch(&[start, start + 1, start + 2]), &ids).unwrap());
        parts.close_if_full(&location, &limits).await.unwrap();
    }
    assert_eq!(firsts.iter().map(|first| first.row).collect::<Vec<_>>(), [0, 3, 6]);
    parts.close(&location).await.unwrap();
    let file = parts.file(firsts[0].file).unwrap();
    assert_eq!(file.rows, Some(9));
    assert_eq!(values(&location, file, Some(&[1, 4, 8])).await, [1, 4, 8]);
    assert_eq!(values(&location, file, Some(&[])).await, [0; 0]);
    let read = stored_file::read(&location.table, &file.path, file.size, &["y"], None, |_| Ok(()));
    assert_eq!(read.await.unwrap_err().code, Code::FileDamaged, "it has no such column");
}

#[tokio::test]
async fn an_open_file_holds_room_until_it_is_closed() {
    let (location, ids, limits) = (location(), FileIds::default(), limits(ROOM));
    let mut parts = Parts::default();
    let first = parts.append(&batch(&[1]), &ids).unwrap();
    parts.close_if_full(&location, &limits).await.unwrap();
    assert!(parts.is_open(first.file) && limits.budget.free_bytes() < ROOM);
    parts.close(&location).await.unwrap();
    assert_eq!(limits.budget.free_bytes(), ROOM);
    // One that is thrown away gives its room back, too.
    parts.append(&batch(&[1]), &ids).unwrap();
    parts.close_if_full(&location, &limits).await.unwrap();
    drop(parts);
    assert_eq!(limits.budget.free_bytes(), ROOM);
}

#[tokio::test]
async fn a_file_that_finds_no_room_is_closed() {
    let (location, ids, limits) = (location(), FileIds::default(), limits(ROOM));
    let held = limits.budget.try_reserve(ROOM).unwrap();
    let mut parts = Parts::default();
    let first = parts.append(&batch(&[1]), &ids).unwrap();
    parts.close_if_full(&location, &limits).await.unwrap();
    assert!(!parts.is_open(first.file) && parts.written().len() == 1);
    drop(held);
    let second = parts.append(&batch(&[1]), &ids).unwrap();
    parts.close_if_full(&location, &limits).await.unwrap();
    assert!(parts.is_open(second.file));
}

#[tokio::test]
async fn closing_nothing_writes_nothing() {
    let (location, mut parts) = (location(), Parts::default());
    parts.close(&location).await.unwrap();
    parts.close_if_full(&location, &limits(1)).await.unwrap();
    assert!(parts.is_empty() && parts.written().is_empty());
}

proptest! {
    #[test]
    fn an_index_is_a_map(changes in prop::collection::vec((0..8u128, any::<Option<u32>>()), 0..60)) {
        let (mut index, mut map) = (KeyIndex::default(), BTreeMap::new());
        for (key, row) in changes {
            // Keys that differ in one half only are two.
            let key = (key % 3) << 64 | (key / 3);
            let address = row.map(|row| RowAddress { file: 1, row });
            match address {
                Some(address) => {
                    prop_assert_eq!(index.insert(key, address), map.insert(key, address));
                }
                None => {
                    prop_assert_eq!(index.remove(key), map.remove(&key));
                }
            }
            prop_assert_eq!((index.get(key), index.len()), (address, map.len()));
        }
        prop_assert_eq!(index.is_empty(), map.is_empty());
        let found: BTreeMap<_, _> = index.iter().map(|(key, row)| (key, row.row)).collect();
        let map: BTreeMap<_, _> = map.into_iter().map(|(key, row)| (key, row.row)).collect();
        prop_assert_eq!(found, map);
    }
}
