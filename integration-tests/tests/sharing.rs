//! Two sinks that share a topic's partitions write one table.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use sooner::direct::LocalSchemas;
use sooner_api::LakeTable;
use sooner_delta::{AppIds, DeltaLake, DeltaTable, LakeStore, S3Settings};
use sooner_postgres::encoders::EncoderFactory;
use sooner_schemas::encode::{Encoder, Origin, Snapshot, TupleValue};
use sooner_schemas::event::{TableEvents, Watermark};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

async fn encoder() -> Encoder {
    let column = Column {
        name: "id".into(),
        column_type: ColumnType::Scalar(Scalar::Int8),
        nullable: false,
        has_default: false,
        default: None,
        number: None,
    };
    let relation = Relation { name: TableName::new("public", "t"), columns: vec![column], key: vec![0] };
    EncoderFactory::new(LocalSchemas::default(), "shop", "db").build(&relation).await.unwrap()
}

fn origin(lsn: u64) -> Origin {
    Origin {
        position: Position { commit_lsn: Lsn(lsn), ordinal: 0 },
        lsn: Lsn(lsn),
        xid: 1,
        source_micros: 0,
        now_micros: 0,
        snapshot: Snapshot::No,
    }
}

/// The start of a copy at offset 0 of a partition, and a row behind it.
async fn stage_copy(table: &mut DeltaTable, encoder: &Encoder, partition: i32, id: &str) {
    let mut start = TableEvents::new(encoder.schema().clone());
    encoder.copy_start(&mut start, &origin(10));
    start.next_offsets.push((partition, 1));
    table.stage(start).await.unwrap();
    let mut row = TableEvents::new(encoder.schema().clone());
    encoder.insert(&mut row, &origin(11), &[TupleValue::Text(id.as_bytes())]).unwrap();
    row.next_offsets.push((partition, 2));
    table.stage(row).await.unwrap();
}

fn has_removes(lake: &std::path::Path, version: u32) -> bool {
    let entry = lake.join(format!("public/t/_delta_log/{version:020}.json"));
    std::fs::read_to_string(entry).unwrap().contains("\"remove\"")
}

#[tokio::test]
async fn a_table_that_two_sinks_begin_keeps_the_rows_of_both() {
    let folder = tempfile::tempdir().unwrap();
    let store = LakeStore::open(&folder.path().display().to_string(), &S3Settings::default()).unwrap();
    let app_ids = || AppIds::topic("shop", "t", 3, false, true).with_generation("shop", "t", 7);
    let lake = DeltaLake::new(store, app_ids(), 1 << 20);
    let open = || async { lake.open_as(&TableName::new("public", "t"), app_ids()).await.unwrap() };
    let encoder = encoder().await;
    let watermark = Watermark { commit_lsn: Lsn(11), end_lsn: Lsn(12), commit_micros: 0 };

    // Both find no table; the second one's commit meets the first one's.
    let (mut first, mut second) = (open().await, open().await);
    stage_copy(&mut first, &encoder, 0, "1").await;
    stage_copy(&mut second, &encoder, 1, "2").await;
    assert_eq!(first.commit(watermark).await.unwrap().table_version, 0);
    let committed = second.commit(watermark).await.unwrap();
    assert_eq!((committed.table_version, committed.rows_written, committed.rows_removed), (1, 1, 0));
    assert!(!has_removes(folder.path(), 1));

    // A third one, of another partition, finds the table begun.
    let mut third = open().await;
    stage_copy(&mut third, &encoder, 2, "3").await;
    let committed = third.commit(watermark).await.unwrap();
    assert_eq!((committed.table_version, committed.rows_written, committed.rows_removed), (2, 1, 0));
    let offsets = open().await.next_offsets().clone();
    assert_eq!(offsets.into_iter().collect::<Vec<_>>(), [(0, 2), (1, 2), (2, 2)]);

    // A later start of a copy would need all partitions.
    let mut late = TableEvents::new(encoder.schema().clone());
    encoder.copy_start(&mut late, &origin(20));
    late.next_offsets.push((1, 3));
    let error = open().await.stage(late).await.unwrap_err();
    assert!(error.why.contains("not all read here"), "{error}");
}
