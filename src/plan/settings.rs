//! Settings that differ between two configurations, each with what follows and when. Without I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sooner_schemas::TableName;
use toml::{Table, Value};

use crate::config::TablePattern;

/// When a setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// At SIGHUP, or at the next start.
    Reload,
    /// Only when the process starts again.
    Restart,
}

/// A setting that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingChange {
    /// Its path, such as `lake.freshness`.
    pub setting: String,
    /// Its value before, as the file has it; none if it was not set.
    pub from: Option<String>,
    /// Its value in the file; none if it is not set.
    pub to: Option<String>,
    /// When it takes effect.
    pub takes_effect: Takes,
    /// What follows.
    pub effect: String,
}

const JUDGED: &str = "what follows for tables stands with each of them";
const NEW_TOPICS: &str = "without a copy: only for topics that are made from now on";
const ALONE: &str = "without a copy";

/// Settings, by the beginning of their paths, with what follows of another value. The first that fits counts.
const EFFECTS: &[(&str, Takes, &str)] = &[
    ("name", Takes::Restart, "this is another pipeline: it begins anew, and the former one's slot keeps log"),
    ("state_dir", Takes::Restart, "status, requests and key indexes are looked for there; indexes are built again"),
    ("memory", Takes::Reload, "without a copy: it is divided anew"),
    ("audit", Takes::Reload, "without a copy: what is recorded from then on, and what it is signed with"),
    ("http.", Takes::Restart, "the listener stays as it is until the process starts again"),
    ("source.slot", Takes::Reload, "the pipeline does not go on from another slot by itself"),
    ("source.url", Takes::Reload, "the pipeline goes on only from the server that it read"),
    ("source.publication", Takes::Reload, "another publication may have left changes out: tables are copied again"),
    ("source.tables", Takes::Reload, JUDGED),
    ("source.exclude", Takes::Reload, JUDGED),
    ("source.partitions", Takes::Reload, JUDGED),
    ("source.follow", Takes::Reload, JUDGED),
    ("source.max_retained_wal", Takes::Reload, "without a copy, unless the slot keeps more than that already"),
    ("source.", Takes::Reload, ALONE),
    ("lake.url", Takes::Reload, "tables of the former lake stay as they are, and are followed no longer"),
    ("lake.freshness", Takes::Reload, "without a copy: how often tables are committed to"),
    ("lake.index_memory", Takes::Reload, "without a copy"),
    ("lake.deleted_file_retention", Takes::Reload, "without a copy: with each table's next commit"),
    ("lake.log_retention", Takes::Reload, "without a copy: with each table's next commit"),
    ("lake.column_mapping", Takes::Reload, "without a copy; without it, columns that go or are renamed cost one"),
    ("lake.", Takes::Reload, ALONE),
    ("report", Takes::Reload, "without a copy: reports are made by these settings from then on"),
    ("verify", Takes::Reload, "without a copy: tables are verified by these settings from then on"),
    ("kafka.brokers", Takes::Reload, "the pipeline goes on only where its progress topic is"),
    ("kafka.progress_topic", Takes::Reload, "the pipeline goes on only from its progress record"),
    ("kafka.prefix", Takes::Reload, "tables whose topic has another name are copied there"),
    ("kafka.topic", Takes::Reload, "tables whose topic has another name are copied there"),
    (
        "kafka.group",
        Takes::Reload,
        "without a copy: tables know where they are read on; the former group's offsets stay",
    ),
    (
        "kafka.partition_by",
        Takes::Reload,
        "without a copy: rows that are written from now on may go to other partitions",
    ),
    ("kafka.create_topics", Takes::Reload, NEW_TOPICS),
    ("kafka.partitions", Takes::Reload, NEW_TOPICS),
    ("kafka.replication", Takes::Reload, NEW_TOPICS),
    ("kafka.retention", Takes::Reload, NEW_TOPICS),
    ("kafka.max_message_bytes", Takes::Reload, NEW_TOPICS),
    ("kafka.cleanup_policy", Takes::Reload, NEW_TOPICS),
    ("kafka.compression", Takes::Reload, NEW_TOPICS),
    ("table.freshness", Takes::Reload, "without a copy: how often the table is committed to"),
    ("table.sort_by", Takes::Reload, "without a copy: files are sorted so when they are written again"),
    (
        "table.chain",
        Takes::Reload,
        "without a copy: the next row of a history is the next one of its chain, or none is chained any more",
    ),
    (
        "table.deletes",
        Takes::Reload,
        "soft: without a copy, with each table's next change; hard again: the table is copied without the rows that its \
         source deleted (behind Kafka it parks first)",
    ),
    (
        "table.keep_history",
        Takes::Reload,
        "without a copy; shorter: rows of the history that are older and superseded go for good, the files a little \
         later (`sooner vacuum --dry-run` says how many); longer: from now on, what is gone does not come back",
    ),
    ("table.unholdable", Takes::Reload, JUDGED),
    ("table.topic", Takes::Reload, "a table whose topic has another name is copied there"),
];

/// What follows of another value of a setting.
fn effect_of(setting: &str) -> (Takes, &'static str) {
    let fits = |known: &str| setting == known || setting.starts_with(known) && known.ends_with('.');
    let sub = |known: &str| setting.strip_prefix(known).is_some_and(|rest| rest.starts_with(['.', '_']));
    let found = EFFECTS.iter().find(|(known, ..)| fits(known) || sub(known));
    found.map_or((Takes::Reload, "at the next start or SIGHUP"), |(_, takes, effect)| (*takes, effect))
}

/// Settings of the pipeline that differ; what is set for single tables is told with them.
pub fn of_pipeline(former: &Table, now: &Table) -> Vec<SettingChange> {
    let flat = |settings: &Table| {
        let mut flat = BTreeMap::new();
        flatten(settings, "", &mut flat);
        flat.retain(|path, _| path != "table");
        flat
    };
    differing("", flat(former), flat(now))
}

/// Settings of a table that differ, given the blocks `[[table]]` of both.
pub fn of_table(former: &[Table], now: &[Table], table: &TableName) -> Vec<SettingChange> {
    differing("table.", effective(former, table), effective(now, table))
}

/// What counts for a table: of several blocks that match, the last one that has a setting.
fn effective(blocks: &[Table], table: &TableName) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for block in blocks {
        let pattern = block.get("match").and_then(Value::as_str).and_then(|text| TablePattern::parse(text).ok());
        if pattern.is_some_and(|pattern| pattern.matches(table)) {
            flatten(block, "", &mut settings);
        }
    }
    settings.remove("match");
    settings
}

fn differing(
    section: &str,
    mut former: BTreeMap<String, String>,
    mut now: BTreeMap<String, String>,
) -> Vec<SettingChange> {
    let paths: BTreeSet<_> = former.keys().chain(now.keys()).cloned().collect();
    let change = |path: String| {
        let (from, to) = (former.remove(&path), now.remove(&path));
        let (takes_effect, effect) = effect_of(&format!("{section}{path}"));
        (from != to).then(|| SettingChange { setting: path, from, to, takes_effect, effect: effect.to_owned() })
    };
    paths.into_iter().filter_map(change).collect()
}

/// Each value with its path; of a reference to a secret, the reference.
fn flatten(settings: &Table, path: &str, flat: &mut BTreeMap<String, String>) {
    for (key, value) in settings {
        let path = format!("{path}{key}");
        match value {
            Value::Table(table) if !is_reference(table) => flatten(table, &format!("{path}."), flat),
            value => drop(flat.insert(path, value.to_string())),
        }
    }
}

fn is_reference(table: &Table) -> bool {
    table.len() == 1 && table.keys().all(|key| key == "env" || key == "file")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn settings_that_differ_are_told_with_what_follows() {
        let former =
            parse("memory = '64MiB'\n[lake]\nfreshness = '1s'\nurl = '/l'\n[source]\npassword = { env = 'A' }");
        let now =
            parse("[lake]\nfreshness = '5s'\nurl = '/l'\n[http]\nlisten = 'x'\n[source]\npassword = { env = 'A' }");
        let changes = of_pipeline(&former, &now);
        let told: Vec<_> = changes.iter().map(|change| (change.setting.as_str(), change.takes_effect)).collect();
        assert_eq!(
            told,
            [("http.listen", Takes::Restart), ("lake.freshness", Takes::Reload), ("memory", Takes::Reload)]
        );
        assert_eq!((changes[1].from.as_deref(), changes[1].to.as_deref()), (Some("\"1s\""), Some("\"5s\"")));
        assert_eq!(changes[2].to, None);
        assert!(changes.iter().all(|change| !change.effect.is_empty()));
    }

    #[test]
    fn a_tables_settings_are_those_of_the_last_block_that_has_them() {
        let blocks = |text: &str| {
            parse(text)["table"].as_array().unwrap().iter().map(|block| block.as_table().unwrap().clone()).collect()
        };
        let former: Vec<_> =
            blocks("[[table]]\nmatch = 'a.*'\nfreshness = '1s'\n[[table]]\nmatch = 'b.*'\nfreshness = '2s'");
        let now: Vec<_> = blocks(
            "[[table]]\nmatch = 'a.*'\nfreshness = '9s'\n[[table]]\nmatch = 'a.b'\nfreshness = '1s'\nsort_by = ['x']\n\
             unholdable_types = { date = 'null' }",
        );
        let changes = of_table(&former, &now, &TableName::new("a", "b"));
        let told: Vec<_> = changes.iter().map(|change| change.setting.as_str()).collect();
        assert_eq!(told, ["sort_by", "unholdable_types.date"]);
        assert!(changes[0].effect.contains("written again") && changes[1].effect == JUDGED);
        assert_eq!(of_table(&former, &now, &TableName::new("c", "b")), []);
    }
}
