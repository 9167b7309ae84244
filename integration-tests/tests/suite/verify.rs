//! `sooner verify`: what differs is found, row by row, and what is on its way is not.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::time::Duration;

use integration_tests::between;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::{files_below, python, root};
use serde_json::Value;
use sooner_postgres::client::Mode;
use sooner_postgres::{Client, ConnectOptions};

/// Changes some rows as fast as the server can, until it is aborted: no two looks find them the same. Each has a large
/// value that Postgres leaves out of the stream, one has another key in between, and one comes and goes.
fn busy(postgres: &Postgres) -> tokio::task::JoinHandle<()> {
    let options = ConnectOptions::parse(&postgres.url()).unwrap();
    tokio::spawn(async move {
        let mut client = Client::connect(&options, Mode::Sql).await.unwrap();
        for round in 0u64.. {
            let changes = [
                format!("UPDATE hot SET n = {round} WHERE id <= 5"),
                format!(
                    "BEGIN; DELETE FROM hot WHERE id = 6; UPDATE hot SET id = 107, n = {round} WHERE id = 7; COMMIT"
                ),
                format!("INSERT INTO hot SELECT 6, {round}, wide FROM hot WHERE id = 1"),
                "UPDATE hot SET id = 7 WHERE id = 107".to_owned(),
            ];
            for change in changes {
                client.query(&change).await.unwrap();
            }
        }
    })
}

/// What it reports of tables, and whether it says that all are equal.
fn verify(pipeline: &Pipeline, arguments: &[&str]) -> (bool, Vec<Value>) {
    let output = pipeline.output("verify", &[&["--json"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let reports: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!reports.is_empty(), "{}{text}", String::from_utf8_lossy(&output.stderr));
    (output.status.success(), reports)
}

/// Rows by which a report says that a table differs.
fn differences(report: &Value) -> Vec<String> {
    let list = report["differences"].as_array().unwrap_or_else(|| panic!("{report}"));
    let text = |difference: &Value| {
        let columns = difference["columns"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let words = [difference["key"].as_str(), difference["difference"].as_str()];
        words.into_iter().flatten().chain(columns).collect::<Vec<_>>().join(" ")
    };
    list.iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_found_by_key_and_column_and_repaired() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let types = "CREATE TABLE odd (a text, b uuid, n numeric(12, 3), w numeric(60, 30), f float8, r real, t timestamptz, \
                 d date, i interval, j jsonb, x bytea, l int[], m money, PRIMARY KEY (a, b))";
    postgres.sql(types).await;
    let rows = "INSERT INTO odd SELECT 'k ' || i, md5(i::text)::uuid, i / 7.0, i / 11.0, CASE i WHEN 5 THEN 'NaN' ELSE i / 3.0 END, \
                'Infinity', '2020-01-01 00:00+00'::timestamptz + i * interval '1 hour', '1500-02-03'::date + i, \
                i * interval '1 minute', jsonb_build_object('i', i), decode(md5(i::text), 'hex'), ARRAY[i, NULL], i::text::money \
                FROM generate_series(1, 3000) i";
    postgres.sql(rows).await;
    postgres.sql("CREATE TABLE hot (id int PRIMARY KEY, n bigint, wide text)").await;
    let wide = "string_agg(md5(i::text || j), '')";
    postgres
        .sql(&format!(
            "INSERT INTO hot SELECT i, 0, {wide} FROM generate_series(1, 7) i, generate_series(1, 300) j GROUP BY i"
        ))
        .await;
    postgres.sql("INSERT INTO hot SELECT i, 0, NULL FROM generate_series(1000, 5000) i").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    for table in ["public.odd", "public.accounts", "public.events", "public.documents", "public.hot"] {
        pipeline.wait_until_copied(table).await;
    }
    let (load, busy) = (Load::start(postgres.url(), 71), busy(&postgres));
    for _ in 0..3 {
        let (all_equal, reports) = verify(&pipeline, &[]);
        assert!(all_equal && reports.len() == 5, "under load nothing differs: {reports:?}\n{}", pipeline.log());
        let hot = reports.iter().find(|report| report["table"] == "public.hot").unwrap();
        assert!(hot["looks"].as_u64() >= Some(4), "its rows were followed, as no look finds them still: {hot}");
        assert_read_twice(hot, 8);
    }
    busy.abort();
    assert_eq!(postgres.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '%verify%'").await, "0");
    // What no log tells: a row that Postgres lost, and rows of the lake's files.
    postgres.sql("CREATE EXTENSION pg_surgery").await;
    let lost = postgres.value("SELECT ctid FROM odd WHERE a = 'k 16'").await;
    postgres.sql(&format!("SELECT heap_force_kill('odd'::regclass, ARRAY['{lost}']::tid[])")).await;
    load.stop().await;
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let made = "{'k 17': None, 'k 18': {**row, 'd': None, 'f': 0.5}, 'k 19': [row, row]}.get(row['a'], row)";
    tamper(&pipeline, "odd", made);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (all_equal, reports) = verify(&pipeline, &["public.odd", "public.accounts", "--repair"]);
    assert!(!all_equal);
    let odd = reports.iter().find(|report| report["table"] == "public.odd").unwrap();
    let key = |n: u32| format!("a=k {n}, b={}", uuid_of(n));
    let expected = [(16, "extra"), (17, "missing"), (18, "values f d"), (19, "repeated")];
    let expected = expected.map(|(n, difference)| format!("{} {difference}", key(n)));
    assert_eq!(differences(odd), expected, "{odd}");
    let accounts = reports.iter().find(|report| report["table"] == "public.accounts").unwrap();
    assert_eq!(accounts["verdict"], "equal", "{accounts}");
    pipeline.wait_until_copied("public.odd").await;
    pipeline.wait_for_log_times("copied", 6, Duration::from_secs(60)).await;
    pipeline.catch_up(&postgres).await;
    let (all_equal, reports) = verify(&pipeline, &["public.odd"]);
    assert!(all_equal, "it was copied again: {reports:?}");

    // What cannot be verified is no pass.
    pipeline.stop();
    postgres.sql("UPDATE odd SET d = NULL WHERE a = 'k 1'").await;
    let (all_equal, reports) = verify(&pipeline, &["public.odd", "--timeout", "1s"]);
    assert_eq!((all_equal, &reports[0]["verdict"]), (false, &Value::from("unverified")), "{reports:?}");
    let refused = pipeline.output("verify", &["public.nothing"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no table 'public.nothing'"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_a_table_that_has_only_its_history_or_no_key() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE past (id int PRIMARY KEY, n bigint, wide text); CREATE TABLE facts (n int, what text); ALTER TABLE facts REPLICA IDENTITY FULL;
             ALTER TABLE past ALTER wide SET STORAGE EXTERNAL;
             INSERT INTO past SELECT i, i, repeat(md5(i::text), 100) FROM generate_series(1, 2000) i;
             INSERT INTO facts SELECT i % 1000, 'f' || i % 1000 FROM generate_series(1, 3000) i",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.past\"\nwrite = [\"history\"]");
    pipeline.append_settings("[[table]]\nmatch = \"public.facts\"\nwrite = [\"append\"]");
    pipeline.start();
    for table in ["public.past", "public.facts"] {
        pipeline.wait_until_copied(table).await;
    }
    let options = ConnectOptions::parse(&postgres.url()).unwrap();
    let load = tokio::spawn(async move {
        let mut client = Client::connect(&options, Mode::Sql).await.unwrap();
        for round in 0u64.. {
            let at = round % 1900;
            for change in [
                format!("UPDATE past SET n = {round} WHERE id BETWEEN 1 AND 20 OR id % 100 = {round} % 100"),
                format!("DELETE FROM past WHERE id = 50 + {at}"),
                format!("INSERT INTO past VALUES (50 + {at}, {round}, 'again'), (10000 + {round}, 0, NULL)"),
                format!("INSERT INTO facts VALUES (-{round}, 'more'), (-{round}, 'more'), (1 - {round}, 'more')"),
            ] {
                client.query(&change).await.unwrap();
            }
        }
    });
    for _ in 0..3 {
        let (all_equal, reports) = verify(&pipeline, &[]);
        assert!(all_equal && reports.len() == 2, "under load nothing differs: {reports:?}\n{}", pipeline.log());
    }
    load.abort();
    cut(&pipeline, "now");
    let shown = pipeline.output("cut", &["show", "now", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let past = &shown["tables"]["public.past"];
    assert!(past["mirror"].is_null() && past["history"]["version"].is_u64(), "its history alone is in a cut: {shown}");
    pipeline.catch_up(&postgres).await;
    let left = files_below(&Path::new(&pipeline.lake).join("_sooner/shop/cut-tables"));
    assert!(left.is_empty(), "what was made to be compared is gone: {left:?}");

    pipeline.stop();
    tamper(&pipeline, "past-history", "{**row, 'n': -7} if row['id'] == 1955 else None if row['id'] == 1960 else row");
    tamper(&pipeline, "facts", "None if row['n'] == 500 else {**row, 'what': 'x'} if row['n'] == 600 else row");
    pipeline.start();
    postgres.sql("INSERT INTO facts VALUES (-1, 'new'); INSERT INTO past VALUES (-1, 0, NULL)").await;
    pipeline.catch_up(&postgres).await;
    let (all_equal, reports) = verify(&pipeline, &["public.past", "public.facts"]);
    assert!(!all_equal && reports.iter().all(|report| report["verdict"] == "different"), "{reports:?}");
    let of = |table: &str| reports.iter().find(|report| report["table"] == table).unwrap();
    assert_eq!(differences(of("public.past")), ["id=1955 values n", "id=1960 missing"]);
    let expected = ["n=500, what=f500 missing", "n=600, what=f600 missing", "n=600, what=x extra"];
    assert_eq!(differences(of("public.facts")), expected);
}

/// The whole source was read twice at most, and then only rows that change, which are so many.
fn assert_read_twice(report: &Value, changing: u64) {
    let number = |name: &str| report[name].as_u64().unwrap();
    let bound = 2 * (number("rows") + changing) + changing * number("looks");
    assert!(number("rows_read") <= bound, "rows in flux are looked up by their keys: {report}");
}

fn uuid_of(n: u32) -> String {
    let script = "import sys, hashlib, uuid; print(uuid.UUID(hashlib.md5(sys.argv[1].encode()).hexdigest()))";
    let output = std::process::Command::new(python()).args(["-c", script, &n.to_string()]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Changes rows of a table in the lake's files by an expression of Python.
fn tamper(pipeline: &Pipeline, folder: &str, expression: &str) {
    let script = root().join("integration-tests/readers/tamper.py");
    let table = format!("{}/public/{folder}", pipeline.lake);
    let output = std::process::Command::new(python()).arg(script).args([&table, expression]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn cut(pipeline: &Pipeline, name: &str) {
    let output = pipeline.output("cut", &["create", name, "--timeout", "60s"]);
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), pipeline.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_is_proved_by_its_histories_and_a_table_without_one_is_not() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE kept (id int PRIMARY KEY, n int, wide text); CREATE TABLE plain (id int PRIMARY KEY);
             ALTER TABLE kept ALTER wide SET STORAGE EXTERNAL;
             INSERT INTO kept SELECT i, i, repeat(md5(i::text), 100) FROM generate_series(1, 500) i",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.kept\"\nwrite = [\"mirror\", \"history\"]");
    pipeline.start();
    for table in ["public.kept", "public.plain"] {
        pipeline.wait_until_copied(table).await;
    }
    postgres.sql("UPDATE kept SET n = -id WHERE id % 2 = 0; DELETE FROM kept WHERE id < 20").await;
    postgres.sql("UPDATE kept SET id = id + 1000, wide = 'moved' WHERE id BETWEEN 450 AND 460").await;
    // Rows that are older than a column have its default, and one is NULL in it because somebody made it so.
    postgres.sql("ALTER TABLE kept ADD COLUMN c int DEFAULT 5").await;
    postgres.sql("UPDATE kept SET n = 1 WHERE id = 40; UPDATE kept SET c = NULL WHERE id = 41").await;
    pipeline.catch_up(&postgres).await;
    cut(&pipeline, "good");
    postgres.sql("INSERT INTO kept VALUES (1, 1, 'later'); UPDATE kept SET wide = 'later' WHERE id < 100").await;
    pipeline.catch_up(&postgres).await;
    let (all_equal, reports) = verify(&pipeline, &["public.kept", "--at", "good"]);
    assert!(all_equal && reports[0]["verdict"] == "equal" && reports[0]["rows"] == 481, "{reports:?}");
    let (all_equal, reports) = verify(&pipeline, &["--at", "good"]);
    let plain = reports.iter().find(|report| report["table"] == "public.plain").unwrap();
    assert!(!all_equal && plain["verdict"] == "unverified", "what is not proved is no pass: {reports:?}");
    assert!(plain["why"].as_str().unwrap().contains("no history"), "{plain}");
    let refused = pipeline.output("verify", &["--at", "good", "--repair"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--repair"), "{refused:?}");
    let refused = pipeline.output("verify", &["--at", "other"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no cut 'other'"), "{refused:?}");

    pipeline.stop();
    tamper(&pipeline, "kept", "None if row['id'] == 500 else {**row, 'n': 7} if row['id'] == 300 else row");
    tamper(&pipeline, "kept-history", "{**row, 'wide': 'x'} if row['id'] == 401 else row");
    pipeline.start();
    postgres.sql("UPDATE kept SET n = 0 WHERE id = 400").await;
    pipeline.catch_up(&postgres).await;
    cut(&pipeline, "altered");
    let (all_equal, reports) = verify(&pipeline, &["public.kept", "--at", "altered"]);
    let mut found = differences(&reports[0]);
    found.sort();
    assert!(!all_equal && found == ["id=300 values n", "id=401 values wide", "id=500 missing"], "{reports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_is_a_cut_of_a_table_whose_first_copy_came_through_a_topic() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE kept (id int PRIMARY KEY, n int)").await;
    postgres.sql("INSERT INTO kept SELECT i, i FROM generate_series(1, 300) i").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    pipeline.append_settings("[[table]]\nmatch = \"public.kept\"\nwrite = [\"mirror\", \"history\"]");
    pipeline.start();
    pipeline.wait_until_copied("public.kept").await;
    postgres.sql("UPDATE kept SET n = 0 WHERE id % 3 = 0; DELETE FROM kept WHERE id > 290").await;
    pipeline.catch_up(&postgres).await;
    cut(&pipeline, "q3");
    let (all_equal, reports) = verify(&pipeline, &["--at", "q3"]);
    assert!(all_equal && reports[0]["rows"] == 290, "{reports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_followed_no_longer_is_not_verified_rather_than_passed_over() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1)")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    for table in ["public.a", "public.b"] {
        pipeline.wait_until_copied(table).await;
    }
    pipeline.catch_up(&postgres).await;
    assert!(pipeline.output("verify", &[]).status.success());
    postgres.sql("ALTER TABLE b DROP CONSTRAINT b_pkey").await;
    for named in [&[][..], &["public.b"]] {
        let output = pipeline.output("verify", &[named, &["--json"]].concat());
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let report = lines.lines().find(|line| line.contains("public.b")).unwrap_or_else(|| panic!("{output:?}"));
        let report: serde_json::Value = serde_json::from_str(report).unwrap();
        assert!(!output.status.success() && report["verdict"] == "unverified", "{report}");
        assert!(report["why"].as_str().unwrap().contains("does not follow it"), "{report}");
    }
}
