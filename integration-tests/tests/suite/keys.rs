//! Keys are equal where Postgres holds them equal, however they are written: Postgres is the oracle.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use integration_tests::between;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::eventually_equal;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Tables: type of the key, and ways to write few values of it, of which Postgres holds some equal.
const KEYS: [(&str, &str, &[&str]); 7] = [
    ("k_numeric", "numeric", &["1", "1.0", "1.00", "1e0", "10", "1e1", "0", "0.00", "-0", "NaN", "0.10", "0.1"]),
    ("k_scaled", "numeric(10,2)", &["1", "1.000", "1.00", "2.5", "2.50"]),
    ("k_citext", "citext", &["abc", "ABC", "aBc", "ab", "AB", "ä", "Ä"]),
    ("k_bpchar", "char(5)", &["a", "a  ", "a    ", "ab", "ab ", "b"]),
    ("k_folded", "text COLLATE folded", &["abc", "ABC", "aBc", "ab", "AB", "é", "e"]),
    ("k_float", "double precision", &["0", "-0", "NaN", "1", "1.0", "1e0", "Infinity", "-Infinity"]),
    ("k_time", "timestamptz", &["2020-01-01 00:00+00", "2020-01-01 01:00+01", "2020-01-01 02:00+01"]),
];

async fn create(postgres: &Postgres) {
    postgres.sql("CREATE EXTENSION citext").await;
    postgres.sql("CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)").await;
    for (table, key, _) in KEYS {
        postgres.sql(&format!("CREATE TABLE {table} (k {key} PRIMARY KEY, v int, big text)")).await;
    }
}

/// Statements at random that write, rewrite, and delete rows by keys written one way or another.
async fn change(postgres: &Postgres, random: &mut StdRng, statements: usize) {
    for _ in 0..statements {
        let (table, _, values) = KEYS.choose(random).unwrap();
        let (key, other) = (values.choose(random).unwrap(), values.choose(random).unwrap());
        let number = random.random_range(0..1000);
        let statement = match random.random_range(0..6) {
            0 | 1 => format!(
                "INSERT INTO {table} VALUES ('{key}', {number}, repeat('x', 3000)) ON CONFLICT (k) DO UPDATE SET v = {number}"
            ),
            2 => format!("INSERT INTO {table} VALUES ('{key}', {number}) ON CONFLICT (k) DO UPDATE SET k = excluded.k"),
            3 => format!("UPDATE {table} SET k = '{key}' WHERE k = '{key}'"),
            4 => format!(
                "UPDATE {table} SET k = '{other}', v = {number} WHERE k = '{key}' \
                 AND NOT EXISTS (SELECT FROM {table} o WHERE o.k = '{other}' AND NOT o.k = '{key}')"
            ),
            _ => format!("DELETE FROM {table} WHERE k = '{key}'"),
        };
        postgres.sql(&statement).await;
    }
}

async fn keys_are_equal_where_postgres_says_so(postgres: &Postgres, pipeline: &mut Pipeline) {
    let seed = std::env::var("SOONER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    eprintln!("SOONER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    change(postgres, &mut random, 100).await;
    pipeline.start();
    let tables: Vec<_> = KEYS.iter().map(|(table, ..)| format!("public.{table}")).collect();
    let tables: Vec<_> = tables.iter().map(String::as_str).collect();
    for _ in 0..3 {
        change(postgres, &mut random, 300).await;
        eventually_equal(postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    }
    pipeline.stop();
    change(postgres, &mut random, 300).await;
    pipeline.start();
    eventually_equal(postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    pipeline.assert_all_stream();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_equal_in_the_lake_exactly_where_postgres_holds_them_equal() {
    let postgres = Postgres::start(Version::V15).await;
    create(&postgres).await;
    let mut pipeline = Pipeline::local(&postgres);
    keys_are_equal_where_postgres_says_so(&postgres, &mut pipeline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_equal_behind_topics_exactly_where_postgres_holds_them_equal() {
    let (postgres, kafka, registry) = between::start().await;
    create(&postgres).await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3");
    // Debezium's form of numeric has no NaN.
    pipeline.append_settings("[[table]]\nmatch = 'public.k_numeric'\nunholdable_types = { numeric = 'text' }");
    keys_are_equal_where_postgres_says_so(&postgres, &mut pipeline).await;
}
