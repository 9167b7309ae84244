//! What a registry refuses at each of its levels parks that table alone, with the difference and the ways on; what it
//! accepts goes on.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use integration_tests::between;
use integration_tests::pipeline::Pipeline;
use integration_tests::readers::eventually_equal;
use sooner_api::Code;

/// Levels, each with a change of a column `a int` that it accepts, and with later ones that it refuses. The former is
/// seen by the last version of a subject, the latter only by the ones before it where the level is transitive.
const LEVELS: [(&str, &str, &str); 4] = [
    ("BACKWARD", "ALTER TABLE $t DROP COLUMN a", "ALTER TABLE $t ALTER b TYPE text USING b::text"),
    ("FULL", "ALTER TABLE $t DROP COLUMN a", "ALTER TABLE $t ADD COLUMN c int NOT NULL DEFAULT 1 + 2"),
    ("BACKWARD_TRANSITIVE", "ALTER TABLE $t DROP COLUMN a", "ALTER TABLE $t ADD COLUMN a text"),
    ("FULL_TRANSITIVE", "ALTER TABLE $t RENAME a TO z", "ALTER TABLE $t ADD COLUMN a text"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_refuses_parks_one_table_and_a_new_topic_is_a_way_on() {
    let (postgres, kafka, registry) = between::start().await;
    let names: Vec<String> = LEVELS.iter().map(|(level, ..)| format!("at_{}", level.to_lowercase())).collect();
    for name in names.iter().map(String::as_str).chain(["fine"]) {
        postgres
            .sql(&format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, a int, b int); INSERT INTO {name} VALUES (1, 1, 1)"
            ))
            .await;
    }
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    for (name, (level, ..)) in names.iter().zip(LEVELS) {
        let path = format!("/config/shop.public.{name}-value");
        let set = registry.ask("PUT", &path, &format!("{{\"compatibility\": \"{level}\"}}"));
        assert!(set.contains(level), "{set}");
    }
    let tables: Vec<String> = names.iter().map(|name| format!("public.{name}")).collect();
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    for (name, (_, accepted, _)) in names.iter().zip(LEVELS) {
        postgres.sql(&accepted.replace("$t", name)).await;
        postgres.sql(&format!("INSERT INTO {name} (id, b) VALUES (2, 2)")).await;
    }
    eventually_equal(&postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    for (name, (_, _, refused)) in names.iter().zip(LEVELS) {
        postgres.sql(&refused.replace("$t", name)).await;
        postgres
            .sql(&format!(
                "INSERT INTO {name} (id) VALUES (3); INSERT INTO fine (id) VALUES (3) ON CONFLICT DO NOTHING"
            ))
            .await;
    }
    for (table, (level, ..)) in tables.iter().zip(LEVELS) {
        let error = pipeline.wait_until_parked(table).await;
        assert_eq!(error.code, Code::SchemaIncompatible, "{level}: {error}");
        assert!(error.why.contains("column '") && error.remedy.contains("[[table]]"), "{level}: {error}");
    }
    eventually_equal(&postgres, &pipeline.lake, &["public.fine"], || pipeline.log()).await;

    pipeline.stop();
    for name in &names {
        pipeline.append_settings(&format!("[[table]]\nmatch = 'public.{name}'\ntopic = \"shop.next.{name}\"\n"));
    }
    pipeline.start();
    eventually_equal(&postgres, &pipeline.lake, &tables, || pipeline.log()).await;
    pipeline.assert_all_stream();
}
