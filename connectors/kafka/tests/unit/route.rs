//! A table's route to its topic, and what a topic refuses.

use std::sync::Arc;

use sooner_api::{Class, Code};
use sooner_kafka::cluster::settings::PartitionBy;
use sooner_kafka::cluster::topic_state::TopicState;
use sooner_kafka::cluster::transactions::LARGEST_MESSAGE;
use sooner_kafka::message::partition::partition_of;
use sooner_kafka::producer::refusals::{compacted, missing_partition_columns, too_large, unfit_for_compaction};
use sooner_kafka::producer::route::TopicRoute;
use sooner_schemas::encode::TupleValue;
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::{Column, Relation};

use crate::support::{at, event, inserted, integer, origin, relation, row, schema_of, table, text, topic_state};

fn route(state: &TopicState) -> TopicRoute {
    TopicRoute::new(table(), "t".to_owned(), state)
}

fn adopted() -> TopicRoute {
    let mut route = route(&topic_state());
    route.adopt(&schema_of(&relation()));
    route
}

fn columns(columns: Vec<Column>) -> Arc<EventSchema> {
    schema_of(&Relation::new(table(), columns, vec![0]))
}

fn by(names: &[&str]) -> PartitionBy {
    PartitionBy::Columns(names.iter().map(|name| (*name).to_owned()).collect())
}

fn key(events: &TableEvents) -> &[u8] {
    &events.bytes[events.events[0].key.clone()]
}

#[test]
fn a_route_knows_what_its_topic_takes() {
    let plain = route(&topic_state());
    assert_eq!((plain.partitions, plain.limit_bytes, plain.is_compacted), (6, 1000, false));
    assert!(!plain.closed && !plain.replaces && plain.relation.is_none() && plain.unwritten_mark.is_none());
    let policy = "delete, compact".to_owned();
    let large = route(&TopicState { max_message_bytes: usize::MAX, cleanup_policy: policy, ..topic_state() });
    assert_eq!((large.limit_bytes, large.is_compacted), (LARGEST_MESSAGE, true));
}

#[test]
fn before_the_first_schema_a_key_is_bytes() {
    let route = route(&topic_state());
    assert!(route.key_schema().is_none() && route.fields().is_empty());
    assert!(route.missing_columns(&by(&["id"])).is_empty());
    assert_eq!(route.key_header(b"key"), None);
    assert_eq!(route.partition(&by(&["id"]), b"foobar"), Ok(partition_of(b"foobar", 6)));
}

#[test]
fn fields_have_the_names_of_the_schema_and_columns_their_own() {
    let mut route = route(&topic_state());
    route.adopt(&columns(vec![integer("the id"), text("größe")]));
    assert_eq!(route.fields(), ["the_id", "gr__e"]);
    assert!(route.missing_columns(&by(&["the id"])).is_empty());
    assert_eq!(route.missing_columns(&by(&["the_id", "the id", "größe"])), ["the_id", "größe"]);
}

#[test]
fn what_events_were_last_written_by_is_kept() {
    let mut route = route(&topic_state());
    route.adopt(&columns(vec![integer("id"), text("a")]));
    let wide = columns(vec![integer("id"), text("a").nullable(), text("b").nullable()]);
    route.adopt(&wide);
    assert_eq!(route.relation.as_deref(), wide.relation.as_ref());
    assert_eq!(route.fields(), ["id", "a", "b"]);
}

#[test]
fn partitions_follow_the_whole_key_or_the_named_columns() {
    let route = adopted();
    let first = inserted(at(1, 0), "1", "a");
    let datum = &key(&first)[5..];
    assert_eq!(route.partition(&PartitionBy::Key, key(&first)), Ok(partition_of(datum, 6)));
    let mut by_key = Vec::new();
    for id in 0..60 {
        let events = inserted(at(1, 0), &id.to_string(), "a");
        let partition = |by: &PartitionBy| route.partition(by, key(&events)).unwrap();
        assert_eq!(partition(&by(&["region"])), partition_of(&[4, b'e', b'u'], 6), "all of one region");
        by_key.push(partition(&PartitionBy::Key));
    }
    by_key.sort_unstable();
    by_key.dedup();
    assert_eq!(by_key, [0, 1, 2, 3, 4, 5], "many keys use all partitions");
    assert!(route.partition(&by(&["region"]), &key(&first)[..6]).is_err(), "a key that is cut");
}

#[test]
fn compacted_topics_take_rows_that_are_whole() {
    let from = origin(at(1, 0));
    let whole = row("1", "a");
    let left_out = [whole[0], whole[1], TupleValue::Unavailable];
    let reason = |events: TableEvents| unfit_for_compaction(&events.events[0]);
    assert_eq!(reason(inserted(at(1, 0), "1", "a")), None);
    assert_eq!(reason(event(|encoder, out| encoder.delete(out, &from, &whole, false).unwrap())), None);
    let incomplete = event(|encoder, out| encoder.update(out, &from, None, &left_out).unwrap());
    assert!(reason(incomplete).unwrap().contains("REPLICA IDENTITY FULL"));
    assert!(reason(event(|encoder, out| encoder.truncate(out, &from))).unwrap().contains("truncate"));
    assert!(reason(event(|encoder, out| encoder.copy_start(out, &from))).unwrap().contains("copy"));
    let error = compacted(&adopted(), "why");
    assert_eq!((error.code, error.class), (Code::TopicCompacted, Class::Operator));
    assert!(error.remedy.contains("cleanup.policy=delete") && error.remedy.contains("sooner resume public.t"));
}

#[test]
fn a_row_that_is_too_large_is_named_with_a_limit_that_would_do() {
    let events = inserted(at(1, 0), "7", "a");
    let error = too_large(&adopted(), key(&events), 1_000_001);
    assert_eq!((error.code, error.class), (Code::MessageTooLarge, Class::Operator));
    assert!(error.why.contains("id=7, region=eu") && error.why.contains("1000001"), "{error}");
    assert!(error.remedy.contains("max.message.bytes=1048576"), "{error}");
    let error = too_large(&adopted(), key(&events), LARGEST_MESSAGE + 1);
    assert_eq!(error.code, Code::MessageTooLarge);
    assert!(!error.remedy.contains("max.message.bytes"), "no setting helps: {error}");
}

#[test]
fn what_parks_a_table_says_how_to_go_on() {
    let missing = missing_partition_columns(&table(), &["a".to_owned(), "b".to_owned()]);
    assert_eq!((missing.class, missing.code), (Class::Operator, Code::PartitionColumnsMissing));
    assert!(missing.why.contains("a, b") && missing.remedy.contains("`sooner resume public.t`"), "{missing}");
}
