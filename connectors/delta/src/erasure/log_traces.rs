//! What a table's log tells of rows that are gone: least and greatest values of files that are no part of the table any
//! more, in entries and in checkpoints, and conditions of other writers' statements. Entries stay, since positions and
//! commits are known by them; what they tell of values goes.

use std::collections::{BTreeSet, HashSet};
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use serde_json::{Map, Value, json};
use sooner_api::{Result, failpoint};

use crate::log::replay::replay;
use crate::log::retention::Retention;
use crate::maintenance::checkpoint::write_checkpoint;
use crate::maintenance::holds::held;
use crate::maintenance::vacuum::delete;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::{get, put};

/// What stands in the place of a value that was erased.
const ERASED: &str = "[erased]";

/// What was done to a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Entries that tell less than they did.
    pub entries: usize,
    /// Checkpoints and checksums that are gone.
    pub checkpoints: usize,
}

/// Makes a checkpoint of the last version, deletes those before `since`, the version from which on no erased row is in
/// the table, but for those that are held; and takes what entries up to the last version tell of files that are gone,
/// and the values. Nothing of a table is touched that is held as a whole.
pub async fn clean(location: &TableLocation, since: u64, values: &[&str]) -> Result<Cleaned> {
    let held = held(location, SystemTime::now()).await?;
    if held.everything {
        return Ok(Cleaned::default());
    }
    let version = replay(location, &[]).await?;
    let Some(last) = version.number() else { return Ok(Cleaned::default()) };
    write_checkpoint(location, last, &Retention::of(version.metadata())).await?;
    failpoint("erased_log_checkpointed");
    let live: HashSet<&str> = version.files().iter().map(|(_, file)| file.key()).collect();
    let (mut former, mut entries) = (Vec::new(), 0);
    for (path, object) in log_objects(location).await? {
        match object {
            LogObject::Entry(number) if number <= last => {
                entries += usize::from(redact_entry(location, &path, &live, values).await?);
            }
            LogObject::Derived(number) if number < since && !held.versions.contains(&number) => former.push(path),
            _ => {}
        }
    }
    let checkpoints = delete(location, former).await?;
    Ok(Cleaned { entries, checkpoints })
}

enum LogObject {
    Entry(u64),
    /// A checkpoint, a part of one, or a checksum.
    Derived(u64),
}

async fn log_objects(location: &TableLocation) -> Result<Vec<(Path, LogObject)>> {
    let listed = location.table.list(Some(&Path::from("_delta_log"))).try_collect::<Vec<_>>().await;
    let listed = listed.map_err(|error| store_error("cannot list the log of a lake table", &error))?;
    let objects = listed.into_iter().filter_map(|object| {
        let (number, rest) = object.location.filename()?.split_once('.')?;
        let number: u64 = number.parse().ok().filter(|_| number.len() == 20)?;
        let kind = match rest {
            "json" => LogObject::Entry(number),
            _ if rest == "crc" || rest.starts_with("checkpoint.") => LogObject::Derived(number),
            _ => return None,
        };
        Some((object.location, kind))
    });
    Ok(objects.collect())
}

/// Writes an entry again if it tells more than it should; returns whether it did.
async fn redact_entry(location: &TableLocation, path: &Path, live: &HashSet<&str>, values: &[&str]) -> Result<bool> {
    let Some(text) = get(location.store(), path).await? else { return Ok(false) };
    let Some(redacted) = redacted(&text, live, values) else { return Ok(false) };
    put(location.store(), path, Bytes::from(redacted)).await?;
    Ok(true)
}

/// An entry without bounds of files that are not live, and without the values; none if it has neither.
fn redacted(text: &[u8], live: &HashSet<&str>, values: &[&str]) -> Option<Vec<u8>> {
    let (mut redacted, mut is_changed) = (Vec::with_capacity(text.len()), false);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let Ok(mut action) = serde_json::from_slice::<Map<String, Value>>(line) else {
            redacted.extend_from_slice(line);
            continue;
        };
        let mut differs = false;
        for (kind, body) in &mut action {
            if matches!(kind.as_str(), "add" | "remove") {
                differs |= forget_bounds(body, live);
            } else if matches!(kind.as_str(), "commitInfo" | "domainMetadata") {
                differs |= forget_values(body, values);
            }
        }
        match differs {
            true => {
                is_changed = true;
                redacted.extend_from_slice(Value::Object(action).to_string().as_bytes());
                redacted.push(b'\n');
            }
            false => redacted.extend_from_slice(line),
        }
    }
    is_changed.then_some(redacted)
}

/// Leaves only the number of rows of what an action tells of a file that is not live.
fn forget_bounds(body: &mut Value, live: &HashSet<&str>) -> bool {
    let path = body.get("path").and_then(Value::as_str).unwrap_or_default();
    if live.contains(path) {
        return false;
    }
    let Some(stats) = body.get("stats").and_then(Value::as_str) else { return false };
    let parsed: Value = serde_json::from_str(stats).unwrap_or_default();
    let kept = json!({"numRecords": parsed.get("numRecords"), "tightBounds": false});
    if parsed == kept {
        return false;
    }
    let names: BTreeSet<_> = parsed.as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
    if names.is_subset(&["numRecords", "tightBounds"].into()) {
        return false;
    }
    body["stats"] = json!(kept.to_string());
    true
}

/// Replaces values in all texts of an action.
fn forget_values(body: &mut Value, values: &[&str]) -> bool {
    match body {
        Value::String(text) => {
            let mut replaced = text.clone();
            for value in values {
                replaced = replaced.replace(value, ERASED);
            }
            let differs = replaced != *text;
            *text = replaced;
            differs
        }
        Value::Array(items) => items.iter_mut().fold(false, |differs, item| forget_values(item, values) | differs),
        Value::Object(fields) => {
            fields.iter_mut().fold(false, |differs, (_, field)| forget_values(field, values) | differs)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_forget_bounds_of_files_that_are_gone_and_values_in_conditions() {
        let stats = "{\\\"numRecords\\\":3,\\\"minValues\\\":{\\\"email\\\":\\\"a@b.c\\\"}}";
        let info = r#"{"commitInfo":{"txnId":"me","operationParameters":{"predicate":"email = 'a@b.c'"}}}"#;
        let add = |path: &str| format!("{{\"add\":{{\"path\":\"{path}\",\"size\":1,\"stats\":\"{stats}\"}}}}");
        let text = format!("{info}\n{}\n{}\n", add("live"), add("gone"));
        let cleaned = redacted(text.as_bytes(), &["live"].into(), &["a@b.c"]).unwrap();
        let cleaned = String::from_utf8(cleaned).unwrap();
        let lines: Vec<_> = cleaned.lines().collect();
        assert!(lines[0].contains("\"txnId\":\"me\"") && lines[0].contains("email = '[erased]'"), "{cleaned}");
        assert_eq!(lines[1], add("live"), "what is live is as it was");
        assert!(lines[2].contains(r#"{\"numRecords\":3,\"tightBounds\":false}"#), "{cleaned}");
        assert_eq!(redacted(cleaned.as_bytes(), &["live"].into(), &["a@b.c"]), None, "once is enough");
    }
}
