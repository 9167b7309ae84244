//! Independent readers of the lake, whose rows are compared with those of Postgres.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::postgres::Postgres;
use crate::{python, root};

/// An independent reader of Delta tables.
#[derive(Clone, Copy, Debug)]
pub enum Reader {
    /// DuckDB's delta extension.
    DuckDb,
    /// Polars, by delta-rs.
    Polars,
    /// Spark with Delta.
    Spark,
}

/// Fails unless each of these tables in the lake equals its source in Postgres.
pub fn assert_equal(reader: Reader, postgres: &Postgres, lake: &str, s3_port: Option<u16>, tables: &[&str]) {
    if let Err(difference) = compare(reader, postgres, lake, s3_port, tables) {
        panic!("the lake differs from Postgres, read by {reader:?}:\n{difference}");
    }
}

/// Compares each of these tables in the lake with its source in Postgres; the error lists the differences.
pub fn compare(
    reader: Reader,
    postgres: &Postgres,
    lake: &str,
    s3_port: Option<u16>,
    tables: &[&str],
) -> Result<(), String> {
    let name = match reader {
        Reader::DuckDb => "duckdb",
        Reader::Polars => "polars",
        Reader::Spark => "spark",
    };
    let mut command = Command::new(python());
    command.arg(root().join("integration-tests/readers/verify.py"));
    command.args(["--postgres", &postgres.url(), "--lake", lake, "--reader", name, "--quiet"]).args(tables);
    if let Some(port) = s3_port {
        command.args(["--s3-endpoint", &format!("127.0.0.1:{port}")]);
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    }
    let output = command.output().expect("the readers are installed");
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// Fails unless the logs of tables in a local lake say what the protocol allows and what the files hold, by a replay
/// that shares nothing with the program. Files that were removed within `kept` must still be there. What a running
/// pipeline changes meanwhile is looked at again.
pub fn judge(lake: &str, tables: &[&str], kept: Duration) {
    let mut command = Command::new(python());
    command.arg(root().join("integration-tests/readers/judge.py"));
    command.args(["--kept-seconds", &kept.as_secs().to_string()]);
    command.args(tables.iter().map(|table| format!("{lake}/{}", table.replacen('.', "/", 1))));
    for attempt in 1.. {
        let output = command.output().expect("the readers are installed");
        if output.status.success() {
            return;
        }
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(attempt < 3, "the judge finds fault:\n{said}{errors}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Waits until the lake equals Postgres in all tables of the load. While partitions are reassigned, nothing else shows
/// when all of them have been read.
pub async fn wait_until_equal(postgres: &Postgres, lake: &str, log: impl Fn() -> String) {
    eventually_equal(postgres, lake, &crate::load::TABLES, log).await;
}

/// What DuckDB makes of a query of one table, which is called `lake` there: a line for each row, values apart by `|`.
pub fn query(location: &str, sql: &str) -> String {
    let script = root().join("integration-tests/readers/query.py");
    let output = Command::new(python()).arg(script).args([location, sql]).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// What Spark makes of queries: a line for each, its rows apart by `;` and their values by `|`.
pub fn query_by_spark(queries: &[String]) -> Vec<String> {
    let script = root().join("integration-tests/readers/spark_query.py");
    let mut asked = Command::new(python());
    let mut spark = asked.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Spark is installed");
    let input = serde_json::to_vec(queries).expect("strings are JSON");
    spark.stdin.take().expect("it is piped").write_all(&input).expect("Spark reads");
    let output = spark.wait_with_output().expect("Spark ends");
    assert!(output.status.success(), "Spark failed at {queries:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// Waits until each of these tables in the lake equals its source in Postgres; fails with the difference and the log.
pub async fn eventually_equal(postgres: &Postgres, lake: &str, tables: &[&str], log: impl Fn() -> String) {
    let asked = Instant::now();
    while let Err(difference) = compare(Reader::DuckDb, postgres, lake, None, tables) {
        assert!(asked.elapsed() < Duration::from_secs(90), "{difference}\n{}", log());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Files of a lake that hold a text, a line for each, as a reader finds them that shares nothing with the program.
pub fn holding(lake: &str, text: &str) -> String {
    let script = root().join("integration-tests/readers/search.py");
    let output = Command::new(python()).arg(script).args([lake, text]).output().expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
