//! Tables of the lake: Delta tables on a disk and in a bucket, and simulated ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use integration_tests::s3::S3;
use integration_tests::simulation::lake::SimulatedLake;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sooner_api::{Class, Feed, Lake, LakeCopy, LakeTable, MemoryBudget, Positions, Staged, Standing};
use sooner_delta::{DeltaLake, LakeStore, PartLimits, S3Settings};
use sooner_schemas::Lsn;

use super::rows::{Events, mark, name};

fn slot() -> Feed {
    Feed::Slot("s".to_owned())
}

fn topic() -> Feed {
    Feed::Topic {
        topic: "t".to_owned(),
        generation: Some(1),
        partitions: 2,
        assigned: BTreeSet::from([0, 1]),
        in_commit_order: true,
    }
}

/// A table begins with a copy, all of which becomes visible at once.
async fn begins_with_a_copy<L: Lake>(lake: &L, events: &Events) -> L::Table {
    lake.probe().await.unwrap();
    let mut table = lake.open(&name(), &slot()).await.unwrap();
    assert_eq!((table.standing(), table.positions(), table.version()), (Standing::Absent, None, None));
    assert_eq!(table.begin_copy(events.copy_start(10)).await.unwrap(), Staged::Taken);
    for id in 1..=5 {
        assert_eq!(table.stage(events.copied(10, id)).await.unwrap(), Staged::Taken);
    }
    assert!(table.staged_bytes() > 0);
    table.seal().await.unwrap();
    assert_eq!(table.staged_bytes(), 0, "what is sealed is out of memory");
    let seen = lake.open(&name(), &slot()).await.unwrap();
    assert_eq!(seen.standing(), Standing::Absent, "nothing of a copy is visible before it is complete");
    table.end_copy(mark(10)).await.unwrap();
    table
}

/// A copy goes on after a break with what is durable of it, which nobody sees before it has ended.
async fn goes_on_with_a_copy<L: Lake>(lake: &L, events: &Events) {
    let mut table = begins_with_a_copy(lake, events).await;
    let shown = (table.version(), table.positions().cloned());
    assert_eq!((table.unfinished_copy(), table.keeps_copies()), (None, false));
    table.begin_copy(events.copy_start(20)).await.unwrap();
    assert!(table.keeps_copies());
    table.stage(events.copied(20, 1)).await.unwrap();
    table.commit(mark(25)).await.unwrap();
    let copy = table.unfinished_copy().expect("a part of it is durable");
    table.stage(events.copied(30, 2)).await.unwrap();
    table.discard();
    table.stage(events.inserted(40)).await.unwrap();
    table.commit(mark(40)).await.unwrap();
    let later = table.unfinished_copy().expect("it has not ended");
    assert!(later.id == copy.id && later.version > copy.version);
    drop(table);

    let mut table = lake.open(&name(), &slot()).await.unwrap();
    assert_eq!((table.version(), table.positions().cloned()), shown, "nobody sees it");
    let other = LakeCopy { id: copy.id + 1, ..copy };
    let further = LakeCopy { version: later.version + 1, ..later };
    for (wanted, found) in [(None, false), (Some(other), false), (Some(further), false), (Some(copy), true)] {
        assert_eq!(table.resume_copy(wanted).await.unwrap(), found, "{wanted:?}");
    }
    assert_eq!((table.unfinished_copy(), table.standing()), (Some(later), Standing::Follows));
    assert_eq!((table.positions(), table.watermark()), (Some(&Positions::whole(Lsn(40))), Some(Lsn(40))));
    table.stage(events.inserted(40)).await.unwrap();
    table.stage(events.copied(50, 3)).await.unwrap();
    let committed = table.end_copy(mark(60)).await.unwrap();
    assert_eq!((Some(committed.table_version), table.last_copy()), (table.version(), Some(copy.id)));
    assert!(table.version() > shown.0 && table.unfinished_copy().is_none());

    let mut reopened = lake.open(&name(), &slot()).await.unwrap();
    assert_eq!((reopened.version(), reopened.watermark()), (table.version(), Some(Lsn(60))));
    assert!(!reopened.resume_copy(Some(copy)).await.unwrap(), "it has ended");
    reopened.stage(events.inserted(70)).await.unwrap();
    reopened.commit(mark(70)).await.unwrap();
}

/// What is committed is there for whoever opens the table, with its positions; what was not committed is not.
async fn keeps_what_was_committed<L: Lake>(lake: &L, events: &Events) {
    let mut table = begins_with_a_copy(lake, events).await;
    let reopened = lake.open(&name(), &slot()).await.unwrap();
    assert_eq!(reopened.standing(), Standing::Follows);
    assert_eq!(reopened.positions(), Some(&Positions::whole(Lsn(10))));
    assert_eq!((reopened.watermark(), reopened.version()), (Some(Lsn(10)), table.version()));
    assert!(reopened.is_current().await.unwrap());

    table.stage(events.inserted(20)).await.unwrap();
    table.discard();
    assert_eq!(table.staged_bytes(), 0);
    table.stage(events.inserted(30)).await.unwrap();
    let committed = table.commit(mark(35)).await.unwrap();
    assert_eq!(Some(committed.table_version), table.version());
    assert!(!reopened.is_current().await.unwrap(), "somebody has committed since");
    let reopened = lake.open(&name(), &slot()).await.unwrap();
    assert_eq!(reopened.positions(), Some(&Positions::whole(Lsn(30))));
    assert_eq!(reopened.watermark(), Some(Lsn(35)));

    // What comes again is dropped.
    table.stage(events.inserted(30)).await.unwrap();
    table.commit(mark(40)).await.unwrap();
    let reopened = lake.open(&name(), &slot()).await.unwrap();
    assert_eq!(reopened.positions(), Some(&Positions::whole(Lsn(30))));
    table.truncate(events.inserted(50)).await.unwrap();
    table.commit(mark(50)).await.unwrap();
    assert_eq!(table.positions(), Some(&Positions::whole(Lsn(50))));
}

/// Of two who write the same events, only one commits; the other one is told that it passes by itself.
async fn lets_one_of_two_commit<L: Lake>(lake: &L, events: &Events) {
    drop(begins_with_a_copy(lake, events).await);
    let (mut first, mut second) =
        (lake.open(&name(), &slot()).await.unwrap(), lake.open(&name(), &slot()).await.unwrap());
    first.stage(events.inserted(20)).await.unwrap();
    second.stage(events.inserted(20)).await.unwrap();
    first.commit(mark(20)).await.unwrap();
    let error = second.commit(mark(20)).await.unwrap_err();
    assert_eq!(error.class, Class::Retry, "{error}");
    let mut again = lake.open(&name(), &slot()).await.unwrap();
    again.stage(events.inserted(20)).await.unwrap();
    again.commit(mark(20)).await.unwrap();
    assert_eq!(again.positions(), Some(&Positions::whole(Lsn(20))));
}

/// Events of a topic are told apart by partition and offset.
async fn follows_partitions<L: Lake>(lake: &L, events: &Events) {
    let mut table = lake.open(&name(), &topic()).await.unwrap();
    for (partition, offset) in [(0, 0), (1, 0), (0, 1)] {
        table.stage(events.inserted_at(10 + offset as u64, partition, offset)).await.unwrap();
    }
    table.commit(mark(11)).await.unwrap();
    let reopened = lake.open(&name(), &topic()).await.unwrap();
    let positions = reopened.positions().unwrap();
    assert_eq!((positions.next_offset(0), positions.next_offset(1)), (Some(2), Some(1)));
    assert_eq!(positions.next_offset(2), None);
}

async fn keeps_the_contract<L: Lake>(lake: impl Fn(&str) -> L) {
    let events = Events::local().await;
    keeps_what_was_committed(&lake("kept"), &events).await;
    goes_on_with_a_copy(&lake("copied"), &events).await;
    lets_one_of_two_commit(&lake("two"), &events).await;
    follows_partitions(&lake("topic"), &events).await;
}

fn delta(url: &str, settings: &S3Settings) -> DeltaLake {
    let store = LakeStore::open(url, settings).unwrap();
    DeltaLake::new(store, "shop", PartLimits { part_bytes: 1 << 20, budget: MemoryBudget::new(1 << 20) })
}

#[tokio::test]
async fn delta_tables_on_a_disk_keep_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let url = |name: &str| folder.path().join(name).display().to_string();
    keeps_the_contract(|name| delta(&url(name), &S3Settings::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_tables_in_a_bucket_keep_the_contract() {
    let s3 = S3::start();
    let settings = S3Settings {
        endpoint: Some(s3.endpoint()),
        credentials: Some(("test".to_owned(), "test".to_owned())),
        ..S3Settings::default()
    };
    keeps_the_contract(|name| delta(&format!("s3://lake/{name}"), &settings)).await;
}

#[tokio::test(start_paused = true)]
async fn simulated_tables_keep_the_contract() {
    keeps_the_contract(|_| {
        let lake = SimulatedLake::new(Arc::new(Mutex::new(StdRng::seed_from_u64(1))));
        lake.set_calm(true);
        lake
    })
    .await;
}
