//! Publications that carry a part of their tables: rows that a filter admits, columns that a list names.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use integration_tests::between;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::query;
use sooner::status::{Status, TableStatus};

const SOURCE: &str = "
    CREATE TABLE people (region text, id int, name text, secret text, PRIMARY KEY (region, id));
    CREATE TABLE orders (id int PRIMARY KEY, amount int, note text);
    ALTER TABLE orders REPLICA IDENTITY FULL;
    CREATE TABLE m (id int, v int, PRIMARY KEY (id, v)) PARTITION BY RANGE (id);
    CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM (0) TO (500);
    CREATE TABLE m_2 PARTITION OF m DEFAULT;
    CREATE TABLE whole (id int PRIMARY KEY);
    CREATE TABLE docs (region text, id int, body text, PRIMARY KEY (region, id));
    ALTER TABLE docs ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
    INSERT INTO docs SELECT CASE i % 2 WHEN 0 THEN 'eu' ELSE 'us' END, i, repeat('b' || i, 3000) FROM generate_series(1, 60) i;
    INSERT INTO people SELECT CASE i % 3 WHEN 0 THEN 'eu' ELSE 'us' END, i, 'n' || i, 's' || i FROM generate_series(1, 3000) i;
    INSERT INTO orders SELECT i, i % 200, repeat('note', 2000) FROM generate_series(1, 1000) i;
    INSERT INTO m SELECT i, i % 7 FROM generate_series(1, 1000) i;
    INSERT INTO whole SELECT generate_series(1, 10);
    CREATE PUBLICATION sooner_shop FOR TABLE people (region, id, name) WHERE (region = 'eu' AND id <> 9),
        orders WHERE (amount > 100), m WHERE (v < 3), whole, docs WHERE (region = 'eu') WITH (publish_via_partition_root = true)";

/// What the lake holds of each table, and what it is to hold.
const SELECTED: [(&str, &str, &str); 5] = [
    ("docs", "SELECT string_agg(id || ':' || md5(body), ',' ORDER BY id) FROM", "region = 'eu'"),
    ("people", "SELECT string_agg(region || id || name, ',' ORDER BY id) FROM", "region = 'eu' AND id <> 9"),
    ("orders", "SELECT string_agg(id || ':' || amount || ':' || length(note), ',' ORDER BY id) FROM", "amount > 100"),
    ("m", "SELECT string_agg(id || ':' || v, ',' ORDER BY id, v) FROM", "v < 3"),
    ("whole", "SELECT string_agg(id || '', ',' ORDER BY id) FROM", "true"),
];

async fn eventually_selected(postgres: &Postgres, pipeline: &Pipeline, people: &str) {
    for (table, select, condition) in SELECTED {
        let condition = if table == "people" { people } else { condition };
        let wanted = postgres.value(&format!("{select} {table} WHERE {condition}")).await;
        let asked = Instant::now();
        while query(&format!("{}/public/{table}", pipeline.lake), &format!("{select} lake")) != wanted {
            assert!(asked.elapsed() < Duration::from_secs(60), "{table} differs\n{}", pipeline.log());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

async fn change(postgres: &Postgres) {
    for statement in [
        // Rows that come in, go out, stay in and stay out.
        "UPDATE people SET region = 'eu' WHERE id BETWEEN 100 AND 110",
        "UPDATE people SET region = 'us' WHERE id BETWEEN 200 AND 210",
        "UPDATE people SET name = name || 'x' WHERE id BETWEEN 300 AND 330",
        "UPDATE people SET secret = 'hidden' WHERE id < 400",
        "DELETE FROM people WHERE id BETWEEN 500 AND 520",
        "INSERT INTO people SELECT 'eu', i, NULL, 'also hidden' FROM generate_series(4000, 4010) i ON CONFLICT DO NOTHING",
        "UPDATE orders SET amount = 250 - amount WHERE id < 300",
        "DELETE FROM orders WHERE id BETWEEN 300 AND 320",
        "UPDATE m SET v = 6 - v, id = id + 10000 WHERE id % 10 = 0",
        // Of rows that come in, the lake has no body; Postgres takes it from the old row, which it has whole.
        "UPDATE docs SET region = 'eu' WHERE id BETWEEN 1 AND 9",
        "UPDATE docs SET region = 'us' WHERE id BETWEEN 20 AND 29",
        "INSERT INTO whole VALUES (11) ON CONFLICT DO NOTHING",
    ] {
        postgres.sql(statement).await;
    }
}

async fn a_selection_is_what_the_lake_holds(postgres: &Postgres, pipeline: &mut Pipeline) {
    pipeline.start();
    pipeline.catch_up(postgres).await;
    let people = SELECTED[1].2;
    eventually_selected(postgres, pipeline, people).await;
    change(postgres).await;
    eventually_selected(postgres, pipeline, people).await;
    let columns =
        query(&format!("{}/public/people", pipeline.lake), "SELECT string_agg(column_name, ',') FROM (DESCRIBE lake)");
    assert_eq!(columns, "region,id,name", "a column that is not on the list does not leave the database");

    // Without the whole old row, Postgres leaves the unchanged body out of a row that comes in: the table is copied.
    postgres.sql("ALTER TABLE docs REPLICA IDENTITY DEFAULT").await;
    postgres.sql("UPDATE docs SET region = 'eu' WHERE id IN (59, 57)").await;
    eventually_selected(postgres, pipeline, people).await;
    postgres.sql("ALTER TABLE docs REPLICA IDENTITY FULL").await;

    // Another selection brings the table again, whether it is made while the pipeline runs or not.
    let alter = |people: &str| {
        format!(
            "ALTER PUBLICATION sooner_shop SET TABLE people (region, id, name) WHERE ({people}),
                 orders WHERE (amount > 100), m WHERE (v < 3), whole, docs WHERE (region = 'eu')"
        )
    };
    postgres.sql(&alter("region = 'us' AND id < 1000")).await;
    eventually_selected(postgres, pipeline, "region = 'us' AND id < 1000").await;
    pipeline.stop();
    postgres.sql(&alter("region = 'us'")).await;
    change(postgres).await;
    pipeline.start();
    eventually_selected(postgres, pipeline, "region = 'us'").await;
    pipeline.assert_all_stream();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lake_holds_what_the_publication_selects() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::local(&postgres);
    a_selection_is_what_the_lake_holds(&postgres, &mut pipeline).await;
    postgres.sql("CREATE TABLE late (id int PRIMARY KEY, v int)").await;
    postgres.sql("ALTER PUBLICATION sooner_shop ADD TABLE late (v)").await;
    let is_told = |status: &Status| {
        find(status, "public.late").and_then(TableStatus::reason).is_some_and(|why| why.contains("column list"))
    };
    pipeline.wait_for("a reason", Duration::from_secs(30), is_told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_hold_what_the_publication_selects() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    a_selection_is_what_the_lake_holds(&postgres, &mut pipeline).await;
}
