//! What changes what is kept, when the listener is asked for it: cuts at positions that have passed, erasures, legal
//! holds and reports; and the page of these, in a real browser.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::{python, root};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::trust::{Listener, browse};

const SOURCE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, email text, note text);
    CREATE TABLE visits (id int PRIMARY KEY, email text);
    INSERT INTO people SELECT i, 'p' || i || '@doe.example', 'note ' || i FROM generate_series(1, 300) i;
    INSERT INTO people VALUES (7777, 'jane.subject@doe.example', 'a note of jane'),
        (8888, 'john.subject@doe.example', 'a note of john')";
const JANE: &str = "email=jane.subject@doe.example";
const JOHN: &str = "email=john.subject@doe.example";

/// A pipeline with a history, a signed audit trail, a report that can be made, and one that cannot.
async fn begun(postgres: &Postgres, control: bool) -> (Pipeline, Listener) {
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::local(postgres);
    let key = pipeline.folder().join("audit.pem");
    let mut openssl = Command::new("openssl");
    let made = openssl.args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(key).output().expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let engine = "import sys, duckdb; duckdb.connect().execute(sys.stdin.read())";
    let report = |name: &str, table: &str| {
        format!(
            "[[report]]\nname = \"{name}\"\nschedule = \"0 0 1 1 *\"\nengine = [\"{}\", \"-c\", \"{engine}\"]\n\
             sql = \"SELECT count(*) AS rows, max(email) FILTER (email LIKE '%.subject@%') AS who FROM public.{table}\"\n",
            python().display()
        )
    };
    pipeline.append_settings(&format!(
        "[audit]\nsigning_key = {{ file = \"audit.pem\" }}\n{}{}[[table]]\nmatch = \"public.people\"\n\
         write = [\"mirror\", \"history\"]",
        report("count", "people"),
        report("wrong", "nowhere")
    ));
    let listener = Listener::of(&pipeline, &format!("allow_control = {control}"));
    pipeline.start();
    pipeline.wait_until_copied("public.people").await;
    pipeline.wait_until_copied("public.visits").await;
    pipeline.catch_up(postgres).await;
    (pipeline, listener)
}

fn json_of(pipeline: &Pipeline, command: &str, arguments: &[&str]) -> Value {
    let output = pipeline.output(command, arguments);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Files of a folder that hold a text, as a reader finds them that shares nothing with the program.
fn holding(folder: &str, text: &str) -> String {
    let script = root().join("integration-tests/readers/search.py");
    let output = Command::new(python()).arg(script).args([folder, text]).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks for an erasure; returns its name.
async fn erase(listener: &Listener, body: Value) -> String {
    let (code, asked) = listener.post("/api/v1/erasures", body).await;
    assert_eq!(code, StatusCode::ACCEPTED, "{asked}");
    asked["name"].as_str().unwrap().to_owned()
}

async fn until_made(listener: &Listener, name: &str) -> Value {
    listener.until(&format!("/api/v1/erasures/{name}"), |code, _| code == StatusCode::OK).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_at_past_positions_are_found_when_http_asks_for_them_also_by_the_next_process() {
    let postgres = Postgres::start(Version::V15).await;
    let (mut pipeline, listener) = begun(&postgres, true).await;
    let utc = "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let lsn = postgres.value("SELECT pg_current_wal_insert_lsn()").await;
    let time = postgres.value(&format!("SELECT {utc}")).await;
    postgres.sql("INSERT INTO people SELECT i, 'later', '' FROM generate_series(10001, 10100) i").await;
    pipeline.catch_up(&postgres).await;
    for (name, body) in [
        ("by-lsn", json!({ "name": "by-lsn", "at": lsn, "keep": "7days" })),
        ("by-time", json!({ "name": "by-time", "at": time })),
        ("same-lsn", json!({ "name": "same-lsn", "lsn": lsn })),
    ] {
        let (code, asked) = listener.post("/api/v1/cuts", body).await;
        assert_eq!((code, &asked["has_passed"]), (StatusCode::ACCEPTED, &json!(true)), "{asked}");
        let cut = listener.until(&format!("/api/v1/cuts/{name}"), |code, _| code == StatusCode::OK).await;
        let at = if name == "by-time" { &time } else { &lsn };
        let same = json_of(&pipeline, "cut", &["create", &format!("command-{name}"), "--json", "--at", at]);
        assert_eq!((&cut["tables"], &cut["lsn"]), (&same["tables"], &same["lsn"]), "as the command makes it");
    }

    // One that no table's log knows is told with why, and can be forgotten; one to come waits for its time.
    assert_eq!(listener.post("/api/v1/cuts", json!({ "name": "early", "at": "0/1" })).await.0, StatusCode::ACCEPTED);
    let listed = listener.until("/api/v1/cuts", |_, answer| answer["failed"] != json!([])).await;
    assert!(listed["failed"][0]["error"]["remedy"].as_str().unwrap().contains("later position"), "{listed}");
    assert_eq!(listener.get("/api/v1/cuts/early").await.0, StatusCode::CONFLICT);
    assert_eq!(listener.post("/api/v1/cuts/early/drop", json!({})).await.0, StatusCode::NOT_FOUND);
    let soon = utc.replace("clock_timestamp()", "(clock_timestamp() + interval '2 s')");
    let soon = postgres.value(&format!("SELECT {soon}")).await;
    let wanted = json!({ "name": "soon", "at": soon });
    assert_eq!(listener.post("/api/v1/cuts", wanted).await.1["has_passed"], json!(false));
    let cut = listener.until("/api/v1/cuts/soon", |code, _| code == StatusCode::OK).await;
    let micros = postgres.value(&format!("SELECT (extract(epoch FROM timestamptz '{soon}') * 1e6)::bigint")).await;
    assert!(cut["commit_micros"].as_i64() >= Some(micros.parse().unwrap()), "{cut}");
    for wrong in [json!({ "name": "a", "at": "tomorrow" }), json!({ "name": "a", "at": lsn, "lsn": lsn })] {
        assert_eq!(listener.post("/api/v1/cuts", wrong).await.0, StatusCode::BAD_REQUEST);
    }

    let wanted = json!({ "name": "after", "at": lsn });
    assert_eq!(listener.post("/api/v1/cuts", wanted).await.0, StatusCode::ACCEPTED);
    pipeline.kill();
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let cut = listener.until("/api/v1/cuts/after", |code, _| code == StatusCode::OK).await;
    assert_eq!(cut["lsn"], json!(lsn));
}

/// Rows of a subject are looked for, held, and refused.
async fn what_is_held_is_not_erased(pipeline: &Pipeline, listener: &Listener) {
    let name = erase(listener, json!({ "subjects": [JANE], "dry_run": true })).await;
    let found = until_made(listener, &name).await["found"].clone();
    assert_eq!(found, json_of(pipeline, "erase", &["--subject", JANE, "--dry-run", "--json"]));
    assert_eq!(found["source_rows"]["public.people"], 1, "{found}");
    assert_eq!(listener.get("/api/v1/erasures").await.1["found"][0]["name"], json!(name));
    let hold = json!({ "name": "case-1", "reason": "litigation", "subject": JANE, "until": "2040-12-31T00:00:00Z" });
    let (code, held) = listener.post("/api/v1/holds", hold.clone()).await;
    assert_eq!((code, &held["in_force"]), (StatusCode::CREATED, &json!(true)), "{held}");
    let table = json!({ "name": "case-2", "reason": "audit", "tables": ["public.visits"] });
    assert_eq!(listener.post("/api/v1/holds", table).await.0, StatusCode::CREATED);
    let (_, listed) = listener.get("/api/v1/holds").await;
    let mut listed = listed["holds"].clone();
    listed.as_array_mut().unwrap().iter_mut().for_each(|hold| drop(hold.as_object_mut().unwrap().remove("in_force")));
    assert_eq!(listed, json_of(pipeline, "hold", &["list", "--json"]));
    for (body, code) in [
        (hold, StatusCode::CONFLICT),
        (json!({ "name": "a", "reason": "r" }), StatusCode::BAD_REQUEST),
        (json!({ "name": "a", "reason": " ", "cut": "q3" }), StatusCode::BAD_REQUEST),
        (json!({ "name": "a", "reason": "r", "cut": "none" }), StatusCode::CONFLICT),
        (json!({ "name": "a", "reason": "r", "tables": ["public.none"] }), StatusCode::NOT_FOUND),
        (json!({ "name": "a", "reason": "r", "subject": "jane" }), StatusCode::BAD_REQUEST),
        (json!({ "name": "a", "reason": "r", "cut": "q3", "until": "2020-01-01T00:00:00Z" }), StatusCode::BAD_REQUEST),
    ] {
        let (answered, told) = listener.post("/api/v1/holds", body.clone()).await;
        assert!(answered == code && told["remedy"].is_string(), "{body}: {answered} {told}");
    }
    let name = erase(listener, json!({ "subjects": [JANE] })).await;
    let path = format!("/api/v1/erasures/{name}");
    let refused = listener.until(&path, |code, _| code == StatusCode::CONFLICT).await;
    assert!(refused["error"].as_str().unwrap().contains("the legal hold 'case-1' keeps it"), "{refused}");
    assert_eq!(listener.get("/api/v1/erasures").await.1["failed"][0]["error"]["code"], json!("held"));
    assert_eq!(listener.post(&format!("{path}/forget"), json!({})).await.0, StatusCode::OK);
    assert_eq!(listener.get(&path).await.0, StatusCode::NOT_FOUND);
    let release = "/api/v1/holds/case-1/release";
    assert_eq!(listener.post(release, json!({})).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(listener.post(release, json!({ "reason": "settled" })).await.0, StatusCode::OK);
    assert_eq!(listener.post("/api/v1/holds/none/release", json!({ "reason": "x" })).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_are_held_and_erased_by_http_and_their_values_are_nowhere_and_the_page_tells_of_it() {
    let postgres = Postgres::start(Version::V15).await;
    let (mut pipeline, listener) = begun(&postgres, true).await;
    let none = json!({ "count": 0, "erasures": [], "asked": [], "failed": [], "found": [] });
    assert_eq!(listener.get("/api/v1/erasures").await.1, none);
    assert_eq!(listener.get("/api/v1/holds").await.1, json!({ "holds": [] }));
    what_is_held_is_not_erased(&pipeline, &listener).await;

    // A report's result names somebody, its cut is dropped by itself.
    assert_eq!(listener.post("/api/v1/reports/count/run", json!({})).await.0, StatusCode::ACCEPTED);
    listener.until("/api/v1/reports/count", |_, answer| answer["runs"][0]["state"] == "made").await;
    assert_ne!(holding(&format!("{}/_sooner/shop/reports", pipeline.lake), "john.subject"), "");

    // The source has her no more: nothing of her is left, in the lake or where the pipeline keeps what it is asked for.
    postgres.sql("DELETE FROM people WHERE id = 7777").await;
    pipeline.catch_up(&postgres).await;
    assert_ne!(holding(&pipeline.lake, "jane.subject"), "", "her former states are there");
    let name = erase(&listener, json!({ "subjects": [JANE] })).await;
    let certificate = until_made(&listener, &name).await;
    assert_eq!((&certificate["clean"], &certificate["name"]), (&json!(true), &json!(name)), "{certificate}");
    let (_, listed) = listener.get("/api/v1/erasures").await;
    let (erasure, count) = (&listed["erasures"][0], &listed["count"]);
    assert_eq!((&erasure["name"], &erasure["clean"], count), (&json!(name), &json!(true), &json!(1)), "{listed}");
    assert_eq!(erasure["subjects"], json!([{ "table": null, "column": "email" }]));
    assert!(!listed.to_string().contains("sha256"), "{listed}");
    for folder in [pipeline.lake.clone(), pipeline.folder().display().to_string()] {
        assert_eq!(holding(&folder, "jane.subject"), "", "{folder}");
    }

    // A process that is killed meanwhile is told of by the next one, unless it was done.
    postgres.sql("DELETE FROM people WHERE id = 8888").await;
    pipeline.catch_up(&postgres).await;
    let name = erase(&listener, json!({ "subjects": [JOHN], "drop_reports": true })).await;
    pipeline.kill();
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let path = format!("/api/v1/erasures/{name}");
    let told = listener.until(&path, |code, _| matches!(code, StatusCode::CONFLICT | StatusCode::OK)).await;
    assert!(told["clean"] == true || told["error"].as_str().unwrap().contains("its process ended"), "{told}");
    let again = erase(&listener, json!({ "subjects": [JOHN], "drop_reports": true })).await;
    assert_eq!(until_made(&listener, &again).await["clean"], json!(true));
    assert_eq!(holding(&pipeline.lake, "john.subject"), "");
    for wrong in [json!({ "subjects": [] }), json!({ "subjects": ["jane"] })] {
        assert_eq!(listener.post("/api/v1/erasures", wrong).await.0, StatusCode::BAD_REQUEST);
    }

    // A report waits once, and one that fails says why.
    let run = "/api/v1/reports/wrong/run";
    assert_eq!(listener.post(run, json!({})).await.0, StatusCode::ACCEPTED);
    assert_eq!(listener.post(run, json!({})).await.0, StatusCode::CONFLICT, "it is asked for already");
    let failed = listener.until("/api/v1/reports/wrong", |_, answer| answer["runs"][0]["state"] == "failed").await;
    assert!(failed["runs"][0]["error"]["why"].as_str().unwrap().contains("nowhere"), "{failed}");

    let entries = listener.get("/api/v1/audit?limit=1000").await.1["entries"].to_string();
    for kind in ["hold_added", "hold_released", "erasure"] {
        assert!(
            entries.contains(&format!("\"kind\":\"{kind}\"")) && entries.contains("\"side\":\"http\""),
            "{entries}"
        );
    }
    assert!(!entries.contains("jane.subject") && !entries.contains("john.subject"), "{entries}");
    browse("deeds.py", &listener.url, &format!(":trust,:erasure/{again},:report/wrong")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_looks_are_allowed_the_page_has_no_verbs_and_the_api_refuses_them() {
    let postgres = Postgres::start(Version::V15).await;
    let (_pipeline, listener) = begun(&postgres, false).await;
    for (path, body) in [
        ("/api/v1/erasures", json!({ "subjects": [JANE] })),
        ("/api/v1/holds", json!({ "name": "a", "reason": "r", "tables": ["public.people"] })),
        ("/api/v1/holds/a/release", json!({ "reason": "r" })),
        ("/api/v1/reports/count/run", json!({})),
        ("/api/v1/verifications", json!({})),
    ] {
        assert_eq!(listener.post(path, body).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    browse("deeds.py", &listener.url, ":trust,:report/count").await;
}
