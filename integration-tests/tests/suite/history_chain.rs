//! Chained histories: the chain goes on through kills, compaction, new columns and erasures, and whoever changes a row
//! is found out, by the program and by a reader that shares nothing with it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::query;
use integration_tests::{files_below, python, root};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

const CHAINED: &str = "[[table]]\nmatch = \"public.*\"\nwrite = [\"mirror\", \"history\"]\nchain = true\n[audit]";
/// Columns of every form that a value has.
const SOURCE: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, balance numeric(10,2), note text, at timestamptz, since timestamp,
        day date, rate float8, share float4, tags text[], raw bytea, active bool, small int2, large int8);
    ALTER TABLE accounts REPLICA IDENTITY FULL;
    INSERT INTO accounts SELECT i, -i / 8.0, 'nöte ' || i, now(), now(), date '1950-01-01' + i, i / 7.0, i / 3.0,
        ARRAY['a', NULL, i::text], int4send(i), i % 2 = 0, i, i * 10000000000 FROM generate_series(1, 700) i;
    INSERT INTO accounts (id, rate, share, tags) VALUES (701, 'NaN', '-0', '{}');";

fn folder(pipeline: &Pipeline, table: &str) -> PathBuf {
    Path::new(&pipeline.lake).join(format!("public/{table}-history"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a check without the program says of a history.
fn check_apart(folder: &Path) -> String {
    let script = root().join("integration-tests/readers/history_check.py");
    said(&Command::new(python()).arg(script).arg(folder).output().unwrap()).trim().to_owned()
}

/// Checks a history by the script of the page, which stops at the first row that is wrong.
fn check_as_the_page_says(folder: &Path) {
    let page = std::fs::read_to_string(root().join("src/docs/audit.md")).unwrap();
    let script = page.split("```python\n").nth(2).unwrap().split("```").next().unwrap();
    let script = script.replace("lake/public/orders-history", folder.to_str().unwrap());
    // The harness' DuckDB has the extension without a network.
    let script = script.replace("duckdb.sql(", "database.sql(");
    let script = format!("from verify import connect_duckdb\ndatabase = connect_duckdb(None)\n{script}");
    let readers = root().join("integration-tests/readers");
    let output = Command::new(python()).args(["-c", &script]).env("PYTHONPATH", readers).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

/// What `sooner history --verify` finds, and whether it calls it good.
fn verify(pipeline: &Pipeline, table: &str, more: &[&str]) -> (bool, Value) {
    let output = pipeline.output("history", &[&[table, "--verify", "--json"], more].concat());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(&output)));
    assert_eq!(output.status.code(), Some(if found["good"] == true { 0 } else { 1 }), "{found:#}");
    (output.status.success(), found)
}

/// The head, once both checks have found nothing wrong and the same end.
fn good_head(pipeline: &Pipeline, table: &str) -> String {
    let (good, found) = verify(pipeline, &format!("public.{table}"), &[]);
    assert!(good, "{found:#}\n{}", pipeline.log());
    let erased: u64 = found["erased"].as_object().unwrap().values().map(|rows| rows.as_u64().unwrap()).sum();
    let head = found["head"].as_str().unwrap().to_owned();
    assert_eq!(check_apart(&folder(pipeline, table)), format!("good {} {erased} {head}", found["rows"]));
    assert_eq!(said(&pipeline.output("history", &[&format!("public.{table}"), "--head"])).trim(), head);
    head
}

/// Faults that are found after rows were replaced in the files, which are as they were afterwards.
fn faults_after(pipeline: &Pipeline, table: &str, expression: &str, more: &[&str]) -> Vec<(i64, String)> {
    let (place, kept) = (folder(pipeline, table), pipeline.folder().join("kept"));
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
    };
    copy(&place, &kept);
    // The script knows entries of the log only.
    for file in std::fs::read_dir(place.join("_delta_log")).unwrap().flatten() {
        if file.file_name().to_str().unwrap().contains("checkpoint") {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    let script = root().join("integration-tests/readers/tamper.py");
    let tampered = Command::new(python()).arg(script).arg(&place).arg(expression).output().unwrap();
    assert!(tampered.status.success(), "{}", said(&tampered));
    let (good, found) = verify(pipeline, &format!("public.{table}"), more);
    assert!(!good, "{expression}: nothing was found");
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::rename(&kept, &place).unwrap();
    let findings = found["findings"].as_array().unwrap().iter();
    findings.map(|found| (found["sequence"].as_i64().unwrap(), found["fault"].as_str().unwrap().to_owned())).collect()
}

fn fault(sequence: i64, fault: &str) -> Vec<(i64, String)> {
    vec![(sequence, fault.to_owned())]
}

async fn change(postgres: &Postgres, random: &mut StdRng) {
    let (id, other) = (random.random_range(1..650), random.random_range(1000..5000));
    postgres
        .sql(&format!(
            "BEGIN; UPDATE accounts SET balance = balance + 1, at = now() WHERE id IN ({id}, {id} + 7, {id} + 9); \
             INSERT INTO accounts VALUES ({other}, {id}, NULL) ON CONFLICT (id) DO UPDATE SET note = 'again'; \
             DELETE FROM accounts WHERE id = {other} - 3; COMMIT"
        ))
        .await;
}

async fn copied(pipeline: &mut Pipeline, postgres: &Postgres, table: &str) {
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.start();
    pipeline.wait_until_copied(&format!("public.{table}")).await;
    pipeline.catch_up(postgres).await;
}

fn was_compacted(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder.join("_delta_log")).unwrap().flatten();
    let mut texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.any(|text| text.contains("\"OPTIMIZE\""))
}

/// Changes, with kills at any moment, and a column that comes.
async fn change_with_kills(postgres: &Postgres, pipeline: &mut Pipeline, random: &mut StdRng) {
    for kill in 0..6 {
        pipeline.kill();
        if kill % 2 == 1 {
            pipeline.set("SOONER_FAILPOINT", ["history_committed@2", "part_put@3"][usize::from(kill > 2)]);
            pipeline.start();
            while pipeline.is_running() {
                change(postgres, random).await;
            }
            pipeline.set("SOONER_FAILPOINT", "");
        }
        pipeline.start();
        if kill == 4 {
            postgres.sql("ALTER TABLE accounts ADD COLUMN \"added later\" text DEFAULT 'x'").await;
        }
        for _ in 0..random.random_range(20..60) {
            change(postgres, random).await;
        }
    }
}

/// Changes, until files of the history were written again.
async fn change_until_compacted(postgres: &Postgres, pipeline: &Pipeline, random: &mut StdRng) {
    let asked = Instant::now();
    while !was_compacted(&folder(pipeline, "accounts")) {
        assert!(asked.elapsed() < Duration::from_secs(60), "no file was written again\n{}", pipeline.log());
        change(postgres, random).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whoever changes, removes, doubles or adds a row is found out; `last` is the number of the last one.
fn assert_faults_are_found(pipeline: &Pipeline, last: i64) {
    let change_of = |row: &str, to: &str| format!("{to} if row['_sequence'] == {row} else row");
    let found = |expression: &str, more: &[&str]| faults_after(pipeline, "accounts", expression, more);
    assert_eq!(found(&change_of("90", "{**row, 'note': 'forged'}"), &[]), fault(90, "changed"));
    assert_eq!(found(&change_of("91", "{**row, '_change_type': 'delete'}"), &[]), fault(91, "changed"));
    assert_eq!(
        found(&change_of("92", "{**row, '_hash': '0' * 64}"), &[]),
        [(92, "changed".to_owned()), (93, "changed".to_owned())]
    );
    assert_eq!(found(&change_of("100", "None"), &[]), fault(100, "missing"));
    assert_eq!(found(&change_of(&last.to_string(), "None"), &[]), fault(last, "missing"), "also at the end");
    let repeated = found(&change_of("95", "{**row, '_sequence': 94}"), &[]);
    assert_eq!(repeated, [(94, "repeated".to_owned()), (95, "missing".to_owned())]);
    let blanked =
        "{**{name: None if not name.startswith('_') else value for name, value in row.items()}, '_erased': 'e'}";
    assert_eq!(found(&change_of("96", blanked), &[]), fault(96, "uncertified"));
    let unchained = found(&change_of("97", "{**row, '_sequence': None, '_hash': None}"), &[]);
    assert_eq!(unchained, [(1, "unchained".to_owned()), (97, "missing".to_owned())]);
    let other = format!("{last}:{}", "a".repeat(64));
    assert_eq!(verify(pipeline, "public.accounts", &["--head", &other]).1["findings"][0]["fault"], "head_differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_goes_on_whatever_dies_and_whoever_changes_a_row_is_found() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings(CHAINED);
    copied(&mut pipeline, &postgres, "accounts").await;
    let first = good_head(&pipeline, "accounts");
    let (mut random, place) = (StdRng::seed_from_u64(15), folder(&pipeline, "accounts"));
    change_with_kills(&postgres, &mut pipeline, &mut random).await;
    change_until_compacted(&postgres, &pipeline, &mut random).await;
    postgres.sql("UPDATE accounts SET \"added later\" = 'y' WHERE id < 20").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.accounts"]);
    pipeline.stop();
    let head = good_head(&pipeline, "accounts");
    let last: i64 = head.split(':').next().unwrap().parse().unwrap();
    let rows = query(
        place.to_str().unwrap(),
        "SELECT count(*) || ' ' || count(_sequence) || ' ' || \
         count(\"added later\") FILTER (_change_type = 'update_postimage') FROM lake",
    );
    assert!(rows.starts_with(&format!("{last} {last} ")) && !rows.ends_with(" 0"), "{rows}");
    for known in [&first, &head] {
        assert!(verify(&pipeline, "public.accounts", &["--head", known]).0);
    }

    assert_faults_are_found(&pipeline, last);
    // The trail has the ends that were found, so that its signature stands for the history, too.
    let trail = said(&pipeline.output("audit", &["list", "--kind", "history_verification"]));
    assert!(trail.contains(&head) && trail.contains("\"good\":true") && trail.contains("\"good\":false"), "{trail}");
    assert_eq!(check_apart(&place).split(' ').next(), Some("good"), "it is as it was");
    check_as_the_page_says(&place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_begun_broken_off_and_gone_on_with() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) i")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.*\"\nwrite = [\"history\"]\nchain = false");
    copied(&mut pipeline, &postgres, "t").await;
    let never = pipeline.output("history", &["public.t", "--verify"]);
    assert!(said(&never).contains("no row of the history of public.t is chained"), "{}", said(&never));
    let mut switch = async |from: &str, to: &str, n: i32| {
        pipeline.stop();
        pipeline.replace(from, to);
        pipeline.start();
        postgres.sql(&format!("UPDATE t SET n = {n} WHERE id < 4")).await;
        pipeline.catch_up(&postgres).await;
    };
    switch("chain = false", "chain = true", 1).await;
    switch("chain = true", "chain = true", 2).await;
    switch("chain = true", "chain = false", 3).await;
    switch("chain = false", "chain = true", 4).await;
    let (good, found) = verify(&pipeline, "public.t", &[]);
    assert_eq!((good, &found["unchained_before"], &found["rows"]), (false, &Value::from(10), &Value::from(9)));
    let expected = serde_json::json!([{"sequence": 1, "fault": "unchained", "rows": 3}]);
    assert_eq!(found["findings"], expected, "those that came while it was off");
    assert_eq!(check_apart(&folder(&pipeline, "t")), format!("good 9 0 {}", found["head"].as_str().unwrap()));
    let view = said(&pipeline.output("history", &["public.t", "--as-of", "now"]));
    let now = query(
        folder(&pipeline, "t").to_str().unwrap(),
        &format!("SELECT * FROM ({}) ORDER BY id", view.trim().trim_end_matches(';')),
    );
    assert_eq!(now.lines().next(), Some("1|4"), "columns of the source alone: {now}");
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_rows_leave_the_chain_whole_and_none_of_their_bytes() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE people (id int PRIMARY KEY, email text, name text);
             INSERT INTO people SELECT i, 'p' || i || '@doe.example', 'name ' || i FROM generate_series(1, 50) i;
             INSERT INTO people VALUES (77, 'jane.subject@doe.example', 'Jane Subject')",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings(CHAINED);
    copied(&mut pipeline, &postgres, "people").await;
    for statement in ["UPDATE people SET name = 'Maiden-Name' WHERE id IN (77, 3)", "DELETE FROM people WHERE id = 77"]
    {
        postgres.sql(statement).await;
        pipeline.catch_up(&postgres).await;
    }
    let (place, before) = (folder(&pipeline, "people"), good_head(&pipeline, "people"));
    let arguments = ["--subject", "email=jane.subject@doe.example", "--timeout", "60s"];
    let stubs = || query(place.to_str().unwrap(), "SELECT count(_erased) FROM lake");
    for time in [2, 1, 1] {
        if stubs() == "0" {
            let mut dying = pipeline.command("erase");
            dying.args(arguments).env("SOONER_FAILPOINT", format!("erased_files_found@{time}"));
            assert_eq!(dying.output().unwrap().status.code(), None, "it was to die");
        }
    }
    assert_eq!(stubs(), "3");
    let (good, found) = verify(&pipeline, "public.people", &[]);
    assert!(!good && found["findings"][0]["fault"] == "uncertified", "nothing says yet why: {found:#}");
    let erased = pipeline.output("erase", &arguments);
    assert!(erased.status.success(), "{}\n{}", said(&erased), pipeline.log());
    postgres.sql("UPDATE people SET name = 'after' WHERE id = 4").await;
    pipeline.catch_up(&postgres).await;
    good_head(&pipeline, "people");
    let (good, found) = verify(&pipeline, "public.people", &["--head", &before]);
    assert!(good, "the head from before is in it still: {found:#}");
    let stubs = query(
        place.to_str().unwrap(),
        "SELECT count(*) || ' ' || count(id) || ' ' || count(email) || ' ' || string_agg(_change_type, ',' ORDER BY \
         _sequence) FROM lake WHERE _erased IS NOT NULL",
    );
    assert_eq!(stubs, "3 0 0 snapshot,update_postimage,delete");
    let script = root().join("integration-tests/readers/search.py");
    let left = Command::new(python()).arg(script).args([&pipeline.lake, "jane.subject"]).output().unwrap();
    assert_eq!(said(&left), "", "{}", pipeline.log());
    let view = said(&pipeline.output("history", &["public.people", "--as-of", "now"]));
    let count = format!("SELECT count(*) FROM ({})", view.trim().trim_end_matches(';'));
    assert_eq!(query(place.to_str().unwrap(), &count), "50", "{view}");

    // A certificate that the trail does not know is nobody's word: whoever can write to the lake can put it there.
    let certificates = files_below(&Path::new(&pipeline.lake).join("_sooner/shop/erasures"));
    let is_certificate = |path: &&PathBuf| {
        let name = path.to_string_lossy();
        name.ends_with(".json") && !name.ends_with(".begun.json")
    };
    let certificate = certificates.iter().find(is_certificate).unwrap();
    let text = std::fs::read_to_string(certificate).unwrap();
    let mut forged: Value = serde_json::from_str(&text).unwrap();
    forged["begun_millis"] = 0.into();
    std::fs::write(certificate, forged.to_string()).unwrap();
    let (good, found) = verify(&pipeline, "public.people", &[]);
    assert!(!good && found["findings"][0]["fault"] == "uncertified", "{found:#}");
    std::fs::write(certificate, text).unwrap();
    good_head(&pipeline, "people");
    let begun = said(&pipeline.output("audit", &["list", "--kind", "erasure_begun", "--json"]));
    assert!(begun.lines().count() >= 2, "also of those that were broken off: {begun}");
}
