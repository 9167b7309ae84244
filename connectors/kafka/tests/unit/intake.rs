//! Messages of topics that another producer writes, on their way into batches; and how messages find their schemas.

use std::collections::{BTreeMap, BTreeSet};

use sooner_api::{Class, Code, Error, Step, Uncut};
use sooner_kafka::consumer::format::Format;
use sooner_kafka::consumer::intake::{Intake, NotRead};
use sooner_kafka::consumer::ordering::Ordering;
use sooner_kafka::consumer::topic::Topic;
use sooner_kafka::message::headers::FoundHeaders;
use sooner_kafka::message::topic_message::TopicMessage;
use sooner_kafka::progress::lineage::{FormerTopic, Lineage};
use sooner_kafka::progress::record::{TopicOffsets, TopicProgress};
use sooner_kafka::registry::client::{Login, RegistrySettings};
use sooner_kafka::registry::reader::{RegistryKind, SchemaReader};
use sooner_schemas::{Lsn, TableName};

use crate::support::{at, bare, polled, table};

/// Debezium's envelope, with a registry that is never asked.
fn format() -> Format {
    let url = "http://registry.invalid".to_owned();
    let settings = RegistrySettings { url, login: Login::None, ca: None, register: false };
    Format::debezium_avro(SchemaReader::new(&RegistryKind::Confluent(settings)).unwrap())
}

fn intake() -> Intake {
    let mut intake = Intake::new(Ordering::ByArrival, format(), None);
    let topic = |name| Topic::new(TableName::new("public", name), None, vec![(0, 0), (1, 0)], None);
    intake.restart(BTreeMap::from([("t".to_owned(), topic("t")), ("u".to_owned(), topic("u"))]), NotRead::default());
    intake
}

/// A message that is no event.
fn broken(offset: i64) -> TopicMessage {
    polled(Some(b"key"), Some(b"{\"json\": true}"), (0, offset), &FoundHeaders::default())
}

fn of_topic(name: &str, mut message: TopicMessage) -> TopicMessage {
    message.topic = name.into();
    message
}

async fn stops(intake: &mut Intake) -> Vec<(TableName, Code)> {
    intake.gather().await.unwrap();
    let batch = intake.take_batch().unwrap_or_default();
    let stop = |step: Step| match step {
        Step::Stop { table, error } => (table, error.code),
        other => panic!("no other step is expected: {other:?}"),
    };
    batch.steps.into_iter().map(stop).collect()
}

fn next_offset(intake: &Intake, topic: &str, partition: i32) -> i64 {
    intake.next_offsets()[&(topic.to_owned(), partition)]
}

#[tokio::test]
async fn a_message_that_cannot_be_read_stops_its_table_once_and_no_other() {
    let mut intake = intake();
    intake.push(broken(0));
    intake.push(broken(1));
    intake.push(of_topic("u", bare((0, 0), None, true)));
    assert_eq!(stops(&mut intake).await, [(table(), Code::MessageUnreadable)]);
    assert!(intake.topic("t").unwrap().closed && !intake.topic("u").unwrap().closed);
    assert!(stops(&mut intake).await.is_empty(), "what follows is dropped");
    assert_eq!((next_offset(&intake, "t", 0), next_offset(&intake, "u", 0)), (2, 1));
}

#[tokio::test]
async fn tombstones_are_passed_without_a_batch() {
    let mut intake = intake();
    for offset in [0, 3] {
        intake.push(bare((1, offset), None, true));
    }
    intake.gather().await.unwrap();
    assert!(intake.take_batch().is_none());
    assert_eq!(intake.take_completed(), None);
    assert_eq!((next_offset(&intake, "t", 0), next_offset(&intake, "t", 1)), (0, 4));
}

#[tokio::test]
async fn messages_of_topics_that_are_not_read_are_dropped() {
    let mut intake = intake();
    intake.push(of_topic("other", broken(0)));
    assert!(stops(&mut intake).await.is_empty());
    assert!(intake.topic("other").is_none());
    assert_eq!(intake.topics().map(|(name, _)| name).collect::<Vec<_>>(), ["t", "u"]);
}

#[tokio::test]
async fn a_restart_forgets_what_waited() {
    let mut intake = intake();
    intake.push(broken(0));
    intake.close("u", Error::operator(Code::CopyAwaited, "w", "y", "r"));
    let topic = Topic::new(table(), None, vec![(0, 5)], Some(Lsn(9)));
    intake.restart(BTreeMap::from([("t".to_owned(), topic)]), NotRead::default());
    assert!(stops(&mut intake).await.is_empty(), "neither the message nor the stop is left");
    assert_eq!((next_offset(&intake, "t", 0), intake.next_offsets().len()), (5, 1));
}

/// A record of tables `t` and `u`, of which `t` has gone over to another topic.
fn record_after_a_switch(generation: i64) -> TopicProgress {
    let offsets = |topic: &str| TopicOffsets {
        topic: topic.into(),
        generation,
        begun_over: false,
        first_offsets: vec![0],
        next_offsets: vec![5],
    };
    let topics = [("t", "t.v2"), ("u", "u")].map(|(name, topic)| (TableName::new("public", name), offsets(topic)));
    let former = FormerTopic { topic: "t".into(), end_offsets: vec![3], ..FormerTopic::default() };
    let lineage = Lineage { base: "t".into(), former: vec![former], ..Lineage::default() };
    TopicProgress { topics: topics.into(), lineages: [(table(), lineage)].into(), ..TopicProgress::default() }
}

#[test]
fn a_record_says_nothing_of_tables_whose_events_are_in_a_topic_that_is_not_read_yet() {
    let mut intake = Intake::new(Ordering::ByArrival, format(), None);
    let topic = |name: &str| Topic::new(TableName::new("public", name), Some(7), vec![(0, 0)], None);
    let record = record_after_a_switch(7);
    let topics = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), topic(&name[..1]))).collect();
    intake.restart(topics(&["t", "u"]), NotRead::default());
    assert_eq!(intake.elsewhere(&record), [table()], "its former topic is read");
    assert!(intake.elsewhere(&record_after_a_switch(8)).is_empty(), "a topic that was begun over is another one");
    intake.restart(topics(&["u"]), NotRead { unread: vec![table()], ..NotRead::default() });
    assert_eq!(intake.elsewhere(&record), [table()], "none of its topics is read before it is assigned again");
    intake.restart(topics(&["t.v2", "u"]), NotRead::default());
    assert!(intake.elsewhere(&record).is_empty());
}

#[test]
fn tables_can_be_cut_where_all_of_their_partitions_are_read_and_nothing_beyond() {
    let mut intake = Intake::new(Ordering::ByArrival, format(), None);
    let record = record_after_a_switch(7);
    let mut uncut = |topics: &[(&str, Vec<(i32, i64)>)], not_read: NotRead| {
        let topic = |(name, positions): &(&str, Vec<(i32, i64)>)| {
            let table = TableName::new("public", &name[..1]);
            ((*name).to_owned(), Topic::new(table, Some(7), positions.clone(), None))
        };
        intake.restart(topics.iter().map(topic).collect(), not_read);
        let Uncut { ahead, shared } = intake.uncut(&record);
        let names =
            |tables: BTreeSet<TableName>| tables.into_iter().map(|table| table.table).collect::<Vec<_>>().join(" ");
        (names(ahead), names(shared))
    };
    let (none, read) = (NotRead::default, |next| vec![(0, next)]);
    let is = |ahead: &str, shared: &str| (ahead.to_owned(), shared.to_owned());
    assert_eq!(uncut(&[("t.v2", read(5)), ("u", read(2))], none()), is("", ""));
    assert_eq!(uncut(&[("t.v2", read(6)), ("u", read(2))], none()), is("t", ""));
    assert_eq!(uncut(&[("t", read(3)), ("u", read(5))], none()), is("t", ""), "it goes over");
    let unread = NotRead { unread: vec![table()], ..none() };
    assert_eq!(uncut(&[("u", read(5))], unread), is("t", ""));
    assert_eq!(uncut(&[("u", read(6))], none()), is("u", "t"), "others read it");
    assert_eq!(uncut(&[("t.v2", Vec::new()), ("u", read(5))], none()), is("", "t"), "and its partition");
    let failed = NotRead { failed: vec![table()], ..none() };
    assert_eq!(uncut(&[("u", read(5))], failed), is("", ""), "it is told of apart");
}

#[test]
fn topics_that_a_record_names_and_nobody_reads_are_told_once() {
    let mut intake = Intake::new(Ordering::ByArrival, format(), None);
    intake.restart(BTreeMap::new(), NotRead { failed: vec![TableName::new("public", "u")], ..NotRead::default() });
    let record = record_after_a_switch(7);
    assert_eq!(intake.note_topics(&record), ["t.v2"]);
    assert!(intake.note_topics(&record).is_empty());
    assert_eq!(intake.note_topics(&record_after_a_switch(8)), ["t.v2"], "it is another one of that name");
}

#[tokio::test]
async fn a_topic_can_be_closed_from_outside() {
    let mut intake = intake();
    intake.close("u", Error::operator(Code::CopyAwaited, "w", "y", "r"));
    intake.close("unknown", Error::operator(Code::CopyAwaited, "w", "y", "r"));
    assert!(intake.topic("u").unwrap().closed);
    assert_eq!(stops(&mut intake).await, [(TableName::new("public", "u"), Code::CopyAwaited)]);
}

#[tokio::test]
async fn the_mark_of_a_copy_is_looked_at_even_if_its_table_is_stopped() {
    let mut intake = intake();
    intake.close("t", Error::operator(Code::CopyAwaited, "w", "y", "r"));
    assert_eq!(stops(&mut intake).await.len(), 1);
    let headers = FoundHeaders { position: Some(at(9, 0)), copy_start: true, ..FoundHeaders::default() };
    intake.push(polled(None, Some(b"no event"), (0, 0), &headers));
    assert_eq!(stops(&mut intake).await, [(table(), Code::MessageUnreadable)]);
}

#[tokio::test]
async fn a_message_names_its_schemas_in_its_own_bytes() {
    let mut format = format();
    let none = FoundHeaders::default();
    let tombstone = polled(Some(b"not even a key"), None, (0, 0), &none);
    assert!(format.schema(&table(), &tombstone).await.unwrap().is_none());
    let whole: &[u8] = &[0, 0, 0, 0, 1, 2];
    let json = b"{}".as_slice();
    for (key, value) in [(None, &whole[..0]), (None, &whole[..4]), (None, json), (Some(json), whole)] {
        let error = format.schema(&table(), &polled(key, Some(value), (2, 8), &none)).await.unwrap_err();
        assert_eq!((error.code, error.class), (Code::MessageUnreadable, Class::Operator), "{value:?}");
        assert!(error.what.contains("t/2 offset 8"), "{error}");
    }
}
