//! Encoders register a table's schemas under the names that the pipeline gives them.

use std::sync::Mutex;

use sooner_api::{Code, Error, Result, SchemaRegistry};
use sooner_postgres::encoders::EncoderFactory;
use sooner_schemas::encode::{Encoder, Origin, Snapshot, TupleValue};
use sooner_schemas::event::TableEvents;
use sooner_schemas::naming::{SubjectStrategy, TopicPattern};
use sooner_schemas::wire::split_header;
use sooner_schemas::{Lsn, Position, Relation};

use crate::stream::{ORDERS, table};

/// Numbers what it is asked from 1, and refuses one kind of subject.
#[derive(Default)]
struct Registry {
    asked: Mutex<Vec<(String, String)>>,
    refused: Option<&'static str>,
}

impl SchemaRegistry for Registry {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        if self.refused.is_some_and(|end| subject.ends_with(end)) {
            return Err(refusal(subject));
        }
        let mut asked = self.asked.lock().unwrap();
        asked.push((subject.to_owned(), schema.to_owned()));
        Ok(asked.len() as u32)
    }
}

fn refusal(subject: &str) -> Error {
    Error::operator(Code::SchemaIncompatible, "cannot register a schema", subject, "change the compatibility")
}

fn factory() -> EncoderFactory<Registry> {
    EncoderFactory::new(Registry::default(), "shop", "db")
}

fn subjects(factory: &EncoderFactory<Registry>) -> Vec<String> {
    factory.registry.asked.lock().unwrap().iter().map(|(subject, _)| subject.clone()).collect()
}

fn keyless() -> Relation {
    Relation { key: Vec::new(), ..table(ORDERS, "public.orders") }
}

/// Schema ids of the key and the value of an event; none for an empty key.
fn ids(encoder: &Encoder) -> (Option<u32>, u32) {
    let origin = Origin {
        position: Position { commit_lsn: Lsn(500), ordinal: 0 },
        lsn: Lsn(490),
        xid: 7,
        source_micros: 0,
        now_micros: 0,
        snapshot: Snapshot::No,
    };
    let mut out = TableEvents::new(encoder.schema().clone());
    encoder.insert(&mut out, &origin, &[TupleValue::Text(b"1"), TupleValue::Null]).unwrap();
    let event = &out.events[0];
    let id = |message: &[u8]| split_header(message).unwrap().0;
    let key = &out.bytes[event.key.clone()];
    ((!key.is_empty()).then(|| id(key)), id(&out.bytes[event.value.clone()]))
}

#[tokio::test]
async fn key_and_value_are_registered_and_their_ids_stand_in_the_events() {
    let factory = factory();
    let encoder = factory.build(&table(ORDERS, "public.orders")).await.unwrap();
    assert_eq!(subjects(&factory), ["shop.public.orders-key", "shop.public.orders-value"]);
    assert_eq!(ids(&encoder), (Some(1), 2));
    assert_eq!(encoder.width(), 2);
}

#[tokio::test]
async fn a_table_without_a_key_has_no_schema_for_it() {
    let factory = factory();
    let encoder = factory.build(&keyless()).await.unwrap();
    assert_eq!(subjects(&factory), ["shop.public.orders-value"]);
    assert_eq!(ids(&encoder), (None, 1));
}

#[tokio::test]
async fn subjects_follow_the_strategy_and_the_pattern_of_topics() {
    for (strategy, key, value) in [
        (SubjectStrategy::Topic, "cdc.public-orders-key", "cdc.public-orders-value"),
        (SubjectStrategy::Record, "cdc.public_orders.Key", "cdc.public_orders.Envelope"),
        (
            SubjectStrategy::TopicRecord,
            "cdc.public-orders-cdc.public_orders.Key",
            "cdc.public-orders-cdc.public_orders.Envelope",
        ),
    ] {
        let topics = TopicPattern::parse("cdc.{schema}-{table}", "shop").unwrap();
        let factory = EncoderFactory { topics, subjects: strategy, ..factory() };
        factory.build(&table(ORDERS, "public.orders")).await.unwrap();
        assert_eq!(subjects(&factory), [key, value]);
    }
}

#[tokio::test]
async fn the_registered_value_schema_brings_the_relation() {
    let factory = factory();
    let relation = table(ORDERS, "public.orders");
    factory.build(&relation).await.unwrap();
    let asked = factory.registry.asked.lock().unwrap().clone();
    let schema: serde_json::Value = serde_json::from_str(&asked[1].1).unwrap();
    assert_eq!(schema["sooner.relation"], serde_json::to_value(&relation).unwrap());
    let key: serde_json::Value = serde_json::from_str(&asked[0].1).unwrap();
    let fields: Vec<_> = key["fields"].as_array().unwrap().iter().map(|field| field["name"].clone()).collect();
    assert_eq!(fields, ["id"]);
}

#[tokio::test]
async fn a_refusal_is_handed_on_as_it_is() {
    for (refused, subject) in [("-key", "shop.public.orders-key"), ("-value", "shop.public.orders-value")] {
        let registry = Registry { refused: Some(refused), ..Registry::default() };
        let factory = EncoderFactory::new(registry, "shop", "db");
        let error = factory.build(&table(ORDERS, "public.orders")).await.unwrap_err();
        assert_eq!(error, refusal(subject));
    }
}
