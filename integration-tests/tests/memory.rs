//! The process takes what `memory` and `index_memory` allow, and little more, whatever the database does.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};

const MEMORY_MIB: u64 = 64;
const INDEX_MIB: u64 = 16;
/// What code, threads, connections and buffers of the system's libraries take beside what is configured.
const OVERHEAD_MIB: u64 = 64;

/// Peak of the process's resident memory since the last call, in MiB.
fn peak_mib(pipeline: &Pipeline) -> u64 {
    let folder = std::path::PathBuf::from(format!("/proc/{}", pipeline.pid()));
    let status = std::fs::read_to_string(folder.join("status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    // 5 sets the peak back to what is resident now (proc(5), clear_refs).
    std::fs::write(folder.join("clear_refs"), "5").unwrap();
    let lines = status.lines().filter(|line| line.starts_with("Rss")).collect::<Vec<_>>().join(" ");
    eprintln!("{} MiB; {lines}", kib / 1024);
    kib / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE plain (id int PRIMARY KEY, v text);
             CREATE TABLE large (id int PRIMARY KEY, n int, v text);
             ALTER TABLE large ALTER v SET STORAGE EXTERNAL;
             INSERT INTO plain SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 300000) i;
             INSERT INTO large SELECT i, 0, repeat(md5(i::text), 300000) FROM generate_series(1, 100) i",
        )
        .await;
    for table in 0..50 {
        postgres.sql(&format!("CREATE TABLE t{table} (id int PRIMARY KEY, v text)")).await;
    }
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure("[lake]", &format!("index_memory = \"{INDEX_MIB}MiB\""));
    pipeline.configure("name = \"shop\"", &format!("memory = \"{MEMORY_MIB}MiB\""));
    pipeline.start();
    let mut peaks = Vec::new();
    pipeline.catch_up(&postgres).await;
    peaks.push(("copy of many rows and of large values", peak_mib(&pipeline)));
    postgres.sql("UPDATE plain SET v = v || 'x'").await;
    pipeline.catch_up(&postgres).await;
    peaks.push(("one transaction of all rows", peak_mib(&pipeline)));
    postgres.sql("UPDATE large SET n = n + 1").await;
    pipeline.catch_up(&postgres).await;
    peaks.push(("large values that Postgres left out", peak_mib(&pipeline)));
    postgres.sql("UPDATE large SET v = v || 'x' WHERE id <= 60").await;
    pipeline.catch_up(&postgres).await;
    peaks.push(("large values", peak_mib(&pipeline)));
    let each = (0..50).map(|table| {
        format!("INSERT INTO t{table} SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 20000) i;")
    });
    postgres.sql(&each.collect::<String>()).await;
    pipeline.catch_up(&postgres).await;
    peaks.push(("one transaction over fifty tables", peak_mib(&pipeline)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    peaks.push(("at rest", peak_mib(&pipeline)));
    eprintln!("{peaks:?}");
    let bound = MEMORY_MIB + INDEX_MIB + OVERHEAD_MIB;
    assert!(peaks.iter().all(|(_, mib)| *mib <= bound), "more than {bound} MiB: {peaks:?}");
    pipeline.assert_equal(&postgres, &["public.plain", "public.large", "public.t7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn scratch() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql("CREATE TABLE large (id int PRIMARY KEY, n int, v text); ALTER TABLE large ALTER v SET STORAGE EXTERNAL;")
        .await;
    for table in 0..50 {
        postgres.sql(&format!("CREATE TABLE t{table} (id int PRIMARY KEY, v text)")).await;
    }
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure("[lake]", &format!("index_memory = \"{INDEX_MIB}MiB\""));
    pipeline.configure("name = \"shop\"", &format!("memory = \"{MEMORY_MIB}MiB\""));
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    peak_mib(&pipeline);
    let scenario = std::env::var("SCENARIO").unwrap();
    if scenario == "fifty" {
        let each = (0..50).map(|table| {
            format!("INSERT INTO t{table} SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 20000) i;")
        });
        postgres.sql(&each.collect::<String>()).await;
    } else {
        postgres.sql("INSERT INTO large SELECT i, 0, repeat(md5(i::text), 300000) FROM generate_series(1, 60) i").await;
    }
    pipeline.catch_up(&postgres).await;
    peak_mib(&pipeline);
    pipeline.stop();
}
