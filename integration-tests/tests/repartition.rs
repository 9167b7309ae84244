//! A table's topic gets another number of partitions under load, whatever dies on the way: the lake equals Postgres,
//! the new topic has every event once and in order, and the former one is left as it was.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use integration_tests::between::{self, LIMIT};
use integration_tests::kafka::Kafka;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::readers::wait_until_equal;
use integration_tests::topics::{Judge, Seen, read_topic};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner::status::Status;
use sooner_api::{REPARTITION_FAILPOINTS, TopicStanding};

const TABLE: &str = "public.accounts";
const FORMER: &str = "shop.public.accounts";

/// Asks for a number of partitions, and returns the name of the topic that will have them.
fn repartition(source: &Pipeline, table: &str, partitions: u32) -> String {
    let output = source.output("topics", &["repartition", table, "--partitions", &partitions.to_string(), "--json"]);
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complained}\n{}", source.log());
    let asked: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    asked["new_topic"].as_str().expect("a name").to_owned()
}

/// What a refused request is told.
fn refusal(source: &Pipeline, table: &str, partitions: &str) -> String {
    let output = source.output("topics", &["repartition", table, "--partitions", partitions]);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Where the events of the table go, as its source says.
fn standing(status: &Status) -> Option<&TopicStanding> {
    find(status, TABLE)?.topic.as_ref()
}

async fn wait_until_switched(source: &Pipeline, topic: &str) -> TopicStanding {
    let switched = |status: &Status| standing(status).is_some_and(|it| it.topic == topic && it.successor.is_none());
    let status = source.wait_for(&format!("events go to {topic}"), LIMIT, switched).await;
    standing(&status).expect("it is there").clone()
}

/// The same for a topic whose name is known by its partitions alone: brokers may have lost what was in the first one
/// when they died, and then it is begun again.
async fn wait_until_switched_to(source: &Pipeline, partitions: u32, expected: String) -> String {
    let switched = |status: &Status| {
        standing(status).is_some_and(|it| it.partitions == partitions as usize && it.successor.is_none())
    };
    let status = source.wait_for(&format!("events go to {expected}, or a later one"), LIMIT, switched).await;
    standing(&status).expect("it is there").topic.clone()
}

/// Positions and values of each key, in the order of its partition; and the partitions that each key is in.
type Histories = BTreeMap<Vec<u8>, (BTreeSet<i32>, Vec<((u64, u64), Option<Vec<u8>>)>)>;

fn histories(seen: &[Seen]) -> Histories {
    let mut keys = Histories::new();
    for message in seen.iter().filter(|message| !message.key.is_empty()) {
        // The schema's id is no part of the key.
        let (partitions, history) = keys.entry(message.key[5..].to_vec()).or_default();
        partitions.insert(message.partition);
        history.push((message.position(), message.value.clone()));
    }
    keys
}

/// Fails unless the new topic has, for each key, what the former one has, in the same order, and then more.
fn assert_continues(kafka: &Kafka, former: &str, topic: &str, partitions: usize) {
    let (former, next) = (read_topic(kafka, former), read_topic(kafka, topic));
    assert!(!former.is_empty() && next.len() > former.len(), "{} and then {} messages", former.len(), next.len());
    let (former, next) = (histories(&former), histories(&next));
    let used: BTreeSet<i32> = next.values().flat_map(|(partitions, _)| partitions.iter().copied()).collect();
    assert_eq!(used.len(), partitions, "partitions of {topic} that have events");
    for (key, (in_partitions, history)) in &next {
        assert_eq!(in_partitions.len(), 1, "{key:?} is in {in_partitions:?}");
        assert!(history.is_sorted_by_key(|(position, _)| *position), "{key:?}: {history:?}");
    }
    for (key, (_, history)) in &former {
        assert_eq!(next[key].1[..history.len()], history[..], "{key:?}");
    }
}

async fn pause(random: &mut StdRng, millis: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.random_range(millis))).await;
}

/// The source dies at each edge, and in the middle of a replay's transactions; the sink dies in between.
fn die_at_edges(source: &mut Pipeline, sink: &mut Pipeline) {
    let edges =
        ["repartition_begun@1", "record_written@2", "transaction_committed@2", "replay_ended@1", "topic_switched@1"];
    for (round, edge) in edges.into_iter().enumerate() {
        source.set("SOONER_FAILPOINT", edge);
        source.start_command("source", &[]);
        let log = source.wait_for_end(LIMIT);
        assert!(!log.contains("panicked"), "{edge}: {log}");
        if round % 2 == 1 {
            sink.kill();
            sink.start_command("sink", &[]);
        }
    }
    assert!(REPARTITION_FAILPOINTS.iter().all(|name| edges.iter().any(|edge| edge.starts_with(name))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_gets_more_partitions_under_load_while_source_and_sink_die() {
    let (postgres, kafka, registry) = between::start().await;
    let judge = Judge::start(&postgres).await;
    postgres.sql(load::SCHEMA).await;
    let settings = "partitions = 2\ntransaction_bytes = \"256KiB\"\ngroup_instance = \"one\"";
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    let mut sink = source.beside();
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    let load = Load::start(postgres.url(), 41);
    let mut random = StdRng::seed_from_u64(41);
    sink.wait_until_streaming(&load::TABLES).await;
    source.kill();
    let topic = repartition(&source, TABLE, 5);
    assert_eq!(topic, "shop.public.accounts.v2");
    die_at_edges(&mut source, &mut sink);
    source.set("SOONER_FAILPOINT", "");
    source.start_command("source", &[]);
    let standing = wait_until_switched(&source, &topic).await;
    assert_eq!((standing.partitions, standing.archived), (5, vec![FORMER.to_owned()]));
    let text = String::from_utf8_lossy(&source.output("status", &[]).stdout).into_owned();
    assert!(text.contains("goes to topic shop.public.accounts.v2 (5 partitions)") && text.contains(FORMER), "{text}");
    // The sink dies while it goes over, and afterwards.
    for _ in 0..4 {
        pause(&mut random, 200..1500).await;
        sink.kill();
        sink.start_command("sink", &[]);
    }
    pause(&mut random, 2000..3000).await;
    let transactions = load.stop().await;
    sink.catch_up(&postgres).await;
    assert!(transactions > 300, "a load of {transactions} transactions proves little");
    sink.assert_all_stream();
    sink.assert_equal(&postgres, &load::TABLES);
    judge.assert_topic_complete(&postgres, &kafka, &registry, (TABLE, &topic)).await;
    judge.assert_complete(&postgres, &kafka, &registry, &load::TABLES[1..]).await;
    assert_continues(&kafka, FORMER, &topic, 5);

    // A sink that was away goes from topic to topic; and a new lake is built from the last one alone.
    sink.stop();
    let load = Load::start(postgres.url(), 42);
    for (partitions, expected) in [(3, "shop.public.accounts.v3"), (4, "shop.public.accounts.v4")] {
        let topic = repartition(&source, TABLE, partitions);
        assert_eq!(topic, expected);
        wait_until_switched(&source, &topic).await;
        pause(&mut random, 500..1000).await;
    }
    sink.start_command("sink", &[]);
    pause(&mut random, 2000..3000).await;
    load.stop().await;
    sink.catch_up(&postgres).await;
    sink.assert_all_stream();
    sink.assert_equal(&postgres, &load::TABLES);
    judge.assert_topic_complete(&postgres, &kafka, &registry, (TABLE, "shop.public.accounts.v4")).await;
    assert_continues(&kafka, &topic, "shop.public.accounts.v4", 4);
    sink.stop();
    kafka.topics(&["--delete", "--topic", FORMER]);
    let mut other = sink.beside();
    other.lake = format!("{}.other", sink.lake);
    other.replace(&sink.lake, &other.lake);
    other.start_command("sink", &[]);
    other.catch_up(&postgres).await;
    other.assert_all_stream();
    other.assert_equal(&postgres, &load::TABLES);
}

/// Whatever is under way when somebody dies is gone on with, from whatever topic to whatever next one.
#[tokio::test(flavor = "multi_thread")]
async fn topics_follow_each_other_while_everything_dies_again_and_again() {
    let (postgres, mut kafka, registry) = between::start().await;
    let judge = Judge::start(&postgres).await;
    postgres.sql(load::SCHEMA).await;
    let settings = "partitions = 3\ntransaction_bytes = \"256KiB\"\ngroup_instance = \"one\"";
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    let mut sink = source.beside();
    let load = Load::start(postgres.url(), 44);
    let mut random = StdRng::seed_from_u64(44);
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    sink.wait_until_streaming(&load::TABLES).await;
    let mut topic = String::new();
    for round in 0..5 {
        let asked = repartition(&source, TABLE, [7, 2, 4, 1, 5][round]);
        for _ in 0..3 {
            pause(&mut random, 100..1200).await;
            source.kill();
            source.start_command("source", &[]);
            pause(&mut random, 100..1200).await;
            sink.kill();
            sink.start_command("sink", &[]);
        }
        if round % 2 == 0 {
            kafka.kill();
            pause(&mut random, 0..1000).await;
            kafka.launch();
        }
        topic = wait_until_switched_to(&source, [7, 2, 4, 1, 5][round], asked).await;
    }
    pause(&mut random, 2000..3000).await;
    load.stop().await;
    sink.catch_up(&postgres).await;
    sink.assert_all_stream();
    sink.assert_equal(&postgres, &load::TABLES);
    judge.assert_topic_complete(&postgres, &kafka, &registry, (TABLE, &topic)).await;
    assert_continues(&kafka, FORMER, &topic, 5);
}

/// What is gone from a topic is missing from the next one, too, and nobody takes that one for complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_lacks_its_beginning_is_no_beginning_for_a_new_lake() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE accounts (id integer PRIMARY KEY)").await;
    postgres.sql("INSERT INTO accounts SELECT generate_series(1, 100)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    pipeline.start();
    pipeline.wait_until_copied(TABLE).await;
    postgres.sql("TRUNCATE accounts").await;
    postgres.sql("INSERT INTO accounts SELECT generate_series(50, 200)").await;
    pipeline.catch_up(&postgres).await;
    kafka.delete_records(FORMER, 10);
    let topic = repartition(&pipeline, TABLE, 3);
    wait_until_switched(&pipeline, &topic).await;
    postgres.sql("INSERT INTO accounts SELECT generate_series(300, 400)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &[TABLE]);
    let truncates = read_topic(&kafka, &topic).into_iter().filter(|message| message.key.is_empty());
    assert_eq!(truncates.map(|message| message.partition).collect::<Vec<_>>(), [0, 1, 2], "one for each partition");
    pipeline.stop();
    let mut other = pipeline.beside();
    other.lake = format!("{}.other", pipeline.lake);
    other.replace(&pipeline.lake, &other.lake);
    other.start();
    let why = other.wait_until_parked(TABLE).await.to_string();
    assert!(why.contains("which lacks them") && why.contains("sooner resume"), "{why}");
    other.resume(TABLE);
    other.wait_until_streaming(&[TABLE]).await;
    other.catch_up(&postgres).await;
    other.assert_equal(&postgres, &[TABLE]);
}

/// None of them holds all partitions, so each has to wait for the others before it goes over.
#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_share_partitions_go_over_together() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(load::SCHEMA).await;
    // A changed key may change its partition; what Postgres leaves out of such an event lies with another sink then.
    postgres.sql("ALTER TABLE documents REPLICA IDENTITY FULL").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 4");
    source.start_command("source", &[]);
    let mut sinks: Vec<_> = (0..2).map(|_| source.beside()).collect();
    sinks.iter_mut().for_each(|sink| sink.start_command("sink", &[]));
    let load = Load::start(postgres.url(), 43);
    let mut random = StdRng::seed_from_u64(43);
    sinks[0].wait_for_log("another writer committed", LIMIT).await;
    for (partitions, topic) in [(7, "shop.public.accounts.v2"), (2, "shop.public.accounts.v3")] {
        assert_eq!(repartition(&source, TABLE, partitions), topic);
        wait_until_switched(&source, topic).await;
        pause(&mut random, 3000..4000).await;
        if partitions == 7 {
            sinks[1].kill();
            pause(&mut random, 500..1000).await;
            sinks[1].start_command("sink", &[]);
        }
    }
    load.stop().await;
    let logs = || sinks.iter().map(Pipeline::log).collect::<Vec<_>>().join("\n\n");
    wait_until_equal(&postgres, &source.lake, logs).await;
    assert!(!logs().contains("the table stopped"), "{}", logs());
    assert_continues(&kafka, FORMER, "shop.public.accounts.v3", 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repartitioned_is_refused_with_the_reason() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE accounts (id integer PRIMARY KEY); INSERT INTO accounts VALUES (1)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    assert!(refusal(&pipeline, TABLE, "5").contains("To do:"), "nothing was written yet");
    pipeline.start();
    pipeline.wait_until_copied(TABLE).await;
    for (table, partitions, why) in [
        (TABLE, "0", "from 1 to 10000 partitions"),
        (TABLE, "-3", "from 1 to 10000 partitions"),
        (TABLE, "2", "has 2 partitions already"),
        ("public.nothing", "3", "does not write such a table"),
        ("nothing", "3", "schema.table"),
    ] {
        let refused = refusal(&pipeline, table, partitions);
        assert!(refused.contains(why), "{partitions}: {refused}");
    }
    kafka.alter_topic(FORMER, "cleanup.policy=compact");
    let refused = refusal(&pipeline, TABLE, "3");
    assert!(refused.contains("is compacted") && refused.contains("cleanup.policy=delete"), "{refused}");
    kafka.alter_topic(FORMER, "cleanup.policy=delete");
    // Whoever makes topics by himself is told how.
    pipeline.configure("[kafka]", "create_topics = false");
    let refused = refusal(&pipeline, TABLE, "3");
    assert!(refused.contains("--create --topic shop.public.accounts.v2 --partitions 3"), "{refused}");
    pipeline.configure("[kafka]", "written_by = \"debezium\"");
    assert!(refusal(&pipeline, TABLE, "3").contains("another producer writes it"));
    let direct = Pipeline::local(&postgres);
    assert!(refusal(&direct, TABLE, "3").contains("[kafka]"));
}
