//! Sinks that share a topic's partitions write one table; and what comes between the two events of a changed key.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use sooner::direct::LocalSchemas;
use sooner_api::{Class, Code, Feed, Lake, LakeTable, MemoryBudget, Positions, Rows, Standing, WholeTable};
use sooner_delta::rows::stored_file;
use sooner_delta::{DeltaLake, LakeStore, PartLimits, S3Settings, WrittenTable};
use sooner_postgres::encoders::EncoderFactory;
use sooner_schemas::encode::{Encoder, Origin, Snapshot, TupleValue};
use sooner_schemas::event::{TableEvents, Watermark};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

const WATERMARK: Watermark = Watermark { commit_lsn: Lsn(11), end_lsn: Lsn(12), commit_micros: 0 };
const PARTITIONS: i32 = 3;

/// Of a table `t` with an `id` and these text columns.
async fn encoder(texts: &[&str]) -> Encoder {
    let mut columns = vec![Column::new("id", ColumnType::Scalar(Scalar::Int8))];
    columns.extend(texts.iter().map(|name| Column::new(*name, ColumnType::Scalar(Scalar::Text)).nullable()));
    let relation = Relation::new(TableName::new("public", "t"), columns, vec![0]);
    EncoderFactory::new(LocalSchemas::default(), "shop", "db").build(&relation).await.unwrap()
}

fn origin(lsn: u64, ordinal: u64) -> Origin {
    Origin {
        position: Position { commit_lsn: Lsn(lsn), ordinal },
        lsn: Lsn(lsn),
        xid: 1,
        source_micros: 0,
        now_micros: 0,
        snapshot: Snapshot::No,
    }
}

fn lake_of(store: LakeStore, pipeline: &str) -> DeltaLake {
    DeltaLake::new(store, pipeline, PartLimits { part_bytes: 1 << 20, budget: MemoryBudget::new(1 << 20) })
}

/// A topic of which a sink holds all partitions, or some.
fn feed(generation: Option<i64>, partitions: i32, whole: bool) -> Feed {
    let assigned = if whole { BTreeSet::from_iter(0..partitions) } else { BTreeSet::from([0]) };
    Feed::Topic { topic: "t".to_owned(), generation, partitions, assigned, in_commit_order: true }
}

/// A lake, and how sinks open its table: each holds some partitions of the topic, or all.
struct Shared {
    folder: tempfile::TempDir,
    lake: DeltaLake,
}

impl Shared {
    fn new() -> Shared {
        let folder = tempfile::tempdir().unwrap();
        let store = LakeStore::open(&folder.path().display().to_string(), &S3Settings::default()).unwrap();
        Shared { folder, lake: lake_of(store, "shop") }
    }

    async fn open(&self, whole: bool) -> WrittenTable {
        self.lake.open(&TableName::new("public", "t"), &feed(Some(7), PARTITIONS, whole)).await.unwrap()
    }

    async fn offsets(&self) -> Vec<(i32, i64)> {
        match self.open(true).await.positions() {
            Some(Positions::Topic { next_offsets, .. }) => next_offsets.clone().into_iter().collect(),
            positions => panic!("{positions:?}"),
        }
    }

    fn table(&self) -> std::path::PathBuf {
        self.folder.path().join("public/t")
    }

    fn log_entry(&self, version: u64) -> String {
        std::fs::read_to_string(self.table().join(format!("_delta_log/{version:020}.json"))).unwrap()
    }
}

fn text(value: &str) -> TupleValue<'_> {
    TupleValue::Text(value.as_bytes())
}

fn rows_before(encoder: &Encoder, partition: i32, next: i64) -> Rows {
    let events = TableEvents::new(encoder.schema().clone());
    Rows { next_offsets: BTreeMap::from([(partition, next)]), generation: Some(7), ..Rows::new(events) }
}

/// Stages a row that lies right before an offset of a partition.
async fn stage_row(
    table: &mut WrittenTable,
    encoder: &Encoder,
    (partition, next): (i32, i64),
    row: &[&str],
) -> sooner_api::Result<()> {
    let mut rows = rows_before(encoder, partition, next);
    let row: Vec<_> = row.iter().map(|value| text(value)).collect();
    encoder.insert(&mut rows.events, &origin(11, next as u64), &row).unwrap();
    table.stage(rows).await.map(|_| ())
}

/// The start of a copy at offset 0 of a partition, and a row behind it.
async fn stage_copy(table: &mut WrittenTable, encoder: &Encoder, partition: i32, id: &str) {
    table.begin_copy(start_at(encoder, &[(partition, 1)], 10)).await.unwrap();
    stage_row(table, encoder, (partition, 2), &[id]).await.unwrap();
}

/// The start of a copy right before these offsets. The topic begins with it if it stands first in these partitions.
fn start_at(encoder: &Encoder, next_offsets: &[(i32, i64)], lsn: u64) -> Rows {
    let mut start = rows_before(encoder, 0, 0);
    start.next_offsets = next_offsets.iter().copied().collect();
    start.whole = WholeTable {
        opens_topic: next_offsets.iter().all(|(_, next)| *next == 1),
        is_repeated: next_offsets.len() < PARTITIONS as usize,
        lacks_first: !start.next_offsets.contains_key(&0),
    };
    encoder.copy_start(&mut start.events, &origin(lsn, 0));
    start
}

/// The live rows' ids, each with its column `a`.
async fn rows(table: &Path, live: usize) -> BTreeMap<i64, Option<String>> {
    let store: std::sync::Arc<dyn ObjectStore> = std::sync::Arc::new(LocalFileSystem::new_with_prefix(table).unwrap());
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(table).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let (name, size) = (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len());
        if !name.ends_with(".parquet") {
            continue;
        }
        let path = name.as_str().into();
        let mut ids = Vec::new();
        let read = stored_file::read(&store, &path, size, &["id"], None, |batch| {
            ids.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
            Ok(())
        });
        read.await.unwrap();
        found.extend(ids.iter().map(|id| (*id, None)));
        // Files that are older than the column lack it.
        let read = stored_file::read(&store, &path, size, &["a"], None, |batch| {
            let texts = batch.columns().first().map(|column| column.as_string::<i32>().clone());
            found.extend(ids.iter().zip(texts.iter().flatten()).map(|(id, text)| (*id, text.map(str::to_owned))));
            Ok(())
        });
        let _ = read.await;
    }
    assert_eq!(found.len(), live);
    found
}

#[tokio::test]
async fn a_table_that_two_sinks_begin_keeps_the_rows_of_both() {
    let shared = Shared::new();
    let encoder = encoder(&[]).await;

    // Both find no table; the second one's commit meets the first one's.
    let (mut first, mut second) = (shared.open(false).await, shared.open(false).await);
    stage_copy(&mut first, &encoder, 0, "1").await;
    stage_copy(&mut second, &encoder, 1, "2").await;
    assert_eq!(first.commit(WATERMARK).await.unwrap().table_version, 0);
    let committed = second.commit(WATERMARK).await.unwrap();
    assert_eq!((committed.table_version, committed.rows_written, committed.rows_removed), (1, 1, 0));
    assert!(!shared.log_entry(1).contains("\"remove\""));

    // A third one, of another partition, finds the table begun.
    let mut third = shared.open(false).await;
    stage_copy(&mut third, &encoder, 2, "3").await;
    let committed = third.commit(WATERMARK).await.unwrap();
    assert_eq!((committed.table_version, committed.rows_written, committed.rows_removed), (2, 1, 0));
    assert_eq!(shared.offsets().await, [(0, 2), (1, 2), (2, 2)]);

    // A later start of a copy would need all partitions.
    let late = start_at(&encoder, &[(1, 3)], 20);
    let error = shared.open(false).await.begin_copy(late).await.unwrap_err();
    assert!(error.why.contains("not all read here"), "{error}");
}

#[tokio::test]
async fn whoever_takes_a_begun_table_over_keeps_the_rows_of_whoever_began_it() {
    let (shared, encoder) = (Shared::new(), encoder(&[]).await);
    let mut first = shared.open(false).await;
    stage_copy(&mut first, &encoder, 0, "1").await;
    first.commit(WATERMARK).await.unwrap();

    // Nobody had got to the other partitions.
    let mut all = shared.open(true).await;
    all.begin_copy(start_at(&encoder, &[(1, 1), (2, 1)], 10)).await.unwrap();
    stage_row(&mut all, &encoder, (1, 2), &["2"]).await.unwrap();
    stage_row(&mut all, &encoder, (2, 2), &["3"]).await.unwrap();
    let committed = all.end_copy(WATERMARK).await.unwrap();
    assert_eq!((committed.rows_written, committed.rows_removed), (2, 0));
    assert_eq!(rows(&shared.table(), 3).await.into_keys().collect::<Vec<_>>(), [1, 2, 3]);

    // A later copy comes in all partitions at once, and replaces everything.
    let mut all = shared.open(true).await;
    all.begin_copy(start_at(&encoder, &[(0, 3), (1, 3), (2, 3)], 20)).await.unwrap();
    stage_row(&mut all, &encoder, (0, 4), &["4"]).await.unwrap();
    let committed = all.end_copy(WATERMARK).await.unwrap();
    assert_eq!((committed.rows_written, committed.rows_removed), (1, 3));
}

#[tokio::test]
async fn a_table_is_not_begun_with_a_share_of_a_later_copy() {
    let (shared, encoder) = (Shared::new(), encoder(&[]).await);
    let mut sink = shared.open(false).await;
    // Its topic begins with rows, as topics do that nothing was on before.
    stage_row(&mut sink, &encoder, (1, 1), &["1"]).await.unwrap();
    let error = sink.begin_copy(start_at(&encoder, &[(1, 2)], 20)).await.unwrap_err();
    assert_eq!(error.code, Code::PartitionsUnordered, "{error}");
    let truncate = |next: i64| {
        let mut truncate = rows_before(&encoder, 1, next);
        encoder.truncate(&mut truncate.events, &origin(21, 0));
        truncate
    };
    let error = shared.open(false).await.truncate(truncate(1)).await.unwrap_err();
    assert_eq!(error.code, Code::PartitionsUnordered, "{error}");
    assert_eq!(shared.open(true).await.standing(), Standing::Absent);
}

/// A topic of ours begins with the rows of a copy, without a word; or with none, if there are no rows.
#[tokio::test]
async fn rows_with_which_a_topic_begins_are_seen_once_their_copy_has_ended() {
    for has_rows in [true, false] {
        let (shared, encoder) = (Shared::new(), encoder(&[]).await);
        let mut table = shared.open(true).await;
        table.expect_copy();
        if has_rows {
            stage_row(&mut table, &encoder, (0, 1), &["1"]).await.unwrap();
            table.commit(WATERMARK).await.unwrap();
            assert_eq!(shared.open(true).await.standing(), Standing::Absent);
            assert!(table.unfinished_copy().is_some());
        }
        table.end_copy(WATERMARK).await.unwrap();
        let follows = if has_rows { Standing::Follows } else { Standing::Absent };
        assert_eq!(shared.open(true).await.standing(), follows);
        stage_row(&mut table, &encoder, (1, 1), &["2"]).await.unwrap();
        let committed = table.commit(WATERMARK).await.unwrap();
        assert_eq!(committed.rows_written, 1);
        let reopened = shared.open(true).await;
        assert_eq!(reopened.standing(), Standing::Follows);
        assert_eq!(reopened.positions().and_then(|positions| positions.next_offset(1)), Some(1));
    }
}

#[tokio::test]
async fn a_commit_tells_a_watermark_only_if_all_partitions_are_in_it() {
    let (shared, encoder) = (Shared::new(), encoder(&[]).await);
    for (version, whole) in [(0, false), (1, true)] {
        let mut table = shared.open(whole).await;
        stage_row(&mut table, &encoder, (0, version + 1), &["1"]).await.unwrap();
        assert_eq!(table.commit(WATERMARK).await.unwrap().table_version, version as u64);
        assert_eq!(shared.log_entry(version as u64).contains("\"watermark\":\"0/B\""), whole);
    }
}

#[tokio::test]
async fn sinks_see_an_added_column_at_different_times() {
    let (shared, narrow, wide) = (Shared::new(), encoder(&[]).await, encoder(&["a"]).await);
    let mut begun = shared.open(false).await;
    stage_row(&mut begun, &narrow, (0, 1), &["1"]).await.unwrap();
    begun.commit(WATERMARK).await.unwrap();

    // One has got to the new column. The other one has not, and meets its commit; then it gets there, too.
    let (mut first, mut second) = (begun, shared.open(false).await);
    stage_row(&mut first, &wide, (0, 2), &["2", "x"]).await.unwrap();
    stage_row(&mut second, &narrow, (1, 1), &["3"]).await.unwrap();
    first.commit(WATERMARK).await.unwrap();
    assert_eq!(second.commit(WATERMARK).await.unwrap().table_version, 2);
    stage_row(&mut second, &narrow, (1, 2), &["4"]).await.unwrap();
    stage_row(&mut second, &wide, (1, 3), &["5", "y"]).await.unwrap();
    second.commit(WATERMARK).await.unwrap();

    // Whoever opens the table as it is now, and is still behind, goes on as well.
    let mut third = shared.open(false).await;
    stage_row(&mut third, &narrow, (2, 1), &["6"]).await.unwrap();
    third.commit(WATERMARK).await.unwrap();
    let some = |text: &str| Some(text.to_owned());
    let expected = [(1, None), (2, some("x")), (3, None), (4, None), (5, some("y")), (6, None)];
    assert_eq!(rows(&shared.table(), 6).await, BTreeMap::from(expected));

    // Both stage the same new column before either has committed it.
    let wider = encoder(&["a", "b"]).await;
    let (mut first, mut second) = (shared.open(false).await, shared.open(false).await);
    stage_row(&mut first, &wider, (0, 3), &["7", "z", "b"]).await.unwrap();
    stage_row(&mut second, &wider, (1, 4), &["8", "z", "b"]).await.unwrap();
    first.commit(WATERMARK).await.unwrap();
    second.commit(WATERMARK).await.unwrap();
    assert_eq!(rows(&shared.table(), 8).await[&8], some("z"));
}

#[tokio::test]
async fn a_sink_that_was_quiet_follows_all_that_others_committed() {
    let (shared, encoder) = (Shared::new(), encoder(&[]).await);
    let mut busy = shared.open(false).await;
    stage_row(&mut busy, &encoder, (0, 1), &["0"]).await.unwrap();
    busy.commit(WATERMARK).await.unwrap();
    let mut quiet = shared.open(false).await;
    for next in 2..=120 {
        stage_row(&mut busy, &encoder, (0, next), &[&next.to_string()]).await.unwrap();
        busy.commit(WATERMARK).await.unwrap();
    }
    stage_row(&mut quiet, &encoder, (1, 1), &["1000"]).await.unwrap();
    assert_eq!(quiet.commit(WATERMARK).await.unwrap().table_version, 120);
}

#[tokio::test]
async fn a_zombies_commit_of_a_partition_that_has_moved_is_not_overwritten() {
    let (shared, encoder) = (Shared::new(), encoder(&[]).await);
    let mut zombie = shared.open(false).await;
    stage_row(&mut zombie, &encoder, (1, 1), &["1"]).await.unwrap();
    zombie.commit(WATERMARK).await.unwrap();

    // It sleeps; its partition goes to somebody who has not got to its events yet when it wakes up: to one who holds
    // all, whose commits tell a watermark, or one who shares.
    let (mut all, mut heir) = (shared.open(true).await, shared.open(false).await);
    stage_row(&mut zombie, &encoder, (1, 5), &["5"]).await.unwrap();
    zombie.commit(WATERMARK).await.unwrap();
    stage_row(&mut all, &encoder, (0, 1), &["100"]).await.unwrap();
    let error = all.commit(WATERMARK).await.unwrap_err();
    assert!(error.class == Class::Retry && error.why.contains("another process"), "{error}");
    stage_row(&mut heir, &encoder, (0, 1), &["100"]).await.unwrap();
    heir.commit(WATERMARK).await.unwrap();
    let error = stage_row(&mut heir, &encoder, (1, 3), &["3"]).await.unwrap_err();
    assert!(error.class == Class::Retry && error.what.contains("partition 1"), "{error}");
    assert_eq!(shared.offsets().await, [(0, 1), (1, 5)]);
}

#[tokio::test]
async fn a_value_left_out_of_a_changed_key_is_found_though_the_old_row_was_sealed_away() {
    let (shared, encoder) = (Shared::new(), encoder(&["a"]).await);
    let mut table = shared.open(true).await;
    stage_row(&mut table, &encoder, (0, 1), &["1", "of the lake"]).await.unwrap();
    table.commit(WATERMARK).await.unwrap();
    stage_row(&mut table, &encoder, (0, 2), &["2", "of a part"]).await.unwrap();
    table.seal().await.unwrap();
    // Each key changes; what Postgres left out lies in the old row, whose end is sealed before the new one comes.
    for (index, (old, new)) in [("1", "11"), ("2", "12")].into_iter().enumerate() {
        let next = 3 + 2 * index as i64;
        let mut gone = rows_before(&encoder, 0, next);
        encoder.delete(&mut gone.events, &origin(12, next as u64), &[text(old), TupleValue::Null], false).unwrap();
        table.stage(gone).await.unwrap();
        table.seal().await.unwrap();
        let mut renamed = rows_before(&encoder, 0, next + 1);
        let row = [text(new), TupleValue::Unavailable];
        encoder
            .insert_renamed(&mut renamed.events, &origin(12, next as u64 + 1), &[text(old), TupleValue::Null], &row)
            .unwrap();
        table.stage(renamed).await.unwrap();
        table.seal().await.unwrap();
    }
    let committed = table.commit(WATERMARK).await.unwrap();
    assert_eq!((committed.rows_written, committed.rows_removed), (2, 1));
    let found = rows(&shared.table(), 4).await;
    assert_eq!(found[&11].as_deref(), Some("of the lake"));
    assert_eq!(found[&12].as_deref(), Some("of a part"));
}

#[tokio::test]
async fn a_table_that_the_pipeline_filled_another_way_waits_for_a_copy() {
    let (shared, encoder) = (Shared::new(), encoder(&[]).await);
    let name = TableName::new("public", "t");
    let mut table = shared.lake.open(&name, &Feed::Slot("slot".to_owned())).await.unwrap();
    let rows = || Rows::new(TableEvents::new(encoder.schema().clone()));
    let (mut start, mut row) = (rows(), rows());
    encoder.copy_start(&mut start.events, &origin(10, 0));
    table.begin_copy(start).await.unwrap();
    encoder.insert(&mut row.events, &origin(11, 0), &[text("1")]).unwrap();
    table.stage(row).await.unwrap();
    table.end_copy(WATERMARK).await.unwrap();

    let mut table = shared.open(true).await;
    assert_eq!(table.standing(), Standing::FollowsOther);
    let mut start = rows_before(&encoder, 0, 1);
    encoder.copy_start(&mut start.events, &origin(20, 0));
    table.begin_copy(start).await.unwrap();
    stage_row(&mut table, &encoder, (0, 2), &["2"]).await.unwrap();
    let committed = table.end_copy(WATERMARK).await.unwrap();
    assert_eq!((committed.rows_written, committed.rows_removed), (1, 1));
    assert_eq!(shared.open(true).await.standing(), Standing::Follows);

    // Another pipeline's is left alone.
    let store = LakeStore::open(&shared.folder.path().display().to_string(), &S3Settings::default()).unwrap();
    let mut table = lake_of(store, "other").open(&name, &feed(None, 1, true)).await.unwrap();
    assert_eq!(table.standing(), Standing::Foreign);
    let error = stage_row(&mut table, &encoder, (0, 1), &["3"]).await.unwrap_err();
    assert_eq!(error.code, Code::TableForeign, "{error}");
}
