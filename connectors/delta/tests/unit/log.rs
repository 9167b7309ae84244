//! The log: what a plan says and what its text says, entries of other programs, and the names of positions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use roaring::RoaringBitmap;
use serde_json::{Value, json};
use sooner_api::{Code, Feed, Positions, Standing};
use sooner_delta::log::actions::{check_protocol, metadata, protocol};
use sooner_delta::log::commit::{AddedFile, Commit, LogEntry};
use sooner_delta::log::committer::Committer;
use sooner_delta::log::live_files::LiveFile;
use sooner_delta::log::position_names::PositionNames;
use sooner_delta::log::retention::RetentionSettings;
use sooner_delta::log::table_version::TableVersion;
use sooner_delta::log::transaction::{Kind, Transaction};
use sooner_delta::rows::columns::LakeColumn;
use sooner_delta::rows::lake_type::LakeType;
use sooner_delta::store::location::TableLocation;
use sooner_delta::store::operations::put;
use sooner_schemas::Lsn;
use uuid::Uuid;

use crate::support::mark;

/// Rows of each file: enough for vectors that need a file of their own.
const ROWS: u32 = 20_000;

fn columns(names: &[&str]) -> Vec<LakeColumn> {
    let column = |name: &&str| LakeColumn {
        name: (*name).to_owned(),
        lake_type: LakeType::Long,
        nullable: true,
        number: None,
        stored: None,
        missing: None,
    };
    names.iter().map(column).collect()
}

fn file(path: &str) -> LiveFile {
    LiveFile::written(Path::from(path), 10, ROWS.into(), 0)
}

fn foreign(path: &str) -> AddedFile {
    AddedFile { id: None, file: file(path) }
}

fn transaction(kind: Kind) -> Transaction {
    Transaction {
        id: Uuid::new_v4(),
        kind,
        pipeline: "shop".to_owned(),
        retention: RetentionSettings::default(),
        columns: None,
        last_column_id: None,
        provenance: Default::default(),
        refilled: Default::default(),
        added: BTreeMap::new(),
        superseded: BTreeMap::new(),
        removed: BTreeMap::new(),
        txns: HashMap::new(),
        watermark: None,
        span: Default::default(),
    }
}

/// A table of the files `a` and `b`.
fn table() -> TableVersion {
    TableVersion::default().apply(Commit {
        adds: vec![foreign("a"), foreign("b")],
        metadata: Some(metadata("shop", &columns(&["x"]), 0)),
        protocol: Some(protocol()),
        txns: HashMap::from([("ours".to_owned(), 3)]),
        ..Commit::default()
    })
}

fn live(version: &TableVersion) -> BTreeMap<String, RoaringBitmap> {
    version.files().iter().map(|(_, file)| (file.key().to_owned(), file.deleted.clone())).collect()
}

#[test]
fn a_foreign_compaction_changes_files_and_nothing_else() {
    let before = table();
    let ids: BTreeSet<_> = before.files().iter().map(|(id, _)| id).collect();
    let (known, columns) = (before.metadata().clone(), before.columns().to_vec());
    let removes = vec!["a".to_owned(), "b".to_owned(), "was never there".to_owned()];
    let after = before.apply(Commit { removes, adds: vec![foreign("c"), foreign("d")], ..Commit::default() });
    assert_eq!(after.number(), Some(1));
    assert_eq!(live(&after).into_keys().collect::<Vec<_>>(), ["c", "d"]);
    assert!(after.files().iter().all(|(id, _)| !ids.contains(&id)), "numbers are not given twice");
    assert_eq!((after.metadata(), after.columns()), (&known, columns.as_slice()));
    assert_eq!(after.txns().get("ours"), Some(&3));
}

#[test]
fn planning_again_takes_only_what_others_left() {
    let base = table();
    let (a, b) = (base.files().id_of("a").unwrap(), base.files().id_of("b").unwrap());
    let mut merge = transaction(Kind::Merge);
    merge.removed = BTreeMap::from([(a, (0..10).collect()), (b, (0..10).collect())]);
    assert_eq!(merge.plan(&base, 0).rows_removed, 20);
    // Somebody removes `b`, and some of the rows of `a`.
    let mut shrunk = foreign("a");
    shrunk.file.deleted = (5..15).collect();
    let removes = vec!["a".to_owned(), "b".to_owned()];
    let next = base.apply(Commit { removes, adds: vec![shrunk], ..Commit::default() });
    let plan = merge.plan(&next, 0);
    assert_eq!((plan.rows_removed, &plan.commit.removes), (5, &vec!["a".to_owned()]));
    assert_eq!(live(&next.apply(plan.commit)), BTreeMap::from([("a".to_owned(), (0..15).collect())]));
}

#[test]
fn a_copy_replaces_files_and_columns_but_keeps_the_tables_identity() {
    let base = table();
    let mut copy = transaction(Kind::Copy);
    copy.columns = Some(columns(&["x", "y"]));
    copy.watermark = Some(mark(11));
    copy.added = BTreeMap::from([(base.files().ids().reserve(), file("c"))]);
    let (id, plan) = (base.metadata()["id"].clone(), copy.plan(&base, 5));
    assert_eq!((plan.rows_written, plan.rows_removed), (ROWS.into(), 2 * u64::from(ROWS)));
    let lines = std::str::from_utf8(&plan.text).unwrap().lines();
    let lines: Vec<Value> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["commitInfo"]["sooner"]["watermark"], "0/B");
    assert!(lines.iter().all(|line| line.get("protocol").is_none()));
    let next = base.apply(plan.commit);
    assert_eq!((&next.metadata()["id"], next.columns()), (&id, columns(&["x", "y"]).as_slice()));
    assert!(next.is_made_by("shop"));
    assert_eq!(live(&next).into_keys().collect::<Vec<_>>(), ["c"]);
}

#[test]
fn an_entry_of_spark_is_taken_apart() {
    let text = "{\"commitInfo\":{\"operation\":\"OPTIMIZE\",\"txnId\":\"abc\"}}\r\n\
        {\"remove\":{\"path\":\"a\",\"dataChange\":false,\"deletionTimestamp\":1}}\r\n\
        {\"add\":{\"path\":\"x%20y.parquet\",\"size\":7,\"partitionValues\":{},\"dataChange\":false,\
        \"stats\":\"{\\\"numRecords\\\":3,\\\"minValues\\\":{\\\"x\\\":1}}\",\"tags\":{\"k\":\"v\"},\
        \"deletionVector\":null}}\n\
        {\"add\":{\"path\":\"odd\",\"size\":7,\"stats\":\"no json\"}}\n{\"txn\":{\"appId\":\"no version\"}}\n\
        {\"txn\":{\"appId\":\"q\",\"version\":1}}\n{\"txn\":{\"appId\":\"q\",\"version\":2}}\n\
        {\"cdc\":{\"path\":\"z\"}}\n";
    let entry = LogEntry::parse(text.as_bytes()).unwrap();
    assert_eq!((entry.id.as_deref(), entry.removes.as_slice()), (Some("abc"), &["a".to_owned()][..]));
    assert_eq!(entry.txns, HashMap::from([("q".to_owned(), 2)]));
    let files: Vec<_> = entry.adds.into_iter().map(|add| LiveFile::from_add(add).unwrap()).collect();
    assert_eq!((files[0].key(), files[0].path.as_ref()), ("x%20y.parquet", "x y.parquet"));
    assert_eq!((files[0].rows, files[1].rows, &files[0].vector), (Some(3), None, &None));
    // Added again with a vector, it keeps what it does not understand, and its statistics are wide.
    let again = files[0].add_action(Some(&json!({"storageType": "i"})), true);
    assert_eq!((&again["tags"]["k"], &again["dataChange"]), (&json!("v"), &json!(true)));
    let stats: Value = serde_json::from_str(again["stats"].as_str().unwrap()).unwrap();
    assert_eq!(stats, json!({"numRecords": 3, "minValues": {"x": 1}, "tightBounds": false}));
}

#[test]
fn tables_that_ask_for_more_than_is_done_are_refused() {
    let with = |list: &str, feature: &str| {
        let mut changed = protocol();
        changed[list].as_array_mut().unwrap().push(json!(feature));
        changed
    };
    let plain = metadata("shop", &columns(&["x"]), 0);
    assert!(check_protocol("t", &protocol(), &plain).is_ok());
    assert!(check_protocol("t", &with("writerFeatures", "domainMetadata"), &plain).is_ok());
    for (protocol, metadata, why) in [
        (with("writerFeatures", "rowTracking"), plain.clone(), "rowTracking"),
        (with("readerFeatures", "typeWidening"), plain.clone(), "typeWidening"),
        (protocol(), json!({"configuration": {"delta.columnMapping.mode": "id"}}), "mode = id"),
        (json!({"minReaderVersion": 1, "minWriterVersion": 2}), plain.clone(), "older"),
        (protocol(), json!({"partitionColumns": ["x"]}), "partitioned"),
        (protocol(), json!({"configuration": {"delta.appendOnly": "true"}}), "append-only"),
        (protocol(), json!({"schemaString": "{\"delta.invariants\":1}"}), "invariant"),
    ] {
        let error = check_protocol("t", &protocol, &metadata).unwrap_err();
        assert_eq!(error.code, Code::TableProtocolUnsupported);
        assert!(error.why.contains(why), "{error}");
    }
}

fn topic(partitions: i32, assigned: &[i32], generation: Option<i64>, in_commit_order: bool) -> PositionNames {
    let assigned = assigned.iter().copied().collect();
    let feed = Feed::Topic { topic: "t".to_owned(), generation, partitions, assigned, in_commit_order };
    PositionNames::new("shop", &feed)
}

#[test]
fn positions_are_kept_under_the_names_of_their_feed_only() {
    let whole = topic(2, &[0, 1], Some(5), true);
    let expected = ["0", "1", "watermark", "generation", "copy"].map(|name| format!("sooner/shop/t/{name}"));
    assert_eq!(whole.all()[..5], expected);
    assert_eq!(whole.all()[5..], ["sooner/shop/history/sequence"], "the same of every feed");
    let txns = whole.versions(&Positions::offsets(BTreeMap::from([(1, 4), (9, 4)])), mark(7));
    let expected = [(&expected[1], 4), (&expected[2], 7), (&expected[3], 5)];
    assert_eq!(txns, expected.into_iter().map(|(name, version)| (name.clone(), version)).collect());
    assert_eq!(whole.copy(&[whole.version_of_copy(u64::MAX)].into()), Some(u64::MAX));
    assert_eq!(whole.recorded(&whole.versions(&Positions::whole(Lsn(3)), mark(7))), None);
    let slot = PositionNames::new("shop", &Feed::Slot("s".to_owned()));
    assert_eq!(slot.recorded(&txns), None);
    let far = Positions::whole(Lsn(u64::MAX - 1));
    assert_eq!(slot.recorded(&slot.versions(&far, mark(u64::MAX))), Some(far));
}

#[test]
fn what_orders_a_whole_table_is_one_partition_or_all_in_commit_order() {
    assert!(topic(1, &[0], None, false).orders_whole_table());
    assert!(!topic(1, &[0], None, false).knows_watermark());
    assert!(!topic(2, &[0, 1], None, false).orders_whole_table());
    assert!(!topic(2, &[1], None, true).orders_whole_table());
    let reported = topic(1, &[0], Some(5), true);
    let positions = Positions::Topic { generation: Some(5), next_offsets: BTreeMap::from([(0, 1)]) };
    let followed = table().apply(Commit { txns: reported.versions(&positions, mark(1)), ..Commit::default() });
    assert_eq!(reported.standing(&followed), Standing::Follows);
    assert_eq!(topic(1, &[0], Some(6), true).standing(&followed), Standing::FollowsOther);
}

type Change = (u8, Vec<(u8, u32, u32)>, bool);

/// The transaction of a random change: rows of live files go, or all do; and a file comes, some rows of it superseded.
fn random_transaction(base: &TableVersion, number: usize, (kind, gone, adds): &Change) -> Transaction {
    let mut next = transaction([Kind::Merge, Kind::Merge, Kind::Merge, Kind::Truncate, Kind::Copy][*kind as usize]);
    next.txns = HashMap::from([("ours".to_owned(), number as i64)]);
    let live: BTreeMap<_, _> = base.files().iter().map(|(id, file)| (file.key(), id)).collect();
    for (which, step, until) in gone {
        if let Some(id) = live.values().nth(*which as usize % live.len().max(1)) {
            next.removed.insert(*id, (0..*until).step_by(*step as usize).collect());
        }
    }
    if *adds {
        let id = base.files().ids().reserve();
        next.added.insert(id, file(&format!("new-{number}")));
        if let Some((_, step, until)) = gone.first() {
            next.superseded.insert(id, (0..*until).step_by(*step as usize).collect());
        }
    }
    if next.kind == Kind::Copy {
        next.columns = Some(columns(&["x", format!("c{number}").as_str()]));
    }
    next
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// We go on from our plans; whoever reads the log, deletion vectors and all, goes on from the same.
    #[test]
    fn readers_of_the_log_see_what_was_planned(
        changes in prop::collection::vec(
            (0..5u8, prop::collection::vec((any::<u8>(), 1..5u32, 1..=ROWS), 0..3), any::<bool>()),
            1..6,
        )
    ) {
        let url = url::Url::parse("memory:///t/").unwrap();
        let location = TableLocation::new(Arc::new(InMemory::new()), Path::from("t"), url);
        let (mut planned, mut read) = (table(), table());
        for (number, change) in changes.iter().enumerate() {
            let plan = random_transaction(&planned, number, change).plan(&planned, 0);
            let text = plan.text.clone();
            let commit = futures::executor::block_on(async {
                if let Some(vectors) = &plan.vectors {
                    put(location.store(), &vectors.path, vectors.bytes.clone()).await.unwrap();
                }
                Committer::new(&location, "t").load(LogEntry::parse(&text).unwrap()).await.unwrap()
            });
            let rows = |version: &TableVersion| -> u64 {
                version.files().iter().map(|(_, file)| file.rows.unwrap() - file.deleted.len()).sum()
            };
            let expected = rows(&planned) + plan.rows_written - plan.rows_removed;
            planned = planned.apply(plan.commit);
            read = read.apply(commit);
            prop_assert_eq!(live(&planned), live(&read));
            prop_assert_eq!((planned.txns(), planned.columns()), (read.txns(), read.columns()));
            prop_assert_eq!((planned.number(), rows(&planned)), (read.number(), expected));
        }
    }
}
