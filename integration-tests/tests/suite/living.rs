//! A database that changes its shape while it is followed, and while nobody looks: whatever rows changed without an
//! event, the lake equals Postgres again, by itself.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::kafka::Kafka;
use integration_tests::pipeline::{Pipeline, find, of};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::eventually_equal;
use integration_tests::registry::Registry;
use sooner::status::Status;

/// A table, and what happens to it.
struct Case {
    /// Creates the table `t`, with rows.
    before: &'static str,
    /// Changes it, while nothing else is written to it.
    change: &'static str,
}

/// Tables `case_0`, `case_1`, …: in the SQL, `$t` is the table's name.
const CASES: &[Case] = &[
    // Swapped by rename in one transaction; then a change of the new one.
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, a text); INSERT INTO $t SELECT i, 'old' FROM generate_series(1, 9) i; \
                 CREATE TABLE $t_next (id int PRIMARY KEY, a text); \
                 INSERT INTO $t_next SELECT i, 'new' FROM generate_series(5, 20) i",
        change: "BEGIN; ALTER TABLE $t RENAME TO $t_former; ALTER TABLE $t_next RENAME TO $t; COMMIT; \
                 UPDATE $t SET a = 'newer' WHERE id = 7",
    },
    // Dropped and created again in one transaction.
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, a text); INSERT INTO $t SELECT i, 'old' FROM generate_series(1, 9) i",
        change: "BEGIN; DROP TABLE $t; CREATE TABLE $t (id int PRIMARY KEY, b int); INSERT INTO $t VALUES (1, 2); COMMIT",
    },
    // An event under the old key, then another key.
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, b int NOT NULL); INSERT INTO $t SELECT i, i * 10 FROM generate_series(1, 9) i",
        change: "DELETE FROM $t WHERE id = 3; UPDATE $t SET id = 40 WHERE id = 4; ALTER TABLE $t DROP CONSTRAINT $t_pkey, ADD PRIMARY KEY (b); \
                 UPDATE $t SET id = 50 WHERE b = 50",
    },
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, b int NOT NULL); CREATE UNIQUE INDEX $t_b ON $t (b); \
                 INSERT INTO $t SELECT i, i * 10 FROM generate_series(1, 9) i",
        change: "DELETE FROM $t WHERE id = 3; ALTER TABLE $t REPLICA IDENTITY USING INDEX $t_b; UPDATE $t SET id = 55 WHERE b = 50",
    },
    // A key that is narrowed; two tenants shared an id before.
    Case {
        before: "CREATE TABLE $t (tenant int, id int, a text, PRIMARY KEY (tenant, id)); \
                 INSERT INTO $t VALUES (1, 1, 'a'), (2, 1, 'b'), (2, 2, 'c')",
        change: "UPDATE $t SET id = 7 WHERE tenant = 2 AND id = 1; ALTER TABLE $t DROP CONSTRAINT $t_pkey, ADD PRIMARY KEY (id); \
                 UPDATE $t SET a = 'z' WHERE id = 7",
    },
    // Rows written again by ALTER TABLE.
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, c int); INSERT INTO $t SELECT i, i FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t ALTER c TYPE int USING c * 100",
    },
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, c char(5)); INSERT INTO $t SELECT i, 'x' FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t ALTER c TYPE text",
    },
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, c numeric(8, 3)); INSERT INTO $t SELECT i, i + 0.125 FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t ALTER c TYPE numeric(8, 1)",
    },
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, c text); INSERT INTO $t SELECT i, gen_random_uuid()::text FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t ALTER c TYPE uuid USING c::uuid",
    },
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, c text); INSERT INTO $t SELECT i, 'x' FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t ADD COLUMN u uuid DEFAULT gen_random_uuid(); ALTER TABLE $t ALTER u DROP DEFAULT; INSERT INTO $t VALUES (10, 'y', NULL)",
    },
    // Types that are altered under their columns.
    Case {
        before: "CREATE TYPE $t_mood AS ENUM ('ok', 'bad'); CREATE TABLE $t (id int PRIMARY KEY, m $t_mood, ms $t_mood[]); \
                 INSERT INTO $t SELECT i, 'ok', '{ok,bad}' FROM generate_series(1, 9) i",
        change: "ALTER TYPE $t_mood RENAME VALUE 'ok' TO 'fine'",
    },
    Case {
        before: "CREATE TYPE $t_pair AS (x int, y int); CREATE TABLE $t (id int PRIMARY KEY, p $t_pair); \
                 INSERT INTO $t SELECT i, row(i, i)::$t_pair FROM generate_series(1, 9) i",
        change: "ALTER TYPE $t_pair ADD ATTRIBUTE z int",
    },
    // Values that older rows hold by a default.
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, c text); INSERT INTO $t SELECT i, 'x' FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t ADD COLUMN n int DEFAULT 7",
    },
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, c text); INSERT INTO $t SELECT i, 'x' FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t ADD COLUMN n int DEFAULT 7; ALTER TABLE $t ALTER n DROP DEFAULT; VACUUM FULL $t; INSERT INTO $t VALUES (10, 'y', NULL)",
    },
    // Columns that go, or take another name or type.
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, a text, b text); INSERT INTO $t SELECT i, 'x', 'y' FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t DROP COLUMN a; UPDATE $t SET b = 'z' WHERE id = 1",
    },
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, a text); INSERT INTO $t SELECT i, 'x' FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t RENAME a TO b; UPDATE $t SET b = 'z' WHERE id = 1",
    },
    Case {
        before: "CREATE TABLE $t (id int PRIMARY KEY, a int); INSERT INTO $t SELECT i, i FROM generate_series(1, 9) i",
        change: "ALTER TABLE $t ALTER a TYPE bigint; UPDATE $t SET a = 5000000000 WHERE id = 1",
    },
    // Another table, under a name that was not there.
    Case {
        before: "",
        change: "CREATE TABLE $t (id int PRIMARY KEY, a int); INSERT INTO $t SELECT i, i FROM generate_series(1, 9) i",
    },
];

/// Changes that change no row, each of a table `$t` of its own: nothing is copied for them.
const HARMLESS: [&str; 4] = [
    "VACUUM FULL $t",
    "ALTER TABLE $t ALTER a SET STATISTICS 500",
    "CLUSTER $t USING $t_pkey; TRUNCATE $t; INSERT INTO $t VALUES (1, 'y')",
    "ALTER TABLE $t ALTER a SET NOT NULL; GRANT SELECT ON $t TO PUBLIC; ANALYZE $t; CREATE INDEX ON $t (a)",
];

fn name(number: usize) -> String {
    format!("case_{number}")
}

fn table_names() -> Vec<String> {
    let cases = (0..CASES.len()).map(|number| format!("public.{}", name(number)));
    cases.chain((0..HARMLESS.len()).map(|number| format!("public.{}", calm(number)))).collect()
}

fn calm(number: usize) -> String {
    format!("calm_{number}")
}

async fn run(postgres: &Postgres, sql: &str) {
    // One statement at a time: VACUUM stands alone.
    for statement in sql.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        if !statement.starts_with("BEGIN") {
            postgres.sql(statement).await;
        }
    }
}

/// Runs SQL in which a transaction may stand between BEGIN and COMMIT.
async fn change(postgres: &Postgres, sql: &str) {
    match sql.split_once("BEGIN;").and_then(|(_, rest)| rest.split_once("COMMIT")) {
        Some((transaction, rest)) => {
            // A simple query of several statements is one transaction.
            postgres.sql(transaction).await;
            run(postgres, rest).await;
        }
        None => run(postgres, sql).await,
    }
}

async fn create_all(postgres: &Postgres) {
    let rows =
        "CREATE TABLE $t (id int PRIMARY KEY, a text); INSERT INTO $t SELECT i, 'x' FROM generate_series(1, 9) i";
    for number in 0..HARMLESS.len() {
        run(postgres, &rows.replace("$t", &calm(number))).await;
    }
    for (number, case) in CASES.iter().enumerate() {
        run(postgres, &case.before.replace("$t", &name(number))).await;
    }
}

async fn change_all(postgres: &Postgres) {
    for (number, case) in CASES.iter().enumerate() {
        change(postgres, &case.change.replace("$t", &name(number))).await;
    }
    disturb_nothing(postgres).await;
}

async fn disturb_nothing(postgres: &Postgres) {
    for (number, sql) in HARMLESS.iter().enumerate() {
        run(postgres, &sql.replace("$t", &calm(number))).await;
    }
}

async fn equals(pipeline: &Pipeline, postgres: &Postgres) {
    let names = table_names();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    eventually_equal(postgres, &pipeline.lake, &names, || pipeline.log()).await;
    let stopped = |status: &Status| status.tables.values().all(|table| table.reason().is_none());
    pipeline.wait_for("no table waits for a person", Duration::from_secs(30), stopped).await;
    let log = pipeline.log();
    for (number, sql) in HARMLESS.iter().enumerate() {
        let copies = log.matches(&format!("\"table\":\"public.{}\",\"rows\"", calm(number))).count();
        assert!(copies <= 1, "{sql} led to {copies} copies:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_rows_without_an_event_is_copied_again_while_it_runs() {
    let postgres = Postgres::start(Version::V15).await;
    create_all(&postgres).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    change_all(&postgres).await;
    equals(&pipeline, &postgres).await;
    let is_gone = |status: &Status| of(status, "public.case_0_next").state.name() == "gone";
    pipeline.wait_for("a table is gone, and its lake table kept", Duration::from_secs(10), is_gone).await;
    assert!(std::path::Path::new(&pipeline.lake).join("public/case_0_next/_delta_log").exists());
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_changes_rows_while_nobody_looks_is_copied_again_at_the_next_start() {
    let postgres = Postgres::start(Version::V18).await;
    create_all(&postgres).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    change_all(&postgres).await;
    pipeline.start();
    equals(&pipeline, &postgres).await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_through_kafka() {
    let (postgres, kafka, registry) = (Postgres::start(Version::V15).await, Kafka::start(), Registry::start());
    create_all(&postgres).await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    // Here the new schemas are not what a registry would call compatible.
    registry.ask("PUT", "/config", "{\"compatibility\": \"NONE\"}");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    for (number, case) in CASES.iter().enumerate() {
        if number == CASES.len() / 2 {
            pipeline.stop();
        }
        change(&postgres, &case.change.replace("$t", &name(number))).await;
    }
    disturb_nothing(&postgres).await;
    pipeline.start();
    equals(&pipeline, &postgres).await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_left_changes_out_for_a_while_costs_a_copy_and_no_change() {
    let postgres = Postgres::start(Version::V15).await;
    let rows = "INSERT INTO $t SELECT i, 'x' FROM generate_series(1, 9) i";
    for table in ["a", "b", "c"] {
        postgres.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, a text)")).await;
        postgres.sql(&rows.replace("$t", table)).await;
    }
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let (drop, add) = ("ALTER PUBLICATION sooner_shop DROP TABLE a", "ALTER PUBLICATION sooner_shop ADD TABLE a");
    run(&postgres, &format!("{drop}; UPDATE a SET a = 'unseen' WHERE id < 5; {add}")).await;
    pipeline.start();
    let all = ["public.a", "public.b", "public.c"];
    eventually_equal(&postgres, &pipeline.lake, &all, || pipeline.log()).await;
    assert!(!pipeline.log().contains("\"public.b\",\"why\""), "{}", pipeline.log());
    let publish = "ALTER PUBLICATION sooner_shop SET (publish = ";
    let all_kinds = "'insert, update, delete, truncate')";
    run(&postgres, &format!("{publish}'insert'); UPDATE b SET a = 'unseen' WHERE id < 5; {publish}{all_kinds}")).await;
    eventually_equal(&postgres, &pipeline.lake, &all, || pipeline.log()).await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_loses_its_key_is_published_no_longer_and_its_application_goes_on() {
    let postgres = Postgres::start(Version::V15).await;
    run(&postgres, "CREATE TABLE items (id int PRIMARY KEY, a text); INSERT INTO items VALUES (1, 'x'), (2, 'y')")
        .await;
    run(&postgres, "CREATE TABLE others (id int PRIMARY KEY, a text); INSERT INTO others VALUES (1, 'x')").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("ALTER TABLE items DROP CONSTRAINT items_pkey").await;
    let mut client = postgres.connect("shop").await;
    let asked = std::time::Instant::now();
    while client.query("UPDATE items SET a = 'without a key' WHERE id = 1").await.is_err() {
        assert!(asked.elapsed() < Duration::from_secs(30), "it cannot be updated: {}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let waits = |status: &Status| of(status, "public.items").reason().is_some();
    pipeline.wait_for("it waits", Duration::from_secs(30), waits).await;
    run(&postgres, "ALTER TABLE items ADD PRIMARY KEY (id); UPDATE items SET a = 'b'; UPDATE others SET a = 'z'").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.items", "public.others"], || pipeline.log()).await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_cannot_be_published_harmlessly_waits_and_its_application_goes_on() {
    let postgres = Postgres::start(Version::V18).await;
    postgres
        .sql(
            "CREATE TABLE items (id int PRIMARY KEY, a text); INSERT INTO items VALUES (1, 'x'); \
             CREATE TABLE keyless (a int); INSERT INTO keyless VALUES (1); \
             CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING; \
             INSERT INTO nothing VALUES (1); \
             CREATE TABLE later (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED); INSERT INTO later VALUES (1); \
             CREATE TABLE computed (id int PRIMARY KEY, g int GENERATED ALWAYS AS (id * 2) STORED); \
             ALTER TABLE computed REPLICA IDENTITY FULL; INSERT INTO computed VALUES (1); \
             CREATE TABLE half (g int GENERATED ALWAYS AS (1) STORED, id int, PRIMARY KEY (id, g)); \
             INSERT INTO half VALUES (DEFAULT, 1)",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let waiting = ["keyless", "nothing", "later", "computed", "half"];
    for table in waiting {
        let name = format!("public.{table}");
        let waits = |status: &Status| {
            find(status, &name).is_some_and(|table| table.state.name() == "waiting" && table.reason().is_some())
        };
        pipeline.wait_for(&format!("{name} waits"), Duration::from_secs(30), waits).await;
    }
    // None of these would succeed on a published table.
    for table in
        ["keyless SET a = 2", "nothing SET id = 2", "later SET id = 2", "computed SET id = 2", "half SET id = 2"]
    {
        postgres.sql(&format!("UPDATE {table}")).await;
    }
    // What ends the trouble is noticed.
    postgres.sql("ALTER TABLE keyless ADD PRIMARY KEY (a); ALTER TABLE nothing REPLICA IDENTITY DEFAULT").await;
    let tables = ["public.items", "public.keyless", "public.nothing"];
    eventually_equal(&postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    postgres.sql("UPDATE keyless SET a = 3").await;
    eventually_equal(&postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_a_table_keeps_nobody_waiting() {
    let postgres = Postgres::start(Version::V18).await;
    postgres
        .sql(
            "CREATE TABLE items (id int PRIMARY KEY, a text DEFAULT 'd'); INSERT INTO items VALUES (1, 'x'); \
              CREATE TABLE apart (id int PRIMARY KEY, a text DEFAULT 'd')",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let mut locker = postgres.connect("shop").await;
    locker.query("BEGIN").await.unwrap();
    locker.query("LOCK TABLE apart IN ACCESS EXCLUSIVE MODE").await.unwrap();
    pipeline.start();
    postgres.sql("UPDATE items SET a = 'y'").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.items"], || pipeline.log()).await;
    postgres.sql("ALTER TABLE items ADD COLUMN b int").await;
    postgres.sql("UPDATE items SET b = 7").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.items"], || pipeline.log()).await;
    locker.query("COMMIT").await.unwrap();
    let tables = ["public.items", "public.apart"];
    eventually_equal(&postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_generated_columns_are_carried_where_the_server_sends_them() {
    let postgres = Postgres::start(Version::V18).await;
    postgres
        .sql(
            "CREATE TABLE computed (id int PRIMARY KEY, a int, g int GENERATED ALWAYS AS (a * 2) STORED); \
             INSERT INTO computed SELECT i, i FROM generate_series(1, 9) i; \
             CREATE PUBLICATION sooner_shop FOR TABLE computed WITH (publish_generated_columns = stored)",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("UPDATE computed SET a = 50 WHERE id = 5; INSERT INTO computed VALUES (10, 10)").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.computed"], || pipeline.log()).await;
    assert_eq!(pipeline.log().matches("\"copied\"").count(), 1, "{}", pipeline.log());
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_transaction_that_a_copy_waits_for_is_named() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE items (id int PRIMARY KEY, a text); INSERT INTO items VALUES (1, 'x')").await;
    let mut old = postgres.connect("shop").await;
    old.query("BEGIN").await.unwrap();
    old.query("INSERT INTO items VALUES (2, 'y')").await.unwrap();
    let pid = old.query("SELECT pg_backend_pid()").await.unwrap()[0][0].clone().unwrap();
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.wait_for_log(&format!("\"pid\":\"{pid}\",\"user\":\"postgres\""), Duration::from_secs(60)).await;
    old.query("COMMIT").await.unwrap();
    eventually_equal(&postgres, &pipeline.lake, &["public.items"], || pipeline.log()).await;
    pipeline.stop();
}
