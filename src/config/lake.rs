//! The section `[lake]` of the configuration.

use std::time::Duration;

use sooner_delta::{RetentionSettings, S3Settings};

use super::reader::Section;
use super::table::{LEAST_FRESHNESS, TableBlocks};

/// Checked settings of the section `[lake]`.
#[derive(Clone, Debug)]
pub struct LakeConfig {
    /// Location of the lake: a folder or `s3://bucket/prefix`.
    pub url: String,
    /// How long an event may wait before it is visible to readers of the lake.
    pub freshness: Duration,
    /// Memory in bytes for the key indexes of all tables, which lie on disk.
    pub index_memory_bytes: usize,
    /// How long tables keep what they do not need any more.
    pub retention: RetentionSettings,
    /// Whether tables get column mapping where they need it.
    pub maps_columns: bool,
    /// Settings of an S3 store.
    pub s3: S3Settings,
}

/// Reads `[lake]`; none if something of it is refused.
pub fn read_lake(section: &mut Section) -> Option<LakeConfig> {
    let url = section.text("url", |text| Ok(text.to_owned()));
    let freshness = section.duration("freshness", Duration::from_secs(1), LEAST_FRESHNESS);
    let index_memory_bytes = section.size("index_memory", 64 << 20, 1 << 20);
    let retention = RetentionSettings {
        deleted_files: section.optional_duration("deleted_file_retention", Duration::ZERO),
        log: section.optional_duration("log_retention", Duration::from_secs(3600)),
    };
    let maps_columns = section.flag("column_mapping", true);
    let endpoint = section.optional("endpoint", |text| Ok(text.to_owned()));
    let region = section.optional("region", |text| Ok(text.to_owned()));
    let access_key = section.secret("access_key_id");
    let secret_key = section.secret("secret_access_key");
    if access_key.is_some() != secret_key.is_some() {
        section.problem("access_key_id", "access_key_id and secret_access_key go together: set both or neither");
    }
    let s3 = S3Settings { endpoint, region, credentials: access_key.zip(secret_key) };
    Some(LakeConfig { url: url?, freshness, index_memory_bytes, retention, maps_columns, s3 })
}

/// Of topics that others write no position is known by which states of a row are in order.
pub fn refuse_kept_histories_of_others(root: &mut Section, tables: &TableBlocks) {
    for (at, _) in tables.kept_histories() {
        let why = "positions of events that Debezium has written begin anew with each process, so that nobody knows \
                   which state of a row is the newest: leave it out";
        root.problem(&format!("table[{at}].keep_history"), why);
    }
}

/// Nothing is kept for a shorter time than files that a table does not need any more.
pub fn refuse_short_histories(root: &mut Section, tables: &TableBlocks, lake: &LakeConfig) {
    let least = lake.retention.deleted_files_of_new_tables();
    for (at, kept) in tables.kept_histories().filter(|(_, kept)| *kept < least) {
        let (kept, least) = (humantime::format_duration(kept), humantime::format_duration(least));
        let why = format!("{kept} is shorter than deleted_file_retention of [lake], which is {least}: set one of them");
        root.problem(&format!("table[{at}].keep_history"), &why);
    }
}
