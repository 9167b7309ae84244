//! What a sink of topics stores beside its tables.

use std::collections::BTreeMap;

use sooner::sink_record::RecordedReader;
use sooner_api::{Applied, AppliedTable, Class, EventReader, ProgressRecord, TableProgress};
use sooner_schemas::Lsn;

use crate::fake_log::{FakeReader, FakeStore, Stored};
use crate::support::{Steps, batch, complete, failure, name, parked, streaming};

async fn recorded(store: &FakeStore) -> (RecordedReader<FakeReader, FakeStore>, Stored) {
    let (batches, reader) = FakeReader::new(Steps::default());
    batches.send(Ok(batch(vec![complete(5)]))).unwrap();
    let stored = reader.stored.clone();
    (RecordedReader::open(reader, store.clone()).await.unwrap(), stored)
}

fn parks(table: &str, confirmed: u64) -> Applied {
    let table = (name(table), AppliedTable { state: parked(), lake: None, note: None, copy: None });
    Applied { confirmed_lsn: Some(Lsn(confirmed)), tables: BTreeMap::from([table]) }
}

#[tokio::test]
async fn tables_are_recorded_and_positions_are_left_to_the_group() {
    let store = FakeStore::default();
    let (mut reader, passed_on) = recorded(&store).await;
    reader.store(parks("a", 9)).await.unwrap();
    assert_eq!(store.steps.notes.all(), ["change -, 1 tables"]);
    assert_eq!(store.record().state(&name("a")), parked());
    assert_eq!(passed_on.all(), [parks("a", 9)], "the log hears all of it");
}

#[tokio::test]
async fn what_is_recorded_already_is_passed_on_without_being_recorded_again() {
    let store = FakeStore::default();
    let (mut reader, passed_on) = recorded(&store).await;
    for report in [parks("a", 1), parks("a", 2), Applied { confirmed_lsn: Some(Lsn(3)), ..Applied::default() }] {
        reader.store(report).await.unwrap();
    }
    assert_eq!(store.steps.notes.all(), ["change -, 1 tables"]);
    assert_eq!((passed_on.all().len(), passed_on.confirmed()), (3, 3));
}

#[tokio::test]
async fn a_sink_goes_on_from_what_another_one_recorded() {
    let store = FakeStore::default();
    let known = TableProgress::new(streaming(), Some(42));
    let tables = BTreeMap::from([(name("a"), known.clone()), (name("b"), known)]);
    *store.record.lock().unwrap() = Some(ProgressRecord { tables, ..ProgressRecord::default() });
    let (mut reader, _) = recorded(&store).await;
    reader.store(parks("a", 1)).await.unwrap();
    let record = store.record();
    assert_eq!(record.tables[&name("a")], TableProgress::new(parked(), Some(42)));
    assert_eq!(record.state(&name("b")), streaming());
}

#[tokio::test]
async fn the_log_hears_nothing_that_could_not_be_recorded() {
    let steps = Steps { fails_at: "change", ..Steps::default() };
    let store = FakeStore { steps, ..FakeStore::default() };
    let (mut reader, passed_on) = recorded(&store).await;
    assert_eq!(reader.store(parks("a", 9)).await.unwrap_err(), failure(Class::Retry));
    assert!(passed_on.all().is_empty());
}

#[tokio::test]
async fn everything_else_is_the_readers_own() {
    let (mut reader, _) = recorded(&FakeStore::default()).await;
    assert!(reader.assigned().await.unwrap().is_none());
    reader.start(Vec::new()).await.unwrap();
    assert_eq!(reader.next().await.unwrap().map(|batch| batch.steps.len()), Some(1));
    assert!(reader.next().await.unwrap().is_none());
}
