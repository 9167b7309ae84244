//! Erasure beside the lake's tables: topics, dead letters and results of reports hold nothing of a subject once brokers
//! have done their part; and what an erasure says of them is what a plain consumer and a reader of bytes find.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Output;
use std::time::{Duration, Instant};

use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::holding;
use integration_tests::registry::Registry;
use integration_tests::topics::{Seen, read_topic};
use serde_json::Value;

const EMAIL: &str = "jane.subject@doe.example";
const SUBJECT: &str = "email=jane.subject@doe.example";
const PEOPLE: &str = "shop.public.people";
const VISITS: &str = "shop.public.visits";
const LETTERS: &str = "shop.letters";
const TABLES: [&str; 2] = ["public.people", "public.visits"];
const LIMIT: Duration = Duration::from_secs(60);
const SOURCE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, email text, note text);
    CREATE TABLE visits (id int PRIMARY KEY, email text);
    INSERT INTO people SELECT i, 'p' || i || '@doe.example', 'n' || i FROM generate_series(1, 20) i;
    INSERT INTO visits SELECT i, 'p' || i || '@doe.example' FROM generate_series(1, 20) i";

fn has_email(bytes: &[u8]) -> bool {
    bytes.windows(EMAIL.len()).any(|window| window == EMAIL.as_bytes())
}

/// Messages of a topic with the bytes of the subject's value, as a plain consumer sees them.
fn with_email(kafka: &Kafka, topic: &str) -> Vec<Seen> {
    let mut seen = read_topic(kafka, topic);
    seen.retain(|message| {
        let value = message.value.as_deref().unwrap_or_default();
        [&message.key, value].into_iter().chain(message.headers.values().map(Vec::as_slice)).any(has_email)
    });
    seen
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(output)))
}

fn erase(pipeline: &Pipeline, more: &[&str]) -> Output {
    pipeline.output("erase", &[&["--subject", SUBJECT, "--timeout", "60s"], more].concat())
}

/// Has an erasure die at a moment.
fn die(pipeline: &Pipeline, failpoint: &str, more: &[&str]) {
    let mut command = pipeline.command("erase");
    command.args(["--subject", SUBJECT, "--timeout", "60s"]).args(more).env("SOONER_FAILPOINT", failpoint);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), None, "{failpoint}: {}", told(&output));
}

fn of_topic<'a>(certificate: &'a Value, topic: &str) -> &'a Value {
    let topics = certificate["topics"].as_array().unwrap();
    topics.iter().find(|of| of["topic"] == topic).unwrap_or_else(|| panic!("{certificate:#}"))
}

/// A pipeline through a compacted topic and one that is not, with a report.
async fn begun(postgres: &Postgres, kafka: &Kafka, registry: &Registry) -> Pipeline {
    postgres.sql(SOURCE).await;
    let settings = format!("partitions = 1\ncleanup_policy = \"compact\"\ndead_letter_topic = \"{LETTERS}\"");
    let mut pipeline = Pipeline::kafka(postgres, kafka, registry, &settings);
    let script = "import sys, duckdb; duckdb.connect().execute(sys.stdin.read())";
    let engine = format!("[\"{}\", \"-c\", \"{script}\"]", integration_tests::python().display());
    pipeline.append_settings(&format!(
        "[[report]]\nname = \"addresses\"\nschedule = \"0 0 0 1 1 *\"\nengine = {engine}\n\
         sql = \"SELECT id, upper(note) AS note, email FROM public.people\""
    ));
    pipeline.start();
    for table in TABLES {
        pipeline.wait_until_copied(table).await;
    }
    pipeline.catch_up(postgres).await;
    kafka.alter_topic(VISITS, "cleanup.policy=delete");
    pipeline
}

/// The subject comes, is in a report, and goes; a message of her row that nobody can read stays on the topic, under the
/// id of another schema, and goes to the dead letters.
async fn live_and_leave(postgres: &Postgres, kafka: &Kafka, pipeline: &Pipeline) {
    postgres
        .sql(&format!(
            "INSERT INTO people VALUES (7777, '{EMAIL}', 'a'); INSERT INTO visits VALUES (9, '{EMAIL}') \
                           ON CONFLICT (id) DO UPDATE SET email = '{EMAIL}'"
        ))
        .await;
    pipeline.catch_up(postgres).await;
    let key = with_email(kafka, PEOPLE).pop().expect("it came").key;
    let broken = format!("\0\0\0\u{1}\u{1}broken {EMAIL}");
    kafka.produce(PEOPLE, &[&[0, 0, 0, 9, 9], &key[5..]].concat(), broken.as_bytes());
    let report = pipeline.output("report", &["run", "addresses"]);
    assert!(report.status.success(), "{}\n{}", told(&report), pipeline.log());
    postgres.sql("UPDATE people SET note = 'b' WHERE id IN (1, 7777)").await;
    pipeline.catch_up(postgres).await;
    postgres.sql("DELETE FROM people WHERE id = 7777; DELETE FROM visits WHERE id = 9").await;
    pipeline.catch_up(postgres).await;
}

/// What is there is told, and nothing changes.
fn dry_run(kafka: &Kafka, pipeline: &Pipeline) {
    let before = [PEOPLE, VISITS, LETTERS].map(|topic| read_topic(kafka, topic).len());
    let found = json(&erase(pipeline, &["--dry-run", "--json"]));
    let people = of_topic(&found, PEOPLE);
    assert_eq!(
        (&people["rows"], &people["tombstones"], &people["tombstones_missing"]),
        (&1.into(), &1.into(), &1.into())
    );
    assert_eq!(of_topic(&found, VISITS)["rows"], 1, "{found:#}");
    assert_eq!(found["dead_letters"]["letters"], serde_json::json!(["0/0"]), "{found:#}");
    assert_eq!(found["reports"][0]["report"], "addresses");
    assert_eq!([PEOPLE, VISITS, LETTERS].map(|topic| read_topic(kafka, topic).len()), before);
}

/// Has the brokers remove what the erasure has left to them.
async fn compacted(postgres: &Postgres, kafka: &Kafka) {
    for setting in ["segment.ms=200", "min.cleanable.dirty.ratio=0.01"] {
        kafka.alter_topic(PEOPLE, setting);
    }
    kafka.delete_records(VISITS, -1);
    kafka.delete_records(LETTERS, -1);
    let asked = Instant::now();
    while !with_email(kafka, PEOPLE).is_empty() {
        assert!(asked.elapsed() < LIMIT, "{:?}", with_email(kafka, PEOPLE));
        // The segment that is written to is not compacted.
        postgres.sql("UPDATE people SET note = note || '.' WHERE id = 1").await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_letters_and_reports_hold_nothing_of_a_subject_once_brokers_have_compacted() {
    let postgres = Postgres::start(Version::V15).await;
    let (kafka, registry) = (Kafka::start(), Registry::start());
    kafka.alter_brokers("log.cleaner.backoff.ms=300");
    let pipeline = begun(&postgres, &kafka, &registry).await;
    live_and_leave(&postgres, &kafka, &pipeline).await;
    assert!(!with_email(&kafka, LETTERS).is_empty(), "{}", pipeline.log());
    dry_run(&kafka, &pipeline);

    die(&pipeline, "record_written@1", &[]);
    let partial = erase(&pipeline, &[]);
    assert_eq!(partial.status.code(), Some(3), "{}", told(&partial));
    assert!(told(&partial).contains("erase again with --drop-reports"), "{}", told(&partial));
    assert!(told(&partial).contains("1 found, 1 open ones dropped"), "{}", told(&partial));
    let letters = json(&pipeline.output("dead-letters", &["list", "--json"]));
    assert_eq!(letters["open"], 0, "nobody sends it again");
    let tombstone = |seen: &Seen| seen.value.is_none() && seen.header("sooner.erasure").starts_with("erase-");
    let written: Vec<_> = read_topic(&kafka, PEOPLE).into_iter().filter(tombstone).collect();
    assert_eq!(written.iter().map(|seen| &seen.key[..5]).collect::<Vec<_>>(), [[0, 0, 0, 9, 9]]);

    die(&pipeline, "report_erased@1", &["--drop-reports"]);
    assert_ne!(holding(&pipeline.lake, EMAIL), "", "the result is still there");
    let again = erase(&pipeline, &["--drop-reports", "--json"]);
    let certificate = json(&again);
    assert_eq!((again.status.code(), &certificate["clean"]), (Some(3), &Value::Bool(false)), "topics still have it");
    let remains = certificate["remains"].as_array().unwrap();
    let mut places: Vec<_> = remains.iter().map(|left| &left["place"]).collect();
    places.dedup();
    assert_eq!(places, [&format!("topic {PEOPLE}"), &format!("topic {VISITS}"), &format!("topic {LETTERS}")]);
    assert!(remains[1]["why"].as_str().unwrap().contains("1 messages could not be decoded"), "{certificate:#}");
    assert!(remains[2]["until"].is_string() && remains[0]["until"].is_null(), "{certificate:#}");
    assert_eq!(of_topic(&certificate, PEOPLE)["tombstones_written"], 0, "it stands there");
    assert_eq!(holding(&pipeline.lake, EMAIL), "", "{certificate:#}");
    let shown = json(&pipeline.output("report", &["show", "addresses", "--json"]));
    assert_eq!(
        (&shown["runs"][0]["state"], &shown["runs"][0]["erased"]["erasure"]),
        (&"erased".into(), &certificate["name"])
    );

    compacted(&postgres, &kafka).await;
    let clean = erase(&pipeline, &["--json"]);
    assert!(clean.status.success(), "{}\n{}", told(&clean), pipeline.log());
    for topic in [PEOPLE, VISITS, LETTERS] {
        assert_eq!(with_email(&kafka, topic).len(), 0, "{topic}");
    }
    // Sinks have passed over what is no event, and the run can be made again.
    let report = pipeline.output("report", &["run", "addresses"]);
    assert!(report.status.success(), "{}\n{}", told(&report), pipeline.log());
    postgres.sql("INSERT INTO people VALUES (7777, 'another', 'c')").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &TABLES);
    assert_eq!(holding(&pipeline.lake, EMAIL), "");
    pipeline.assert_all_stream();
}
