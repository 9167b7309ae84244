//! Tables of a cut, read as `sooner cut sql` says that an engine reads them.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::pipeline::Pipeline;
use crate::{python, root};

/// Sums of `amount` and numbers of rows of tables of the schema `public` as of a cut. Engines are `polars`,
/// `duckdb`, `spark` and `trino`, which know nothing of cuts.
pub fn cut_sums(pipeline: &Pipeline, cut: &str, engine: &str, tables: &[&str]) -> Vec<(i64, i64)> {
    let printed = pipeline.output("cut", &["sql", cut, "--engine", engine]);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let views: Vec<_> = tables.iter().map(|table| format!("public_{table}")).collect();
    sums_of(pipeline, &printed.stdout, engine, &views.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The same of views that an engine has after statements.
pub fn sums_of(pipeline: &Pipeline, statements: &[u8], engine: &str, views: &[&str]) -> Vec<(i64, i64)> {
    let mut asked = Command::new(python());
    asked.arg(root().join("integration-tests/readers/cut_sums.py")).arg(engine);
    asked.env("LAKE", &pipeline.lake);
    asked.args(views);
    let mut reader = asked.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the readers are installed");
    reader.stdin.take().expect("it is piped").write_all(statements).expect("it is read");
    let output = reader.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{engine} cannot read\n{}", String::from_utf8_lossy(statements));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let pair = |line: &str| {
        let (sum, rows) = line.split_once(' ')?;
        Some((sum.parse().ok()?, rows.parse().ok()?))
    };
    lines.lines().map(|line| pair(line).expect("a sum and a number")).collect()
}
