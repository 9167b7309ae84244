//! Columns that are masked: nothing of their values leaves the process that reads the database, and what takes their
//! place is what the configuration says.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::between::{self, LIMIT, parked};
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::query;
use integration_tests::registry::Registry;
use integration_tests::topics::read_topic;
use integration_tests::{python, root};
use sooner::status::Status;
use sooner_api::TableState;

/// What stands in every value that is masked.
const SECRETS: [&str; 2] = ["S3CRET", "1987-06-05"];
/// What stands in values that are not.
const SHOWN: &str = "VISIBLE";
const KEY: &str = "a key of the tests, long enough";

const TABLES: &str = "
    CREATE TABLE users (id int PRIMARY KEY, ssn text DEFAULT 'S3CRET default', email text NOT NULL DEFAULT 'S3CRET',
        phone text, notes text NOT NULL, born timestamptz, tags text[], big text, doc text, shown text);
    ALTER TABLE users ALTER big SET STORAGE EXTERNAL, ALTER doc SET STORAGE EXTERNAL, ALTER notes SET STORAGE EXTERNAL;
    CREATE TABLE people (email text PRIMARY KEY, until date, v text);
    CREATE TABLE audit (id int PRIMARY KEY, secret text, hashed text, v text);
    ALTER TABLE audit REPLICA IDENTITY FULL;
    INSERT INTO users SELECT i, 'S3CRET ssn ' || i, 'S3CRET-' || i % 7, '+49 S3CRET', repeat('S3CRET notes ', 300),
        '1987-06-05 04:03:02+00', ARRAY['S3CRET', NULL], repeat('S3CRET big ', 300) || i, repeat('VISIBLE doc ', 300),
        'VISIBLE ' || i FROM generate_series(1, 30) i;
    INSERT INTO people SELECT 'S3CRET-' || i, '2020-01-01', 'VISIBLE ' || i FROM generate_series(0, 6) i;
    INSERT INTO audit SELECT i, 'S3CRET audit', 'S3CRET-' || i % 7, 'VISIBLE' FROM generate_series(1, 9) i";

const SETTINGS: &str = "
[masking]
key = { env = 'SOONER_MASK_KEY' }
[[table]]
match = 'public.users'
mask = { ssn = 'omit', email = 'hash', phone = { truncate = 3 }, notes = 'null', born = 'hash', tags = 'hash', big = 'hash' }
known_columns = ['id', 'doc', 'shown']
new_columns = 'mask'
[[table]]
match = 'public.people'
mask = { email = 'hash' }
mask_key = true
[[table]]
match = '*.aud*'
mask = { secret = 'omit', hashed = 'hash' }
";

/// Unchanged large values, other keys, deletes, and rows that come; `n` is not the same twice.
fn changes(n: i32) -> String {
    format!(
        "UPDATE users SET shown = 'VISIBLE again {n}' WHERE id % 3 = 0;
         UPDATE users SET big = 'S3CRET big {n}', notes = 'S3CRET notes {n}', phone = 'S3CRET {n}' WHERE id % 5 = 0;
         UPDATE users SET id = id + 1000 WHERE id = {n}; DELETE FROM users WHERE id = {n} + 10;
         INSERT INTO users (id, notes, shown) VALUES (5000 + {n}, 'S3CRET', 'VISIBLE');
         UPDATE people SET email = email || '.{n}' WHERE v = 'VISIBLE {n}'; UPDATE people SET v = v || '' WHERE v <> '';
         DELETE FROM people WHERE v = 'VISIBLE ' || 6 - {n};
         UPDATE audit SET v = 'VISIBLE {n}', secret = 'S3CRET {n}'; UPDATE audit SET id = id + 100 WHERE id = {n};
         DELETE FROM audit WHERE id = {n} + 5; INSERT INTO audit VALUES ({n} + 50, 'S3CRET', 'S3CRET-6', 'VISIBLE')"
    )
}

/// What Python makes of texts by a key.
fn hmacs(key: &str, texts: &[Option<String>]) -> Vec<String> {
    let mut command = Command::new(python());
    command.arg(root().join("integration-tests/readers/hmacs.py")).arg(key);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python");
    child.stdin.take().unwrap().write_all(serde_json::to_string(texts).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Rows of a query of Postgres, in whose last columns texts are replaced by their hashes, as the lake is to have them.
async fn expected(postgres: &Postgres, key: &str, sql: &str, hashed: usize) -> String {
    let rows = postgres.sql(sql).await;
    let first = rows[0].len() - hashed;
    let texts: Vec<_> = rows.iter().flat_map(|row| row[first..].to_vec()).collect();
    let hashes = hmacs(key, &texts);
    let lines = rows.iter().zip(hashes.chunks(hashed)).map(|(row, hashes)| {
        let plain = row[..first].iter().map(|value| value.clone().unwrap_or_else(|| "NULL".to_owned()));
        plain.chain(hashes.to_vec()).collect::<Vec<_>>().join("|")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// How the lake differs from what it is to hold; empty if it does not.
async fn difference(pipeline: &Pipeline, postgres: &Postgres, key: &str, phone: u8) -> String {
    let users = format!(
        "SELECT id, left(phone, {phone}), md5(doc), shown, email, born::text, tags::text, big FROM users ORDER BY id"
    );
    let compared = [
        ("users", "SELECT id, phone, md5(doc), shown, email, born, tags, big FROM lake ORDER BY id", users.as_str(), 4),
        ("people", "SELECT v, email FROM lake ORDER BY v", "SELECT v, email FROM people ORDER BY v", 1),
        ("audit", "SELECT id, v, hashed FROM lake ORDER BY id", "SELECT id, v, hashed FROM audit ORDER BY id", 1),
    ];
    let mut differences = String::new();
    for (table, lake, source, hashed) in compared {
        let found = query(&format!("{}/public/{table}", pipeline.lake), lake);
        let expected = expected(postgres, key, source, hashed).await;
        if found != expected {
            differences.push_str(&format!("{table} holds\n{found}\nand not\n{expected}\n"));
        }
    }
    differences
}

async fn assert_masked(pipeline: &Pipeline, postgres: &Postgres, key: &str, phone: u8) {
    pipeline.catch_up(postgres).await;
    // A copy may not have begun yet.
    let mut differs = difference(pipeline, postgres, key, phone).await;
    let asked = Instant::now();
    while !differs.is_empty() && asked.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(500)).await;
        differs = difference(pipeline, postgres, key, phone).await;
    }
    assert_eq!(differs, "", "{}", pipeline.log());
    let lake = |table: &str, sql: &str| query(&format!("{}/public/{table}", pipeline.lake), sql);
    let joined = "SELECT count(*) > 0 FROM lake JOIN delta_scan('{}/public/people') p ON p.email = lake.hashed";
    assert_eq!(lake("audit", &joined.replace("{}", &pipeline.lake)), "True", "hashes are joined across tables");
    assert_eq!(lake("audit", "SELECT string_agg(column_name, ',') FROM (DESCRIBE lake)"), "id,hashed,v");
    let columns = lake("users", "SELECT string_agg(column_name, ',') FROM (DESCRIBE lake)");
    assert!(!columns.contains("ssn"), "{columns}");
}

/// Files under a folder that hold a text, compressed or not.
fn files_with(folder: &std::path::Path, text: &str) -> String {
    let mut command = Command::new(python());
    command.arg(root().join("integration-tests/readers/search.py")).arg(folder).arg(text);
    let output = command.output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Fails if a secret lies in the lake, in the state folder or in the log, where what is not secret is found.
fn assert_nothing_lies_there(pipeline: &Pipeline) {
    let shown = files_with(pipeline.folder(), SHOWN);
    assert!(shown.lines().any(|file| file.ends_with(".parquet")), "the search finds what is there: {shown}");
    for secret in SECRETS {
        assert_eq!(files_with(pipeline.folder(), secret), "", "{secret}");
    }
}

/// The same of all messages and schemas.
fn assert_nothing_was_sent(kafka: &Kafka, registry: &Registry) {
    let mut sent = Vec::new();
    for topic in kafka.topics(&["--list"]).lines().filter(|topic| !topic.starts_with("__")) {
        for message in read_topic(kafka, topic) {
            let headers = message.headers.into_values();
            sent.extend([message.key, message.value.unwrap_or_default()].into_iter().chain(headers));
        }
    }
    let list = |path: &str| {
        let answer = registry.ask("GET", path, "");
        let (start, end) = (answer.find('[').expect("a list"), answer.rfind(']').expect("a list"));
        serde_json::from_str::<Vec<serde_json::Value>>(&answer[start..=end]).unwrap()
    };
    let subjects = list("/subjects");
    assert!(subjects.len() >= 6, "{subjects:?}");
    for subject in subjects {
        let path = format!("/subjects/{}/versions", subject.as_str().unwrap());
        let versions = list(&path).into_iter();
        sent.extend(versions.map(|version| registry.ask("GET", &format!("{path}/{version}"), "").into_bytes()));
    }
    let holds = |text: &str| sent.iter().any(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
    assert!(holds(SHOWN) && holds("sooner.relation"));
    for secret in SECRETS {
        assert!(!holds(secret), "{secret}");
    }
}

fn copies(pipeline: &Pipeline) -> usize {
    pipeline.log().matches("\"message\":\"copying\"").count()
}

async fn nothing_of_masked_values_leaves(postgres: &Postgres, pipeline: &mut Pipeline) {
    postgres.sql(TABLES).await;
    pipeline.append_settings(SETTINGS);
    pipeline.set("SOONER_MASK_KEY", KEY);
    pipeline.set("SOONER_LOG", "warn,sooner=trace,sooner_postgres=trace,sooner_delta=trace,sooner_kafka=trace");
    let checked = String::from_utf8(pipeline.output("check", &[]).stdout).unwrap();
    for told in ["public.users masks", "ssn: omit", "phone: truncate to 3", "email: hash"] {
        assert!(checked.contains(told), "{told}: {checked}");
    }
    pipeline.start();
    postgres.sql(&changes(1)).await;
    pipeline.wait_until_streaming(&["public.users", "public.people", "public.audit"]).await;
    let copied = copies(pipeline);
    postgres.sql(&changes(2)).await;
    // One that comes later is masked, too, and costs no copy.
    postgres.sql("ALTER TABLE users ADD COLUMN pin text NOT NULL DEFAULT 'S3CRET pin'").await;
    postgres
        .sql("UPDATE users SET pin = 'S3CRET 1234' WHERE id = 1; UPDATE users SET shown = shown WHERE id < 9")
        .await;
    postgres.sql(&changes(3)).await;
    assert_masked(pipeline, postgres, KEY, 3).await;
    let users = format!("{}/public/users", pipeline.lake);
    let hidden = query(&users, "SELECT count(pin), count(notes), count(*) > 20 FROM lake");
    assert_eq!(hidden, "0|0|True");
    assert_eq!(copies(pipeline), copied, "{}", pipeline.log());
    let log = std::fs::read_dir(format!("{users}/_delta_log")).unwrap();
    let log: String = log.filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok()).collect();
    assert!(log.contains("sooner.masked") && log.contains(r#"\"ssn\":\"omit\""#), "the table says what is masked");
    // A message about a row whose key is masked.
    postgres.sql("INSERT INTO people VALUES ('S3CRET odd', 'infinity', 'VISIBLE')").await;
    let error = pipeline.wait_until_parked("public.people").await;
    assert!(error.why.contains("in the row email=?"), "{error}");
    postgres.sql("DELETE FROM people WHERE until = 'infinity'").await;
    pipeline.resume("public.people");
    pipeline.wait_until_streaming(&["public.people"]).await;
    // A request that is not durable yet would be granted again.
    let requests = || std::fs::read_dir(pipeline.state_dir().join("requests")).map_or(0, Iterator::count);
    let asked = Instant::now();
    while requests() > 0 && asked.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(pipeline.output("optimize", &[]).status.success());
    pipeline.stop();
}

async fn changed_rules_have_tables_copied_again(postgres: &Postgres, pipeline: &mut Pipeline) {
    let copied = copies(pipeline);
    pipeline.start();
    pipeline.catch_up(postgres).await;
    assert_eq!(copies(pipeline), copied, "nothing changed");
    pipeline.stop();
    pipeline.append_settings("[[table]]\nmatch = 'public.users'\nmask = { phone = { truncate = 2 } }");
    let checked = String::from_utf8(pipeline.output("check", &[]).stdout).unwrap();
    let why = "the mask of column 'phone' changed from truncate to 3 to truncate to 2";
    assert!(checked.contains(&format!("copied again: {why}")), "{checked}");
    pipeline.start();
    assert_masked(pipeline, postgres, KEY, 2).await;
    assert!(pipeline.log().contains(why));
    assert_eq!(copies(pipeline), copied + 1, "{}", pipeline.log());
    pipeline.stop();
    let other = "another key, which is as long as it has to be";
    pipeline.set("SOONER_MASK_KEY", other);
    pipeline.start();
    assert_masked(pipeline, postgres, other, 2).await;
    assert_eq!(copies(pipeline), copied + 4, "{}", pipeline.log());
    pipeline.assert_all_stream();
    assert_eq!(files_with(pipeline.folder(), other), "", "nor does the key lie anywhere");
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_masked_values_leaves_and_changed_rules_have_tables_copied_again() {
    let postgres = Postgres::start(Version::V15).await;
    let mut pipeline = Pipeline::local(&postgres);
    nothing_of_masked_values_leaves(&postgres, &mut pipeline).await;
    assert_nothing_lies_there(&pipeline);
    changed_rules_have_tables_copied_again(&postgres, &mut pipeline).await;
    assert_nothing_lies_there(&pipeline);
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_does_it_by_topics() {
    let (postgres, kafka, registry) = between::start().await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    nothing_of_masked_values_leaves(&postgres, &mut pipeline).await;
    changed_rules_have_tables_copied_again(&postgres, &mut pipeline).await;
    assert_nothing_lies_there(&pipeline);
    assert_nothing_was_sent(&kafka, &registry);
}

const MISFITS: &str = "
[masking]
key = { env = 'SOONER_MASK_KEY' }
[[table]]
match = 'public.typo'
mask = { emial = 'hash' }
[[table]]
match = 'public.keyed'
mask = { email = 'hash' }
[[table]]
match = 'public.grows'
known_columns = ['id', 'v']
new_columns = 'block'
[[table]]
match = '*.ren*'
mask = { email = 'hash' }
";

fn waits(status: &Status, table: &str, why: &str) -> bool {
    let state = find(status, table).map(|table| table.source_state.as_ref().unwrap_or(&table.state));
    matches!(state, Some(TableState::Waiting { error }) if error.why.contains(why))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_waits_for_rules_that_fit_it() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE typo (id int PRIMARY KEY, email text); INSERT INTO typo VALUES (1, 'S3CRET');
             CREATE TABLE keyed (email text PRIMARY KEY); INSERT INTO keyed VALUES ('S3CRET');
             CREATE TABLE grows (id int PRIMARY KEY, v text); INSERT INTO grows VALUES (1, 'VISIBLE');
             CREATE TABLE renamed (id int PRIMARY KEY, email text); INSERT INTO renamed VALUES (1, 'S3CRET')",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.set("SOONER_MASK_KEY", KEY);
    pipeline.append_settings(MISFITS);
    let checked = pipeline.output("check", &[]);
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    for part in ["a column 'emial', which it does not have", "'email' is part of its key", "set mask_key = true"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(!checked.status.success());
    pipeline.start();
    pipeline.wait_until_streaming(&["public.grows", "public.renamed"]).await;
    let told = |status: &Status| waits(status, "public.typo", "'emial'") && waits(status, "public.keyed", "its key");
    pipeline.wait_for("tables wait for their rules", LIMIT, told).await;

    postgres.sql("ALTER TABLE grows ADD COLUMN pin text; INSERT INTO grows VALUES (2, 'VISIBLE', 'S3CRET')").await;
    postgres.sql("ALTER TABLE renamed RENAME email TO mail; INSERT INTO renamed VALUES (2, 'S3CRET')").await;
    pipeline.wait_for("a new column blocks", LIMIT, |status| waits(status, "public.grows", "its column 'pin'")).await;
    let error = pipeline.wait_until_parked("public.renamed").await;
    assert!(error.why.contains("'email', which is masked, is called 'mail'"), "{error}");
    pipeline.resume("public.renamed");
    pipeline.wait_for_log("the table is not copied", Duration::from_secs(30)).await;
    assert!(parked(&pipeline.status().unwrap(), "public.renamed").is_some());

    pipeline.replace("emial = 'hash'", "email = 'hash'");
    pipeline.replace("['id', 'v']", "['id', 'v', 'pin']\nmask = { pin = 'null' }");
    pipeline.append_settings(
        "[[table]]\nmatch = 'public.keyed'\nmask_key = true\n[[table]]\nmatch = '*.ren*'\nmask = { mail = 'hash' }",
    );
    pipeline.signal("HUP");
    pipeline.wait_until_streaming(&["public.typo", "public.keyed", "public.grows"]).await;
    pipeline.resume("public.renamed");
    pipeline.wait_until_streaming(&["public.renamed"]).await;
    pipeline.catch_up(&postgres).await;
    let hash = &hmacs(KEY, &[Some("S3CRET".to_owned())])[0];
    for (table, column) in [("typo", "email"), ("keyed", "email"), ("renamed", "mail")] {
        let found = query(&format!("{}/public/{table}", pipeline.lake), &format!("SELECT DISTINCT {column} FROM lake"));
        assert_eq!(found, *hash, "{table}");
    }
    assert_eq!(query(&format!("{}/public/grows", pipeline.lake), "SELECT count(*), count(pin) FROM lake"), "2|0");
    pipeline.stop();
    assert_nothing_lies_there(&pipeline);
}
