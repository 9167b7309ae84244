//! Columns: their names, and what becomes of them while their table is followed.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use integration_tests::between;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal, judge};
use sooner::journal::{Entry, Kind, read};
use sooner::status::Status;
use sooner_api::ALTERATION_FAILPOINTS;
use sooner_postgres::client::quote_name;

/// Those that know column mapping.
const READERS: [Reader; 2] = [Reader::DuckDb, Reader::Spark];

/// Names that a table's files, or some of its readers, would not take as they are.
const NAMES: [&str; 17] = [
    "a b",
    "x,y",
    "p;q",
    "{c}",
    "(d)",
    "e=f",
    "Name",
    "name",
    "NAME",
    "NAME_9",
    "b`tick",
    "dot.ted",
    "ta\tb",
    "new\nline",
    "ünï €",
    "q\"uote",
    "col-1",
];

/// A column that is dropped, and added again with another type, is no compatible change.
const ANY_SCHEMA: &str = r#"{"compatibility": "NONE"}"#;

fn copies(pipeline: &Pipeline) -> usize {
    pipeline.log().matches("\"message\":\"copying\"").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_any_name_are_read_by_everybody() {
    let postgres = Postgres::start(Version::V15).await;
    let columns: Vec<_> = NAMES.iter().map(|name| format!("{} text", quote_name(name))).collect();
    let columns = columns.join(", ");
    postgres.sql(&format!("CREATE TABLE odd (\"the key\" int PRIMARY KEY, {columns})")).await;
    postgres.sql("CREATE TABLE odd_key (\"K\" text, k int, v int, PRIMARY KEY (k, \"K\"))").await;
    let values: Vec<_> = (0..NAMES.len()).map(|n| format!("'{n} of ' || i")).collect();
    let values = values.join(", ");
    postgres.sql(&format!("INSERT INTO odd SELECT i, {values} FROM generate_series(1, 50) i")).await;
    postgres.sql("INSERT INTO odd_key SELECT 'k' || i, i % 7, i FROM generate_series(1, 50) i").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let changes = |from: i32| {
        format!(
            "UPDATE odd SET \"a b\" = 'changed', name = upper(\"Name\") WHERE \"the key\" % 5 = {from}; \
             DELETE FROM odd WHERE \"the key\" % 7 = {from}; UPDATE odd_key SET v = -v WHERE v % 5 = {from}; \
             DELETE FROM odd_key WHERE v = {from}"
        )
    };
    postgres.sql(&changes(1)).await;
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let copied = copies(&pipeline);
    postgres.sql(&changes(2)).await;
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert!(pipeline.output("optimize", &[]).status.success());
    postgres.sql(&changes(3)).await;
    pipeline.catch_up(&postgres).await;
    assert_eq!(copies(&pipeline), copied, "no table is copied again");
    for reader in READERS {
        assert_equal(reader, &postgres, &pipeline.lake, None, &["public.odd", "public.odd_key"]);
    }
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_readers_do_not_know_column_mapping_columns_are_changed_by_copies_and_odd_names_park() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE plain (id int PRIMARY KEY, a text, b text); INSERT INTO plain VALUES (1, 'a', 'b')")
        .await;
    postgres.sql("CREATE TABLE odd (id int PRIMARY KEY, \"a b\" text); INSERT INTO odd VALUES (1, 'a')").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure("[lake]", "column_mapping = false");
    pipeline.start();
    let parked = |status: &Status| {
        let reason = find(status, "public.odd").and_then(|table| table.reason());
        reason.is_some_and(|error| error.contains("column_mapping = true"))
    };
    pipeline.wait_for("the odd one is parked", Duration::from_secs(30), parked).await;
    postgres.sql("ALTER TABLE plain DROP COLUMN a; ALTER TABLE plain RENAME b TO c").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.plain"], || pipeline.log()).await;
    for reader in [Reader::DuckDb, Reader::Polars, Reader::Spark] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &["public.plain"]);
    }
    pipeline.stop();
}

/// Changes of columns that cost no copy, one after the other, of a table `$t`.
const RESHAPES: [&str; 13] = [
    "ALTER TABLE $t DROP COLUMN a",
    "ALTER TABLE $t RENAME b TO \"b or not b\"",
    "ALTER TABLE $t ADD COLUMN a int",
    "ALTER TABLE $t RENAME c TO x; ALTER TABLE $t RENAME d TO c; ALTER TABLE $t RENAME x TO d",
    "ALTER TABLE $t DROP COLUMN a; ALTER TABLE $t ADD COLUMN a text",
    "ALTER TABLE $t ADD COLUMN n int NOT NULL DEFAULT 7",
    "ALTER TABLE $t ADD COLUMN o text DEFAULT 'it''s', ADD COLUMN p numeric(8, 2) NOT NULL DEFAULT 1.5; \
     ALTER TABLE $t ALTER o DROP DEFAULT; ALTER TABLE $t ALTER n SET DEFAULT 8",
    "ALTER TABLE $t ADD COLUMN day date DEFAULT '2020-02-29', ADD COLUMN yes boolean NOT NULL DEFAULT true, \
     ADD COLUMN at timestamp(3) DEFAULT '1969-12-31 23:59:59.5', ADD COLUMN half real DEFAULT 0.5",
    "ALTER TABLE $t RENAME COLUMN n TO o_2; ALTER TABLE $t RENAME COLUMN o TO n",
    "ALTER TABLE $t ALTER e SET NOT NULL; ALTER TABLE $t ALTER e DROP NOT NULL, DROP COLUMN c",
    "ALTER TABLE $t ALTER e TYPE text",
    "ALTER TABLE $t ADD COLUMN f int, ADD COLUMN g timestamptz; ALTER TABLE $t RENAME f TO \"F\"",
    "ALTER TABLE $t DROP COLUMN big; ALTER TABLE $t ADD COLUMN big text",
];

/// Changes rows of a table `$t`, in columns that it always has; `{n}` is a number.
const CHANGES: &str = "UPDATE $t SET e = 'e{n}' WHERE id % 9 = {n}; DELETE FROM $t WHERE id = {n}; \
                       INSERT INTO $t (id, d, e) VALUES (1000 + {n}, 'new', 'e')";

/// Tables whose columns change: one to which something happens all the time, and one to which nothing does.
const TABLES: [&str; 2] = ["busy", "quiet"];

async fn create_tables(postgres: &Postgres) {
    for table in TABLES {
        postgres
            .sql(
                &"CREATE TABLE $t (id int PRIMARY KEY, a text, b text, c text, d text, e varchar(20), big text); \
                  ALTER TABLE $t ALTER big SET STORAGE EXTERNAL; \
                  INSERT INTO $t SELECT i, 'a' || i, 'b' || i, 'c' || i, 'd' || i, 'e', repeat('big', 2000) \
                  FROM generate_series(1, 200) i"
                    .replace("$t", table),
            )
            .await;
    }
}

/// Changes columns and rows again and again; `looked_at` follows each step, and the pipeline is away for some.
async fn reshape(postgres: &Postgres, pipelines: &mut [(Pipeline, &str)], looked_at: impl AsyncFn(usize)) {
    for (number, reshape) in RESHAPES.iter().enumerate() {
        let change = CHANGES.replace("{n}", &number.to_string()).replace("$t", "busy");
        postgres.sql(&change).await;
        let is_away = number == RESHAPES.len() / 2;
        if is_away {
            pipelines.iter_mut().for_each(|(pipeline, _)| _ = pipeline.stop());
        }
        for table in TABLES {
            postgres.sql(&reshape.replace("$t", table)).await;
        }
        postgres.sql(&change.replace("1000", "2000")).await;
        if is_away {
            pipelines.iter_mut().for_each(|(pipeline, command)| pipeline.start_command(command, &[]));
        }
        looked_at(number).await;
    }
}

async fn columns_change_without_a_copy(postgres: &Postgres, mut pipeline: Pipeline) {
    create_tables(postgres).await;
    pipeline.start();
    pipeline.catch_up(postgres).await;
    let (copied, lake, log) = (copies(&pipeline), pipeline.lake.clone(), pipeline.folder().join("sooner.log"));
    let log = || std::fs::read_to_string(&log).unwrap_or_default();
    let named = ["public.busy", "public.quiet"];
    let mut pipelines = [(pipeline, "run")];
    reshape(postgres, &mut pipelines, async |number| {
        if number % 4 == 0 {
            // What happens to a quiet table is seen without an event.
            eventually_equal(postgres, &lake, &named, log).await;
        }
    })
    .await;
    let [(mut pipeline, _)] = pipelines;
    eventually_equal(postgres, &pipeline.lake, &named, || pipeline.log()).await;
    postgres.sql(&CHANGES.replace("{n}", "50").replace("$t", "quiet")).await;
    pipeline.catch_up(postgres).await;
    assert!(pipeline.output("optimize", &[]).status.success());
    assert_eq!(copies(&pipeline), copied, "{}", pipeline.log());
    for reader in READERS {
        assert_equal(reader, postgres, &pipeline.lake, None, &named);
    }
    pipeline.assert_all_stream();
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_dropped_renamed_and_added_without_a_copy_in_busy_tables_and_quiet_ones() {
    let postgres = Postgres::start(Version::V15).await;
    let pipeline = Pipeline::local(&postgres);
    columns_change_without_a_copy(&postgres, pipeline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_are_through_topics() {
    let (postgres, kafka, registry) = between::start().await;
    registry.ask("PUT", "/config", ANY_SCHEMA);
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    columns_change_without_a_copy(&postgres, pipeline).await;
}

/// Waits until the source has seen one more change of the table to which nothing else happens: what several do to it
/// between two looks may need a copy. Not for long, as some changes say nothing.
async fn until_seen(state_dir: &Path, seen: &AtomicUsize) {
    for _ in 0..25 {
        let is_change = |entry: &&Entry| {
            entry.kind == Kind::TableChanged && entry.table.as_ref().is_some_and(|table| table.table == "quiet")
        };
        let changes = read(state_dir).unwrap_or_default().iter().filter(is_change).count();
        if changes > seen.swap(changes, Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sinks_that_share_a_topic_apply_rows_of_former_columns_beside_those_of_later_ones() {
    let (postgres, kafka, registry) = between::start().await;
    registry.ask("PUT", "/config", ANY_SCHEMA);
    create_tables(&postgres).await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    let mut pipelines = vec![(source.beside(), "sink"), (source.beside(), "sink")];
    source.start_command("source", &[]);
    let lake = source.lake.clone();
    pipelines.insert(0, (source, "source"));
    pipelines[1].0.start_command("sink", &[]);
    let named = ["public.busy", "public.quiet"];
    eventually_equal(&postgres, &lake, &named, || pipelines[1].0.log()).await;
    pipelines[2].0.start_command("sink", &[]);
    let (state_dir, seen) = (pipelines[0].0.state_dir(), AtomicUsize::new(0));
    reshape(&postgres, &mut pipelines, async |_| {
        until_seen(&state_dir, &seen).await;
        for n in 10..20 {
            let changes =
                CHANGES.replace("{n}", &n.to_string()).replace("1000 +", "(SELECT max(id) + 1000 FROM busy) +");
            postgres.sql(&changes.replace("$t", "busy")).await;
        }
    })
    .await;
    let log = || pipelines.iter().map(|(pipeline, _)| pipeline.log()).collect::<Vec<_>>().join("\n\n");
    eventually_equal(&postgres, &lake, &named, log).await;
    for reader in READERS {
        assert_equal(reader, &postgres, &lake, None, &named);
    }
    assert_eq!(log().matches("\"message\":\"copying\"").count(), TABLES.len(), "{}", log());
    assert!(!log().contains("the table stopped"), "{}", log());
    pipelines.iter_mut().for_each(|(pipeline, _)| _ = pipeline.stop());
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_postgres_does_not_send_are_told_by_check_status_and_the_table() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE sale (id int PRIMARY KEY, price int, paid int GENERATED ALWAYS AS (price * 2) STORED)")
        .await;
    postgres.sql("INSERT INTO sale VALUES (1, 10)").await;
    let mut pipeline = Pipeline::local(&postgres);
    let checked = pipeline.output("check", &[]);
    assert!(String::from_utf8_lossy(&checked.stdout).contains("does not send paid"), "{checked:?}");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let property = |columns: &str| {
        let log = std::fs::read_dir(format!("{}/public/sale/_delta_log", pipeline.lake)).unwrap();
        let entries = log.filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok()).collect::<String>();
        entries.contains(&format!(r#""sooner.columnsNotSent":"{}""#, columns.replace('"', "\\\"")))
    };
    assert!(property(r#"["paid"]"#), "the table's properties");
    let told = |status: &Status, columns: &str| {
        find(status, "public.sale").is_some_and(|table| table.columns_not_sent.join(",") == columns)
    };
    assert!(told(&pipeline.status().unwrap(), "paid"));
    // One that comes later, in a table that nothing else happens to.
    postgres.sql("ALTER TABLE sale ADD COLUMN half int GENERATED ALWAYS AS (price / 2) STORED").await;
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !property(r#"["paid","half"]"#) && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(property(r#"["paid","half"]"#), "{}", pipeline.log());
    let shown = pipeline.output("status", &[]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("does not send of it: paid"), "{shown:?}");
    pipeline.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_a_constant_default_is_written_to_files_is_followed_by_one_that_does_it() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, i FROM generate_series(1, 5000) i")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("DELETE FROM t WHERE id % 3 = 0; UPDATE t SET v = 'x' WHERE id % 5 = 0").await;
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let copied = copies(&pipeline);
    for (number, failpoint) in [ALTERATION_FAILPOINTS[0], "log_entry_put"].into_iter().enumerate() {
        pipeline.set("SOONER_FAILPOINT", &format!("{failpoint}@1"));
        postgres.sql(&format!("ALTER TABLE t ADD COLUMN c{number} int NOT NULL DEFAULT {number}")).await;
        postgres
            .sql(&format!("UPDATE t SET c{number} = -id WHERE id % 7 = {number}; DELETE FROM t WHERE id % 7 = 6"))
            .await;
        pipeline.start();
        pipeline.wait_for_end(Duration::from_secs(60));
    }
    pipeline.set("SOONER_FAILPOINT", "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    for reader in READERS {
        assert_equal(reader, &postgres, &pipeline.lake, None, &["public.t"]);
    }
    assert_eq!(copies(&pipeline), copied, "{}", pipeline.log());
    judge(&pipeline.lake, &["public.t"], Duration::from_secs(24 * 3600));
    pipeline.stop();
}
