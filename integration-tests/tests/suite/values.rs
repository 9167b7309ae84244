//! Values that the lake cannot hold: what becomes of them is configured, and `check` finds them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{eventually_equal, query};
use sooner::status::Status;

const TABLES: [&str; 4] = ["nulls", "clamps", "texts", "parks"];

const SETTINGS: &str = "
[[table]]
match = 'public.nulls'
unholdable = 'null'
[[table]]
match = 'public.clamps'
unholdable_types = { date = 'clamp', timestamp = 'clamp', timestamptz = 'clamp', numeric = 'clamp', array = 'clamp' }
[[table]]
match = 'public.texts'
unholdable = 'park'
unholdable_columns = { d = 'text', ts = 'text', tz = 'text', n = 'text', dates = 'text', many = 'text' }
";

const COLUMNS: &str = "id int PRIMARY KEY, d date NOT NULL, ts timestamp(3) NOT NULL, tz timestamptz NOT NULL, \
                       n numeric(6,2) NOT NULL, dates date[], many int[][], free numeric";

/// Rows of a table: ordinary values, those beyond the upper end, and those beyond the lower end, or of no order.
fn rows(from: i32) -> String {
    let (ordinary, high, low) = (from, from + 1, from + 2);
    format!(
        "({ordinary}, '2020-02-29', '2020-02-29 12:00', '2020-02-29 12:00+00', 12.5, '{{2020-01-01}}', '{{1,2}}', 1.50), \
         ({high}, 'infinity', 'infinity', '294276-12-31 23:59:59+00', 'NaN', '{{infinity,2020-01-01}}', '{{{{1}},{{2}}}}', 'NaN'), \
         ({low}, '-infinity', '-infinity', '-infinity', 'NaN', '{{-infinity,NULL}}', '[0:1]={{1,2}}', 7)"
    )
}

const SELECT: &str = "SELECT CAST(d AS VARCHAR), CAST(ts AS VARCHAR), CAST(tz AS VARCHAR), CAST(n AS VARCHAR), \
                      CAST(dates AS VARCHAR), CAST(many AS VARCHAR), free FROM lake WHERE id >= {from} ORDER BY id";

const ORDINARY: &str = "2020-02-29|2020-02-29 12:00:00|2020-02-29 12:00:00+00|12.50|[2020-01-01]|[1, 2]|1.50";

fn expected(table: &str) -> String {
    let (ordinary, high, low) = match table {
        "nulls" => {
            (ORDINARY, "NULL|NULL|NULL|NULL|[NULL, 2020-01-01]|NULL|NaN", "NULL|NULL|NULL|NULL|[NULL, NULL]|NULL|7")
        }
        "clamps" => (
            ORDINARY,
            "9999-12-31|9999-12-31 23:59:59.999|9999-12-31 23:59:59.999999+00|NULL|[9999-12-31, 2020-01-01]|NULL|NaN",
            "0001-01-01|0001-01-01 00:00:00|0001-01-01 00:00:00+00|NULL|[0001-01-01, NULL]|NULL|7",
        ),
        _ => (
            "2020-02-29|2020-02-29 12:00:00|2020-02-29 12:00:00+00|12.50|{2020-01-01}|{1,2}|1.50",
            "infinity|infinity|294276-12-31 23:59:59+00|NaN|{infinity,2020-01-01}|{{1},{2}}|NaN",
            "-infinity|-infinity|-infinity|NaN|{-infinity,NULL}|[0:1]={1,2}|7",
        ),
    };
    [ordinary, high, low].join("\n")
}

fn located(pipeline: &Pipeline, table: &str, from: i32) -> String {
    query(&format!("{}/public/{table}", pipeline.lake), &SELECT.replace("{from}", &from.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_the_lake_cannot_hold_go_where_the_configuration_says_copied_and_streamed() {
    let postgres = Postgres::start(Version::V15).await;
    for table in TABLES {
        postgres.sql(&format!("CREATE TABLE {table} ({COLUMNS}); INSERT INTO {table} VALUES {}", rows(1))).await;
    }
    postgres.sql("CREATE TABLE free (id int PRIMARY KEY, n numeric, ns numeric[])").await;
    postgres.sql("INSERT INTO free VALUES (1, 'NaN', '{7,1.0}'), (2, '-Infinity', '{}'), (3, 1.50, NULL)").await;
    postgres.sql("ANALYZE").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings(SETTINGS);
    let checked = pipeline.output("check", &[]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    for column in ["'d'", "'ts'", "'tz'", "'n'"] {
        let line = said.lines().find(|line| line.contains("public.parks") && line.contains(column));
        assert!(line.is_some_and(|line| line.contains("the lake cannot hold")), "{column}: {said}");
    }
    assert!(!said.contains("public.nulls: the column") && said.contains("unholdable_columns"), "{said}");
    pipeline.start();
    let parked = |status: &Status| {
        let reason = find(status, "public.parks").and_then(|table| table.reason());
        reason.is_some_and(|error| error.contains("unholdable = "))
    };
    pipeline.wait_for("a table without a policy is parked", Duration::from_secs(30), parked).await;
    pipeline.catch_up(&postgres).await;
    for table in &TABLES[..3] {
        assert_eq!(located(&pipeline, table, 0), expected(table), "{table}, copied");
        postgres.sql(&format!("INSERT INTO {table} VALUES {}", rows(11))).await;
        postgres.sql(&format!("UPDATE {table} SET free = free WHERE id < 10")).await;
    }
    pipeline.catch_up(&postgres).await;
    for table in &TABLES[..3] {
        assert_eq!(located(&pipeline, table, 10), expected(table), "{table}, streamed");
        assert_eq!(located(&pipeline, table, 0).lines().count(), 6, "{table}");
    }
    eventually_equal(&postgres, &pipeline.lake, &["public.free"], || pipeline.log()).await;
    pipeline.stop();
    pipeline.append_settings("[[table]]\nmatch = 'public.parks'\nunholdable = 'text'");
    assert!(pipeline.output("resume", &["public.parks"]).status.success());
    pipeline.start();
    pipeline
        .wait_for("it goes on", Duration::from_secs(30), |status| {
            find(status, "public.parks").is_some_and(|table| table.state.name() == "streaming")
        })
        .await;
    assert_eq!(located(&pipeline, "parks", 0), expected("texts"));
    pipeline.stop();
}
