//! Events that are replayed: what Postgres did, in commit order, each change once; or a refusal that says what is
//! missing.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::between;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::python;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

const BOTH: &str = "[[table]]\nmatch = \"public.*\"\nwrite = [\"mirror\", \"history\"]";
/// A trigger counts changes, and rows have a value that is left out of updates which do not change it.
const SOURCE: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, balance numeric(12,2), seen timestamptz, body text);
    ALTER TABLE accounts ALTER body SET STORAGE EXTERNAL;
    CREATE SCHEMA oracle;
    CREATE TABLE oracle.noted (at bigserial, what text);
    CREATE FUNCTION oracle.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        INSERT INTO oracle.noted (what) VALUES (lower(left(replace(TG_OP, 'INSERT', 'CREATE'), 1)));
        RETURN NULL;
    END $$;
    INSERT INTO accounts SELECT i, i, '2026-01-31 22:00:00Z', repeat(md5(i::text), 100)
        FROM generate_series(1, 300) i;";
const TRIGGER: &str =
    "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION oracle.note()";
const NOTED: &str = "SELECT count(*) FILTER (WHERE what = 'c') || ' ' || count(*) FILTER (WHERE what = 'u') || ' ' || \
     count(*) FILTER (WHERE what = 'd') FROM oracle.noted";
const ROWS: &str =
    "SELECT coalesce(string_agg(concat_ws('|', id, balance, body, extra), E'\\n' ORDER BY id), '') FROM accounts";

async fn followed(postgres: &Postgres, mut pipeline: Pipeline) -> Pipeline {
    postgres.sql(SOURCE).await;
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.append_settings(BOTH);
    pipeline.start();
    pipeline.wait_until_copied("public.accounts").await;
    pipeline.catch_up(postgres).await;
    pipeline.stop();
    pipeline.start();
    pipeline.catch_up(postgres).await;
    postgres.sql(TRIGGER).await;
    pipeline
}

async fn change(postgres: &Postgres, random: &mut StdRng) {
    let (id, other) = (random.random_range(1..300), random.random_range(301..900));
    let statements = format!(
        "BEGIN; UPDATE accounts SET balance = balance + 1.25 WHERE id IN ({id}, {id} + 7); \
         INSERT INTO accounts VALUES ({other}, {id}, now(), NULL) ON CONFLICT (id) DO UPDATE SET body = 'again'; \
         DELETE FROM accounts WHERE id = {other} - 3; COMMIT"
    );
    postgres.sql(&statements).await;
}

/// Changes, with kills in between, and a column that comes; returns a position in the midst of them.
async fn history_of_changes(postgres: &Postgres, pipeline: &mut Pipeline) -> String {
    let mut random = StdRng::seed_from_u64(7);
    for kill in 0..4 {
        for _ in 0..random.random_range(20..50) {
            change(postgres, &mut random).await;
        }
        pipeline.kill();
        pipeline.start();
        if kill == 1 {
            postgres.sql("ALTER TABLE accounts ADD COLUMN extra int").await;
        }
    }
    let middle = postgres.end_lsn().await.to_string();
    for _ in 0..30 {
        change(postgres, &mut random).await;
    }
    postgres.sql("UPDATE accounts SET extra = id WHERE id % 3 = 0").await;
    pipeline.catch_up(postgres).await;
    middle
}

fn replayed(pipeline: &Pipeline, arguments: &[&str]) -> Vec<Value> {
    let output = pipeline.output("replay", &[&["public.accounts", "--json"], arguments].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {told}\n{}", pipeline.log());
    let lines = String::from_utf8_lossy(&output.stdout);
    let events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let manifest: Value = serde_json::from_str(told.trim()).expect("a manifest");
    assert_eq!(manifest["events"], events.len(), "{manifest}");
    let script = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), end='')";
    assert_eq!(manifest["sha256"].as_str().unwrap(), piped(script, &output.stdout));
    events
}

fn piped(script: &str, input: &[u8]) -> String {
    use std::io::Write;
    let mut command = std::process::Command::new(python());
    let piped = std::process::Stdio::piped;
    let mut child = command.args(["-c", script]).stdin(piped()).stdout(piped()).spawn().expect("python");
    child.stdin.take().expect("a pipe").write_all(input).expect("written");
    String::from_utf8_lossy(&child.wait_with_output().expect("python").stdout).into_owned()
}

fn refusal(pipeline: &Pipeline, arguments: &[&str]) -> String {
    let output = pipeline.output("replay", &[&["public.accounts"], arguments].concat());
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty(), "nothing is written before it is known that all can be");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The rows that a consumer has who begins with none and applies events.
fn applied(events: &[Value]) -> String {
    let mut rows: BTreeMap<i64, BTreeMap<String, Value>> = BTreeMap::new();
    let mut last = (0, 0);
    for event in events {
        let position = |name: &str| event["headers"][name].as_str().unwrap();
        let (high, low) = position("sooner.commit_lsn").split_once('/').unwrap();
        let lsn = (u64::from_str_radix(high, 16).unwrap() << 32) | u64::from_str_radix(low, 16).unwrap();
        let position = (lsn, position("sooner.ordinal").parse::<u64>().unwrap());
        assert!(position > last, "in commit order, each once: {event}");
        last = position;
        let image = |name: &str| event[name].as_object().unwrap().clone();
        match event["op"].as_str().unwrap() {
            "t" => rows.clear(),
            "d" => drop(rows.remove(&image("before")["id"].as_i64().unwrap())),
            _ => {
                let after = image("after");
                let unavailable = event["headers"]["sooner.unavailable"].as_str().unwrap_or_default();
                let row = rows.entry(after["id"].as_i64().unwrap()).or_default();
                let known = after.into_iter().filter(|(name, value)| {
                    let is_left_out = unavailable.split(',').any(|column| column == name);
                    assert!(!is_left_out || value == "__debezium_unavailable_value", "{event}");
                    !is_left_out
                });
                row.extend(known);
            }
        }
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let of_row = |row: &BTreeMap<String, Value>| {
        let values = ["id", "balance", "body", "extra"].map(|name| row.get(name).unwrap_or(&Value::Null));
        values.into_iter().filter(|value| !value.is_null()).map(text).collect::<Vec<_>>().join("|")
    };
    rows.values().map(of_row).collect::<Vec<_>>().join("\n")
}

fn counted(events: &[Value]) -> String {
    let count = |op: &str| events.iter().filter(|event| event["op"] == op).count();
    format!("{} {} {}", count("c"), count("u"), count("d"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_replayed_as_postgres_did_it_and_a_range_that_is_not_whole_is_refused() {
    let postgres = Postgres::start(Version::V15).await;
    let mut pipeline = followed(&postgres, Pipeline::local(&postgres)).await;
    let middle = history_of_changes(&postgres, &mut pipeline).await;
    let end = postgres.end_lsn().await.to_string();
    let all = replayed(&pipeline, &["--from", "copy", "--to", &end]);
    assert_eq!(applied(&all), postgres.value(ROWS).await);
    assert_eq!(counted(&all), postgres.value(NOTED).await);
    // Two ranges that follow each other are the whole.
    let first = replayed(&pipeline, &["--from", "copy", "--to", &middle]);
    let second = replayed(&pipeline, &["--from", &middle, "--to", &end, "--source", "history"]);
    assert!(!second.is_empty());
    assert_eq!([first, second.clone()].concat(), all);
    let utc = "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let now = postgres.value(&format!("SELECT {utc}")).await;
    let since = second[0]["source"]["ts_us"].as_u64().unwrap() - 1;
    let since = postgres
        .value(&format!("SELECT {}", utc.replace("clock_timestamp()", &format!("to_timestamp({since} / 1e6)"))))
        .await;
    assert_eq!(replayed(&pipeline, &["--from", &since, "--to", &now]), second);

    // A file is there whole, and never replaced.
    let file = pipeline.folder().join("events.parquet").display().to_string();
    let into = ["--from", &middle, "--to", &end, "--into", &file];
    let output = pipeline.output("replay", &[&["public.accounts"][..], &into].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let script = "import sys, duckdb; print(*duckdb.sql(\"SELECT count(*), count(DISTINCT (_commit_lsn, _ordinal)), \
                  count(extra) > 0 FROM read_parquet('\" + sys.stdin.read() + \"')\").fetchone(), end='')";
    assert_eq!(piped(script, file.as_bytes()), format!("{0} {0} True", second.len()));
    assert!(refusal(&pipeline, &into).contains("there already"));

    let why = refusal(&pipeline, &["--from", "0/1", "--to", &end]);
    assert!(why.contains("was copied at") && why.contains("--from copy"), "{why}");
    let why = refusal(&pipeline, &["--from", &middle, "--to", "FF/0"]);
    assert!(why.contains("not all events up to there") && why.contains("sooner wait"), "{why}");
    let why = refusal(&pipeline, &["--from", &middle, "--to", "2200-01-01T00:00:00Z"]);
    assert!(why.contains("has not come yet"), "{why}");
    let why = refusal(&pipeline, &["--from", &middle, "--to", &end, "--source", "topic"]);
    assert!(why.contains("[kafka]"), "{why}");

    // Another copy: what happened shortly before it may be missing.
    let copied = pipeline.output("copy", &["public.accounts"]);
    assert!(copied.status.success());
    let starts = "SELECT count(*) FROM lake WHERE _change_type = 'snapshot_start'";
    let history = format!("{}/public/accounts-history", pipeline.lake);
    while integration_tests::readers::query(&history, starts) != "2" {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    change(&postgres, &mut StdRng::seed_from_u64(1)).await;
    pipeline.wait_until_copied("public.accounts").await;
    pipeline.catch_up(&postgres).await;
    let why = refusal(&pipeline, &["--from", &middle, "--to", "now"]);
    assert!(why.contains("was copied at"), "{why}");
    assert_eq!(applied(&replayed(&pipeline, &["--from", "copy", "--to", "now"])), postgres.value(ROWS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_replayed_as_the_history_is_and_what_it_has_lost_is_refused() {
    let (postgres, kafka, registry) = between::start().await;
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3\ngroup_instance = \"one\"");
    let mut pipeline = followed(&postgres, pipeline).await;
    let middle = history_of_changes(&postgres, &mut pipeline).await;
    let end = postgres.end_lsn().await.to_string();
    let of = |source: &str, from: &str| replayed(&pipeline, &["--from", from, "--to", &end, "--source", source]);
    let all = of("topic", "copy");
    assert_eq!(applied(&all), postgres.value(ROWS).await);
    assert_eq!(counted(&all), postgres.value(NOTED).await);
    let second = of("topic", &middle);
    assert!(!second.is_empty() && second.len() < all.len());
    assert_eq!(second, of("history", &middle), "they are the same events");
    assert_eq!(all, of("history", "copy"));

    let topic = "shop.public.accounts";
    kafka.delete_records(topic, 40);
    let why = refusal(&pipeline, &["--from", "copy", "--to", &end, "--source", "topic"]);
    assert!(why.contains("retention has removed"), "{why}");
    assert_eq!(of("topic", &middle), second, "what is left is still whole");
    kafka.alter_topic(topic, "cleanup.policy=compact");
    let why = refusal(&pipeline, &["--from", &middle, "--to", &end, "--source", "topic"]);
    assert!(why.contains("compacted"), "{why}");
}
