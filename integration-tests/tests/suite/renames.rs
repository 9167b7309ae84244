//! Tables that are renamed, swapped, and moved between schemas, where the table leads and not its name.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::between;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::query;
use sooner::status::Status;

/// Waits until a table in the lake holds what a table at the source does, whatever that is called.
async fn eventually_holds(pipeline: &Pipeline, postgres: &Postgres, lake: &str, source: &str) {
    let expected = postgres.value(&format!("SELECT string_agg(id || '=' || v, ',' ORDER BY id) FROM {source}")).await;
    let location = format!("{}/{lake}", pipeline.lake);
    let mut held = String::new();
    for _ in 0..150 {
        if std::path::Path::new(&location).join("_delta_log").exists() {
            held = query(&location, "SELECT string_agg(id || '=' || v, ',' ORDER BY id) FROM lake");
        }
        if held == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("{lake} holds {held}, and {source} {expected}\n{}", pipeline.log());
}

async fn a_table_keeps_its_lake_table(postgres: &Postgres, mut pipeline: Pipeline) {
    postgres
        .sql(
            "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, v text);
             CREATE SCHEMA archive; INSERT INTO a VALUES (1, 'of a'); INSERT INTO b VALUES (1, 'of b')",
        )
        .await;
    pipeline.configure_source("follow = \"table\"");
    pipeline.start();
    pipeline.catch_up(postgres).await;
    let copies = |pipeline: &Pipeline| pipeline.log().matches("\"message\":\"copying\"").count();
    let copied = copies(&pipeline);

    // Swapped while it runs, moved while it does not.
    postgres.sql("ALTER TABLE a RENAME TO x; ALTER TABLE b RENAME TO a; ALTER TABLE x RENAME TO b").await;
    postgres.sql("INSERT INTO b VALUES (2, 'of a, now b'); UPDATE a SET v = 'of b, now a'").await;
    eventually_holds(&pipeline, postgres, "public/a", "b").await;
    eventually_holds(&pipeline, postgres, "public/b", "a").await;
    pipeline.stop();
    postgres.sql("INSERT INTO b VALUES (3, 'away'); ALTER TABLE b SET SCHEMA archive").await;
    postgres.sql("INSERT INTO archive.b VALUES (4, 'moved'); ALTER TABLE archive.b RENAME TO c").await;
    postgres.sql("INSERT INTO archive.c VALUES (5, 'renamed')").await;
    pipeline.start();
    eventually_holds(&pipeline, postgres, "public/a", "archive.c").await;
    postgres.sql("DELETE FROM archive.c WHERE id = 1; ALTER TABLE archive.c ADD COLUMN n int").await;
    postgres.sql("UPDATE archive.c SET n = 7").await;
    eventually_holds(&pipeline, postgres, "public/a", "archive.c").await;
    assert_eq!(copies(&pipeline), copied, "{}", pipeline.log());

    // A new table of a name that is kept waits, and says so, until the name is free.
    postgres.sql("CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b VALUES (1, 'new')").await;
    let waits = |status: &Status| {
        status.tables.values().any(|table| table.reason().is_some_and(|why| why.contains("has kept it in the lake")))
    };
    pipeline.wait_for("the new table waits", Duration::from_secs(30), waits).await;
    assert!(find(&pipeline.status().unwrap(), "public.b").unwrap().reason().is_none(), "{}", pipeline.log());
    eventually_holds(&pipeline, postgres, "public/b", "a").await;
    // A copy that somebody asks for finds the table.
    pipeline.resume("public.a");
    postgres.sql("INSERT INTO archive.c VALUES (6, 'more')").await;
    eventually_holds(&pipeline, postgres, "public/a", "archive.c").await;
    postgres.sql("DROP TABLE a").await;
    eventually_holds(&pipeline, postgres, "public/b", "b").await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_table_leads_its_lake_table_follows_it_whatever_it_is_called() {
    let postgres = Postgres::start(Version::V15).await;
    let pipeline = Pipeline::local(&postgres);
    a_table_keeps_its_lake_table(&postgres, pipeline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_through_topics() {
    let (postgres, kafka, registry) = between::start().await;
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    a_table_keeps_its_lake_table(&postgres, pipeline).await;
}
