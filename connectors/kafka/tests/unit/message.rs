//! Events survive their messages, and what is no event is told apart.

use std::sync::Arc;

use rdkafka::Timestamp;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};
use sooner_api::{Class, Code};
use sooner_kafka::message::events::append;
use sooner_kafka::message::headers::{EventHeaders, FoundHeaders, unavailable_fields};
use sooner_kafka::message::key_text::{key_header, key_text};
use sooner_kafka::message::partition::{column_bytes, partition_of};
use sooner_kafka::message::polled::PolledMessages;
use sooner_kafka::message::topic_message::TopicMessage;
use sooner_schemas::encode::TupleValue;
use sooner_schemas::event::{Event, Op, TableEvents};

use crate::support::{FIELDS, at, event, inserted, message, origin, polled, relation, row, schema_of};

/// Reads a message's event back.
fn read(message: &TopicMessage) -> sooner_api::Result<TableEvents> {
    let mut out = TableEvents::new(schema_of(&relation()));
    append(&mut out, message, 77)?;
    Ok(out)
}

fn why(message: &TopicMessage) -> String {
    let mut out = TableEvents::new(schema_of(&relation()));
    let error = append(&mut out, message, 77).unwrap_err();
    assert_eq!((error.code, error.class), (Code::MessageUnreadable, Class::Operator));
    assert!(error.what.contains(&message.place()), "{error}");
    assert!(out.events.is_empty(), "nothing is appended");
    error.why
}

/// Position, key, value, former key and left-out fields of an event.
type Parts<'a> = (sooner_schemas::Position, &'a [u8], &'a [u8], Option<&'a [u8]>, &'a [u16]);

fn parts(events: &TableEvents) -> Parts<'_> {
    let Event { position, key, value, unavailable, old_key, .. } = &events.events[0];
    let old_key = old_key.as_ref().map(|range| &events.bytes[range.clone()]);
    (*position, &events.bytes[key.clone()], &events.bytes[value.clone()], old_key, &unavailable[..])
}

#[test]
fn every_kind_of_event_survives_its_message() {
    let (from, to) = (origin(at(0x16_B374_D848, 3)), row("7", "text"));
    let left_out = [to[0], to[1], TupleValue::Unavailable];
    let written = [
        (Op::Update, event(|encoder, out| encoder.read(out, &from, &to).unwrap())),
        (Op::Update, event(|encoder, out| encoder.insert(out, &from, &to).unwrap())),
        (Op::Update, event(|encoder, out| encoder.update(out, &from, Some(&row("7", "was")), &to).unwrap())),
        (Op::Update, event(|encoder, out| encoder.update(out, &from, None, &left_out).unwrap())),
        (Op::Update, event(|encoder, out| encoder.insert_renamed(out, &from, &row("6", "was"), &to).unwrap())),
        (Op::Delete, event(|encoder, out| encoder.delete(out, &from, &to, true).unwrap())),
        (Op::Delete, event(|encoder, out| encoder.delete(out, &from, &to, false).unwrap())),
        (Op::Truncate, event(|encoder, out| encoder.truncate(out, &from))),
        (Op::CopyStart, event(|encoder, out| encoder.copy_start(out, &from))),
    ];
    for (op, written) in &written {
        let found = read(&message(written, (0, 1))).unwrap();
        assert_eq!(found.events[0].op, *op);
        assert_eq!(parts(&found), parts(written), "{op:?}");
    }
    assert_eq!(&written[3].1.events[0].unavailable[..], [2]);
    assert!(written[4].1.events[0].old_key.is_some());
}

#[test]
fn a_tombstone_is_no_event() {
    let written = inserted(at(1, 0), "1", "a");
    let tombstone = polled(message(&written, (0, 0)).key(), None, (0, 0), &FoundHeaders::default());
    assert!(read(&tombstone).unwrap().events.is_empty());
}

#[test]
fn a_message_that_is_cut_or_has_more_is_unreadable() {
    let written = message(&inserted(at(1, 0), "1", "a"), (4, 9));
    let (key, value) = (written.key().unwrap(), written.value().unwrap());
    for end in 0..value.len() {
        why(&polled(Some(key), Some(&value[..end]), (4, 9), &written.headers));
    }
    for end in 0..key.len() {
        assert!(why(&polled(Some(&key[..end]), Some(value), (4, 9), &written.headers)).contains("key"));
    }
    let more = [value, b"xy"].concat();
    assert!(why(&polled(Some(key), Some(&more), (4, 9), &written.headers)).contains("2 bytes are left over"));
    let more = [key, b"x"].concat();
    assert!(why(&polled(Some(&more), Some(value), (4, 9), &written.headers)).contains("after its key"));
}

#[test]
fn a_row_without_a_key_cannot_be_told_from_others() {
    let written = message(&inserted(at(1, 0), "1", "a"), (0, 0));
    assert!(why(&polled(None, written.value(), (0, 0), &written.headers)).contains("primary key"));
    let deleted = event(|encoder, out| encoder.delete(out, &origin(at(1, 0)), &row("1", "a"), true).unwrap());
    let deleted = message(&deleted, (0, 0));
    assert!(why(&polled(None, deleted.value(), (0, 0), &deleted.headers)).contains("primary key"));
}

#[test]
fn a_text_that_is_not_utf8_is_found_before_anybody_decodes_it() {
    let written = message(&inserted(at(1, 0), "1", "marked"), (0, 0));
    let mut value = written.value().unwrap().to_vec();
    let place = value.windows(6).position(|part| part == b"marked").unwrap();
    value[place] = 0xFF;
    assert!(why(&polled(written.key(), Some(&value), (0, 0), &written.headers)).contains("UTF-8"));
}

#[test]
fn placeholders_are_looked_for_only_where_the_writer_lists_none() {
    let written = message(&inserted(at(1, 0), "1", "__debezium_unavailable_value"), (0, 0));
    let unavailable = |headers: &FoundHeaders| {
        let found = read(&polled(written.key(), written.value(), (0, 0), headers)).unwrap();
        found.events[0].unavailable.to_vec()
    };
    assert_eq!(unavailable(&FoundHeaders::default()), [2], "Debezium's own events");
    assert!(unavailable(&written.headers).is_empty(), "a row of ours may hold that text");
    let listed = |fields: &str| FoundHeaders { unavailable: Some(fields.to_owned()), ..written.headers.clone() };
    assert_eq!(unavailable(&listed("body,region")), [2, 1]);
    let unknown = polled(written.key(), written.value(), (0, 0), &listed("body,other"));
    assert!(why(&unknown).contains("'other'"));
}

#[test]
fn an_event_without_a_position_gets_the_number_of_its_arrival_and_has_no_former_key() {
    let written = message(&inserted(at(1, 0), "1", "a"), (0, 0));
    let headers = FoundHeaders { old_key: Some(vec![1, 2]), ..FoundHeaders::default() };
    let found = read(&polled(written.key(), written.value(), (0, 0), &headers)).unwrap();
    assert_eq!((found.events[0].position, found.events[0].old_key.clone()), (at(77, 0), None));
}

#[test]
fn a_position_needs_both_of_its_headers() {
    let text = |key: &'static str, value: &'static str| Header { key, value: Some(value) };
    let position = |headers: &OwnedHeaders| FoundHeaders::read(Some(headers)).position;
    let lsn = || OwnedHeaders::new().insert(text("sooner.commit_lsn", "16/B374D848"));
    assert_eq!(position(&lsn()), None);
    assert_eq!(position(&lsn().insert(text("sooner.ordinal", "minus one"))), None);
    assert_eq!(position(&lsn().insert(text("sooner.ordinal", "4"))), Some(at(0x16_B374_D848, 4)));
    let wrong = OwnedHeaders::new().insert(text("sooner.commit_lsn", "16")).insert(text("sooner.ordinal", "4"));
    assert_eq!(position(&wrong), None);
    let others = OwnedHeaders::new().insert(text("traceparent", "00")).insert(Header { key: "x", value: None::<&str> });
    assert_eq!(FoundHeaders::read(Some(&others)), FoundHeaders::default());
}

#[test]
fn headers_that_say_nothing_are_left_out() {
    let headers = EventHeaders {
        position: at(0, u64::MAX),
        unavailable: None,
        copy_start: false,
        new_key_text: None,
        old_key_text: None,
        old_key: None,
    };
    assert_eq!(headers.size_bytes(), 0);
    let found = FoundHeaders::read(Some(&headers.to_owned_headers()));
    assert_eq!(found, FoundHeaders { position: Some(at(0, u64::MAX)), ..FoundHeaders::default() });
    let long = EventHeaders { unavailable: Some("abc".into()), new_key_text: Some("de".into()), ..headers };
    assert_eq!(long.size_bytes(), 5);
}

#[test]
fn fields_that_were_left_out_are_listed_by_name() {
    let mut events = inserted(at(1, 0), "1", "a");
    let names = FIELDS.map(str::to_owned);
    assert_eq!(unavailable_fields(&events.events[0], &names), None);
    events.events[0].unavailable = [2, 1].into();
    assert_eq!(unavailable_fields(&events.events[0], &names).as_deref(), Some("body,region"));
}

#[test]
fn polled_messages_keep_their_order_within_partitions() {
    let message = |partition, offset, key: Option<&str>, value: Option<&str>, time| {
        let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        OwnedMessage::new(bytes(value), bytes(key), "t".to_owned(), time, partition, offset, None)
    };
    let mut messages = PolledMessages::default();
    let topic: Arc<str> = "t".into();
    messages.take(&topic, &message(1, 4, Some("k"), Some("abc"), Timestamp::CreateTime(2)));
    messages.take(&topic, &message(0, 9, None, Some(""), Timestamp::NotAvailable));
    messages.take(&topic, &message(1, 7, Some(""), None, Timestamp::LogAppendTime(3)));
    assert_eq!(messages.bytes(), 4);
    let mut found = messages.finish();
    found.sort_by_key(|message| message.partition);
    let places: Vec<_> = found.iter().map(TopicMessage::place).collect();
    assert_eq!(places, ["t/0 offset 9", "t/1 offset 4", "t/1 offset 7"]);
    let bodies: Vec<_> = found.iter().map(|message| (message.key(), message.value())).collect();
    let (empty, k, abc) = (b"".as_slice(), b"k".as_slice(), b"abc".as_slice());
    assert_eq!(bodies, [(None, Some(empty)), (Some(k), Some(abc)), (Some(empty), None)]);
    let times: Vec<_> = found.iter().map(|message| message.written_micros).collect();
    assert_eq!(times, [None, Some(2000), Some(3000)]);
}

#[test]
fn keys_are_partitioned_as_java_clients_do_and_told_as_connect_does() {
    assert_eq!([6, 7, 10].map(|partitions| partition_of(b"foobar", partitions)), [0, 0, 6]);
    assert_eq!([6, 7, 10].map(|partitions| partition_of(b"abc", partitions)), [3, 4, 7]);
    assert_eq!(partition_of(b"abc", 0), 0, "a topic without partitions does not divide by zero");
    let written = message(&inserted(at(1, 0), "-7", "a"), (0, 0));
    let schema = schema_of(&relation());
    let (schema, key) = (schema.key.as_ref().unwrap(), written.key().unwrap());
    assert_eq!(key_text(schema, key), "id=-7, region=eu");
    assert_eq!(key_text(schema, &key[..6]), "id=-7", "as far as it can be read");
    assert_eq!(key_text(schema, b"json"), "");
    assert_eq!(key_header(schema, key).unwrap(), r#"{"id":-7,"region":"eu"}"#);
    let columns = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        column_bytes(schema, key, &names).unwrap()
    };
    assert_eq!(columns(&["region"]), [4, b'e', b'u']);
    assert_eq!(columns(&["id", "unknown"]), [13]);
    assert!(columns(&[]).is_empty());
}
