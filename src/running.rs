//! The configuration that a pipeline runs with, as a file in its state folder, for whoever compares another one with
//! it. It holds no secrets: where one is a variable's or a file's, the reference stands there as in the configuration.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sooner_api::Clock;
use toml::{Table, Value};

use crate::clock::SystemClock;
use crate::config::{Config, SCHEMA};

/// What a pipeline runs with, or ran with last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Since when, in microseconds since 1970.
    pub since_micros: i64,
    /// The settings, as the file has them, with the values of variables that are no secrets.
    pub settings: Table,
}

impl Running {
    /// The settings of a configuration file, which was read into `config`.
    pub fn of(path: &Path, config: &Config) -> anyhow::Result<Running> {
        let table: Table = std::fs::read_to_string(path)?.parse()?;
        let schema: Json = serde_json::from_str(SCHEMA)?;
        let mut settings = shown(&table, &schema);
        // Whether what is left out is written down makes no difference.
        if let Some(source) = &config.source {
            put(&mut settings, "source", "slot", &source.slot);
            put(&mut settings, "source", "publication", &source.publication);
        }
        if let Some(kafka) = &config.kafka {
            put(&mut settings, "kafka", "prefix", &kafka.prefix);
            put(&mut settings, "kafka", "progress_topic", &kafka.settings.topics.progress);
            put(&mut settings, "kafka", "group", &kafka.settings.consumer.group);
        }
        Ok(Running { since_micros: SystemClock.now_micros(), settings })
    }

    /// The same, with the listener of the configuration that the process started with, which it keeps.
    pub fn listening_as(mut self, first: &Running) -> Running {
        match first.settings.get("http") {
            Some(http) => drop(self.settings.insert("http".to_owned(), http.clone())),
            None => drop(self.settings.remove("http")),
        }
        self
    }

    /// Writes them to the state folder, whole or not at all.
    pub fn store(&self, state_dir: &Path) -> anyhow::Result<()> {
        let path = file(state_dir);
        let beside = path.with_extension("json.new");
        std::fs::write(&beside, serde_json::to_vec_pretty(self)?)?;
        Ok(std::fs::rename(beside, path)?)
    }

    /// What was written last; none if nothing was, or it cannot be understood.
    pub fn load(state_dir: &Path) -> Option<Running> {
        serde_json::from_slice(&std::fs::read(file(state_dir)).ok()?).ok()
    }

    /// A text of a section.
    pub fn text(&self, section: &str, key: &str) -> Option<&str> {
        self.settings.get(section)?.get(key)?.as_str()
    }

    /// The blocks `[[table]]`.
    pub fn blocks(&self) -> Vec<Table> {
        let blocks = self.settings.get("table").and_then(Value::as_array);
        blocks.into_iter().flatten().filter_map(Value::as_table).cloned().collect()
    }
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("configuration.json")
}

fn put(settings: &mut Table, section: &str, key: &str, value: &str) {
    if let Some(section) = settings.get_mut(section).and_then(Value::as_table_mut) {
        section.insert(key.to_owned(), Value::String(value.to_owned()));
    }
}

/// A section as it is stored. The schema says where secrets are.
fn shown(table: &Table, schema: &Json) -> Table {
    let entry = |(key, value): (&String, &Value)| {
        let schema = schema.pointer(&format!("/properties/{key}")).unwrap_or(&Json::Null);
        let value = shown_value(value, schema);
        let value = match value {
            Value::String(text) if key == "url" => Value::String(without_password(&text)),
            value => value,
        };
        (key.clone(), value)
    };
    table.iter().map(entry).collect()
}

fn shown_value(value: &Value, schema: &Json) -> Value {
    match value {
        Value::Table(table) => match table.get("env").and_then(Value::as_str) {
            Some(name) if table.len() == 1 => {
                let told = std::env::var(name).ok().filter(|_| may_be_told(schema));
                told.map_or_else(|| value.clone(), Value::String)
            }
            _ => Value::Table(shown(table, schema)),
        },
        Value::Array(values) => {
            let items = schema.get("items").unwrap_or(&Json::Null);
            Value::Array(values.iter().map(|value| shown_value(value, items)).collect())
        }
        value => value.clone(),
    }
}

/// Whether the schema says that a key's value is no secret.
fn may_be_told(schema: &Json) -> bool {
    let is = |schema: &Json, names: &[&str]| {
        let named = schema.get("$ref").and_then(Json::as_str).and_then(|named| named.rsplit('/').next());
        named.is_some_and(|named| names.contains(&named))
    };
    let any_of = schema.get("anyOf").and_then(Json::as_array);
    is(schema, &["text", "duration", "size", "flag"])
        || any_of.is_some_and(|kinds| kinds.iter().any(|kind| is(kind, &["variable"])))
}

/// A URL without what may be a password: a variable's may have one.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = match authority.rsplit_once('@') {
        Some((login, host)) => format!("{}@{host}", login.split(':').next().unwrap_or_default()),
        None => authority.to_owned(),
    };
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let kept = query.map(|query| {
        let kept: Vec<_> = query.split('&').filter(|part| !part.to_lowercase().contains("password")).collect();
        format!("?{}", kept.join("&"))
    });
    format!("{scheme}://{authority}{path}{}", kept.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_has_no_secrets_and_the_values_of_other_variables() {
        let text = "name = { env = 'CARGO_PKG_NAME' }\n[source]\nurl = { env = 'PATH' }\npassword = { env = 'PATH' }\n\
                    [kafka.sasl]\npassword = { file = 'secret' }\n[kafka.properties]\n'x.y' = { env = 'PATH' }\n\
                    [[table]]\nmatch = 'a.b'\nfreshness = { env = 'CARGO_PKG_VERSION' }";
        let schema: Json = serde_json::from_str(SCHEMA).unwrap();
        let stored = Running { since_micros: 1, settings: shown(&text.parse().unwrap(), &schema) };
        assert_eq!(stored.settings["name"].as_str(), Some("sooner"));
        assert_eq!(stored.settings["source"]["password"]["env"].as_str(), Some("PATH"));
        assert_eq!(stored.settings["kafka"]["sasl"]["password"]["file"].as_str(), Some("secret"));
        assert_eq!(stored.settings["kafka"]["properties"]["x.y"]["env"].as_str(), Some("PATH"), "it may be a secret");
        assert_eq!(stored.blocks()[0]["freshness"].as_str(), Some(env!("CARGO_PKG_VERSION")));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Running::load(folder.path()), None);
        stored.store(folder.path()).unwrap();
        assert_eq!(Running::load(folder.path()), Some(stored));
    }

    #[test]
    fn passwords_are_taken_out_of_urls() {
        for (url, expected) in [
            ("postgres://me:hunter2@db:5432/shop", "postgres://me@db:5432/shop"),
            ("postgres://me@a,b/shop?password=hunter2&sslmode=require", "postgres://me@a,b/shop?sslmode=require"),
            ("s3://lake/a@b:c", "s3://lake/a@b:c"),
            ("/a/folder", "/a/folder"),
        ] {
            assert_eq!(without_password(url), expected);
        }
    }
}
