//! From Postgres to each reader: every type, every replica identity, every kind of change; local disk and S3.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::load::{self, Load};
use integration_tests::pipeline::{Pipeline, find, of};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal, judge};
use integration_tests::s3::S3;

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
    CREATE TABLE all_types (
        id integer PRIMARY KEY, b boolean, i2 smallint, i4 integer, i8 bigint, f4 real, f8 double precision,
        n numeric, n12_3 numeric(12, 3), n38 numeric(38, 10), n60 numeric(60, 5), t text, vc varchar(20), ch char(8),
        by bytea, d date, ti time, ti3 time(3), ts timestamp, ts3 timestamp(3), tz timestamptz, tz0 timestamptz(0),
        u uuid, j json, jb jsonb, m mood, dom positive, ip inet, iv interval, pt point, r int4range, mac macaddr, bits bit(5),
        ai integer[], at text[], an numeric(8, 2)[], ad date[], au uuid[], ab boolean[], am mood[], aj jsonb[],
        \"Odd Name\" integer, gen integer GENERATED ALWAYS AS (i4 / 2) STORED);
    ALTER TABLE all_types RENAME COLUMN \"Odd Name\" TO \"Odd-Näme\";
    INSERT INTO all_types VALUES (
        1, true, -32768, 2147483647, -9223372036854775808, 1.5, 1e300, 12345678901234567890.000100, -0.001,
        1234567890123456789012345678.0123456789, 99999999999999999999999999999999999999999999999999999.12345,
        E'tab\\t nl\\n \\\\ quote '' \"', 'äöü €', 'pad', '\\x00ff10', '2024-02-29', '24:00', '12:34:56.789',
        '0044-03-15 12:00 BC', '2024-01-01 00:00:00.5', '2024-06-01 12:00:00.123456+02', '1999-12-31 23:59:59.7+00',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"a\":  1}', '{\"b\": [1, 2]}', 'happy', 7, '10.0.0.1/8',
        '1 day 2 hours', '(1,2)', '[1,5)', '08:00:2b:01:02:03', B'10101', '{1,NULL,3}', '{\"a,b\",NULL,\"q\\\"\"}', '{1.50,NULL}',
        '{2024-01-01}', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', '{t,f,NULL}', '{sad,NULL}', '{\"{\\\"k\\\": 1}\"}', 5);
    INSERT INTO all_types (id) VALUES (2);
    INSERT INTO all_types (id, f4, f8, t, vc, at, ai, by, n, d, ts, tz) VALUES
        (3, 'NaN', '-Infinity', '', '', '{}', '{}', '', 0, '0001-01-01', '9999-12-31 23:59:59.999999', '0001-01-01 00:00+00');
";

const CHANGES_OF_TYPES: &str = "
    INSERT INTO all_types SELECT 10 + id, b, i2, i4, i8, f4, f8, n, n12_3, n38, n60, t, vc, ch, by, d, ti, ti3, ts, ts3,
        tz, tz0, u, j, jb, m, dom, ip, iv, pt, r, mac, bits, ai, at, an, ad, au, ab, am, aj, \"Odd-Näme\" FROM all_types;
    UPDATE all_types SET n = -n, f8 = f8 / 3, tz = tz + interval '1 second', at = at || 'more'::text WHERE id = 1;
    DELETE FROM all_types WHERE id = 12;
";

const IDENTITIES: &str = "
    CREATE TABLE by_default (id integer PRIMARY KEY, a text, big text);
    CREATE TABLE by_full (id integer PRIMARY KEY, a text, big text);
    CREATE TABLE by_index (id integer PRIMARY KEY, code text NOT NULL, other integer NOT NULL, big text);
    CREATE TABLE included (id integer, a text, PRIMARY KEY (id) INCLUDE (a));
    ALTER TABLE by_default ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE by_full ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE by_index ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE by_full REPLICA IDENTITY FULL;
    CREATE UNIQUE INDEX by_index_key ON by_index (other, code);
    ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_key;
    INSERT INTO by_default SELECT i, 'a' || i, repeat(md5(i::text), 300) FROM generate_series(1, 20) AS i;
    INSERT INTO by_full SELECT * FROM by_default;
    INSERT INTO by_index SELECT id, a, id, big FROM by_default;
    INSERT INTO included SELECT id, a FROM by_default;
";

/// Each line is a transaction: several changes of one row, changed keys, values that are left out, truncates.
const CHANGES_OF_IDENTITIES: [&str; 9] = [
    "UPDATE by_default SET a = 'x' WHERE id < 5; UPDATE by_full SET a = 'x' WHERE id < 5; UPDATE by_index SET id = id + 100 WHERE id < 5",
    "UPDATE by_default SET id = id + 100 WHERE id IN (6, 7); UPDATE by_full SET id = id + 100 WHERE id IN (6, 7)",
    "UPDATE by_index SET code = 'new' || code WHERE id IN (6, 7)",
    "BEGIN; UPDATE by_default SET id = 200 WHERE id = 8; UPDATE by_default SET a = 'y' WHERE id = 200; UPDATE by_default SET id = 201 WHERE id = 200; COMMIT",
    "BEGIN; UPDATE by_default SET big = repeat('z', 9000) WHERE id = 9; UPDATE by_default SET a = 'after' WHERE id = 9; COMMIT",
    "DELETE FROM by_default WHERE id = 10; DELETE FROM by_full WHERE id = 10; DELETE FROM by_index WHERE id = 10",
    "UPDATE included SET a = 'changed' WHERE id < 5; DELETE FROM included WHERE id = 7",
    "BEGIN; DELETE FROM by_default WHERE id = 11; INSERT INTO by_default VALUES (11, 'again', 'small'); COMMIT",
    "BEGIN; TRUNCATE by_full; INSERT INTO by_full VALUES (1, 'fresh', repeat('f', 9000)); COMMIT; UPDATE by_full SET a = 'fresher' WHERE id = 1",
];

/// Who reads local tables.
const LOCAL_READERS: [Reader; 3] = [Reader::DuckDb, Reader::Polars, Reader::Spark];

const IDENTITY_TABLES: [&str; 4] = ["public.by_default", "public.by_full", "public.by_index", "public.included"];

async fn every_type_and_identity(version: Version, readers: &[Reader]) {
    let postgres = Postgres::start(version).await;
    postgres.sql(TYPES).await;
    postgres.sql(IDENTITIES).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql(CHANGES_OF_TYPES).await;
    for transaction in CHANGES_OF_IDENTITIES {
        postgres.sql(transaction).await;
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    pipeline.catch_up(&postgres).await;
    let tables = [&["public.all_types"], &IDENTITY_TABLES[..]].concat();
    for reader in readers {
        assert_equal(*reader, &postgres, &pipeline.lake, None, &tables);
    }
    judge(&pipeline.lake, &tables, Duration::from_secs(3600));
    let stopped = pipeline.stop();
    assert!(stopped < Duration::from_secs(10), "a clean stop took {stopped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_identity_from_postgres_15() {
    every_type_and_identity(Version::V15, &LOCAL_READERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_identity_from_postgres_18() {
    every_type_and_identity(Version::V18, &[Reader::DuckDb, Reader::Polars]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_into_s3() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    postgres.sql(load::SCHEMA).await;
    let mut pipeline = Pipeline::s3(&postgres, &s3.endpoint());
    let load = Load::start(postgres.url(), 1);
    pipeline.start();
    tokio::time::sleep(Duration::from_secs(6)).await;
    load.stop().await;
    pipeline.catch_up(&postgres).await;
    for reader in [Reader::DuckDb, Reader::Polars] {
        assert_equal(reader, &postgres, &pipeline.lake, Some(s3.port), &load::TABLES);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_memory_is_one_version() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE wide (id integer PRIMARY KEY, filler text)").await;
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").display().to_string();
    let mut pipeline = Pipeline::with(folder, &postgres.url(), lake, "", "");
    let path = pipeline.folder().join("sooner.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("memory = \"8MiB\"\n{text}")).unwrap();
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let before = of(&pipeline.status().unwrap(), "public.wide").table_version;
    postgres
        .sql(
            "BEGIN; INSERT INTO wide SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 200000) AS i; \
             UPDATE wide SET filler = 'twice' WHERE id % 3 = 0; DELETE FROM wide WHERE id % 5 = 0; COMMIT",
        )
        .await;
    pipeline.catch_up(&postgres).await;
    for reader in LOCAL_READERS {
        assert_equal(reader, &postgres, &pipeline.lake, None, &["public.wide"]);
    }
    let after = of(&pipeline.status().unwrap(), "public.wide").table_version;
    assert_eq!(after, before.map(|version| version + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_column_flows_through_and_another_change_is_copied_again_by_itself() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE grows (id integer PRIMARY KEY, a text); INSERT INTO grows VALUES (1, 'one'); \
             CREATE TABLE changes (id integer PRIMARY KEY, a text); INSERT INTO changes VALUES (1, 'one'); \
             CREATE TABLE calm (id integer PRIMARY KEY)",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("ALTER TABLE grows ADD COLUMN b integer; INSERT INTO grows VALUES (2, 'two', 2)").await;
    postgres.sql("UPDATE grows SET b = 1 WHERE id = 1; INSERT INTO calm VALUES (1)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.grows", "public.calm"]);
    // The rows that are there already get values that no event tells of: the table is copied again by itself.
    postgres
        .sql("ALTER TABLE grows ADD COLUMN c float NOT NULL DEFAULT random(); INSERT INTO grows VALUES (3, 'three')")
        .await;
    let copied = |status: &sooner::status::Status| of(status, "public.grows").rows_copied == 3;
    pipeline.wait_for("copied again", Duration::from_secs(30), copied).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.grows"]);

    postgres.sql("ALTER TABLE changes ALTER a TYPE integer USING 5; INSERT INTO changes VALUES (2, 2)").await;
    let tables = ["public.changes", "public.calm", "public.grows"];
    eventually_equal(&postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    postgres.sql("INSERT INTO calm VALUES (2); INSERT INTO changes VALUES (3, 3)").await;
    eventually_equal(&postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    pipeline.assert_all_stream();
    for reader in LOCAL_READERS {
        assert_equal(reader, &postgres, &pipeline.lake, None, &tables);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_written_and_read() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(load::SCHEMA).await;
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").display().to_string();
    let mut pipeline = Pipeline::with(folder, &postgres.url(), lake, "", "");
    let path = pipeline.folder().join("sooner.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("200ms", "50ms");
    std::fs::write(&path, text).unwrap();
    pipeline.start();
    let load = Load::start(postgres.url(), 9);
    let many = |status: &sooner::status::Status| {
        find(status, "public.accounts").is_some_and(|table| table.table_version > Some(120))
    };
    pipeline.wait_for("120 versions", Duration::from_secs(90), many).await;
    load.stop().await;
    pipeline.catch_up(&postgres).await;
    let log = format!("{}/public/accounts/_delta_log", pipeline.lake);
    assert!(std::path::Path::new(&log).join("_last_checkpoint").exists(), "{}", pipeline.log());
    // Without the entries before it, readers and the pipeline itself have only the checkpoint.
    pipeline.stop();
    for version in 0..40 {
        std::fs::remove_file(format!("{log}/{version:020}.json")).unwrap();
    }
    pipeline.start();
    postgres.sql("UPDATE accounts SET note = 'after the checkpoint' WHERE id < 2000").await;
    pipeline.catch_up(&postgres).await;
    for reader in LOCAL_READERS {
        assert_equal(reader, &postgres, &pipeline.lake, None, &load::TABLES);
    }
}
