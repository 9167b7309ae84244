//! The page, in a real browser.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;
use std::time::Duration;

use integration_tests::crowd::Crowd;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::{between, free_port, python, root};
use sooner::status::Status;

/// Has a program look at a page in a browser; `SOONER_SCREENSHOTS` names a folder for pictures of it.
fn browse(program: &str, url: &str, arguments: &[&str]) {
    let mut browser = Command::new(python());
    browser.arg(root().join("integration-tests/browser").join(program)).args(["--url", url]).args(arguments);
    if let Ok(folder) = std::env::var("SOONER_SCREENSHOTS") {
        browser.args(["--screenshots", &folder]);
    }
    let output = browser.output().expect("the browser is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Looks at the page of a pipeline.
fn look(url: &str, views: &str, parked: Option<&str>) {
    let parked = parked.iter().flat_map(|table| ["--parked", table]);
    browse("page.py", url, &["--views", views, "--table", "public.u"].into_iter().chain(parked).collect::<Vec<_>>());
}

fn listen(pipeline: &Pipeline) -> String {
    let address = format!("127.0.0.1:{}", free_port());
    pipeline.append_settings(&format!("[http]\nlisten = \"{address}\"\nallow_control = true"));
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_read_and_used_at_a_desk_and_on_a_phone() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE t (id int, v date, price numeric(10,2), tags text[], at timestamptz NOT NULL DEFAULT now(), \
             PRIMARY KEY (id, at)); INSERT INTO t VALUES (1, '2020-01-01')",
        )
        .await;
    postgres.sql("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 10000)").await;
    postgres
        .sql("CREATE TABLE \"a table with a long name, to see whether that fits beside the others\" (id int PRIMARY KEY)")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    let url = listen(&pipeline);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("INSERT INTO u SELECT generate_series(10001, 12345); INSERT INTO t VALUES (2, 'infinity')").await;
    let parks = |status: &Status| find(status, "public.t").is_some_and(|table| table.reason().is_some());
    pipeline.wait_for("a parked table", Duration::from_secs(30), parks).await;
    postgres.sql("UPDATE t SET v = '2021-01-01' WHERE id = 2").await;
    look(&url, ",public.u,public.t,:events", Some("public.t"));
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t", "public.u"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_topics() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 1000)").await;
    let mut pipeline =
        Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3\ndead_letter_topic = \"shop.dead\"");
    let url = listen(&pipeline);
    pipeline.start();
    pipeline.wait_until_copied("public.u").await;
    kafka.produce("shop.public.u", b"no key", b"garbage");
    // Rows for each partition: what is behind the last one is not read yet.
    postgres.sql("INSERT INTO u SELECT generate_series(2001, 2050)").await;
    pipeline.catch_up(&postgres).await;
    let listed = || pipeline.output("dead-letters", &["list"]);
    let asked = std::time::Instant::now();
    while !String::from_utf8_lossy(&listed().stdout).starts_with("1 open letter") {
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}\n{}", listed(), pipeline.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    look(&url, ",public.u,:kafka,:dead,:dead/0/0", None);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_ten_thousand_tables_is_found_on_a_page_that_does_not_grow() {
    let crowd = Crowd::start(10_000).await;
    let url = crowd.url.clone();
    tokio::task::spawn_blocking(move || browse("many.py", &url, &[])).await.unwrap();
}
