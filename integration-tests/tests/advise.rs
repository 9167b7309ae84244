//! Advice on topics, against what a plain consumer counts on them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use integration_tests::avro_json::to_json;
use integration_tests::between::{self, LIMIT};
use integration_tests::free_port;
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::registry::Registry;
use integration_tests::topics::read_topic;
use serde_json::Value;
use sooner_schemas::wire::{Reader, split_header};

const PARTITIONS: usize = 6;
/// The tenant that has 80 % of the skewed table's changes.
const HEAVY: i64 = 7;

/// What a consumer counts on a topic.
struct Counted {
    messages: u64,
    bytes: u64,
    of_partitions: Vec<u64>,
    of_tenants: BTreeMap<i64, u64>,
}

fn count(kafka: &Kafka, registry: &Registry, topic: &str) -> Counted {
    let mut counted =
        Counted { messages: 0, bytes: 0, of_partitions: vec![0; PARTITIONS], of_tenants: BTreeMap::new() };
    for message in read_topic(kafka, topic) {
        counted.messages += 1;
        counted.bytes += (message.key.len() + message.value.as_ref().map_or(0, Vec::len)) as u64;
        counted.of_partitions[message.partition as usize] += 1;
        if !message.key.is_empty() {
            let (id, datum) = split_header(&message.key).unwrap();
            let key = to_json(&registry.schema(id), &mut Reader::new(datum));
            *counted.of_tenants.entry(key["tenant"].as_i64().unwrap()).or_default() += 1;
        }
    }
    counted
}

fn advice(pipeline: &Pipeline, arguments: &[&str]) -> Value {
    let output = pipeline.output("topics", &[&["advise", "--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn of_table<'a>(report: &'a Value, table: &str) -> &'a Value {
    report["tables"].as_array().unwrap().iter().find(|found| found["table"] == table).unwrap()
}

fn verdicts(table: &Value) -> Vec<&str> {
    table["advice"].as_array().unwrap().iter().map(|found| found["verdict"].as_str().unwrap()).collect()
}

fn near(found: &Value, expected: f64, what: &str) {
    let found = found.as_f64().unwrap_or_else(|| panic!("{what} is {found}"));
    assert!((found - expected).abs() < 1e-6 * expected.max(1.0), "{what}: {found} is not {expected}");
}

/// The figures of a table, of which all messages were read, are those that a consumer counts.
fn assert_figures(found: &Value, counted: &Counted) {
    assert_eq!(found["messages"], counted.messages, "{found}");
    assert_eq!(found["messages_read"], counted.messages);
    near(&found["messages_per_second"], counted.messages as f64 / 3600.0, "messages per second");
    near(&found["bytes_per_second"], counted.bytes as f64 / 3600.0, "bytes per second");
    let most = *counted.of_partitions.iter().max().unwrap();
    let largest = &found["largest_partition"];
    assert_eq!(counted.of_partitions[largest["partition"].as_u64().unwrap() as usize], most);
    near(&largest["share"], most as f64 / counted.messages as f64, "share of the largest partition");
    let all: u64 = counted.of_tenants.values().sum();
    let mut of_tenants: Vec<_> = counted.of_tenants.iter().map(|(tenant, count)| (*count, *tenant)).collect();
    of_tenants.sort_unstable_by_key(|(count, _)| std::cmp::Reverse(*count));
    for (key, (count, _)) in found["heaviest_keys"].as_array().unwrap().iter().zip(&of_tenants) {
        near(&key["share"], *count as f64 / all as f64, "share of a key");
        let tenant: i64 = key["key"].as_str().unwrap().strip_prefix("tenant=").unwrap().parse().unwrap();
        assert_eq!(counted.of_tenants[&tenant], *count, "tenant {tenant}");
    }
}

async fn assert_api(url: &str, skewed: &Value) {
    let asked = Instant::now();
    loop {
        let answer: Value = reqwest::get(format!("{url}/api/v1/topics")).await.unwrap().json().await.unwrap();
        let topic = answer["topics"].as_array().unwrap().iter().find(|topic| topic["table"] == "public.skewed");
        let topic = topic.unwrap_or_else(|| panic!("the topic is missing: {answer}"));
        let is_told = topic["offsets_per_second"].is_number() && topic["unread"] == 0;
        if is_told && topic["largest_partition"] == skewed["largest_partition"]["partition"] {
            assert_eq!((&topic["topic"], &topic["partitions"]), (&"shop.public.skewed".into(), &PARTITIONS.into()));
            assert!(topic["largest_share"].as_f64().unwrap() > 0.5, "{topic}");
            assert_eq!(answer["dead_letters"], Value::Null);
            return;
        }
        assert!(asked.elapsed() < LIMIT, "{answer}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_measured_as_a_consumer_counts_them_and_a_heavy_tenant_is_told() {
    let (postgres, kafka, registry) = between::start().await;
    let columns = "(tenant integer, id integer, v text, PRIMARY KEY (tenant, id))";
    postgres
        .sql(&format!("CREATE TABLE skewed {columns}; CREATE TABLE even {columns}; CREATE TABLE idle {columns}"))
        .await;
    let settings = "partitions = 6\npartition_by = [\"tenant\"]\ngroup_protocol = \"classic\"";
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    let address = format!("127.0.0.1:{}", free_port());
    pipeline.append_settings(&format!("[http]\nlisten = \"{address}\""));
    pipeline.start();
    pipeline.wait_until_streaming(&["public.skewed", "public.even", "public.idle"]).await;
    for start in [0, 1000, 2000] {
        let numbers = format!("generate_series({start}, {}) AS i", start + 999);
        let tenant = format!("CASE WHEN i % 5 < 4 THEN {HEAVY} ELSE 100 + i END");
        postgres.sql(&format!("INSERT INTO skewed SELECT {tenant}, i, 'value ' || i FROM {numbers}")).await;
        postgres.sql(&format!("INSERT INTO even SELECT i, i, 'value ' || i FROM {numbers}")).await;
    }
    postgres.sql("UPDATE even SET v = 'w' WHERE id % 3 = 0; DELETE FROM even WHERE id % 10 = 0").await;
    pipeline.catch_up(&postgres).await;

    let report = advice(&pipeline, &["--consumer-rate", "1000"]);
    assert_eq!((&report["consumers"]["count"], &report["consumers"]["origin"]), (&1.into(), &"group".into()));
    assert_eq!((&report["brokers"], &report["replication"]), (&1.into(), &1.into()));
    let (skewed, even) = (of_table(&report, "public.skewed"), of_table(&report, "public.even"));
    let on_skewed = count(&kafka, &registry, "shop.public.skewed");
    assert_eq!(on_skewed.of_tenants[&HEAVY], 2400);
    assert_figures(skewed, &on_skewed);
    assert_figures(even, &count(&kafka, &registry, "shop.public.even"));
    near(&skewed["heaviest_keys"][0]["share"], 0.8, "share of the tenant");
    assert!(verdicts(skewed).contains(&"partition_by"), "{skewed:#}");
    assert_eq!(verdicts(even), ["keep"], "{even:#}");
    assert_eq!(even["advised_partitions"], PARTITIONS);
    let told = skewed["advice"].as_array().unwrap().iter().find(|found| found["verdict"] == "partition_by").unwrap();
    let (reason, remedy) = (told["reason"].as_str().unwrap(), told["remedy"].as_str().unwrap());
    assert!(reason.contains(&format!("tenant={HEAVY} has 80.0 %")), "{reason}");
    assert!(remedy.contains("partition_by") && remedy.contains("topics repartition public.skewed"), "{remedy}");
    assert_api(&format!("http://{address}"), skewed).await;

    a_bounded_sample_tells_nearly_the_same(&pipeline, &on_skewed);
    people_are_told_and_mistakes_too(&pipeline);
    // Brokers do not show the members of a group that speaks KIP-848 to this client.
    pipeline.stop();
    pipeline.replace("group_protocol = \"classic\"", "group_protocol = \"consumer\"");
    pipeline.start();
    pipeline.wait_until_streaming(&["public.skewed"]).await;
    pipeline.catch_up(&postgres).await;
    let asked = Instant::now();
    let report = loop {
        let report = advice(&pipeline, &["public.skewed"]);
        // The group's offsets follow what is durable, a moment later.
        if of_table(&report, "public.skewed")["unread_offsets"] == 0 {
            break report;
        }
        assert!(asked.elapsed() < LIMIT, "{report:#}");
    };
    assert!(kafka.group_lags("sooner-shop").values().all(|lag| *lag == Some(0)));
    assert_eq!((&report["consumers"]["count"], &report["consumers"]["origin"]), (&1.into(), &"measured".into()));
    assert_eq!(report["tables"].as_array().unwrap().len(), 1);
    pipeline.assert_equal(&postgres, &["public.skewed", "public.even"]);
}

fn a_bounded_sample_tells_nearly_the_same(pipeline: &Pipeline, counted: &Counted) {
    let report = advice(pipeline, &["public.skewed", "--messages", "100", "--consumers", "3", "--consumer-rate", "1"]);
    let found = of_table(&report, "public.skewed");
    let read = found["messages_read"].as_u64().unwrap();
    assert!(read <= 100 * PARTITIONS as u64 && read < counted.messages, "{found:#}");
    assert!((found["messages"].as_f64().unwrap() / counted.messages as f64 - 1.0).abs() < 0.1, "{found:#}");
    let tenant = &found["heaviest_keys"][0];
    assert_eq!(tenant["key"], format!("tenant={HEAVY}"));
    assert!((tenant["share"].as_f64().unwrap() - 0.8).abs() < 0.1, "{tenant}");
    // One message a second for each of three consumers is less than what was written in five minutes.
    assert_eq!(report["consumers"], serde_json::json!({ "count": 3, "origin": "given" }));
    assert_eq!(found["needed"]["by_consumers"], 3);
    assert!(found["needed"]["by_rate"].as_u64().unwrap() >= 9, "{found:#}");
}

fn people_are_told_and_mistakes_too(pipeline: &Pipeline) {
    let output = pipeline.output("topics", &["advise", "public.skewed", "public.idle"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in ["public.skewed, topic shop.public.skewed: 6 partition(s)", "tenant=7 80.0 %", "To do: ", "assumed"]
    {
        assert!(text.contains(expected), "'{expected}' is not in:\n{text}");
    }
    let lines = pipeline.output("topics", &[]);
    assert!(String::from_utf8_lossy(&lines.stdout).contains("shop.public.even: 6 partition(s)"));
    let resources = pipeline.output("topics", &["--as", "terraform"]);
    assert!(String::from_utf8_lossy(&resources.stdout).contains("resource \"kafka_topic\""));
    for (arguments, why) in [
        (["advise", "public.none", "--json"], "topic shop.public.none of public.none does not exist. To do:"),
        (["advise", "--sample", "0s"], "To do: --sample of a second or more"),
    ] {
        let refused = pipeline.output("topics", &arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(why), "{said}");
    }
}
