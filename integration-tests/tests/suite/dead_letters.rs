//! Messages that could not be read are listed, shown, replayed once and dropped, whoever is killed meanwhile.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Output;
use std::time::{Duration, Instant};

use integration_tests::between;
use integration_tests::free_port;
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, compare};
use integration_tests::registry::Registry;
use integration_tests::topics::read_topic;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sooner_schemas::wire::{write_bytes, write_header, write_long};

const TOPIC: &str = "shop.public.t";
const LIMIT: Duration = Duration::from_secs(90);

/// Runs a verb of `sooner dead-letters`.
fn letters(pipeline: &Pipeline, arguments: &[&str]) -> Output {
    pipeline.output("dead-letters", arguments)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a verb that succeeds prints as JSON.
fn told(pipeline: &Pipeline, arguments: &[&str]) -> Value {
    let output = letters(pipeline, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn open(pipeline: &Pipeline) -> u64 {
    told(pipeline, &["list"])["open"].as_u64().unwrap()
}

async fn wait_for_letters(pipeline: &Pipeline, count: u64) {
    let asked = Instant::now();
    while open(pipeline) != count {
        assert!(asked.elapsed() < LIMIT, "{}\n{}", told(pipeline, &["list"]), pipeline.log());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn wait_until_equal(pipeline: &Pipeline, postgres: &Postgres) {
    let asked = Instant::now();
    while let Err(difference) = compare(Reader::DuckDb, postgres, &pipeline.lake, None, &["public.t"]) {
        assert!(asked.elapsed() < LIMIT, "{difference}\n{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Each outcome by its letter.
fn outcomes(output: &Output) -> Vec<(String, String)> {
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    told["outcomes"].as_array().unwrap().iter().map(|one| (text(&one["id"]), text(&one["outcome"]))).collect()
}

/// Another producer's events of a table with the columns `id` and `v`.
struct Producer<'a> {
    kafka: &'a Kafka,
    key_id: u32,
}

impl Producer<'_> {
    fn key(&self, id: i64) -> Vec<u8> {
        let mut key = Vec::new();
        write_header(&mut key, self.key_id);
        write_long(&mut key, id);
        key
    }

    /// Writes an event: the row with this text, or that it is gone.
    fn write(&self, schema_id: u32, id: i64, v: Option<&str>) {
        let mut value = Vec::new();
        write_header(&mut value, schema_id);
        write_long(&mut value, 0);
        write_long(&mut value, i64::from(v.is_some()));
        if let Some(v) = v {
            write_long(&mut value, id);
            write_bytes(&mut value, v.as_bytes());
        }
        write_bytes(&mut value, if v.is_some() { b"c" } else { b"d" });
        self.kafka.produce(TOPIC, &self.key(id), &value);
    }

    /// Events that can be read, and others.
    fn write_all(&self, known: u32, unknown: u32) {
        self.write(known, 1, Some("one"));
        self.write(known, 6, Some("to be deleted"));
        self.write(unknown, 2, Some("a secret two"));
        self.write(unknown, 3, Some("older"));
        self.write(known, 3, Some("newer"));
        self.kafka.produce(TOPIC, &self.key(4), b"garbage");
        self.write(unknown, 6, None);
        self.write(unknown, 5, Some("never wanted"));
    }
}

/// An envelope; those with another remark are other schemas.
fn envelope(remark: &str) -> String {
    let row = r#"{"type":"record","name":"Value","fields":[{"name":"id","type":"long"},{"name":"v","type":"string"}]}"#;
    format!(
        r#"{{"type":"record","name":"Envelope","namespace":"{TOPIC}","doc":"{remark}","fields":[
            {{"name":"before","type":["null",{row}]}},{{"name":"after","type":["null","Value"]}},{{"name":"op","type":"string"}}]}}"#
    )
}

fn register(registry: &Registry, part: &str, schema: &str) -> u32 {
    let body = json!({ "schema": schema }).to_string();
    let answer = registry.ask("POST", &format!("/subjects/{TOPIC}-{part}/versions"), &body);
    let json = &answer[answer.find("{\"").unwrap()..=answer.rfind('}').unwrap()];
    let answer: Value = serde_json::from_str(json).unwrap();
    u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap()
}

/// A replay that dies before its transaction is committed has done nothing; one that dies after it has done all.
fn die_while_replaying(sink: &mut Pipeline, kafka: &Kafka) {
    let sent = || {
        let seen = read_topic(kafka, TOPIC);
        seen.iter()
            .filter(|seen| seen.header("sooner.dead.replay") == "0/0")
            .map(|seen| seen.offset)
            .collect::<Vec<_>>()
    };
    let before = open(sink);
    sink.set("SOONER_FAILPOINT", "record_written@1");
    assert!(!letters(sink, &["replay", "0/0"]).status.success(), "it was killed");
    sink.set("SOONER_FAILPOINT", "");
    assert_eq!((open(sink), sent()), (before, vec![]));
    sink.set("SOONER_FAILPOINT", "transaction_committed@1");
    assert!(!letters(sink, &["replay", "0/0"]).status.success(), "it was killed");
    sink.set("SOONER_FAILPOINT", "");
    assert_eq!((open(sink), sent().len()), (before - 1, 1));
    let again = letters(sink, &["replay", "0/0"]);
    assert!(again.status.success() && stdout(&again).contains("replayed before; nothing was done"), "{again:?}");
    assert_eq!(sent().len(), 1);
}

async fn the_api_shows_and_drops(url: &str) {
    let http = Client::new();
    let get = async |path: &str| {
        let answer = http.get(format!("{url}{path}")).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let listed = get("/api/v1/dead-letters?limit=2").await.1;
    assert_eq!((listed["open"].as_u64(), listed["letters"].as_array().unwrap().len()), (Some(5), 2), "{listed}");
    let (status, shown) = get("/api/v1/dead-letters/0/4").await;
    assert_eq!((status, &shown["key"]["json"]), (StatusCode::OK, &json!({"id": 5})));
    assert_eq!(get("/api/v1/dead-letters/0/99").await.0, StatusCode::NOT_FOUND);
    let post = async |body: Value| {
        let asked = http.post(format!("{url}/api/v1/dead-letters/drop")).json(&body);
        let answer = asked.send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(post(json!({})).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(post(json!({"id": "0/99"})).await.0, StatusCode::NOT_FOUND);
    let (status, dropped) = post(json!({"id": "0/4"})).await;
    assert_eq!((status, &dropped["outcomes"][0]["outcome"]), (StatusCode::OK, &json!("dropped")));
    let (_, again) = post(json!({"id": "0/4"})).await;
    assert_eq!((&again["outcomes"], &again["letter"]["mark"]), (&json!([]), &json!("dropped")));
    assert_eq!(get("/api/v1/dead-letters").await.1["open"], 4);
}

/// The letters are 0/0 of row 2, 0/1 of row 3, 0/2 of row 4, 0/3 of row 6, and 0/4 of row 5.
fn they_are_listed_and_shown(sink: &Pipeline) {
    let listed = told(sink, &["list"]);
    let group = |code: &str, count: usize| {
        let groups = listed["groups"].as_array().unwrap();
        assert!(groups.iter().any(|group| group["code"] == code && group["count"] == count), "{listed}");
    };
    group("schema_unknown", 4);
    group("message_unreadable", 1);
    assert_eq!(told(sink, &["list", "--topic", "other"])["open"], 0);
    let garbage = told(sink, &["show", "0/2"]);
    assert_eq!((&garbage["key"]["json"], &garbage["value"]["text"]), (&json!({"id": 4}), &json!("garbage")));
    assert_eq!(
        (&garbage["topic"], &garbage["offset"], &garbage["table"]),
        (&json!(TOPIC), &json!(5), &json!("public.t"))
    );
    let two = stdout(&letters(sink, &["show", "0/0"]));
    assert!(two.contains("does not know it") && two.contains("check url of [registry]"), "{two}");
    assert_eq!(told(sink, &["show", "--limit", "3"]).as_array().unwrap().len(), 3);
}

fn what_is_left_is_dropped(sink: &Pipeline) {
    let unsure = letters(sink, &["drop", "--all"]);
    assert!(!unsure.status.success() && stderr(&unsure).contains("add --yes"), "{unsure:?}");
    assert_eq!(outcomes(&letters(sink, &["drop", "--all", "--yes", "--json"])), [("0/2".into(), "dropped".into())]);
    assert_eq!((open(sink), told(sink, &["show", "0/2"])["mark"].as_str()), (0, Some("dropped")));
    let missing = letters(sink, &["replay", "0/77"]);
    assert!(!missing.status.success() && stderr(&missing).contains("there is no dead letter 0/77"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_another_producer_are_sent_again_once_and_only_where_nothing_newer_is() {
    let (postgres, kafka, registry) = (Postgres::start(Version::V15).await, Kafka::start(), Registry::start());
    // What is to be in the lake at the end.
    postgres.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text NOT NULL)").await;
    postgres.sql("INSERT INTO t VALUES (1, 'one'), (2, 'a secret two'), (3, 'newer')").await;
    kafka.topics(&["--create", "--topic", TOPIC, "--partitions", "1"]);
    let key_schema = r#"{"type":"record","name":"Key","namespace":"k","fields":[{"name":"id","type":"long"}]}"#;
    let producer = Producer { kafka: &kafka, key_id: register(&registry, "key", key_schema) };
    let known = register(&registry, "value", &envelope("known"));
    // The registry gives its ids one after the other: this one is not given yet.
    let unknown = known + 1;

    producer.write_all(known, unknown);
    let settings = "written_by = \"debezium\"\ndead_letter_topic = \"shop.dead\"";
    let mut sink = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    assert_eq!(open(&sink), 0, "the topic is still to be made");
    let url = format!("http://127.0.0.1:{}", free_port());
    sink.append_settings(&format!("[http]\nlisten = \"{}\"\nallow_control = true", &url[7..]));
    sink.start_command("sink", &[]);
    wait_for_letters(&sink, 5).await;

    they_are_listed_and_shown(&sink);
    the_api_shows_and_drops(&url).await;

    // Nothing can be read yet; but one has a newer message of its key.
    let replayed = letters(&sink, &["replay", "--all", "--json"]);
    assert!(!replayed.status.success(), "some stay open");
    let expected = [("0/0", "refused"), ("0/1", "superseded"), ("0/2", "refused"), ("0/3", "refused")];
    assert_eq!(outcomes(&replayed), expected.map(|(id, outcome)| (id.to_owned(), outcome.to_owned())));

    assert_eq!(register(&registry, "value", &envelope("repaired")), unknown, "the registry counts on");
    die_while_replaying(&mut sink, &kafka);
    let replayed = letters(&sink, &["replay", "--topic", TOPIC, "--json"]);
    let expected = [("0/2", "refused"), ("0/3", "replayed")];
    assert_eq!(outcomes(&replayed), expected.map(|(id, outcome)| (id.to_owned(), outcome.to_owned())));
    wait_until_equal(&sink, &postgres).await;

    what_is_left_is_dropped(&sink);
    // Nothing of that comes again.
    sink.kill();
    sink.start_command("sink", &[]);
    postgres.sql("INSERT INTO t VALUES (7, 'later')").await;
    producer.write(known, 7, Some("later"));
    wait_until_equal(&sink, &postgres).await;
    assert_eq!(open(&sink), 0);
    assert!(!sink.log().contains("a secret two"), "rows' values are not logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_our_own_source_are_copied_again_from_the_database() {
    let (postgres, kafka, registry) = between::start().await;
    let other_registry = Registry::start();
    postgres.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one'), (9, 'x')").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "dead_letter_topic = \"shop.dead\"");
    let mut sink = source.beside();
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    wait_until_equal(&sink, &postgres).await;

    // A registry that lost the schema that comes now: it has those of the key and the value until here.
    sink.stop();
    for id in [1, 2] {
        assert_eq!(register(&other_registry, &id.to_string(), &registry.schema_text(id)), id);
    }
    postgres.sql("ALTER TABLE t ADD COLUMN w integer; INSERT INTO t VALUES (2, 'two', 2)").await;
    postgres.sql("UPDATE t SET v = 'changed' WHERE id = 1; DELETE FROM t WHERE id = 9").await;
    sink.replace(&registry.url(), &other_registry.url());
    sink.start_command("sink", &[]);
    wait_for_letters(&sink, 3).await;
    sink.stop();
    sink.replace(&other_registry.url(), &registry.url());
    sink.start_command("sink", &[]);
    postgres.sql("INSERT INTO t VALUES (3, 'three', 3)").await;

    let elsewhere = letters(&sink, &["replay", "--all"]);
    assert!(!elsewhere.status.success() && stderr(&elsewhere).contains("where the source's side"), "{elsewhere:?}");
    let replayed = letters(&source, &["replay", "--all", "--json"]);
    let expected = [("0/0", "copy_asked"), ("0/1", "copy_asked"), ("0/2", "refused")];
    assert_eq!(outcomes(&replayed), expected.map(|(id, outcome)| (id.to_owned(), outcome.to_owned())));
    let again = letters(&source, &["replay", "--all"]);
    assert!(stdout(&again).contains("sooner resume public.t") && !stdout(&again).contains("0/0"), "{again:?}");
    // The row that is gone is the only difference that is left.
    postgres.sql("INSERT INTO t VALUES (9, 'x', NULL)").await;
    wait_until_equal(&sink, &postgres).await;
    postgres.sql("DELETE FROM t WHERE id = 9").await;
    wait_until_equal(&sink, &postgres).await;
    // Its delete has come meanwhile.
    let superseded = letters(&source, &["replay", "--all", "--json"]);
    assert_eq!(outcomes(&superseded), [("0/2".to_owned(), "superseded".to_owned())]);
    assert_eq!(open(&source), 0);
}
