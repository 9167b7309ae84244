//! The process takes what `memory` and `index_memory` allow, and little more, whatever the database does.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::time::Duration;

use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::judge;
use sooner_api::Code;

const MEMORY_MIB: u64 = 64;
const INDEX_MIB: u64 = 16;
/// What threads, connections and buffers of libraries take beside what is configured.
const OVERHEAD_MIB: u64 = 32;
const MANY_TABLES: usize = 50;
const MINUTES: Duration = Duration::from_secs(180);

/// Peak of the process's resident memory since the last call, in MiB. The program's own code does not count: its pages
/// are the file's, of which as many are resident as the system has room for.
fn peak_mib(pipeline: &Pipeline) -> u64 {
    let folder = PathBuf::from(format!("/proc/{}", pipeline.pid()));
    let status = std::fs::read_to_string(folder.join("status")).unwrap();
    let kib = |name: &str| -> u64 {
        let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        value.split_whitespace().next().unwrap().parse().unwrap()
    };
    let peak = kib("VmHWM:") - kib("RssFile:");
    // 5 sets the peak back to what is resident now (proc(5), clear_refs).
    std::fs::write(folder.join("clear_refs"), "5").unwrap();
    peak / 1024
}

fn small(postgres: &Postgres) -> Pipeline {
    let pipeline = Pipeline::local(postgres);
    pipeline.configure("[lake]", &format!("index_memory = \"{INDEX_MIB}MiB\""));
    pipeline.configure("name = \"shop\"", &format!("memory = \"{MEMORY_MIB}MiB\""));
    pipeline
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_whatever_the_database_does() {
    let postgres = Postgres::start(Version::V15).await;
    let tables = (0..MANY_TABLES).map(|table| format!("CREATE TABLE t{table} (id int PRIMARY KEY, v text);"));
    postgres.sql(&tables.collect::<String>()).await;
    postgres
        .sql(
            "CREATE TABLE plain (id int PRIMARY KEY, v text);
             CREATE TABLE narrow (id int PRIMARY KEY);
             CREATE TABLE large (id int PRIMARY KEY, n int, v text);
             ALTER TABLE large ALTER v SET STORAGE EXTERNAL;
             INSERT INTO plain SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 200000) i;
             INSERT INTO large SELECT i, 0, repeat(md5(i::text), 230000) FROM generate_series(1, 60) i",
        )
        .await;
    let each_of_many = (0..MANY_TABLES).map(|table| {
        format!("INSERT INTO t{table} SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 10000) i;")
    });
    let each_of_many = each_of_many.collect::<String>();
    let mut pipeline = small(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let mut peaks = vec![("a copy of many rows and of large values", peak_mib(&pipeline))];
    for (what, sql) in [
        ("a transaction that changes all rows", "UPDATE plain SET v = v || 'x'"),
        ("large values that Postgres left out", "UPDATE large SET n = n + 1"),
        ("large values", "UPDATE large SET v = v || 'x' WHERE id <= 40"),
        ("one transaction over many tables", &each_of_many),
        ("a transaction of very many keys", "INSERT INTO narrow SELECT generate_series(1, 1000000)"),
        ("a transaction that deletes very many", "DELETE FROM narrow WHERE id % 10 > 0"),
    ] {
        postgres.sql(sql).await;
        pipeline.catch_up(&postgres).await;
        peaks.push((what, peak_mib(&pipeline)));
    }
    eprintln!("MiB: {peaks:?}");
    let bound = MEMORY_MIB + INDEX_MIB + OVERHEAD_MIB;
    assert!(peaks.iter().all(|(_, mib)| *mib <= bound), "more than {bound} MiB: {peaks:?}");
    pipeline.assert_equal(&postgres, &["public.plain", "public.large", "public.narrow", "public.t7"]);
    judge(&pipeline.lake, &["public.large", "public.narrow"], Duration::from_secs(24 * 3600));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_larger_than_the_memory_allows_parks_its_table_alone_until_there_is_more_memory() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE streamed (id int PRIMARY KEY, v text); CREATE TABLE copied (id int PRIMARY KEY, v text);
             CREATE TABLE other (id int PRIMARY KEY, v text); INSERT INTO streamed VALUES (1, 'small');
             INSERT INTO copied VALUES (1, 'small'), (2, repeat('x', 12000000))",
        )
        .await;
    let mut pipeline = small(&postgres);
    pipeline.start();
    let is_parked = |status: &sooner::status::Status, table: &str| {
        let error = find(status, table).and_then(|table| table.state.error());
        error.is_some_and(|error| error.code == Code::RowTooLarge && error.remedy.contains("memory"))
    };
    pipeline.wait_for("the copy parks", MINUTES, |status| is_parked(status, "public.copied")).await;
    postgres
        .sql(
            "INSERT INTO other VALUES (1, 'before'); INSERT INTO streamed VALUES (2, repeat('y', 12000000));
             INSERT INTO streamed VALUES (3, 'after'); INSERT INTO other VALUES (2, 'after')",
        )
        .await;
    pipeline.wait_for("the stream parks", MINUTES, |status| is_parked(status, "public.streamed")).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.other"]);
    let peak = peak_mib(&pipeline);
    assert!(peak <= MEMORY_MIB + INDEX_MIB + OVERHEAD_MIB, "{peak} MiB, though nothing of the rows is kept");
    pipeline.stop();
    let path = pipeline.folder().join("sooner.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("memory = \"64MiB\"", "memory = \"128MiB\"");
    std::fs::write(path, text).unwrap();
    pipeline.start();
    for table in ["public.copied", "public.streamed"] {
        pipeline.wait_for("it is still parked", MINUTES, |status| is_parked(status, table)).await;
        let resumed = pipeline.output("resume", &[table]);
        assert!(resumed.status.success(), "{resumed:?}");
        pipeline.wait_until_copied(table).await;
    }
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.copied", "public.streamed", "public.other"]);
}
