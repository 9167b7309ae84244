//! Names that a database allows and a path does not take as they are: every table is found, by sooner and by readers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal};
use sooner_postgres::client::quote_name;

const NAMES: [&str; 18] = [
    "a#b",
    "p%41",
    "t~",
    "q?",
    "s*r",
    "[x]",
    "c^d",
    "e\"f",
    "g\\h",
    "sl/ash",
    "MiXed",
    "mixed",
    "ünï €",
    "dot.ted",
    "-dash",
    "a-b",
    "_under",
    "plain",
];

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_any_name_are_read_by_everybody_and_found_again_after_a_restart() {
    let postgres = Postgres::start(Version::V15).await;
    let each = |statement: &dyn Fn(String) -> String| {
        NAMES.iter().fold(String::new(), |mut sql, name| {
            let _ = write!(sql, "{};", statement(quote_name(name)));
            sql
        })
    };
    postgres.sql(&each(&|name| format!("CREATE TABLE {name} (id int PRIMARY KEY, v text)"))).await;
    postgres
        .sql(&each(&|name| format!("INSERT INTO {name} SELECT i, 'row ' || i FROM generate_series(1, 20) i")))
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql(&each(&|name| format!("UPDATE {name} SET v = 'changed' WHERE id < 5"))).await;
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let copied = pipeline.log().matches("\"message\":\"copying\"").count();
    postgres.sql(&each(&|name| format!("DELETE FROM {name} WHERE id > 15"))).await;
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert_eq!(pipeline.log().matches("\"message\":\"copying\"").count(), copied, "no table is copied again");
    let optimized = pipeline.output("optimize", &[]);
    let said = String::from_utf8_lossy(&optimized.stdout).into_owned();
    assert!(optimized.status.success() && NAMES.iter().all(|name| said.contains(name)), "{optimized:?}");
    let tables: Vec<String> = NAMES.iter().map(|name| format!("public.{name}")).collect();
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    for reader in [Reader::DuckDb, Reader::Polars, Reader::Spark] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &tables);
    }
}
