//! How long a table keeps what its current version does not need: by its properties, which anybody may set.
//!
//! <https://docs.delta.io/latest/delta-batch.html#data-retention>

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

const DELETED_FILES: &str = "delta.deletedFileRetentionDuration";
const LOG: &str = "delta.logRetentionDuration";
const LOG_CLEANUP: &str = "delta.enableExpiredLogCleanup";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What holds where a table says nothing, as for every other writer.
const DELETED_FILES_DEFAULT: Duration = DAY.saturating_mul(7);
const LOG_DEFAULT: Duration = DAY.saturating_mul(30);
/// Whoever keeps the log for less than this keeps entries that a restart needs too short: so long they are kept.
const SHORTEST_LOG: Duration = Duration::from_secs(3600);

/// What a pipeline gives to tables that it makes, unless it is told otherwise: a table that is committed to each second
/// leaves a file each second, and every checkpoint names those that are kept.
const MADE_DELETED_FILES: Duration = DAY.saturating_mul(3);
const MADE_LOG: Duration = DAY.saturating_mul(7);

/// What a pipeline was told its tables are to keep; what was not told is left to each table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Files that are no longer part of the table.
    pub deleted_files: Option<Duration>,
    /// Log entries that a checkpoint stands for.
    pub log: Option<Duration>,
}

impl RetentionSettings {
    /// How long tables that are made keep files that are no longer part of them.
    pub fn deleted_files_of_new_tables(&self) -> Duration {
        self.deleted_files.unwrap_or(MADE_DELETED_FILES)
    }

    /// Sets the properties of a table's metadata; of one that is new, also those that were not told.
    pub fn set(&self, metadata: &mut Value, is_new: bool) {
        let properties = [(DELETED_FILES, self.deleted_files, MADE_DELETED_FILES), (LOG, self.log, MADE_LOG)];
        for (name, told, made) in properties {
            let Some(wanted) = told.or(is_new.then_some(made)) else { continue };
            if property(metadata, name).and_then(parse_interval) != Some(wanted) {
                if !metadata["configuration"].is_object() {
                    metadata["configuration"] = Value::Object(Map::new());
                }
                metadata["configuration"][name] = json!(interval_text(wanted));
            }
        }
    }
}

/// How long a table keeps files and log entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Files that are no longer part of the table.
    pub deleted_files: Duration,
    /// Log entries that a checkpoint stands for; none if they are kept for ever.
    pub log: Option<Duration>,
}

impl Retention {
    /// What a table's metadata says. A property that nobody can read counts as missing.
    pub fn of(metadata: &Value) -> Retention {
        let duration = |name: &str| property(metadata, name).and_then(parse_interval);
        let cleans_log = property(metadata, LOG_CLEANUP).is_none_or(|text| !text.eq_ignore_ascii_case("false"));
        let log = duration(LOG).unwrap_or(LOG_DEFAULT).max(SHORTEST_LOG);
        Retention {
            deleted_files: duration(DELETED_FILES).unwrap_or(DELETED_FILES_DEFAULT),
            log: cleans_log.then_some(log),
        }
    }

    /// Files that were removed before this moment are not needed, in milliseconds since 1970.
    pub fn deleted_files_cutoff_millis(&self, now: SystemTime) -> i64 {
        let cutoff = now.checked_sub(self.deleted_files).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        cutoff.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

fn property<'a>(metadata: &'a Value, name: &str) -> Option<&'a str> {
    metadata.get("configuration")?.get(name)?.as_str()
}

/// An interval in the largest unit that needs no fraction.
fn interval_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(24 * 3600, "days"), (3600, "hours"), (60, "minutes")];
    let unit =
        units.into_iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit)).unwrap_or((1, "seconds"));
    format!("interval {} {}", seconds / unit.0, unit.1)
}

/// An interval as Spark writes it, such as "interval 7 days" or "interval 1 week 12 hours"; none if it is none. Months
/// and years have no length, and are refused there, too.
fn parse_interval(text: &str) -> Option<Duration> {
    let lower = text.trim().to_ascii_lowercase();
    let words: Vec<&str> = lower.strip_prefix("interval").unwrap_or(&lower).split_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(2) {
        return None;
    }
    let mut micros: u64 = 0;
    for pair in words.chunks(2) {
        let number: u64 = pair[0].trim_matches('\'').parse().ok()?;
        let unit: u64 = match pair[1].trim_matches('\'').trim_end_matches('s') {
            "week" => 7 * 24 * 3_600_000_000,
            "day" => 24 * 3_600_000_000,
            "hour" => 3_600_000_000,
            "minute" => 60_000_000,
            "second" => 1_000_000,
            "millisecond" => 1000,
            "microsecond" => 1,
            _ => return None,
        };
        micros = micros.checked_add(number.checked_mul(unit)?)?;
    }
    Some(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn intervals_are_read_as_spark_writes_them() {
        assert_eq!(parse_interval("interval 7 days"), Some(7 * DAY));
        assert_eq!(parse_interval("INTERVAL 1 week 12 hours"), Some(7 * DAY + DAY / 2));
        assert_eq!(parse_interval("2 DAYS"), Some(2 * DAY));
        assert_eq!(parse_interval("interval '90' minutes"), Some(Duration::from_secs(5400)));
        for text in ["", "interval", "interval 1 month", "interval days", "interval -1 days", "soon"] {
            assert_eq!(parse_interval(text), None, "{text}");
        }
    }

    #[test]
    fn a_table_without_properties_keeps_what_every_other_writer_keeps() {
        let expected = Retention { deleted_files: 7 * DAY, log: Some(30 * DAY) };
        assert_eq!(Retention::of(&json!({})), expected);
        let odd = json!({"configuration": {DELETED_FILES: "for a while"}});
        assert_eq!(Retention::of(&odd), expected);
    }

    #[test]
    fn what_was_told_is_set_on_every_table_and_what_was_not_on_those_that_are_new() {
        let told = RetentionSettings { deleted_files: Some(DAY / 2), log: None };
        let mut table = json!({"configuration": {LOG: "interval 1 week"}});
        told.set(&mut table, false);
        assert_eq!(table["configuration"], json!({DELETED_FILES: "interval 12 hours", LOG: "interval 1 week"}));
        let set = table.clone();
        told.set(&mut table, true);
        assert_eq!(table, set, "it keeps as much as a new one does");
        let mut new = json!({});
        RetentionSettings::default().set(&mut new, true);
        assert_eq!(new["configuration"], json!({DELETED_FILES: "interval 3 days", LOG: "interval 7 days"}));
        let mut others = json!({});
        RetentionSettings::default().set(&mut others, false);
        assert_eq!(others, json!({}));
        assert_eq!(interval_text(Duration::from_secs(90)), "interval 90 seconds");
    }

    #[test]
    fn properties_are_honoured_but_the_log_is_kept_as_long_as_a_restart_needs_it() {
        let set = json!({"configuration": {DELETED_FILES: "interval 0 seconds", LOG: "interval 1 minute"}});
        let expected = Retention { deleted_files: Duration::ZERO, log: Some(SHORTEST_LOG) };
        assert_eq!(Retention::of(&set), expected);
        assert_eq!(Retention::of(&json!({"configuration": {LOG_CLEANUP: "false"}})).log, None);
    }
}
