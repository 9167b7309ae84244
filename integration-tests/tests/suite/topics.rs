//! Topics and subjects as they are configured, and which partition an event goes to.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use integration_tests::avro_json::to_json;
use integration_tests::between::{self, LIMIT};
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::topics::read_topic;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sooner_schemas::wire::{Reader as AvroReader, split_header};

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_as_configured_or_left_as_they_are() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let settings = "topic = \"cdc-{schema}.{table}\"\npartitions = 4\nreplication = 1\nretention = \"3days\"\n\
                    cleanup_policy = \"compact,delete\"\ncompression = \"zstd\"\nmax_message_bytes = \"2MiB\"";
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let described = kafka.topics(&["--describe", "--topic", "cdc-public.a"]);
    for expected in [
        "PartitionCount: 4",
        "ReplicationFactor: 1",
        "retention.ms=259200000",
        "cleanup.policy=compact,delete",
        "compression.type=zstd",
        "max.message.bytes=2097152",
    ] {
        assert!(described.contains(expected), "'{expected}' is not in:\n{described}");
    }
    pipeline.stop();

    // One that is there already and differs is used, and nothing of it is changed; it is said what differs.
    kafka.topics(&["--create", "--topic", "cdc-public.b", "--partitions", "2"]);
    postgres.sql("CREATE TABLE b (id integer PRIMARY KEY); INSERT INTO b VALUES (1)").await;
    postgres.sql("ALTER PUBLICATION sooner_shop ADD TABLE b").await;
    pipeline.start();
    pipeline.wait_until_copied("public.b").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a", "public.b"]);
    let described = kafka.topics(&["--describe", "--topic", "cdc-public.b"]);
    assert!(described.contains("PartitionCount: 2") && !described.contains("retention.ms"), "{described}");
    let log = pipeline.log();
    for expected in ["partitions is 2 (configured: 4)", "cleanup.policy is delete (configured: compact,delete)"] {
        assert!(log.contains(expected), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_schemas_that_may_not_be_made_are_asked_for() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "create_topics = false");
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("kafka-topics.sh") && log.contains("--create --topic sooner.shop.progress"), "{log}");
    let compacted =
        ["--create", "--topic", "sooner.shop.progress", "--partitions", "1", "--config", "cleanup.policy=compact"];
    kafka.topics(&compacted);
    kafka.topics(&["--create", "--topic", "shop.public.a", "--partitions", "1"]);

    // The same of schemas: that one is missing stops its table, until somebody has registered it.
    let brokers = format!("brokers = \"{}\"\ncreate_topics = false", kafka.brokers());
    let registering = |register: bool| format!("url = \"{}\"\nregister = {register}", registry.url());
    pipeline.reroute(&postgres, &brokers, &registering(false));
    pipeline.start();
    let why = pipeline.wait_until_parked("public.a").await.to_string();
    assert!(why.contains("shop.public.a-key") && why.contains("register of [registry] is off"), "{why}");
    pipeline.stop();
    let schema = r#"{"type":"record","name":"Key","namespace":"shop.public.a","fields":[{"name":"id","type":"int"}],"connect.name":"shop.public.a.Key"}"#;
    let body = serde_json::json!({"schema": schema}).to_string();
    assert!(registry.ask("POST", "/subjects/shop.public.a-key/versions", &body).contains("\"id\""));
    pipeline.reroute(&postgres, &brokers, &registering(true));
    pipeline.resume("public.a");
    pipeline.start();
    pipeline.wait_until_copied("public.a").await;
    pipeline.stop();
    // What is registered now is found.
    pipeline.reroute(&postgres, &brokers, &registering(false));
    pipeline.start();
    postgres.sql("INSERT INTO a VALUES (2)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_are_named_by_each_strategy() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    for (prefix, strategy, expected) in [
        ("one", "topic", ["one.public.a-key", "one.public.a-value"]),
        ("two", "record", ["two.public.a.Key", "two.public.a.Envelope"]),
        ("three", "topic-record", ["three.public.a-three.public.a.Key", "three.public.a-three.public.a.Envelope"]),
    ] {
        // Under another prefix the table goes to another topic, and is copied there.
        let brokers = format!("brokers = \"{}\"\nprefix = \"{prefix}\"", kafka.brokers());
        let registry_lines = format!("url = \"{}\"\nsubjects = \"{strategy}\"", registry.url());
        pipeline.reroute(&postgres, &brokers, &registry_lines);
        pipeline.start();
        let topic = format!("{prefix}.public.a");
        pipeline.wait_until_copied("public.a").await;
        postgres
            .sql(&format!("INSERT INTO a SELECT count(*) + 1 FROM a; UPDATE a SET id = -id WHERE '{prefix}' = 'two'"))
            .await;
        pipeline.catch_up(&postgres).await;
        pipeline.assert_equal(&postgres, &["public.a"]);
        pipeline.stop();
        let subjects = registry.ask("GET", "/subjects", "");
        for subject in expected {
            assert!(subjects.contains(&format!("\"{subject}\"")), "{subject} is not in {subjects}");
        }
        assert!(!read_topic(&kafka, &topic).is_empty());
    }
}

/// The partitions that another client chooses for keys as Java clients do.
fn by_another_client(kafka: &Kafka, partitions: i32, keys: &BTreeSet<Vec<u8>>) -> BTreeMap<Vec<u8>, i32> {
    kafka.topics(&["--create", "--topic", "oracle", "--partitions", &partitions.to_string()]);
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).set("partitioner", "murmur2").create().unwrap();
    for key in keys {
        producer
            .send(BaseRecord::<[u8], [u8]>::to("oracle").key(key).payload(b"x"))
            .map_err(|(error, _)| error)
            .unwrap();
    }
    producer.flush(Duration::from_secs(20)).unwrap();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.brokers())
        .set("group.id", "oracle")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&["oracle"]).unwrap();
    let (mut found, asked) = (BTreeMap::new(), Instant::now());
    while found.len() < keys.len() {
        assert!(asked.elapsed() < LIMIT, "only {} of {} keys came", found.len(), keys.len());
        let Some(message) = consumer.poll(Duration::from_secs(1)) else { continue };
        let message = message.unwrap();
        found.insert(message.key().unwrap().to_vec(), message.partition());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_events_partition_is_the_keys_or_that_of_the_named_columns_whatever_their_schema() {
    const PARTITIONS: i32 = 5;
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (tenant integer, id integer, v text, PRIMARY KEY (tenant, id))").await;
    postgres.sql("INSERT INTO a SELECT i % 7, i, 'v' FROM generate_series(1, 300) AS i").await;
    for prefix in ["whole", "named"] {
        let columns = if prefix == "named" { "partition_by = [\"tenant\"]" } else { "" };
        let settings = format!(
            "prefix = \"{prefix}\"\npartitions = {PARTITIONS}\nprogress_topic = \"{prefix}.progress\"\n{columns}"
        );
        let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, &settings);
        pipeline.start();
        pipeline.catch_up(&postgres).await;
        // From here on keys have another schema, with this default.
        let default = if prefix == "whole" { 7 } else { 8 };
        postgres.sql(&format!("ALTER TABLE a ALTER COLUMN id SET DEFAULT {default}")).await;
        postgres.sql("UPDATE a SET v = v || 'w'; DELETE FROM a WHERE id % 10 = 0").await;
        pipeline.catch_up(&postgres).await;
        pipeline.assert_equal(&postgres, &["public.a"]);
        pipeline.stop();
        postgres.sql("SELECT pg_drop_replication_slot('sooner_shop')").await;
        let seen: Vec<_> = read_topic(&kafka, &format!("{prefix}.public.a"));
        assert!(seen.len() > 500, "only {} events", seen.len());
        let parts: Vec<_> = seen.iter().map(|event| split_header(&event.key).unwrap()).collect();
        assert_eq!(parts.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len(), 2, "schemas of keys");
        if prefix == "whole" {
            let data = parts.iter().map(|(_, datum)| datum.to_vec()).collect();
            let expected = by_another_client(&kafka, PARTITIONS, &data);
            assert!(seen.iter().zip(&parts).all(|(event, (_, datum))| expected[*datum] == event.partition));
            assert_eq!(seen.iter().map(|event| event.partition).collect::<BTreeSet<_>>().len(), PARTITIONS as usize);
            continue;
        }
        let mut partitions: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for event in &seen {
            let (id, datum) = split_header(&event.key).unwrap();
            let key = to_json(&registry.schema(id), &mut AvroReader::new(datum));
            partitions.entry(key["tenant"].to_string()).or_default().insert(event.partition);
        }
        assert_eq!(partitions.len(), 7);
        assert!(partitions.values().all(|partitions| partitions.len() == 1), "{partitions:?}");
    }
}
