//! Who else writes a table, as far as its log says.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use object_store::path::Path;
use serde_json::Value;
use sooner_api::Result;

use super::actions::log_path;
use super::last_checkpoint::LastCheckpoint;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// Engines of the last entries of a log that were not put by this program, by the version of the last entry of each.
pub async fn other_writers(location: &TableLocation, entries: usize) -> Result<BTreeMap<String, u64>> {
    let known = LastCheckpoint::read(location).await?.version().unwrap_or_default();
    let log = Path::from("_delta_log");
    let after = log_path(known.saturating_sub(entries as u64));
    let listed = location.table.list_with_offset(Some(&log), &after).try_collect::<Vec<_>>().await;
    let listed = listed.map_err(|error| store_error("cannot list the log of a lake table", &error))?;
    let mut versions: Vec<u64> = listed.iter().filter_map(|object| version_of(object.location.filename()?)).collect();
    versions.sort_unstable();
    let mut writers = BTreeMap::new();
    for version in versions.into_iter().rev().take(entries) {
        let Some(text) = get(location.store(), &log_path(version)).await? else { continue };
        if let Some(engine) = engine(&text).filter(|engine| !engine.starts_with("sooner/")) {
            writers.entry(engine).or_insert(version);
        }
    }
    Ok(writers)
}

/// Version of a log entry, from its name; none if that is no entry's.
fn version_of(name: &str) -> Option<u64> {
    name.strip_suffix(".json").filter(|version| version.len() == 20)?.parse().ok()
}

/// What wrote an entry, if it says so.
fn engine(text: &[u8]) -> Option<String> {
    let lines = text.split(|&byte| byte == b'\n');
    let info = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()).find_map(|action| match action {
        Value::Object(mut action) => action.remove("commitInfo"),
        _ => None,
    })?;
    let name = |field: &str| info.get(field).and_then(Value::as_str).map(str::to_owned);
    name("engineInfo").or_else(|| name("clientVersion"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_wrote_it() {
        let spark = br#"{"commitInfo":{"engineInfo":"Apache-Spark/3.5.3 Delta-Lake/3.2.1"}}"#;
        assert_eq!(engine(spark).as_deref(), Some("Apache-Spark/3.5.3 Delta-Lake/3.2.1"));
        let delta_rs = b"{\"add\":{}}\n{\"commitInfo\":{\"clientVersion\":\"delta-rs.py-1.1\"}}";
        assert_eq!(engine(delta_rs).as_deref(), Some("delta-rs.py-1.1"));
        assert_eq!(engine(b"{\"add\":{}}\nnonsense"), None);
        assert_eq!(version_of("00000000000000000012.json"), Some(12));
        assert_eq!(version_of("00000000000000000012.checkpoint.parquet"), None);
    }
}
