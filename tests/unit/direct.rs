//! The log without a broker: what it starts with, what it stores, and how its ends meet.

use std::collections::BTreeMap;

use futures::future::join;
use sooner::direct::{DirectLog, DirectReader, DirectWriter, LocalSchemas};
use sooner_api::{
    Applied, AppliedTable, Class, Code, CopyProgress, CopyRest, EventLog, EventReader, EventWriter, Feed, LakeCopy,
    LakePosition, MemoryBudget, Opened, Positions, ProgressRecord, Result, SchemaRegistry, Standing, TableProgress,
    TableStart, TableState, UnfinishedCopy, WriterRequest,
};
use sooner_schemas::Lsn;
use sooner_schemas::event::Op;

use crate::fake_log::FakeStore;
use crate::support::{Steps, batch, complete, failure, mark, name, parked, rows_of, settle, soon, streaming};

type Writer = DirectWriter<FakeStore>;
type Reader = DirectReader<FakeStore>;

fn record(states: &[(&str, TableState)], confirmed: u64) -> ProgressRecord {
    let table = |(table, state): &(&str, TableState)| (name(table), TableProgress::new(state.clone(), Some(1)));
    let tables = states.iter().map(table).collect();
    ProgressRecord { confirmed_lsn: Lsn(confirmed), tables, ..ProgressRecord::default() }
}

fn opened(table: &str, standing: Standing, taken: Option<u64>) -> Opened {
    let positions = taken.map(|lsn| Positions::whole(Lsn(lsn)));
    Opened {
        table: name(table),
        standing,
        positions,
        watermark: None,
        error: None,
        needs_copy: false,
        copy: None,
        copied: None,
    }
}

async fn open(store: &FakeStore, recopy: bool) -> (Writer, Reader) {
    let mut log = DirectLog::new(store.clone(), "s", MemoryBudget::new(64 << 10));
    let request = WriterRequest { tables: &[], slot_exists: true, recopy };
    let writer = log.open_writer(request).await.unwrap();
    let reader = log.open_reader().await.unwrap();
    (writer, reader)
}

/// Both ends, begun with a record, and what the reader says of its tables.
async fn begun(store: &FakeStore, first: ProgressRecord, tables: Vec<Opened>) -> (Writer, Reader, Vec<TableStart>) {
    let (mut writer, mut reader) = open(store, false).await;
    let starting = async {
        reader.assigned().await.unwrap().expect("the record is begun with");
        reader.start(tables).await.unwrap();
    };
    let (starts, ()) = soon(join(writer.begin(first), starting)).await;
    (writer, reader, starts.unwrap())
}

fn states(starts: &[TableStart]) -> Vec<(&str, &'static str)> {
    starts.iter().map(|start| (start.table.table.as_str(), start.state.name())).collect()
}

fn confirmed(lsn: u64) -> Applied {
    Applied { confirmed_lsn: Some(Lsn(lsn)), ..Applied::default() }
}

fn applied(table: &str, version: u64) -> Applied {
    let lake = Some(LakePosition { version, positions: None, watermark: mark(60) });
    let table = (name(table), AppliedTable { state: streaming(), lake, note: None, copy: None });
    Applied { confirmed_lsn: None, tables: BTreeMap::from([table]) }
}

#[tokio::test(start_paused = true)]
async fn each_table_starts_from_what_the_lake_has_of_it() {
    let first = record(&[("a", streaming()), ("b", streaming()), ("c", parked())], 50);
    let tables = vec![opened("a", Standing::Follows, Some(40)), opened("b", Standing::Follows, None)];
    let (writer, _reader, starts) = begun(&FakeStore::default(), first, tables).await;
    assert_eq!(states(&starts), [("a", "streaming"), ("b", "streaming"), ("c", "parked")]);
    let covered: Vec<_> = starts.iter().map(|start| start.covered.clone()).collect();
    assert_eq!(covered, [40, 0, 0].map(|lsn| Positions::whole(Lsn(lsn))));
    assert_eq!(writer.durable_lsn(), Lsn(50));
}

#[tokio::test(start_paused = true)]
async fn only_tables_that_take_events_are_read_and_all_of_them_from_the_slot() {
    let store = FakeStore::default();
    let (mut writer, mut reader) = open(&store, false).await;
    let first = record(&[("a", streaming()), ("b", TableState::Copying), ("c", parked()), ("d", TableState::Gone)], 0);
    let asking = async {
        let assigned = reader.assigned().await.unwrap().unwrap();
        assert!(assigned.iter().all(|assigned| assigned.feed == Feed::Slot("s".to_owned())));
        let names: Vec<_> = assigned.iter().map(|assigned| assigned.table.table.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(reader.assigned().await.unwrap().is_none(), "it is assigned once");
        reader.start(Vec::new()).await.unwrap();
    };
    soon(join(writer.begin(first), asking)).await.0.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_table_that_is_not_in_the_lake_is_copied_and_that_is_stored_first() {
    for standing in [Standing::Absent, Standing::FollowsOther, Standing::Foreign] {
        let store = FakeStore::default();
        let first = record(&[("a", streaming()), ("b", streaming())], 50);
        let tables = vec![opened("a", standing, None), opened("b", Standing::Follows, Some(40))];
        let (_writer, _reader, starts) = begun(&store, first, tables).await;
        assert_eq!(states(&starts), [("a", "copying"), ("b", "streaming")], "{standing:?}");
        assert_eq!(store.record().state(&name("a")), TableState::Copying);
        assert_eq!(store.steps.notes.all(), ["save", "change -, 1 tables"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_whose_rows_others_changed_is_copied_again() {
    let store = FakeStore::default();
    let altered = Opened { needs_copy: true, ..opened("a", Standing::Follows, Some(40)) };
    let (_writer, _reader, starts) = begun(&store, record(&[("a", streaming())], 50), vec![altered]).await;
    assert_eq!(states(&starts), [("a", "copying")]);
    assert_eq!(store.record().state(&name("a")), TableState::Copying);
}

#[tokio::test(start_paused = true)]
async fn a_table_that_cannot_be_opened_is_parked() {
    let store = FakeStore::default();
    let failed = Opened { error: Some(failure(Class::Operator)), ..opened("a", Standing::Absent, None) };
    let (_writer, _reader, starts) = begun(&store, record(&[("a", streaming())], 50), vec![failed]).await;
    assert_eq!(starts[0].state, parked());
    assert_eq!(store.record().state(&name("a")), parked());
}

fn copy_of(version: u64, complete_lsn: u64, has_source: bool) -> UnfinishedCopy {
    let source = CopyProgress { id: 7, rows: 5, rest: CopyRest::default() };
    let lake = Some(LakeCopy { id: 7, version });
    UnfinishedCopy { source: has_source.then_some(source), lake, complete_lsn: Lsn(complete_lsn) }
}

fn copied(complete_lsn: u64) -> Applied {
    let copy = Some(copy_of(1, complete_lsn, true));
    let table = AppliedTable { state: TableState::Copying, lake: None, note: None, copy };
    Applied { confirmed_lsn: None, tables: BTreeMap::from([(name("a"), table)]) }
}

/// A record in which a table is being copied.
fn copying(copy: UnfinishedCopy) -> ProgressRecord {
    let mut record = record(&[("a", TableState::Copying)], 50);
    record.tables.get_mut(&name("a")).unwrap().copy = Some(copy);
    record
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_in_the_lake_goes_on_and_one_that_is_not_begins_again() {
    let found = Some(LakeCopy { id: 7, version: 3 });
    for (is_there, has_source, goes_on) in [(true, true, true), (true, false, false), (false, true, false)] {
        let store = FakeStore::default();
        let table = Opened { copy: found.filter(|_| is_there), ..opened("a", Standing::Follows, Some(60)) };
        let (_writer, _reader, starts) = begun(&store, copying(copy_of(3, 50, has_source)), vec![table]).await;
        assert_eq!(starts[0].state, TableState::Copying);
        // What the lake has beyond what was stored is read again, for what the source says of it.
        let (covered, reached) = (if goes_on { 49 } else { 60 }, starts[0].copy.as_ref().map(|(_, reached)| *reached));
        assert_eq!(starts[0].covered.commit_lsn(), Some(Lsn(covered)));
        assert_eq!(reached, goes_on.then_some(Lsn(60)));
        assert_eq!(store.record().tables[&name("a")].copy.is_some(), goes_on);
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_ended_just_before_a_break_is_not_repeated() {
    let store = FakeStore::default();
    let table = Opened { copied: Some(7), watermark: Some(Lsn(70)), ..opened("a", Standing::Follows, Some(60)) };
    let (_writer, _reader, starts) = begun(&store, copying(copy_of(3, 60, true)), vec![table]).await;
    assert_eq!(starts[0].state, TableState::Streaming { copied_lsn: Some(Lsn(70)) });
    assert_eq!(store.record().tables[&name("a")].copy, None);
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_stored_only_if_all_that_was_confirmed_before_is_in_it() {
    let store = FakeStore::default();
    let (_writer, mut reader, _) = begun(&store, record(&[("a", TableState::Copying)], 50), Vec::new()).await;
    let mut kept = async |complete_lsn| {
        reader.store(copied(complete_lsn)).await.unwrap();
        store.record().tables[&name("a")].copy.clone().map(|copy| copy.complete_lsn)
    };
    assert_eq!(kept(49).await, None, "what came between was confirmed");
    assert_eq!(kept(50).await, Some(Lsn(50)));
    assert_eq!(kept(45).await, Some(Lsn(45)), "from then on it is held back");
}

#[tokio::test(start_paused = true)]
async fn only_what_has_changed_is_stored() {
    let store = FakeStore::default();
    let follows = vec![opened("a", Standing::Follows, Some(40))];
    let (_writer, mut reader, _) = begun(&store, record(&[("a", streaming())], 50), follows).await;
    for report in [confirmed(50), applied("a", 7), applied("a", 7), confirmed(70), confirmed(70), applied("a", 8)] {
        reader.store(report).await.unwrap();
    }
    let expected = ["save", "change -, 1 tables", "change 70, 0 tables", "change -, 1 tables"];
    assert_eq!(store.steps.notes.all(), expected);
    let table = &store.record().tables[&name("a")];
    assert_eq!((table.oid, table.lake.as_ref().map(|lake| lake.version)), (Some(1), Some(8)));
}

#[tokio::test(start_paused = true)]
async fn what_is_durable_moves_forward_only_and_after_it_is_stored() {
    let mut store = FakeStore::default();
    let (mut writer, mut reader, _) = begun(&store, record(&[], 50), Vec::new()).await;
    reader.store(confirmed(70)).await.unwrap();
    reader.store(confirmed(60)).await.unwrap();
    assert_eq!((writer.durable_lsn(), store.record().confirmed_lsn), (Lsn(70), Lsn(70)));
    writer.start_at(Lsn(80)).await.unwrap();
    assert_eq!((writer.durable_lsn(), store.record().confirmed_lsn), (Lsn(80), Lsn(80)));
    store.steps = Steps { fails_at: "change", ..Steps::default() };
    let (writer, mut reader, _) = begun(&store, record(&[], 80), Vec::new()).await;
    assert_eq!(reader.store(confirmed(90)).await.unwrap_err(), failure(Class::Retry));
    assert_eq!(writer.durable_lsn(), Lsn(80));
}

#[tokio::test(start_paused = true)]
async fn copying_everything_again_forgets_what_was_stored() {
    let store = FakeStore::default();
    *store.record.lock().unwrap() = Some(record(&[("a", streaming())], 50));
    let (writer, _reader) = open(&store, false).await;
    assert_eq!(writer.stored(), Some(&store.record()));
    let (writer, _reader) = open(&store, true).await;
    assert_eq!(writer.stored(), None);
}

#[tokio::test(start_paused = true)]
async fn steps_come_out_in_their_order_until_the_writer_is_gone() {
    let (mut writer, mut reader, _) = begun(&FakeStore::default(), record(&[], 0), Vec::new()).await;
    for lsn in [10, 20] {
        writer.append(batch(vec![complete(lsn)])).await.unwrap();
    }
    writer.finish().await.unwrap();
    assert_eq!(writer.append(batch(vec![complete(30)])).await.unwrap_err().code, Code::PeerEnded);
    for lsn in [10, 20] {
        let read = reader.next().await.unwrap().unwrap();
        assert_eq!(read.coverage().map(|coverage| coverage.watermark), Some(mark(lsn)));
    }
    assert!(reader.next().await.unwrap().is_none());
    let settling = tokio::spawn(writer.settle());
    reader.store(confirmed(20)).await.unwrap();
    settle().await;
    assert!(!settling.is_finished(), "the reader may still make something durable");
    drop(reader);
    assert_eq!(soon(settling).await.unwrap(), Lsn(20));
}

#[tokio::test(start_paused = true)]
async fn a_full_log_waits_until_what_was_read_is_dropped() {
    let (mut writer, mut reader, _) = begun(&FakeStore::default(), record(&[], 0), Vec::new()).await;
    let large = || batch(vec![rows_of("a", Op::Create, 10, 60 << 10).into_step()]);
    writer.append(large()).await.unwrap();
    let waiting = tokio::spawn(async move { writer.append(large()).await });
    let first = reader.next().await.unwrap();
    settle().await;
    assert!(!waiting.is_finished());
    drop(first);
    soon(waiting).await.unwrap().unwrap();
    assert_eq!(reader.next().await.unwrap().map(|batch| batch.event_count()), Some(1));
}

fn code<O>(result: Result<O>) -> Option<Code> {
    result.err().map(|error| error.code)
}

#[tokio::test(start_paused = true)]
async fn whoever_meets_nobody_at_the_other_end_is_told() {
    let (mut writer, reader, _) = begun(&FakeStore::default(), record(&[], 0), Vec::new()).await;
    drop(reader);
    assert_eq!(code(writer.append(batch(vec![complete(10)])).await), Some(Code::PeerEnded));
    let (mut writer, reader) = open(&FakeStore::default(), false).await;
    drop(reader);
    assert_eq!(code(writer.begin(record(&[], 0)).await), Some(Code::PeerEnded));
    let (writer, mut reader) = open(&FakeStore::default(), false).await;
    drop(writer);
    assert!(reader.assigned().await.unwrap().is_none(), "nothing will ever be written");
}

#[tokio::test(start_paused = true)]
async fn each_end_is_opened_once() {
    let mut log = DirectLog::new(FakeStore::default(), "s", MemoryBudget::new(1024));
    let request = || WriterRequest { tables: &[], slot_exists: true, recopy: false };
    let _ends = (log.open_writer(request()).await.unwrap(), log.open_reader().await.unwrap());
    assert_eq!(code(log.open_writer(request()).await), Some(Code::Internal));
    assert_eq!(code(log.open_reader().await), Some(Code::Internal));
}

#[tokio::test]
async fn a_schema_has_one_id_under_each_subject() {
    let schemas = LocalSchemas::default();
    let mut ids = Vec::new();
    for (subject, schema) in [("a", "x"), ("a", "y"), ("b", "x"), ("a", "x")] {
        ids.push(schemas.register(subject, schema).await.unwrap());
    }
    assert_eq!(ids, [1, 2, 3, 1]);
}
