//! The JSON Schema of the configuration names the keys that are read, and no others.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use sooner::config::{Config, SCHEMA};

/// The keys that are allowed in a section, as the reader lists them when it meets an unknown one.
fn read_keys(path: &str, text: &str) -> BTreeSet<String> {
    let problems = Config::parse(text, Path::new(".")).unwrap_err();
    let about = format!(" {path}qqq: is not known; allowed here: ");
    let listed = problems.iter().find_map(|problem| problem.split_once(&about)).map(|(_, keys)| keys);
    listed.unwrap_or_else(|| panic!("{about} is not in {problems:?}")).split(", ").map(str::to_owned).collect()
}

fn schema_keys(pointer: &str) -> BTreeSet<String> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    schema.pointer(&format!("{pointer}/properties")).unwrap().as_object().unwrap().keys().cloned().collect()
}

#[test]
fn it_has_the_keys_that_are_read() {
    for (path, pointer, text) in [
        ("", "", "qqq = 1\n[kafka]"),
        ("source.", "/properties/source", "[source]\nurl = 'postgres://me@db/s'\nqqq = 1"),
        ("lake.", "/properties/lake", "[lake]\nqqq = 1"),
        ("table[0].", "/properties/table/items", "[[table]]\nqqq = 1"),
        ("report[0].", "/properties/report/items", "[[report]]\nqqq = 1"),
        ("masking.", "/properties/masking", "[masking]\nqqq = 1"),
        ("http.", "/properties/http", "[http]\nqqq = 1"),
        ("audit.", "/properties/audit", "[audit]\nqqq = 1"),
        ("kafka.", "/properties/kafka", "[kafka]\nqqq = 1"),
        ("kafka.tls.", "/properties/kafka/properties/tls", "[kafka]\n[kafka.tls]\nqqq = 1"),
    ] {
        assert_eq!(schema_keys(pointer), read_keys(path, text), "[{path}]");
    }
    // What a login needs depends on its mechanism.
    let read = ["PLAIN", "OAUTHBEARER", "AWS_MSK_IAM"].map(|mechanism| {
        read_keys("kafka.sasl.", &format!("[kafka]\n[kafka.sasl]\nmechanism = '{mechanism}'\nqqq = 1"))
    });
    assert_eq!(schema_keys("/properties/kafka/properties/sasl"), read.into_iter().flatten().collect());
    let read = ["confluent", "glue"]
        .map(|kind| read_keys("registry.", &format!("[kafka]\n[registry]\ntype = '{kind}'\nqqq = 1")));
    assert_eq!(schema_keys("/properties/registry"), read.into_iter().flatten().collect());
}
