//! Bad input: each error says what failed, why, and what to do; and nothing is lost by it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod configuration;
mod connections;
mod database;
mod lake;

use std::process::Command;
use std::time::{Duration, Instant};

use integration_tests::pipeline::{Pipeline, find, of};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::s3::{Proxy, S3};

const TABLE: &str = "CREATE TABLE items (id integer PRIMARY KEY, a text, n numeric(6, 2)); \
                     INSERT INTO items SELECT i, 'a' || i, i FROM generate_series(1, 100) AS i";

/// A pipeline with another URL, and more lines for `[source]` and `[lake]`.
fn pipeline_with(url: &str, source: &str, lake_settings: &str) -> Pipeline {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").display().to_string();
    Pipeline::with(folder, url, lake, source, lake_settings)
}

fn assert_says(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "'{part}' not in:\n{text}");
    }
}

/// Starts the pipeline, which must end by itself and soon, and returns what it said.
fn refused(pipeline: &mut Pipeline) -> String {
    pipeline.start();
    pipeline.wait_for_end(Duration::from_secs(30))
}

/// What `sooner check` says of a pipeline that cannot run.
fn checked(pipeline: &Pipeline) -> String {
    let output = pipeline.output("check", &[]);
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn reason_of(pipeline: &Pipeline, table: &str) -> String {
    let parked =
        |status: &sooner::status::Status| find(status, table).is_some_and(|table| table.state.error().is_some());
    let status = pipeline.wait_for("parked", Duration::from_secs(30), parked).await;
    of(&status, table).reason().unwrap()
}

/// Resumes the table of the tests, which must then equal its source.
async fn resume_items(pipeline: &Pipeline, postgres: &Postgres) {
    assert!(pipeline.output("resume", &["public.items"]).status.success());
    let resumed = |status: &sooner::status::Status| of(status, "public.items").state.error().is_none();
    pipeline.wait_for("resumed", Duration::from_secs(30), resumed).await;
    pipeline.catch_up(postgres).await;
    pipeline.assert_equal(postgres, &["public.items"]);
}
