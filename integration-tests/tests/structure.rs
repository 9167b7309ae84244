//! The crate graph is the architecture; and what is shown to users is loaded.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use integration_tests::root;
use sooner::config::Config;

/// Each crate with those of ours that it may know.
const ARROWS: [(&str, &[&str]); 6] = [
    ("schemas", &[]),
    ("connectors/api", &["sooner-schemas"]),
    ("connectors/postgres", &["sooner-api", "sooner-schemas"]),
    ("connectors/delta", &["sooner-api", "sooner-schemas"]),
    ("connectors/kafka", &["sooner-api", "sooner-schemas"]),
    (".", &["sooner-api", "sooner-delta", "sooner-kafka", "sooner-postgres", "sooner-schemas"]),
];

#[test]
fn arrows_between_crates_point_one_way() {
    for (folder, allowed) in ARROWS {
        let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let dependencies = text.split("\n[dependencies]").nth(1).and_then(|rest| rest.split("\n[").next()).unwrap();
        for line in dependencies.lines().filter(|line| line.starts_with("sooner")) {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            assert!(allowed.contains(&name), "{folder} must not depend on {name}");
        }
    }
}

#[test]
fn no_file_has_grown_past_a_few_screens() {
    for folder in ["src", "schemas/src", "connectors", "integration-tests/src"] {
        each_source(&root().join(folder), &mut |path, text| {
            let lines = text.lines().count();
            assert!(lines <= 450, "{} has {lines} lines; which name is missing?", path.display());
            assert!(text.starts_with("//!"), "{} does not say what it is", path.display());
        });
    }
}

fn each_source(folder: &Path, look: &mut impl FnMut(&Path, &str)) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            each_source(&path, look);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&path, &std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_example_configuration_loads() {
    let folder = root().join("config");
    let mut loaded = 0;
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        // The examples' secrets stand in for files and variables that a user would have.
        let text = text.replace("{ file = \"postgres-password\" }", "{ file = \"Cargo.toml\" }");
        let text = text.replace("kafka-root.pem", "Cargo.toml").replace("KAFKA_PASSWORD", "PATH");
        let text = text.replace("REGISTRY_TOKEN", "PATH");
        let text = text.replace("LAKE_ACCESS_KEY_ID", "PATH").replace("LAKE_SECRET_ACCESS_KEY", "PATH");
        Config::parse(&text, &root()).unwrap_or_else(|problems| panic!("{:?}: {problems:?}", entry.path()));
        loaded += 1;
    }
    assert!(loaded >= 5, "only {loaded} examples");
}
