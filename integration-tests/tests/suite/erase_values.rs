//! How the values of subjects are compared: as the types of their columns compare them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Output;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::query;
use serde_json::Value;

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_compared_as_their_types_compare_them_and_nobody_is_told_so() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE vouchers (id int PRIMARY KEY, code char(8), worth float8);
             INSERT INTO vouchers SELECT i, 'V' || i, i FROM generate_series(1, 50) i",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.vouchers\"\nwrite = [\"mirror\", \"history\"]");
    pipeline.start();
    pipeline.wait_until_copied("public.vouchers").await;
    postgres.sql("DELETE FROM vouchers WHERE id = 7").await;
    pipeline.catch_up(&postgres).await;
    for still_there in ["worth=8.0", "code=V8      ", "code=V8"] {
        let refused = pipeline.output("erase", &["--subject", still_there, "--timeout", "60s"]);
        assert!(told(&refused).contains("the source still has 1 rows"), "{still_there}: {}", told(&refused));
    }
    let erased = pipeline.output("erase", &["--subject", "code=V7", "--timeout", "60s", "--json"]);
    let certificate: Value = serde_json::from_slice(&erased.stdout).unwrap_or_else(|_| panic!("{}", told(&erased)));
    assert!(erased.status.success() && certificate["found_nothing"] == false, "{certificate}");
    let history = format!("{}/public/vouchers-history", pipeline.lake);
    assert_eq!(query(&history, "SELECT count(*) FROM lake WHERE id = 7"), "0", "{certificate}");
    let nobody = pipeline.output("erase", &["--subject", "code=V77", "--timeout", "60s"]);
    assert!(nobody.status.success() && told(&nobody).contains("was found anywhere"), "{}", told(&nobody));
}
