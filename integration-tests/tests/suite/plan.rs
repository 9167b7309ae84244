//! `sooner plan` says what a changed configuration does, changes nothing, and is right.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::between;
use integration_tests::free_port;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use serde_json::{Value, json};
use sooner::status::{Status, TableStatus};
use sooner_api::TableState;

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "a secret of the test";

/// The plan, and whether it has changes by its exit code.
fn plan(pipeline: &Pipeline) -> (Value, bool) {
    let output = pipeline.output("plan", &["--json", "--detailed-exitcode"]);
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 2)), "{}", String::from_utf8_lossy(&output.stderr));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["has_changes"], json!(code == Some(2)), "{plan}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing happens that a log would tell");
    (plan, code == Some(2))
}

fn action<'p>(plan: &'p Value, table: &str) -> Option<&'p str> {
    plan["tables"][table]["action"].as_str()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What a pipeline has in its database.
async fn traces(postgres: &Postgres) -> String {
    let sql = "SELECT (SELECT coalesce(string_agg(slot_name, ' ' ORDER BY 1), '') FROM pg_replication_slots) || '/' || \
               (SELECT coalesce(string_agg(tablename, ' ' ORDER BY 1), '') FROM pg_publication_tables)";
    postgres.value(sql).await
}

/// What the process does at SIGHUP is what was planned.
async fn is_done_as_planned(postgres: &Postgres, pipeline: &Pipeline) {
    pipeline.signal("HUP");
    let is_gone = |table: &TableStatus| table.state == TableState::Gone;
    let is_done = |status: &Status| find(status, "public.b").is_some() && find(status, "public.a").is_none_or(is_gone);
    pipeline.wait_for("the other tables", LIMIT, is_done).await;
    postgres.sql("INSERT INTO c VALUES (2, 'infinity'); INSERT INTO b VALUES (0)").await;
    let copies = || {
        let events = pipeline.output("events", &["--table", "public.c", "--json"]).stdout;
        String::from_utf8_lossy(&events).matches("copy_started").count()
    };
    let asked = std::time::Instant::now();
    while copies() < 2 {
        assert!(asked.elapsed() < LIMIT, "it is not copied again\n{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pipeline.wait_until_streaming(&["public.b", "public.c"]).await;
    pipeline.catch_up(postgres).await;
    pipeline.assert_equal(postgres, &["public.b"]);
}

/// The tables, their values and the settings that the test changes.
fn what_is_planned_is_told(pipeline: &Pipeline, planned: &Value) {
    assert_eq!(planned["compared_with"], "running");
    assert_eq!(action(planned, "public.a"), Some("stop"), "{planned}");
    let stays = text(&planned["tables"]["public.a"]["stays"][0]);
    assert!(stays.contains(&format!("{}/public/a", pipeline.lake)), "{stays}");
    assert_eq!((action(planned, "public.b"), action(planned, "public.c")), (Some("copy"), Some("recopy")));
    assert_eq!(planned["tables"]["public.b"]["rows_estimated"], 1000);
    assert!(planned["tables"]["public.b"]["bytes_estimated"].as_u64() > Some(8192));
    assert!(text(&planned["tables"]["public.c"]["reason"]).contains("'until' changed its type"), "{planned}");
    assert_eq!(planned["tables"]["public.c"]["settings"][0]["setting"], "unholdable");
    let settings = planned["settings"].as_array().unwrap();
    let takes = |name: &str| settings.iter().find(|change| change["setting"] == name).unwrap()["takes_effect"].clone();
    assert_eq!((takes("lake.freshness"), takes("http.allow_control")), (json!("reload"), json!("restart")));
    assert_eq!((&planned["needs_restart"], &planned["refused"]), (&json!(true), &Value::Null));
}

fn another_slot_is_refused_and_another_publication_copies(pipeline: &Pipeline) {
    // From another slot the pipeline does not go on, and the former one keeps log.
    pipeline.configure_source("slot = \"other\"\npublication = \"others\"");
    let (planned, _) = plan(pipeline);
    assert_eq!(planned["refused"]["code"], "positions_discontinuous", "{planned}");
    assert_eq!((action(&planned, "public.b"), action(&planned, "public.c")), (Some("copy"), Some("copy")));
    let told = planned["consequences"].to_string();
    assert!(told.contains("pg_drop_replication_slot('sooner_shop')"), "{told}");
    assert!(told.contains("'others' is created") && told.contains("DROP PUBLICATION \\\"sooner_shop\\\""), "{told}");
    let stored = std::fs::read_to_string(pipeline.state_dir().join("configuration.json")).unwrap();
    assert!(stored.contains("HTTP_TOKEN") && !stored.contains(TOKEN));
    pipeline.replace("slot = \"other\"\n", "");
    let (planned, _) = plan(pipeline);
    assert_eq!((&planned["refused"], action(&planned, "public.b")), (&Value::Null, Some("recopy")), "{planned}");
    assert!(text(&planned["tables"]["public.b"]["reason"]).contains("publication was altered"), "{planned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_does_what_is_planned_and_a_plan_does_nothing() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await;
    postgres.sql("CREATE TABLE c (id int PRIMARY KEY, until date); INSERT INTO c VALUES (1, '2020-01-01')").await;
    postgres.sql("INSERT INTO b SELECT generate_series(1, 1000); ANALYZE").await;
    let mut pipeline = Pipeline::local(&postgres);
    let former = "tables = [\"public.a\", \"public.c\"]";
    pipeline.configure_source(former);
    let address = format!("127.0.0.1:{}", free_port());
    pipeline.append_settings(&format!("[http]\nlisten = \"{address}\"\ntoken = {{ env = \"HTTP_TOKEN\" }}"));
    pipeline.set("HTTP_TOKEN", TOKEN);

    // Before it ever ran.
    let (planned, _) = plan(&pipeline);
    assert_eq!((action(&planned, "public.a"), action(&planned, "public.b")), (Some("copy"), None), "{planned}");
    assert_eq!(planned["compared_with"], "nothing");
    assert!(!std::path::Path::new(&pipeline.lake).exists() && !pipeline.state_dir().exists());
    assert_eq!(traces(&postgres).await, "/");

    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (planned, has_changes) = plan(&pipeline);
    assert!(!has_changes, "{planned}");

    // Tables, values and settings.
    pipeline.replace(former, "tables = [\"public.b\", \"public.c\"]");
    pipeline.replace("freshness = \"200ms\"", "freshness = \"300ms\"");
    pipeline.append_settings("allow_control = true\n[[table]]\nmatch = \"public.c\"\nunholdable = \"text\"");
    let before = traces(&postgres).await;
    let (planned, _) = plan(&pipeline);
    what_is_planned_is_told(&pipeline, &planned);
    let asked = reqwest::Client::new().get(format!("http://{address}/api/v1/plan")).bearer_auth(TOKEN);
    assert_eq!(asked.send().await.unwrap().json::<Value>().await.unwrap()["tables"], planned["tables"]);
    let said = String::from_utf8(pipeline.output("plan", &[]).stdout).unwrap();
    assert!(said.contains("+ public.b  copied, about 1000 rows") && said.contains("nothing was changed"), "{said}");
    assert_eq!(traces(&postgres).await, before);
    is_done_as_planned(&postgres, &pipeline).await;
    let (planned, _) = plan(&pipeline);
    assert_eq!(planned["tables"], json!({}), "{planned}");
    let left: Vec<_> = planned["settings"].as_array().unwrap().iter().map(|change| &change["setting"]).collect();
    assert_eq!(left, ["http.allow_control"], "what needs a restart is still to come");

    another_slot_is_refused_and_another_publication_copies(&pipeline);

    // Another lake has nothing of the tables.
    pipeline.replace("publication = \"others\"", "");
    let (lake, other) = (pipeline.lake.clone(), pipeline.folder().join("elsewhere").display().to_string());
    pipeline.replace(&lake, &other);
    let (planned, _) = plan(&pipeline);
    assert_eq!((action(&planned, "public.b"), action(&planned, "public.c")), (Some("copy"), Some("copy")));
    assert!(planned["consequences"].to_string().contains(&lake), "{planned}");
    assert!(!std::path::Path::new(&other).exists());
    pipeline.replace("name = \"shop\"", "nmae = \"shop\"");
    assert_eq!(pipeline.output("plan", &["--detailed-exitcode"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_kafka_topics_and_the_record_on_them_are_told() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "prefix = \"one\"");
    assert_eq!(action(&plan(&pipeline).0, "public.t"), Some("copy"));
    assert!(!kafka.topics(&["--list"]).contains("sooner"), "it makes no topics");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (planned, has_changes) = plan(&pipeline);
    assert!(!has_changes, "{planned}");

    pipeline.replace("prefix = \"one\"", "prefix = \"two\"");
    let (planned, _) = plan(&pipeline);
    assert_eq!(action(&planned, "public.t"), Some("recopy"), "{planned}");
    let reason = text(&planned["tables"]["public.t"]["reason"]);
    assert!(reason.contains("two.public.t") && reason.contains("one.public.t"), "{reason}");
    pipeline.signal("HUP");
    pipeline.wait_for_log("another topic: the table is copied there", LIMIT).await;
    pipeline.wait_until_copied("public.t").await;
    postgres.sql("INSERT INTO t VALUES (2)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t"]);

    pipeline.replace("prefix = \"two\"", "prefix = \"two\"\nprogress_topic = \"nowhere\"");
    let (planned, _) = plan(&pipeline);
    assert_eq!(planned["refused"]["code"], "progress_missing", "{planned}");
    assert!(text(&planned["refused"]["remedy"]).contains("--recopy"));
}
