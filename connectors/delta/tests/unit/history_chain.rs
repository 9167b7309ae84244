//! Chained histories: whoever adds rows chains them to the end that the table has, and nobody twice to the same.

use std::collections::BTreeMap;

use sooner_api::{Class, Code, Feed, Lake, LakeTable, Rows, WholeTable};
use sooner_delta::history::check::{Outcome, check};
use sooner_delta::history::checked::Checked;
use sooner_delta::history::head::end_of;
use sooner_delta::{DeltaLake, Ways, WaysToWrite, WrittenTable};

use crate::support::{World, mark, name, origin, replayed};

fn lake(world: &World, chain: bool) -> DeltaLake {
    let ways = Ways { mirror: false, history: true, chain, ..Ways::default() };
    world.lake().with_ways(WaysToWrite::new(move |_| ways))
}

/// One of two sinks that share a topic, which reads one of its partitions.
async fn sink(world: &World, partition: i32) -> WrittenTable {
    let assigned = [partition].into_iter().collect();
    let (topic, generation) = ("t".to_owned(), Some(5));
    let feed = Feed::Topic { topic, generation, partitions: 2, assigned, in_commit_order: true };
    lake(world, true).open(&name(), &feed).await.unwrap()
}

fn rows(world: &World, partition: i32, offsets: std::ops::Range<i64>) -> Rows {
    let next_offsets = BTreeMap::from([(partition, offsets.end)]);
    let rows = world.inserted(offsets.start as u64 + 1, offsets, &"text".repeat(50));
    Rows { next_offsets, generation: Some(5), ..rows }
}

async fn checked(world: &World) -> Checked {
    let location = lake(world, true).history_location(&name());
    match check(&location, "shop", &Default::default(), None).await.unwrap() {
        Outcome::Checked(checked) => checked,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_event_of_the_whole_table_is_kept_once_whoever_reads_its_partitions() {
    let world = World::new(4096);
    let truncate = |partition: i32| {
        let next_offsets = BTreeMap::from([(partition, 1)]);
        let rows = world.events(|encoder, out| encoder.truncate(out, &origin(7, 0)));
        let whole = WholeTable { lacks_first: partition != 0, ..WholeTable::default() };
        Rows { next_offsets, generation: Some(5), whole, ..rows }
    };
    let mut second = sink(&world, 1).await;
    second.truncate(truncate(1)).await.unwrap();
    second.stage(rows(&world, 1, 1..3)).await.unwrap();
    second.commit(mark(0)).await.unwrap();
    let mut first = sink(&world, 0).await;
    first.truncate(truncate(0)).await.unwrap();
    first.stage(rows(&world, 0, 1..4)).await.unwrap();
    first.commit(mark(0)).await.unwrap();
    let found = checked(&world).await;
    assert!(found.is_good() && found.rows == 1 + 2 + 3, "{found:?}");
}

#[tokio::test]
async fn sinks_that_share_a_topic_add_to_one_chain() {
    let world = World::new(4096);
    let (mut first, mut second) = (sink(&world, 0).await, sink(&world, 1).await);
    first.stage(rows(&world, 0, 0..100)).await.unwrap();
    second.stage(rows(&world, 1, 0..50)).await.unwrap();
    second.seal().await.unwrap();
    first.commit(mark(0)).await.unwrap();
    let error = second.commit(mark(0)).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Retry, Code::CommitOvertaken), "{error}");
    assert_eq!(checked(&world).await.rows, 100, "nothing of the second is there");
    second.discard();
    second.stage(rows(&world, 1, 0..50)).await.unwrap();
    second.commit(mark(0)).await.unwrap();
    // The first has an end in mind that is not the end any more.
    first.inspect().await.unwrap();
    first.stage(rows(&world, 0, 100..170)).await.unwrap();
    first.commit(mark(0)).await.unwrap();
    let found = checked(&world).await;
    assert!(found.is_good() && found.rows == 220, "{found:?}");
    let location = lake(&world, true).history_location(&name());
    let end = end_of(&location, &replayed(&location).await).await.unwrap().unwrap();
    assert_eq!(end.sequence, 220);
    assert!(found.head.unwrap().starts_with("220:"));
}

#[tokio::test]
async fn the_number_of_a_row_that_was_cut_off_is_not_given_again() {
    let world = World::new(4096);
    let slot = Feed::Slot("s".to_owned());
    let open = async |chain: bool| lake(&world, chain).open(&name(), &slot).await.unwrap();
    let mut table = open(false).await;
    table.stage(world.inserted(10, 0..5, "before")).await.unwrap();
    table.commit(mark(10)).await.unwrap();
    let mut table = open(true).await;
    table.stage(world.inserted(20, 5..8, "chained")).await.unwrap();
    table.commit(mark(20)).await.unwrap();
    let found = checked(&world).await;
    assert!(found.is_good(), "{found:?}");
    assert_eq!((found.rows, found.unchained_before), (3, 5));
    // Somebody takes the last file out of the log, and leaves its positions.
    let path = world.log_entry(1).display().to_string().replace("/public/t/", "/public/t-history/");
    let text = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<_> = text.lines().filter(|line| !line.starts_with("{\"add\"")).collect();
    std::fs::write(&path, kept.join("\n")).unwrap();
    let mut table = open(true).await;
    table.stage(world.inserted(30, 8..9, "after")).await.unwrap();
    table.commit(mark(30)).await.unwrap();
    let found = checked(&world).await;
    let found: Vec<_> = found.findings.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["rows 1 to 3 are missing"]);
}
