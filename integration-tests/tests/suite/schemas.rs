//! What the listener tells of a table's columns, beside what Postgres itself calls their types, and readers see.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::{between, free_port};
use serde_json::{Value, json};

/// Types that every server has, with and without modifiers.
const TYPES: [&str; 45] = [
    "boolean",
    "bytea",
    "\"char\"",
    "name",
    "bigint",
    "smallint",
    "integer",
    "text",
    "oid",
    "json",
    "xml",
    "point",
    "lseg",
    "path",
    "box",
    "polygon",
    "line",
    "cidr",
    "real",
    "double precision",
    "circle",
    "macaddr8",
    "money",
    "macaddr",
    "inet",
    "char(7)",
    "varchar(20)",
    "varchar",
    "date",
    "time(3)",
    "timestamp(0)",
    "timestamptz(6)",
    "interval(2)",
    "timetz(1)",
    "bit(5)",
    "bit varying(9)",
    "numeric(10,2)",
    "numeric",
    "uuid",
    "pg_lsn",
    "tsvector",
    "jsonb",
    "tstzrange",
    "numeric(5,1)[]",
    "timestamp(3)[]",
];

fn listen(pipeline: &Pipeline) -> String {
    let address = format!("127.0.0.1:{}", free_port());
    pipeline.append_settings(&format!("[http]\nlisten = \"{address}\""));
    format!("http://{address}")
}

async fn schema(url: &str, table: &str) -> Value {
    let answer = reqwest::get(format!("{url}/api/v1/tables/{table}/schema")).await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.json().await.unwrap()
}

/// What is told of columns by this property, in their order.
fn told<'a>(schema: &'a Value, property: &str) -> Vec<&'a Value> {
    schema["columns"].as_array().unwrap().iter().map(|column| &column[property]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn types_are_called_what_postgres_calls_them() {
    let postgres = Postgres::start(Version::V15).await;
    let columns = TYPES.iter().enumerate().map(|(number, name)| format!("c{number} {name}"));
    let columns = columns.collect::<Vec<_>>().join(", ");
    postgres.sql("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN price AS numeric(6,2)").await;
    postgres.sql(&format!("CREATE TABLE types (id int PRIMARY KEY, {columns}, mood mood, price price NOT NULL)")).await;
    postgres
        .sql("CREATE TABLE later (id int PRIMARY KEY, at timestamp, total int GENERATED ALWAYS AS (id) STORED)")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.later\"\nunholdable = \"null\"");
    let url = listen(&pipeline);
    pipeline.start();
    pipeline.catch_up(&postgres).await;

    let types = schema(&url, "public.types").await;
    let catalog = "SELECT string_agg(format_type(atttypid, atttypmod), '|' ORDER BY attnum) FROM pg_attribute \
                   WHERE attrelid = 'types'::regclass AND attnum > 0 AND attname NOT IN ('mood', 'price')";
    let expected = postgres.value(catalog).await;
    let expected: Vec<_> = expected.split('|').map(Value::from).collect();
    let named = told(&types, "postgres_type");
    assert_eq!(named[..expected.len()], expected.iter().collect::<Vec<_>>());
    assert_eq!(named[expected.len()..], [&json!("enum (sad, glad)"), &json!("domain over numeric(6,2)")]);
    assert_eq!((&types["columns"][0]["key"], &types["columns"][1]["key"]), (&json!(1), &Value::Null));
    let price = &types["columns"][TYPES.len() + 2];
    assert_eq!((&price["nullable"], &price["delta_type"]), (&json!(false), &json!("decimal(6,2)")));
    assert!(told(&types, "avro_type").iter().all(|avro| avro.is_null()), "nothing goes through topics");

    // It is told by what the table becomes while it is followed.
    let later = schema(&url, "public.later").await;
    assert_eq!((told(&later, "name"), &later["not_sent"]), (vec![&json!("id"), &json!("at")], &json!(["total"])));
    assert_eq!(later["columns"][1]["policy"], "null");
    postgres.sql("ALTER TABLE later ADD n numeric(8,3); INSERT INTO later (id, n) VALUES (1, 2.5)").await;
    pipeline.catch_up(&postgres).await;
    let later = schema(&url, "public.later").await;
    assert_eq!(told(&later, "postgres_type")[2..], [&json!("numeric(8,3)")]);
    assert_eq!(told(&later, "delta_type")[2..], [&json!("decimal(8,3)")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_tells_what_it_knows() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz NOT NULL, v numeric(9,4))").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "");
    let mut sink = source.beside();
    let (source_url, sink_url) = (listen(&source), listen(&sink));
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    let visible = |status: &sooner::status::Status| find(status, "public.t").is_some_and(|t| t.table_version.is_some());
    sink.wait_for("the table is in the lake", Duration::from_secs(60), visible).await;

    let at_source = schema(&source_url, "public.t").await;
    assert_eq!(told(&at_source, "postgres_type"), ["bigint", "timestamp with time zone", "numeric(9,4)"]);
    let avro = ["long", "string, io.debezium.time.ZonedTimestamp", "bytes, decimal(9,4)"];
    assert_eq!(told(&at_source, "avro_type"), avro);
    assert!(told(&at_source, "delta_type").iter().all(|delta| delta.is_null()), "{at_source}");

    let in_lake = schema(&sink_url, "public.t").await;
    assert_eq!(told(&in_lake, "delta_type"), ["long", "timestamp", "decimal(9,4)"]);
    assert_eq!(told(&in_lake, "delta_nullable"), [&json!(false), &json!(false), &json!(true)]);
    assert_eq!((&in_lake["columns"][0]["key"], &in_lake["columns"][1]["key"]), (&json!(1), &Value::Null));
    assert!(told(&in_lake, "postgres_type").iter().all(|of_source| of_source.is_null()), "{in_lake}");
    let first = format!("{}/public/t/_delta_log/00000000000000000000.json", sink.lake);
    let first = std::fs::read_to_string(first).unwrap();
    assert!(first.contains(r#""sooner.key":"[\"id\"]""#), "the table is seen with its key from the first on: {first}");
}
