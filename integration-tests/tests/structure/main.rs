//! The crate graph is the architecture; and what is shown to users is loaded.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod imports;
mod source;

use std::collections::BTreeMap;

use integration_tests::root;
use sooner::config::Config;
use sooner::config::fleet::FleetConfig;

use imports::Imports;
use source::{Item, Source, files};

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

/// Sources of each crate.
const CRATES: [&str; 6] = [
    "src",
    "schemas/src",
    "connectors/api/src",
    "connectors/postgres/src",
    "connectors/delta/src",
    "connectors/kafka/src",
];

#[test]
fn no_file_has_grown_past_a_few_screens() {
    for source in files(".", ".rs") {
        let lines = source.text.lines().count();
        assert!(lines <= 400, "{} has {lines} lines; which name is missing?", source.path);
        assert!(source.text.starts_with("//!"), "{} does not say what it is", source.path);
    }
}

#[test]
fn no_function_is_longer_than_a_screen() {
    for source in files(".", ".rs") {
        for Item { name, lines } in source.functions() {
            assert!(lines <= 70, "{name} of {} has {lines} lines; what are its parts?", source.path);
        }
    }
}

#[test]
fn no_type_does_more_than_fits_into_a_file() {
    for folder in CRATES {
        let mut of_types: BTreeMap<String, usize> = BTreeMap::new();
        for Item { name, lines } in files(folder, ".rs").iter().flat_map(Source::impls) {
            *of_types.entry(name).or_default() += lines;
        }
        let (longest, lines) = of_types.into_iter().max_by_key(|(_, lines)| *lines).unwrap();
        assert!(lines <= 400, "{longest} of {folder} has {lines} lines of impl; which name is missing?");
    }
}

#[test]
fn comments_and_prose_fit_the_width() {
    let comments = files(".", ".rs").into_iter().map(|source| (source, true));
    for (source, only_comments) in comments.chain(files(".", ".md").into_iter().map(|source| (source, false))) {
        for (number, line) in source.text.lines().enumerate() {
            let counts = !only_comments || line.trim_start().starts_with("//");
            let width = line.chars().count();
            assert!(!counts || width <= 120, "{}:{} is {width} characters wide", source.path, number + 1);
        }
    }
}

#[test]
fn files_and_wings_import_in_no_circle() {
    for folder in CRATES.into_iter().chain(["integration-tests/src"]) {
        let imports = Imports::of(folder);
        assert!(imports.count() > 0, "no import was found in {folder}");
        assert_eq!(imports.circle(), None, "a circle of files in {folder}");
        assert_eq!(imports.circle_of_wings(folder), None, "a circle of wings in {folder}");
    }
}

#[test]
fn behind_the_front_door_the_loops_know_ports_only() {
    for source in files("src/pipeline", ".rs").iter().filter(|source| !source.path.ends_with("/mod.rs")) {
        for connector in ["sooner_delta", "sooner_kafka", "sooner_postgres"] {
            assert!(!source.text.contains(connector), "{} knows {connector}", source.path);
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
        let text = ["REGISTRY_TOKEN", "ORDERS_TOKEN"].iter().fold(text, |text, name| text.replace(name, "PATH"));
        let text = text.replace("LAKE_ACCESS_KEY_ID", "PATH").replace("LAKE_SECRET_ACCESS_KEY", "PATH");
        let parsed = match entry.file_name() == "fleet.toml" {
            true => FleetConfig::parse(&text, &root()).map(drop),
            false => Config::parse(&text, &root()).map(drop),
        };
        parsed.unwrap_or_else(|problems| panic!("{:?}: {problems:?}", entry.path()));
        loaded += 1;
    }
    assert!(loaded >= 5, "only {loaded} examples");
}
