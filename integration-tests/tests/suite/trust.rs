//! Whether the lake can be trusted, as the listener tells it: cuts, verifications, histories, and what is masked; by
//! the API, as metrics, and on the page in a real browser.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::{free_port, python, root};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

const KEY: &str = "a key of the tests, long enough";
const SETTINGS: &str = "
[masking]
key = { env = 'SOONER_MASK_KEY' }
[[table]]
match = 'public.people'
mask = { email = 'hash', phone = { truncate = 3 }, ssn = 'omit' }
write = ['mirror', 'history']
";

pub struct Listener {
    pub url: String,
    http: Client,
}

impl Listener {
    pub fn of(pipeline: &Pipeline, settings: &str) -> Listener {
        let address = format!("127.0.0.1:{}", free_port());
        pipeline.append_settings(&format!("[http]\nlisten = \"{address}\"\n{settings}"));
        Listener { url: format!("http://{address}"), http: Client::new() }
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let answer = self.http.post(format!("{}{path}", self.url)).json(&body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    async fn metrics(&self) -> String {
        self.http.get(format!("{}/metrics", self.url)).send().await.unwrap().text().await.unwrap()
    }

    /// Asks until the answer is so.
    pub async fn until(&self, path: &str, holds: impl Fn(StatusCode, &Value) -> bool) -> Value {
        let asked = Instant::now();
        loop {
            let (code, answer) = self.get(path).await;
            if holds(code, &answer) {
                return answer;
            }
            assert!(asked.elapsed() < Duration::from_secs(30), "{path}: {code} {answer}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Changes rows of a table in the lake's files by an expression of Python.
fn tamper(pipeline: &Pipeline, table: &str, expression: &str) {
    let script = root().join("integration-tests/readers/tamper.py");
    let table = format!("{}/public/{table}", pipeline.lake);
    let output = Command::new(python()).arg(script).args([&table, expression]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Has a program look at the page in a browser; `SOONER_SCREENSHOTS` names a folder for pictures of it.
pub async fn browse(program: &str, url: &str, views: &str) {
    let program = root().join("integration-tests/browser").join(program);
    let (url, views) = (url.to_owned(), views.to_owned());
    let looking = move || {
        let mut browser = Command::new(python());
        browser.arg(program).args(["--url", &url, "--views", &views]);
        if let Ok(folder) = std::env::var("SOONER_SCREENSHOTS") {
            browser.args(["--screenshots", &folder]);
        }
        browser.output().expect("the browser is installed")
    };
    let output = tokio::task::spawn_blocking(looking).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn start(postgres: &Postgres, control: bool) -> (Pipeline, Listener) {
    let tables = "CREATE TABLE people (id int PRIMARY KEY, name text, email text, phone text, ssn text); \
                  CREATE TABLE orders (id int PRIMARY KEY, v text); \
                  INSERT INTO people SELECT i, 'n' || i, 'e' || i, '+49 30 ' || i, 's' FROM generate_series(1, 50) i; \
                  INSERT INTO orders SELECT i, 'v' FROM generate_series(1, 2000) i";
    postgres.sql(tables).await;
    let mut pipeline = Pipeline::local(postgres);
    pipeline.append_settings(SETTINGS);
    pipeline.set("SOONER_MASK_KEY", KEY);
    let listener = Listener::of(&pipeline, &format!("allow_control = {control}"));
    pipeline.start();
    pipeline.wait_until_copied("public.people").await;
    pipeline.wait_until_copied("public.orders").await;
    pipeline.catch_up(postgres).await;
    (pipeline, listener)
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_are_asked_for_shown_and_dropped_by_http() {
    let postgres = Postgres::start(Version::V15).await;
    let (pipeline, listener) = start(&postgres, true).await;
    let (code, none) = listener.get("/api/v1/cuts").await;
    assert_eq!((code, none), (StatusCode::OK, json!({ "cuts": [], "asked": [], "failed": [] })));
    postgres.sql("INSERT INTO orders VALUES (5000, 'in the cut')").await;
    let wanted = json!({ "name": "q3", "keep": "7y" });
    assert_eq!(listener.post("/api/v1/cuts", wanted.clone()).await.0, StatusCode::ACCEPTED);
    let cut = listener.until("/api/v1/cuts/q3", |code, _| code == StatusCode::OK).await;
    let printed = pipeline.output("cut", &["show", "q3", "--json"]).stdout;
    assert_eq!(cut, serde_json::from_slice::<Value>(&printed).unwrap(), "the API says what the command says");
    let committed = postgres.value("SELECT pg_current_wal_lsn()::text").await;
    let at = |lsn: &str| lsn.split('/').map(|part| u64::from_str_radix(part, 16).unwrap()).collect::<Vec<_>>();
    assert!(at(cut["lsn"].as_str().unwrap()) <= at(&committed), "{cut}");
    assert!(cut["tables"]["public.people"]["history"]["version"].is_u64(), "{cut}");
    let sql = String::from_utf8(pipeline.output("cut", &["sql", "q3", "--engine", "duckdb"]).stdout).unwrap();
    assert!(sql.contains("public_orders"), "{sql}");
    let listed = listener.until("/api/v1/cuts", |_, answer| answer["cuts"][0]["name"] == "q3").await;
    assert_eq!((&listed["cuts"][0]["tables"], &listed["asked"]), (&json!(2), &json!([])));

    // What cannot be asked for is refused, with what to do.
    for (body, expected) in [
        (wanted, StatusCode::CONFLICT),
        (json!({ "name": "../escape" }), StatusCode::BAD_REQUEST),
        (json!({ "name": "a", "keep": "long" }), StatusCode::BAD_REQUEST),
        (json!({ "name": "a", "tables": ["public.none"] }), StatusCode::NOT_FOUND),
        (json!({ "name": "a", "odd": 1 }), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let (code, refused) = listener.post("/api/v1/cuts", body.clone()).await;
        assert_eq!(code, expected, "{body}");
        assert!(code == StatusCode::UNPROCESSABLE_ENTITY || refused["remedy"].is_string(), "{refused}");
    }
    let part = json!({ "name": "orders-only", "tables": ["public.orders"] });
    assert_eq!(listener.post("/api/v1/cuts", part).await.0, StatusCode::ACCEPTED);
    let part = listener.until("/api/v1/cuts/orders-only", |code, _| code == StatusCode::OK).await;
    assert_eq!(part["tables"].as_object().unwrap().keys().collect::<Vec<_>>(), ["public.orders"]);
    assert_eq!(listener.post("/api/v1/cuts/q3/drop", json!({})).await, (StatusCode::OK, json!({ "dropped": true })));
    assert_eq!(listener.get("/api/v1/cuts/q3").await.0, StatusCode::NOT_FOUND);
    assert_eq!(listener.post("/api/v1/cuts/q3/drop", json!({})).await.0, StatusCode::NOT_FOUND);
    let (_, left) = listener.get("/api/v1/cuts").await;
    assert_eq!(left["cuts"].as_array().unwrap().len(), 1, "what was dropped is not listed any more: {left}");

    // One that waits is told, and can be withdrawn.
    let ahead = json!({ "name": "later", "lsn": "FFFF/0" });
    assert_eq!(listener.post("/api/v1/cuts", ahead).await.0, StatusCode::ACCEPTED);
    assert_eq!(listener.get("/api/v1/cuts/later").await.0, StatusCode::ACCEPTED);
    assert_eq!(listener.get("/api/v1/cuts").await.1["asked"], json!(["later"]));
    let (code, withdrawn) = listener.post("/api/v1/cuts/later/drop", json!({})).await;
    assert_eq!((code, &withdrawn["withdrawn"]), (StatusCode::OK, &json!(true)));
    assert_eq!(listener.get("/api/v1/cuts/later").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_verified_is_told_by_api_and_metrics_and_seen_on_the_page() {
    let postgres = Postgres::start(Version::V15).await;
    let (mut pipeline, listener) = start(&postgres, true).await;
    let (_, none) = listener.get("/api/v1/verifications").await;
    assert_eq!((&none["tables"], &none["never"], &none["reports"]), (&json!(2), &json!(2), &json!([])));
    assert!(!listener.metrics().await.contains("sooner_verify"), "a table that was never verified has no series");
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(pipeline.output("verify", &[]).status.success());
    let (_, equal) = listener.get("/api/v1/verifications").await;
    assert_eq!(equal["counts"], json!({ "equal": 2, "different": 0, "unverified": 0 }), "{equal}");
    let series = |text: &str, name: &str| -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(&format!("{name} "))?.parse().ok())
    };
    let of_orders = "{pipeline=\"shop\",table=\"public.orders\"}";
    let verified = format!("sooner_verify_last_success_timestamp_seconds{of_orders}");
    let differing = format!("sooner_verify_rows_differing{of_orders}");
    let text = listener.metrics().await;
    let first = series(&text, &verified).unwrap();
    assert!(first >= before && series(&text, &differing) == Some(0.0), "{text}");

    // Rows that differ are told by key and column, and no pass is forgotten.
    pipeline.stop();
    tamper(&pipeline, "orders", "None if row['id'] == 17 else {**row, 'v': 'w'} if row['id'] < 40 else row");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert!(!pipeline.output("verify", &["public.orders"]).status.success());
    let (_, differ) = listener.get("/api/v1/verifications?limit=1").await;
    let report = &differ["reports"][0];
    assert_eq!(
        (&report["table"], &report["verdict"], &report["differing"]),
        (&json!("public.orders"), &json!("different"), &json!(39))
    );
    let examples = report["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 20, "they are bounded");
    assert!(examples.contains(&json!({ "key": "id=17", "difference": "missing" })), "{report}");
    assert!(examples.contains(&json!({ "key": "id=1", "difference": "values", "columns": ["v"] })), "{report}");
    let text = listener.metrics().await;
    assert_eq!((series(&text, &verified), series(&text, &differing)), (Some(first), Some(39.0)), "{text}");
    let (_, table) = listener.get("/api/v1/tables/public.orders").await;
    assert_eq!((&table["verification"]["verdict"], &table["write"]), (&json!("different"), &json!(["mirror"])));

    // How a table is written, and what is masked: the rule, and never the key.
    let (_, people) = listener.get("/api/v1/tables/public.people").await;
    assert_eq!(people["write"], json!(["mirror", "history"]));
    assert_eq!(people["history_location"], json!(format!("{}/public/people-history", pipeline.lake)));
    let (_, schema) = listener.get("/api/v1/tables/public.people/schema").await;
    let columns = schema["columns"].as_array().unwrap();
    let masks: Vec<_> = columns.iter().map(|column| column["mask"].as_str().unwrap_or_default()).collect();
    assert_eq!(masks, ["", "", "hash", "truncate to 3", "omit"], "{schema}");
    assert!(columns[4]["delta_type"].is_null() && !schema.to_string().contains(KEY), "{schema}");
    let (_, histories) = listener.get("/api/v1/histories").await;
    let history = &histories["histories"][0];
    assert_eq!((&histories["count"], &history["table"]), (&json!(1), &json!("public.people")), "{histories}");
    assert!(history["version"].is_u64() && history["trouble"].is_null(), "{histories}");

    browse("trust.py", &listener.url, ":trust,public.orders,public.people").await;
    let dropped = listener.until("/api/v1/cuts", |_, answer| answer["cuts"] == json!([])).await;
    assert_eq!(dropped["failed"], json!([]), "the page made a cut on each size, and dropped it");
    // What cannot be told is no pass.
    pipeline.stop();
    postgres.sql("UPDATE orders SET v = 'x' WHERE id = 2000").await;
    assert!(!pipeline.output("verify", &["public.orders", "--timeout", "1s"]).status.success());
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let unverified = listener.until("/api/v1/verifications", |_, told| told["counts"]["unverified"] == 1).await;
    assert!(unverified["reports"][0]["why"].as_str().unwrap().contains("not complete"), "{unverified}");
    assert_eq!(series(&listener.metrics().await, &verified), Some(first));
    verified_when_asked(&listener).await;
}

/// One verification is asked for at a time, and what it has repaired is equal to the next.
async fn verified_when_asked(listener: &Listener) {
    let path = "/api/v1/verifications";
    let (code, unknown) = listener.post(path, json!({ "tables": ["public.none"] })).await;
    assert!(code == StatusCode::NOT_FOUND && unknown["remedy"].is_string(), "{unknown}");
    let repair = json!({ "tables": ["public.orders"], "repair": true });
    assert_eq!(listener.post(path, repair.clone()).await.0, StatusCode::ACCEPTED);
    assert_eq!(listener.post(path, repair).await.0, StatusCode::CONFLICT, "it is asked for already");
    let made = |told: &Value| told["asked"].is_null();
    let told = listener.until(path, |_, told| made(told)).await;
    assert_eq!((&told["failed"], &told["reports"][0]["verdict"]), (&Value::Null, &json!("different")), "{told}");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert_eq!(listener.post(path, json!({})).await.0, StatusCode::ACCEPTED);
        let told = listener.until(path, |_, told| made(told)).await;
        if told["counts"]["equal"] == 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_and_the_audit_trail_are_told_as_the_commands_tell_them_and_a_report_is_made_when_asked_for() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1), (2)").await;
    let mut pipeline = Pipeline::local(&postgres);
    let engine = "import sys, duckdb; duckdb.connect().execute(sys.stdin.read())";
    pipeline.append_settings(&format!(
        "[audit]\n[[report]]\nname = \"count\"\nschedule = \"0 0 1 1 *\"\nengine = [\"{}\", \"-c\", \"{engine}\"]\n\
         sql = \"SELECT count(*) AS orders FROM public.orders\"",
        python().display()
    ));
    let listener = Listener::of(&pipeline, "allow_control = true");
    pipeline.start();
    pipeline.wait_until_copied("public.orders").await;
    let json_of = |command: &str, arguments: &[&str]| -> Value {
        serde_json::from_slice(&pipeline.output(command, arguments).stdout).unwrap()
    };
    let (_, listed) = listener.get("/api/v1/reports").await;
    assert_eq!((&listed[0]["report"], &listed[0]["runs_made"]), (&json!("count"), &json!(0)), "{listed}");
    assert_eq!(listener.get("/api/v1/reports/none").await.0, StatusCode::NOT_FOUND);
    assert_eq!(listener.post("/api/v1/reports/none/run", json!({})).await.0, StatusCode::NOT_FOUND);
    assert_eq!(listener.post("/api/v1/reports/count/run", json!({})).await.0, StatusCode::ACCEPTED);
    let is_made = |answer: &Value| answer["runs"][0]["state"] == "made" && answer["asked"].is_null();
    let made = listener.until("/api/v1/reports/count", |_, answer| is_made(answer)).await;
    assert_eq!(made["runs"][0]["manifest"]["rows"], 1, "{made}");
    assert_eq!(made, json_of("report", &["show", "count", "--json"]));

    let asked =
        |answer: &Value| answer["entries"].to_string().contains("'report run' was asked for through HTTP by a client");
    let trail = listener.until("/api/v1/audit", |_, answer| asked(answer)).await;
    let sequences: Vec<_> =
        trail["entries"].as_array().unwrap().iter().filter_map(|it| it["sequence"].as_i64()).collect();
    assert!(sequences.len() > 1 && sequences.is_sorted_by(|a, b| a > b), "the newest first: {trail}");
    assert_eq!(listener.get("/api/v1/audit?limit=1").await.1["entries"].as_array().unwrap().len(), 1);
    let (_, checked) = listener.get("/api/v1/audit/check").await;
    assert!(checked["count"] == 0 && checked["entries"].as_u64() >= Some(sequences.len() as u64), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_of_cuts_are_refused_where_only_looks_are_allowed() {
    let postgres = Postgres::start(Version::V15).await;
    let (_pipeline, listener) = start(&postgres, false).await;
    assert_eq!(listener.post("/api/v1/cuts", json!({ "name": "q3" })).await.0, StatusCode::FORBIDDEN);
    assert_eq!(listener.post("/api/v1/cuts/q3/drop", json!({})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(listener.get("/api/v1/cuts").await.1["asked"], json!([]));
}
