//! The end of log entries that a checkpoint stands for, once they are older than the table keeps them; and of
//! checkpoints of which there are more than anybody needs: former versions can be read from an earlier one on.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#metadata-cleanup>

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use object_store::path::Path;
use sooner_api::Result;

use super::holds::held;
use super::vacuum::delete;
use crate::log::retention::Retention;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;

/// Of checkpoints that are older than this, the last of each such while stays. Whoever reads from one has read it by
/// then.
const WHILE: Duration = Duration::from_secs(3600);

/// Deletes entries and checkpoints that are older than the table keeps them, and not needed to read a version that is
/// younger, the last one, or one that is held. Returns how many objects that were.
pub async fn clean_log(location: &TableLocation, retention: &Retention, now: SystemTime) -> Result<usize> {
    let Some(cutoff) = retention.log.and_then(|kept| now.checked_sub(kept)) else { return Ok(0) };
    let failed = |error: object_store::Error| store_error("cannot clean up the log of a lake table", &error);
    let mut log = Log::default();
    let mut listed = location.table.list(Some(&Path::from("_delta_log")));
    while let Some(object) = listed.try_next().await.map_err(failed)? {
        if let Some(found) = object.location.filename().and_then(LogObject::parse) {
            let modified = SystemTime::from(object.last_modified);
            log.note(found, modified < cutoff, hour_of(modified, now));
        }
    }
    let mut unneeded: Vec<_> = log.unneeded().collect();
    if !unneeded.is_empty() {
        let held = held(location, now).await?;
        if held.everything {
            return Ok(0);
        }
        let held = held.versions;
        unneeded.retain(|name| LogObject::parse(name).is_none_or(|object| !held.contains(&object.version)));
    }
    delete(location, unneeded.into_iter().map(|name| Path::from("_delta_log").join(name)).collect()).await
}

/// An entry, a checkpoint or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LogObject {
    version: u64,
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Entry,
    /// A checkpoint in one file.
    Checkpoint,
    Other,
}

/// What is known of a log.
#[derive(Default)]
struct Log {
    old: Vec<LogObject>,
    checkpoints: Vec<u64>,
    /// Checkpoints that were written a while ago, by the while.
    by_hour: BTreeMap<u64, Vec<(u64, String)>>,
    /// The first version that is to stay readable, if there is one.
    first_young: Option<u64>,
    last: u64,
}

impl LogObject {
    /// From an object's name; none if it is another object.
    fn parse(name: &str) -> Option<LogObject> {
        let (version, rest) = name.split_once('.')?;
        if version.len() != 20 {
            return None;
        }
        let kind = match rest {
            "json" => Kind::Entry,
            "checkpoint.parquet" => Kind::Checkpoint,
            "crc" => Kind::Other,
            _ if rest.starts_with("checkpoint.") => Kind::Other,
            _ => return None,
        };
        Some(LogObject { version: version.parse().ok()?, name: name.to_owned(), kind })
    }
}

impl Log {
    fn note(&mut self, object: LogObject, is_old: bool, hour: Option<u64>) {
        self.last = self.last.max(object.version);
        if object.kind == Kind::Checkpoint {
            self.checkpoints.push(object.version);
            if let Some(hour) = hour {
                self.by_hour.entry(hour).or_default().push((object.version, object.name.clone()));
            }
        }
        if is_old {
            self.old.push(object);
        } else if object.kind == Kind::Entry {
            self.first_young = Some(self.first_young.map_or(object.version, |first| first.min(object.version)));
        }
    }

    /// Names of old objects that precede the checkpoint by which the first version that stays is read, and of
    /// checkpoints after it that a later one of the same while stands for.
    fn unneeded(&self) -> impl Iterator<Item = &str> {
        let first = self.first_young.unwrap_or(self.last);
        let checkpoint = self.checkpoints.iter().filter(|version| **version <= first).max();
        let spare = self.by_hour.values().flat_map(move |written| {
            let last = written.iter().map(|(version, _)| *version).max();
            let is_spare = move |version: u64| checkpoint.is_some_and(|kept| version > *kept) && Some(version) != last;
            written.iter().filter(move |(version, _)| is_spare(*version)).map(|(_, name)| name.as_str())
        });
        let before = self.old.iter().filter(move |object| checkpoint.is_some_and(|kept| object.version < *kept));
        before.map(|object| object.name.as_str()).chain(spare)
    }
}

/// Number of the while in which something was written; none if that is not long ago.
fn hour_of(modified: SystemTime, now: SystemTime) -> Option<u64> {
    now.duration_since(modified).ok().filter(|age| *age > 2 * WHILE)?;
    let since_1970 = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since_1970.as_secs() / WHILE.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(old: &[&str], young: &[&str]) -> Log {
        let mut log = Log::default();
        for (names, is_old) in [(old, true), (young, false)] {
            for name in names {
                let (version, rest) = name.split_once('.').unwrap();
                let object = LogObject::parse(&format!("{:020}.{rest}", version.parse::<u64>().unwrap()));
                log.note(object.unwrap(), is_old, None);
            }
        }
        log
    }

    fn gone(log: &Log) -> Vec<String> {
        let names = log.unneeded().map(|name| name.trim_start_matches('0'));
        names.map(|name| if name.starts_with('.') { format!("0{name}") } else { name.to_owned() }).collect()
    }

    #[test]
    fn what_precedes_the_checkpoint_of_the_first_young_version_goes() {
        let old = ["0.json", "1.checkpoint.parquet", "1.json", "2.crc", "3.checkpoint.parquet", "3.json", "4.json"];
        let expected = ["0.json", "1.checkpoint.parquet", "1.json", "2.crc"];
        assert_eq!(gone(&log(&old, &["5.json", "6.json"])), expected);
        assert_eq!(gone(&log(&old, &["5.json", "6.checkpoint.parquet"])), expected, "5 is read from 3 on");
        assert_eq!(gone(&log(&["0.json", "1.json"], &["1.checkpoint.parquet", "2.json"])), ["0.json"]);
    }

    #[test]
    fn of_many_checkpoints_of_an_hour_the_last_one_stays_and_the_one_that_the_first_version_is_read_from() {
        let mut log = log(&["3.json"], &["5.json", "30.json"]);
        for (version, hour) in [(3, 1), (4, 1), (9, 2), (10, 2), (11, 2), (20, 3)] {
            let object = LogObject::parse(&format!("{version:020}.checkpoint.parquet")).unwrap();
            log.note(object, false, Some(hour));
        }
        let young = LogObject::parse(&format!("{:020}.checkpoint.parquet", 29)).unwrap();
        log.note(young, false, None);
        // 5 is read from 4 on; 3 is not old enough to go for its age, and precedes what stays.
        assert_eq!(gone(&log), ["3.json", "9.checkpoint.parquet", "10.checkpoint.parquet"]);
    }

    #[test]
    fn an_hour_is_looked_at_once_it_is_well_over() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(hour_of(at(7200), at(7200 + 7200)), None);
        assert_eq!(hour_of(at(7200), at(7200 + 7201)), Some(2));
        assert_eq!(hour_of(at(7200), at(100)), None, "clocks differ");
    }

    #[test]
    fn of_a_quiet_table_the_last_version_stays() {
        let old = ["0.json", "1.json", "1.checkpoint.parquet", "2.json"];
        assert_eq!(gone(&log(&old, &[])), ["0.json"]);
    }

    #[test]
    fn without_a_checkpoint_every_entry_is_needed() {
        assert!(gone(&log(&["0.json", "1.json"], &["2.json"])).is_empty());
        let parts = ["0.json", "1.checkpoint.0000000001.0000000002.parquet"];
        assert!(gone(&log(&parts, &["2.json"])).is_empty(), "a part may be missing");
    }

    #[test]
    fn objects_of_other_names_are_nobodys() {
        for name in ["_last_checkpoint", "00000000000000000001.tmp", "1.json", "x.json", "0000000000000000000x.json"] {
            assert_eq!(LogObject::parse(name), None, "{name}");
        }
    }
}
