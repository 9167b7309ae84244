//! Batches are put together from messages: steps in order, with the offsets that they cover.

use std::sync::Arc;

use sooner_api::{Code, Coverage, Error, EventBatch, NextOffsets, Step, WholeTable};
use sooner_kafka::consumer::assembly::Assembly;
use sooner_kafka::consumer::topic::Topic;
use sooner_kafka::message::headers::FoundHeaders;
use sooner_schemas::Lsn;
use sooner_schemas::event::{EventSchema, Op, TableEvents, Watermark};

use crate::support::{at, event, inserted, message, origin, polled, relation, schema_of, table};

/// A batch that is being filled from a topic of two partitions. Events without a key come under schemas of their own,
/// as from the registry.
struct Filling {
    assembly: Assembly,
    topic: Topic,
    keyed: Arc<EventSchema>,
    whole: Arc<EventSchema>,
    partition: i32,
    next: i64,
}

impl Filling {
    fn new() -> Filling {
        let topic = Topic::new(table(), Some(7), vec![(0, 0), (1, 0)], None);
        let (keyed, whole) = (schema_of(&relation()), schema_of(&relation()));
        Filling { assembly: Assembly::default(), topic, keyed, whole, partition: 0, next: 0 }
    }

    /// Appends an event of the partition.
    fn add(&mut self, events: &TableEvents, repeated: bool, copies: &[(i32, i64)]) {
        let message = message(events, (self.partition, self.next));
        self.next += 1;
        let schema = if message.key().is_some() { &self.keyed } else { &self.whole };
        self.assembly.append(&self.topic, &message, Some(schema.clone()), repeated).unwrap();
        self.assembly.pass(&mut self.topic, &message, copies);
    }

    fn take(&mut self) -> EventBatch {
        self.assembly.take().unwrap()
    }
}

fn copy_start(lsn: u64) -> TableEvents {
    event(|encoder, out| encoder.copy_start(out, &origin(at(lsn, 0))))
}

fn truncate(lsn: u64) -> TableEvents {
    event(|encoder, out| encoder.truncate(out, &origin(at(lsn, 0))))
}

fn mark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 1), commit_micros: 9 }
}

fn names(batch: &EventBatch) -> Vec<&'static str> {
    let name = |step: &Step| match step {
        Step::Rows(_) => "rows",
        Step::CopyStart(_) => "copy start",
        Step::CopyProgress { .. } => "copy progress",
        Step::CopyEnd { .. } => "copy end",
        Step::Truncate(_) => "truncate",
        Step::Stop { .. } => "stop",
        Step::Note(_) => "note",
        Step::Complete(_) => "complete",
    };
    batch.steps.iter().map(name).collect()
}

fn refused() -> Error {
    Error::operator(Code::MessageUnreadable, "w", "y", "r")
}

#[test]
fn nothing_makes_no_batch() {
    let mut assembly = Assembly::default();
    assert!(!assembly.has_events() && !assembly.is_full());
    assert!(assembly.take().is_none());
}

#[test]
fn rows_of_one_schema_make_one_step_with_the_offset_after_the_last() {
    let mut filling = Filling::new();
    filling.add(&inserted(at(10, 0), "1", "a"), false, &[]);
    filling.add(&inserted(at(10, 1), "2", "b"), false, &[]);
    let batch = filling.take();
    assert_eq!(names(&batch), ["rows"]);
    let rows = batch.steps[0].rows().unwrap();
    assert_eq!(rows.events.events.iter().map(|event| event.position).collect::<Vec<_>>(), [at(10, 0), at(10, 1)]);
    assert_eq!((rows.generation, &rows.next_offsets), (Some(7), &NextOffsets::from([(0, 2)])));
    assert!(filling.assembly.take().is_none(), "it is taken once");
}

#[test]
fn events_of_the_whole_table_stand_alone_between_rows() {
    let mut filling = Filling::new();
    filling.add(&inserted(at(10, 0), "1", "a"), false, &[]);
    filling.add(&truncate(11), false, &[(1, 5)]);
    filling.add(&truncate(12), false, &[(1, 6)]);
    filling.add(&copy_start(13), false, &[(1, 7)]);
    filling.add(&inserted(at(13, 1), "1", "a"), false, &[]);
    let batch = filling.take();
    assert_eq!(names(&batch), ["rows", "truncate", "truncate", "copy start", "rows"]);
    assert!(batch.rows().all(|rows| rows.events.events.len() == 1));
    let offsets: Vec<_> = batch.rows().map(|rows| rows.next_offsets.clone()).collect();
    let expected = [vec![(0, 1)], vec![(0, 2), (1, 5)], vec![(0, 3), (1, 6)], vec![(0, 4), (1, 7)], vec![(0, 5)]];
    assert_eq!(offsets, expected.map(NextOffsets::from_iter), "each step covers its copies in other partitions");
}

#[test]
fn where_an_event_of_the_whole_table_stands_is_told() {
    let told = |filling: &mut Filling, event: &TableEvents, copies: &[(i32, i64)]| {
        filling.add(event, false, copies);
        filling.take().steps[0].rows().unwrap().whole
    };
    let mut filling = Filling::new();
    let everywhere = WholeTable::default();
    assert_eq!(told(&mut filling, &copy_start(10), &[(1, 1)]), everywhere, "rows may have come before it");
    assert_eq!(told(&mut filling, &truncate(11), &[]), WholeTable { is_repeated: true, ..everywhere });
    filling.topic = Topic::new(table(), Some(7), vec![(0, 2)], None);
    assert_eq!(told(&mut filling, &truncate(12), &[]), everywhere, "nobody knows of partitions that others read");

    let mut filling = Filling::new();
    filling.topic.opening = vec![0, 4];
    assert_eq!(told(&mut filling, &copy_start(10), &[(1, 5)]), WholeTable { opens_topic: true, ..everywhere });
    assert_eq!(told(&mut filling, &copy_start(11), &[(1, 6)]), everywhere);
    let mut filling = Filling { partition: 1, ..Filling::new() };
    filling.topic = Topic::new(table(), Some(7), vec![(1, 0)], None);
    assert_eq!(told(&mut filling, &truncate(10), &[]), WholeTable { lacks_first: true, ..everywhere });
}

#[test]
fn another_schema_opens_another_step() {
    let mut filling = Filling::new();
    filling.add(&inserted(at(10, 0), "1", "a"), false, &[]);
    filling.keyed = schema_of(&relation());
    filling.add(&inserted(at(10, 1), "2", "a"), false, &[]);
    assert_eq!(names(&filling.take()), ["rows", "rows"]);
}

#[test]
fn ends_come_after_the_events_in_the_order_in_which_they_were_added() {
    let mut filling = Filling::new();
    filling.assembly.end_copy(table(), mark(20));
    filling.assembly.complete(Coverage { except: vec![table()], ..Coverage::all(mark(21)) });
    filling.add(&inserted(at(20, 0), "1", "a"), false, &[]);
    let batch = filling.take();
    assert_eq!(names(&batch), ["rows", "copy end", "complete"]);
    assert_eq!(batch.server_end, Lsn(22), "as far as is known, the server has got to the last watermark");
    assert_eq!(batch.coverage().map(|coverage| coverage.applies_to(&table())), Some(false));
}

#[test]
fn a_table_that_stops_sends_the_batch_out() {
    let mut filling = Filling::new();
    filling.add(&inserted(at(20, 0), "1", "a"), false, &[]);
    assert!(!filling.assembly.is_full());
    filling.assembly.stop(table(), refused());
    assert!(filling.assembly.is_full());
    let batch = filling.take();
    assert_eq!(names(&batch), ["rows", "stop"]);
    assert!(!filling.assembly.is_full() && !filling.assembly.has_events());
}

#[test]
fn many_events_fill_a_batch() {
    let mut filling = Filling::new();
    let body = "x".repeat(100 << 10);
    for id in 0..4 {
        filling.add(&inserted(at(20, id), &id.to_string(), &body), false, &[]);
        assert!(!filling.assembly.is_full(), "{id}");
    }
    filling.add(&inserted(at(20, 4), "4", &"x".repeat(120 << 10)), false, &[]);
    assert!(filling.assembly.is_full());
    filling.take();
    assert!(!filling.assembly.is_full());
}

#[test]
fn an_event_that_was_handed_on_before_only_moves_offsets() {
    let mut filling = Filling::new();
    filling.add(&inserted(at(10, 0), "1", "a"), true, &[]);
    filling.add(&inserted(at(10, 1), "2", "a"), false, &[]);
    filling.add(&inserted(at(10, 1), "2", "a"), true, &[]);
    let batch = filling.take();
    assert_eq!((batch.event_count(), names(&batch)), (1, vec!["rows"]));
    assert_eq!(batch.steps[0].rows().unwrap().next_offsets, NextOffsets::from([(0, 3)]));
    assert_eq!(filling.assembly.arrival_watermark().commit_lsn, Lsn(1), "repeated ones have not arrived");
}

#[test]
fn a_tombstone_moves_offsets_where_its_table_has_events() {
    let mut filling = Filling::new();
    let tombstone = polled(Some(b"key"), None, (0, 3), &FoundHeaders::default());
    filling.assembly.append(&filling.topic, &tombstone, None, false).unwrap();
    filling.assembly.pass(&mut filling.topic, &tombstone, &[]);
    assert!(filling.assembly.take().is_none(), "by itself it is nothing");
    filling.add(&inserted(at(10, 0), "1", "a"), false, &[]);
    filling.assembly.append(&filling.topic, &tombstone, None, false).unwrap();
    filling.assembly.pass(&mut filling.topic, &tombstone, &[]);
    let batch = filling.take();
    assert_eq!(batch.event_count(), 1);
    assert_eq!(batch.steps[0].rows().unwrap().next_offsets, NextOffsets::from([(0, 4)]));
}

#[test]
fn events_whose_writer_gives_no_position_are_numbered_as_they_arrive() {
    let mut filling = Filling::new();
    let inserted = inserted(at(10, 0), "1", "a");
    let written = message(&inserted, (0, 0));
    let none = FoundHeaders::default();
    for (offset, expected) in [(0, 1), (1, 2), (2, 3)] {
        let bare = polled(written.key(), written.value(), (0, offset), &none);
        filling.assembly.append(&filling.topic, &bare, Some(filling.keyed.clone()), false).unwrap();
        let batch = filling.take();
        let event = &batch.steps[0].rows().unwrap().events.events[0];
        assert_eq!((event.position, event.op), (at(expected, 0), Op::Update));
    }
}

#[test]
fn the_watermark_of_arrival_has_the_time_of_the_last_message() {
    let mut filling = Filling::new();
    assert_eq!(filling.assembly.arrival_watermark(), Watermark::default());
    filling.add(&inserted(at(10, 0), "1", "a"), false, &[]);
    let expected = Watermark { commit_lsn: Lsn(1), end_lsn: Lsn(1), commit_micros: 5000 };
    assert_eq!(filling.assembly.arrival_watermark(), expected);
    let untimed = polled(None, None, (0, 9), &FoundHeaders::default());
    filling.assembly.append(&filling.topic, &untimed, None, true).unwrap();
    assert_eq!(filling.assembly.arrival_watermark(), expected, "a message without a time changes nothing");
}

#[test]
fn a_message_that_cannot_be_read_leaves_no_event() {
    let mut filling = Filling::new();
    let inserted = inserted(at(10, 0), "1", "a");
    let written = message(&inserted, (0, 0));
    let cut = polled(written.key(), written.value().map(|value| &value[..9]), (0, 1), &written.headers);
    let error = filling.assembly.append(&filling.topic, &cut, Some(filling.keyed.clone()), false).unwrap_err();
    assert_eq!(error.code, Code::MessageUnreadable);
    assert!(error.what.contains("t/0 offset 1"), "{error}");
    assert_eq!(filling.assembly.take().map_or(0, |batch| batch.event_count()), 0);
}

#[test]
fn a_topic_knows_what_was_handed_on_of_each_partition() {
    let events = event(|encoder, out| encoder.truncate(out, &origin(at(50, 2))));
    let seen = |topic: &Topic, partition: i32, lsn: u64, ordinal: u64| {
        let headers = FoundHeaders { position: Some(at(lsn, ordinal)), ..FoundHeaders::default() };
        topic.has_seen(&polled(None, None, (partition, 0), &headers))
    };
    let mut topic = Topic::new(table(), None, vec![(0, 0), (1, 0)], Some(Lsn(40)));
    assert!(seen(&topic, 0, 40, 99) && seen(&topic, 1, 39, 0), "the table is complete up to there");
    assert!(!seen(&topic, 0, 41, 0) && !seen(&topic, 2, 1, 0));
    topic.note(&message(&events, (0, 0)));
    assert!(seen(&topic, 0, 50, 2) && !seen(&topic, 0, 50, 3));
    assert!(!seen(&topic, 1, 50, 2), "each partition has a place of its own");
    topic.closed = true;
    topic.begin_copy();
    assert!(!topic.closed && !seen(&topic, 0, 1, 0), "a copy brings everything again");
}
