//! Partitioned tables: one table in the lake, whatever becomes of their partitions.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal, query};

const ROOT: [&str; 1] = ["public.m"];

const CREATE: [&str; 10] = [
    "CREATE TABLE m (at date, id int, v text, gone int, PRIMARY KEY (at, id)) PARTITION BY RANGE (at)",
    "CREATE TABLE m_2020 PARTITION OF m FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
    // Its columns have other numbers than those of the partitioned table.
    "CREATE TABLE m_2021 (id int NOT NULL, extra int, v text, gone int, at date NOT NULL)",
    "ALTER TABLE m_2021 DROP COLUMN extra",
    "ALTER TABLE m ATTACH PARTITION m_2021 FOR VALUES FROM ('2021-01-01') TO ('2022-01-01')",
    "CREATE TABLE m_2022 PARTITION OF m FOR VALUES FROM ('2022-01-01') TO ('2023-01-01') PARTITION BY LIST (id)",
    "CREATE TABLE m_2022_odd PARTITION OF m_2022 FOR VALUES IN (1, 3, 5, 7, 9, 11, 13, 15, 17, 19)",
    "CREATE TABLE m_2022_rest PARTITION OF m_2022 DEFAULT",
    "CREATE TABLE m_rest PARTITION OF m DEFAULT",
    "INSERT INTO m SELECT date '2020-01-01' + i * 7, i % 20, 'row ' || i, i FROM generate_series(0, 300) i",
];

async fn run(postgres: &Postgres, statements: &[&str]) {
    for statement in statements {
        postgres.sql(statement).await;
    }
}

fn copies(pipeline: &Pipeline) -> usize {
    pipeline.log().matches("\"message\":\"copying\"").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_one_table_whatever_becomes_of_its_partitions() {
    let postgres = Postgres::start(Version::V15).await;
    run(&postgres, &CREATE).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, None, &ROOT);
    let copied = copies(&pipeline);
    // What comes by the stream: rows that move, that are written to a partition itself, and new partitions.
    let streamed = [
        "UPDATE m SET at = at + 365 WHERE id < 5",
        "UPDATE m SET id = id + 20 WHERE at >= '2022-01-01' AND at < '2022-06-01'",
        "INSERT INTO m_2020 VALUES ('2020-05-05', 1000, 'straight', 1)",
        "DELETE FROM m_2022_rest WHERE id % 3 = 0",
        "CREATE TABLE m_2030 PARTITION OF m FOR VALUES FROM ('2030-01-01') TO ('2031-01-01')",
        "INSERT INTO m SELECT date '2030-01-01' + i, i, 'new', i FROM generate_series(0, 99) i",
        "ALTER TABLE m DROP COLUMN gone",
        "ALTER TABLE m RENAME v TO \"v v\"",
        "UPDATE m SET \"v v\" = 'renamed' WHERE id = 7",
        "TRUNCATE m_2030",
    ];
    run(&postgres, &streamed[..9]).await;
    eventually_equal(&postgres, &pipeline.lake, &ROOT, || pipeline.log()).await;
    assert_eq!(copies(&pipeline), copied, "{}", pipeline.log());
    let silent = [
        &streamed[9..],
        &["ALTER TABLE m DETACH PARTITION m_2020"],
        &["DROP TABLE m_2022_odd"],
        &[
            "CREATE TABLE m_2040 (at date NOT NULL, id int NOT NULL, \"v v\" text)",
            "INSERT INTO m_2040 SELECT date '2040-01-01' + i, i, 'attached' FROM generate_series(0, 99) i",
            "ALTER TABLE m ATTACH PARTITION m_2040 FOR VALUES FROM ('2040-01-01') TO ('2041-01-01')",
            "UPDATE m SET \"v v\" = 'after' WHERE at = '2040-01-05'",
        ],
        &["ALTER TABLE m ADD COLUMN n int DEFAULT 7"],
    ];
    for statements in &silent {
        run(&postgres, statements).await;
        eventually_equal(&postgres, &pipeline.lake, &ROOT, || pipeline.log()).await;
    }
    // What was detached is a table of its own.
    eventually_equal(&postgres, &pipeline.lake, &["public.m_2020"], || pipeline.log()).await;
    pipeline.stop();
    run(
        &postgres,
        &["DROP TABLE m_2040", "TRUNCATE m_2022_rest", "INSERT INTO m VALUES ('2030-05-05', 5, 'later', 1)"],
    )
    .await;
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &ROOT, || pipeline.log()).await;
    run(&postgres, &["TRUNCATE m", "INSERT INTO m VALUES ('2021-05-05', 5, 'last', 1)"]).await;
    eventually_equal(&postgres, &pipeline.lake, &ROOT, || pipeline.log()).await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_dropped_partitions_stay_where_that_is_configured() {
    let postgres = Postgres::start(Version::V18).await;
    run(&postgres, &CREATE).await;
    let mut pipeline = Pipeline::local_with(&postgres, "dropped_partitions = \"keep\"");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let (count, copied) = (postgres.value("SELECT count(*) FROM m").await, copies(&pipeline));
    run(&postgres, &["DROP TABLE m_2021", "INSERT INTO m VALUES ('2022-01-01', 77, 'later', 1)"]).await;
    pipeline.catch_up(&postgres).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    pipeline.catch_up(&postgres).await;
    let kept: u64 = query(&format!("{}/public/m", pipeline.lake), "SELECT count(*) FROM lake").parse().unwrap();
    assert_eq!(kept, count.parse::<u64>().unwrap() + 1, "{}", pipeline.log());
    assert_eq!(copies(&pipeline), copied);
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_partition_is_a_table_where_that_is_configured() {
    let postgres = Postgres::start(Version::V15).await;
    run(&postgres, &CREATE).await;
    // A partition that was made first has no key of its own but for the one that it was given with the others.
    let mut pipeline = Pipeline::local_with(&postgres, "partitions = \"leaf\"");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    run(&postgres, &["UPDATE m SET v = 'changed' WHERE id = 3", "UPDATE m SET at = at + 365 WHERE id < 5"]).await;
    let leaves = ["public.m_2020", "public.m_2021", "public.m_2022_odd", "public.m_2022_rest", "public.m_rest"];
    eventually_equal(&postgres, &pipeline.lake, &leaves, || pipeline.log()).await;
    assert!(!std::path::Path::new(&pipeline.lake).join("public/m").exists());
    pipeline.stop();
}
