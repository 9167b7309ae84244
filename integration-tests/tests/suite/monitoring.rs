//! The alerts and the board that ship, under a real Prometheus that scrapes a running pipeline.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;
use std::time::Duration;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::prometheus::{Prometheus, tool};
use integration_tests::{free_port, python, root};
use serde_json::Value;

#[test]
fn each_alert_fires_where_it_should_and_nowhere_else_and_has_its_page_in_the_runbook() {
    let mut promtool = Command::new(tool("promtool"));
    promtool.args(["test", "rules"]).arg(root().join("monitoring/alerts_test.yml"));
    let output = promtool.output().expect("promtool is installed");
    assert!(output.status.success(), "{output:?}");
    let alerts = std::fs::read_to_string(root().join("monitoring/alerts.yml")).unwrap();
    let runbook = std::fs::read_to_string(root().join("src/docs/runbook.md")).unwrap();
    let tests = std::fs::read_to_string(root().join("monitoring/alerts_test.yml")).unwrap();
    let names: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() >= 8);
    for name in names {
        assert!(runbook.contains(&format!("## {name}\n")), "{name} has no page");
        assert!(alerts.contains(&format!("docs/runbook.md#{}", name.to_lowercase())), "{name} leads to no page");
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_finds_each_series_of_the_board_and_fires_for_a_parked_table() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, v date); INSERT INTO t VALUES (1, '2020-01-01')").await;
    postgres.sql("ANALYZE t").await;
    let mut pipeline = Pipeline::local(&postgres);
    let address = format!("127.0.0.1:{}", free_port());
    let engine = "import sys, duckdb; duckdb.connect().execute(sys.stdin.read())";
    pipeline.append_settings(&format!(
        "[http]\nlisten = \"{address}\"\n[[report]]\nname = \"count\"\nschedule = \"*/5 * * * * *\"\n\
         engine = [\"{}\", \"-c\", \"{engine}\"]\nsql = \"SELECT count(*) AS count FROM public.t\"",
        python().display()
    ));
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let prometheus = Prometheus::start(&address, |rules| rules);
    prometheus.eventually("up == 1", |found| found.len() == 1).await;
    for id in 2..20 {
        postgres.sql(&format!("INSERT INTO t VALUES ({id}, '2020-01-01')")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let board: Value = serde_json::from_slice(&std::fs::read(root().join("monitoring/grafana.json")).unwrap()).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let expressions =
        panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).map(|target| &target["expr"]);
    let expressions: Vec<_> = expressions.map(|expr| expr.as_str().unwrap().replace("$pipeline", ".*")).collect();
    assert!(expressions.len() >= 14);
    assert!(pipeline.output("verify", &[]).status.success());
    for expression in expressions {
        prometheus.eventually(&expression, |found| !found.is_empty()).await;
    }
    let verified = "time() - sooner_verify_last_success_timestamp_seconds{table=\"public.t\"} < 60";
    prometheus.eventually(verified, |found| found.len() == 1).await;
    postgres.sql("INSERT INTO t VALUES (100, 'infinity')").await;
    let fires = "ALERTS{alertname=\"SoonerTableParked\", alertstate=\"firing\", table=\"public.t\"}";
    prometheus.eventually(fires, |found| found.len() == 1).await;
}
