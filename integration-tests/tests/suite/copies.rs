//! Copies beside the stream: they miss nothing that happens meanwhile, and nobody waits for them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::between;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::eventually_equal;
use sooner::status::Status;

const LIMIT: Duration = Duration::from_secs(60);

/// Starts to do something that somebody else's lock, or a missing standby, keeps waiting.
async fn begin(postgres: &Postgres, sql: &str) -> tokio::task::JoinHandle<()> {
    let mut client = postgres.connect("shop").await;
    let sql = format!("SET synchronous_commit = on; {sql}");
    tokio::spawn(async move { drop(client.query(&sql).await.unwrap()) })
}

/// A commit is in the stream before any snapshot sees it, while its standby has not answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_misses_no_row_whose_commit_waits_for_its_standby() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x'), (2, 'x')").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    for setting in ["synchronous_standby_names = 'nobody'", "synchronous_commit = 'on'"] {
        postgres.sql(&format!("ALTER SYSTEM SET {setting}")).await;
    }
    postgres.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let waiting = begin(&postgres, "INSERT INTO t VALUES (3, 'late')").await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while postgres.value(waits).await != "1" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(postgres.value("SELECT count(*) FROM t").await, "2", "nobody sees it");
    // Each copy would see two rows, and the stream does not send the third again.
    for _ in 0..2 {
        pipeline.resume("public.t");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    pipeline.kill();
    pipeline.start();
    pipeline.wait_for_log("\"copying\"", LIMIT).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished());
    postgres.sql("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    postgres.sql("SELECT pg_reload_conf()").await;
    waiting.await.unwrap();
    eventually_equal(&postgres, &pipeline.lake, &["public.t"], || pipeline.log()).await;
    pipeline.stop();
}

/// A commit is in the stream before the catalog shows what it altered. Its table is copied again, and that is known
/// before the commit counts as read: whoever dies in between would never hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_until_its_table_is_copied_again_does_not_count_as_read() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x')").await;
    postgres.sql("CREATE TABLE d (id int PRIMARY KEY, v date); INSERT INTO d VALUES (1, '2020-02-02')").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for setting in ["synchronous_standby_names = 'nobody'", "synchronous_commit = 'on'"] {
        postgres.sql(&format!("ALTER SYSTEM SET {setting}")).await;
    }
    postgres.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // That a table stops is stored at once.
    let change = "BEGIN; ALTER TABLE t ADD COLUMN c int; INSERT INTO t (id) VALUES (-1); \
                  INSERT INTO d VALUES (2, 'infinity'); COMMIT";
    let waiting = begin(&postgres, change).await;
    let parked = |status: &Status| find(status, "public.d").is_some_and(|table| table.reason().is_some());
    pipeline.wait_for("a parked table", LIMIT, parked).await;
    pipeline.kill();
    postgres.sql("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    postgres.sql("SELECT pg_reload_conf()").await;
    waiting.await.unwrap();
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &["public.t"], || pipeline.log()).await;
    pipeline.stop();
}

/// Large values that Postgres leaves out, changed keys, truncates: all of it while tables are copied again and again.
#[tokio::test(flavor = "multi_thread")]
async fn copies_under_load_end_with_the_rows_of_their_tables() {
    let postgres = Postgres::start(Version::V18).await;
    postgres.sql(load::SCHEMA).await;
    let load = Load::start(postgres.url(), 11);
    let mut pipeline = Pipeline::local_with(&postgres, "copy_tables_at_once = 3");
    pipeline.start();
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        load::TABLES.iter().for_each(|table| pipeline.resume(table));
        if round % 3 == 2 {
            pipeline.kill();
            pipeline.start();
        }
    }
    load.stop().await;
    eventually_equal(&postgres, &pipeline.lake, &load::TABLES, || pipeline.log()).await;
    pipeline.stop();
}

/// A lock keeps one table from being copied. Meanwhile others are copied and followed, and what happens to one of them
/// makes none of the rest start over.
#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_one_table_while_others_are_copied_concerns_it_alone() {
    let postgres = Postgres::start(Version::V15).await;
    for table in ["large", "truncated", "altered", "dropped", "calm"] {
        let create = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, a text); \
             INSERT INTO {table} SELECT i, repeat('x', 50) FROM generate_series(1, 30000) i; ANALYZE {table}"
        );
        postgres.sql(&create).await;
    }
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let others = ["truncated", "altered", "dropped", "calm"];
    others.iter().chain(&["large"]).for_each(|table| pipeline.resume(&format!("public.{table}")));
    let mut locker = postgres.connect("shop").await;
    locker.query("BEGIN; LOCK TABLE large IN ACCESS EXCLUSIVE MODE").await.unwrap();
    pipeline.start();
    for table in others {
        pipeline.wait_for_log_times(&format!("\"copied\",\"table\":\"public.{table}\""), 2, LIMIT).await;
    }
    let change = "TRUNCATE truncated; INSERT INTO truncated VALUES (1, 'y'); \
                  ALTER TABLE altered ALTER COLUMN a TYPE varchar USING a || '!'; \
                  DROP TABLE dropped; UPDATE calm SET a = 'z' WHERE id < 9; \
                  CREATE TABLE new_one (id int PRIMARY KEY); INSERT INTO new_one VALUES (1)";
    postgres.sql(change).await;
    eventually_equal(&postgres, &pipeline.lake, &["public.truncated", "public.altered", "public.calm"], || {
        pipeline.log()
    })
    .await;
    // One that is new does not wait until the others are copied.
    eventually_equal(&postgres, &pipeline.lake, &["public.new_one"], || pipeline.log()).await;
    locker
        .query("UPDATE large SET a = 'w' WHERE id % 2 = 0; DELETE FROM large WHERE id > 20000; COMMIT")
        .await
        .unwrap();
    let all = ["public.large", "public.truncated", "public.altered", "public.calm", "public.new_one"];
    eventually_equal(&postgres, &pipeline.lake, &all, || pipeline.log()).await;
    let log = pipeline.log();
    let copies = |table: &str| log.matches(&format!("\"copied\",\"table\":\"public.{table}\"")).count();
    let counts = ["large", "truncated", "calm", "altered", "new_one"].map(copies);
    assert_eq!(counts, [2, 2, 2, 3, 1], "{log}");
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_that_is_older_than_its_columns_constraint_is_copied() {
    let postgres = Postgres::start(Version::V18).await;
    postgres
        .sql(
            "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, NULL), (2, 'x'); \
             ALTER TABLE t ADD CONSTRAINT known NOT NULL a NOT VALID",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &["public.t"], || pipeline.log()).await;
    postgres.sql("INSERT INTO t VALUES (3, 'y')").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.t"], || pipeline.log()).await;
    pipeline.stop();
}

/// Waits until nothing is asked for any more.
async fn granted(pipeline: &Pipeline) {
    let asked = || std::fs::read_dir(pipeline.state_dir().join("requests")).map_or(0, Iterator::count);
    let deadline = std::time::Instant::now() + LIMIT;
    while asked() > 0 {
        assert!(std::time::Instant::now() < deadline, "{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_copied_over_their_own_while_their_table_is_followed() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 60000) i; \
              CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1)")
        .await;
    let mut pipeline = Pipeline::local_with(&postgres, "copy_bytes_per_second = \"3MiB\"");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let refused = pipeline.output("copy", &["public.t", "--where", "nowhere = 1"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("\"nowhere\" does not exist"), "{said}");

    let changing = async |pipeline: &Pipeline| {
        for round in 0..20 {
            let sql =
                format!("UPDATE t SET a = a || 'y' WHERE id % 20 = {round}; DELETE FROM t WHERE id % 997 = {round}");
            postgres.sql(&sql).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        granted(pipeline).await;
        pipeline.catch_up(&postgres).await;
    };
    assert!(pipeline.output("copy", &["public.t", "--where", "id % 2 = 0"]).status.success());
    changing(&pipeline).await;
    assert!(pipeline.log().matches("\"copied\",\"table\":\"public.t\"").count() == 2, "{}", pipeline.log());
    assert!(!pipeline.log().contains("interrupted"), "{}", pipeline.log());
    pipeline.assert_equal(&postgres, &["public.t", "public.other"]);

    // All rows, while others go on; and a kill in the middle loses no request.
    assert!(pipeline.output("copy", &["public.t", "--where", "true"]).status.success());
    pipeline.wait_for_log_times("\"copying\"", 4, LIMIT).await;
    pipeline.kill();
    pipeline.start();
    changing(&pipeline).await;
    assert!(pipeline.output("copy", &["public.t"]).status.success());
    changing(&pipeline).await;
    pipeline.assert_equal(&postgres, &["public.t", "public.other"]);
    pipeline.stop();
}

/// Rows at the position of a transaction that is on the topics already are not taken for repeated ones.
#[tokio::test(flavor = "multi_thread")]
async fn rows_are_copied_over_their_own_through_kafka_in_a_quiet_database() {
    let (postgres, kafka, registry) = between::start().await;
    postgres
        .sql("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 9) i")
        .await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("UPDATE t SET a = 'y'").await;
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    assert!(pipeline.output("copy", &["public.t", "--where", "id < 5"]).status.success());
    pipeline.start();
    let pid = pipeline.pid();
    let are_copied =
        |status: &Status| status.pid == pid && find(status, "public.t").is_some_and(|table| table.events >= 4);
    pipeline.wait_for("the rows are in the lake", LIMIT, are_copied).await;
    granted(&pipeline).await;
    pipeline.assert_equal(&postgres, &["public.t"]);
    pipeline.stop();
}
