//! The version of a table that is exactly a past position of the source's log, found in the table's own log. Nothing
//! runs for that: each commit tells the events that it holds, and up to where it is complete.
//!
//! A version is exactly position P if its last event is not after P, and the first event of the next version is. A copy
//! of the whole table is complete to its watermark, and what was before it ends where its last commit was complete to.
//! Rows that were copied over others are as they were somewhat later than their position says; so a version that has
//! them is exact only once the table is known to be complete to well after that.

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, TableName};

use super::past_entry::{Entry, Told};
use crate::log::actions::log_path;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// How far the clocks of the database and of the lake's writer may differ, and longer than rows are on their way that
/// are copied over others.
pub const COPIED_MICROS: i64 = 60_000_000;

/// A version that is exactly a past position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastVersion {
    /// The version.
    pub version: u64,
    /// The latest position, not after the one that is wanted, of which the table's log knows the commit time; and that,
    /// in microseconds since 1970.
    pub known: Option<(Lsn, i64)>,
    /// Rows that were copied over others are in it: it is exact if the position was committed after this moment.
    pub settled_after: Option<i64>,
}

/// The log of one table.
pub struct PastLog<'a> {
    location: &'a TableLocation,
    table: &'a TableName,
    /// Versions whose entries are there.
    versions: Vec<u64>,
}

impl<'a> PastLog<'a> {
    /// The log of a table at a location; none if there is none.
    pub async fn open(location: &'a TableLocation, table: &'a TableName) -> Result<Option<PastLog<'a>>> {
        let listed = location.table.list(Some(&Path::from("_delta_log"))).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|error| store_error("cannot list the log of a lake table", &error))?;
        let version_of = |name: &str| name.strip_suffix(".json").filter(|name| name.len() == 20)?.parse().ok();
        let mut versions: Vec<u64> =
            listed.iter().filter_map(|object| version_of(object.location.filename()?)).collect();
        versions.sort_unstable();
        Ok((!versions.is_empty()).then_some(PastLog { location, table, versions }))
    }

    async fn entry(&self, at: usize) -> Result<Entry> {
        let version = self.versions[at];
        let text = get(self.location.store(), &log_path(version)).await?;
        let text = text.ok_or_else(|| self.gone(format!("the log's entry {version} was removed just now")))?;
        Entry::parse(version, &text).map_err(|error| {
            let (what, remedy) = (format!("cannot read the log of {}", self.table), "restore the table's log");
            Error::operator(Code::LogUnreadable, what, error, remedy)
        })
    }

    /// The last entry for which `holds`, and where it is, of those with something to compare; all before it hold, too.
    async fn last_that(&self, holds: impl Fn(&Entry) -> Option<bool>) -> Result<Option<(usize, Entry)>> {
        let (mut low, mut high, mut found) = (0, self.versions.len(), None);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut at = middle;
            let judged = loop {
                let entry = self.entry(at).await?;
                match holds(&entry) {
                    Some(judged) => break Some((judged, entry)),
                    None if at == low => break None,
                    None => at -= 1,
                }
            };
            match judged {
                Some((true, entry)) => (found, low) = (Some((at, entry)), middle + 1),
                Some((false, _)) => high = at,
                None => low = middle + 1,
            }
        }
        Ok(found)
    }

    /// The latest position whose commit time is known and not after a moment.
    pub async fn position_at(&self, micros: i64) -> Result<Option<(Lsn, i64)>> {
        let found = self.last_that(|entry| entry.watermark.map(|(_, committed)| committed <= micros)).await?;
        Ok(found.and_then(|(_, entry)| entry.watermark))
    }

    /// The version that is exactly a position; an operator error if there is none. `is_complete` if everything up to
    /// there was in the lake before the log was opened.
    pub async fn version_at(&self, lsn: Lsn, is_complete: bool) -> Result<PastVersion> {
        let Some((at, entry)) = self.last_that(|entry| entry.last().map(|last| last <= lsn)).await? else {
            let first = self.versions.first().copied().unwrap_or_default();
            let why = format!("none, from {first} on, says that it is complete to a position at or before {lsn}");
            return Err(self.gone(why));
        };
        let (mut version, mut known) = (entry.version, entry.watermark);
        let mut complete = known;
        let mut next = None;
        for after in at + 1..self.versions.len() {
            let following = self.entry(after).await?;
            if following.last().is_some() {
                next = Some(following);
                break;
            }
            if following.erases {
                version = following.version;
            }
            complete = complete.max(following.watermark);
            known = known.max(following.watermark.filter(|(known, _)| *known <= lsn));
        }
        let known = known.filter(|(known, _)| *known <= lsn);
        let is_exact = match next.as_ref().map(|next| &next.told) {
            Some(Told::Events { first: Some(first), .. }) => lsn < *first,
            Some(_) => complete.is_some_and(|(complete, _)| lsn <= complete),
            None => is_complete || complete.is_some_and(|(complete, _)| lsn <= complete),
        };
        if !is_exact {
            return Err(self.inexact(lsn, &entry, next.as_ref()));
        }
        let copied = self.copied_until(at).await?;
        let settled_after = copied.filter(|copied| complete.is_none_or(|(_, micros)| micros < *copied));
        Ok(PastVersion { version, known, settled_after })
    }

    /// The first version that has events from after a position; none if none has, or if the log does not go back so
    /// far.
    pub async fn first_after(&self, lsn: Lsn) -> Result<Option<u64>> {
        let Some((at, _)) = self.last_that(|entry| entry.last().map(|last| last <= lsn)).await? else {
            return Ok(None);
        };
        for after in at + 1..self.versions.len() {
            let entry = self.entry(after).await?;
            if entry.last().is_some() {
                return Ok(Some(entry.version));
            }
        }
        Ok(None)
    }

    /// What the last copy of the whole table was complete to, of those that were complete to a position or before it;
    /// none if the log knows none.
    pub async fn copied_to(&self, lsn: Lsn) -> Result<Option<Lsn>> {
        let Some((at, _)) = self.last_that(|entry| entry.last().map(|last| last <= lsn)).await? else {
            return Ok(None);
        };
        for before in (0..=at).rev() {
            let entry = self.entry(before).await?;
            if entry.told == Told::Copy {
                return Ok(entry.last());
            }
        }
        Ok(None)
    }

    /// The newest version that has the rows of another one, but for rows that were erased since: files of the former
    /// are deleted, whoever knows of it.
    pub async fn after_erasures(&self, version: u64) -> Result<u64> {
        let mut newest = version;
        for at in self.versions.partition_point(|known| *known <= version)..self.versions.len() {
            let entry = self.entry(at).await?;
            if entry.last().is_some() {
                break;
            }
            if entry.erases {
                newest = entry.version;
            }
        }
        Ok(newest)
    }

    /// Moment after which rows are exact again that a version or one shortly before it has copied over others.
    async fn copied_until(&self, at: usize) -> Result<Option<i64>> {
        let mut last = None;
        for before in (0..=at).rev() {
            let entry = self.entry(before).await?;
            let newest = *last.get_or_insert(entry.written_micros);
            if entry.told == Told::Copy || entry.written_micros < newest - 2 * COPIED_MICROS {
                return Ok(None);
            }
            if matches!(entry.told, Told::Events { has_copied: true, .. }) {
                return Ok(Some(entry.written_micros + COPIED_MICROS));
            }
        }
        Ok(None)
    }

    fn inexact(&self, lsn: Lsn, before: &Entry, next: Option<&Entry>) -> Error {
        let of = |entry: &Entry| entry.last().map(|last| format!("{last} (version {})", entry.version));
        let before = of(before).unwrap_or_default();
        let (why, remedy) = match next.and_then(of) {
            Some(next) => (
                format!("no version of {} is exactly at {lsn}; nearest are {before} and {next}", self.table),
                "choose a position at which every table has a version, or leave the table out by --tables; of a table \
                 with a history (write = [\"mirror\", \"history\"]), one is made for any position",
            ),
            None => (
                format!("{} is not known to be complete to {lsn}; its last version is at {before}", self.table),
                "see that the pipeline runs (`sooner status`), and run this with the state_dir of the process that \
                 writes the table",
            ),
        };
        impossible(lsn, why, remedy)
    }

    fn gone(&self, why: String) -> Error {
        let what = format!("cannot tell the version of {} at a past position", self.table);
        let remedy = "choose a later position; log_retention of [lake] says how long versions are known";
        Error::operator(Code::CutImpossible, what, why, remedy)
    }
}

/// An error if a file of a version is not there any more.
pub async fn check_files(location: &TableLocation, table: &TableName, lsn: Lsn, objects: &[Path]) -> Result<()> {
    for path in objects {
        match location.table.head(path).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => {
                let why = format!("files of the version of {table} at {lsn} were deleted, as retention says");
                let remedy = "choose a later position; deleted_file_retention of [lake] says how long files are kept";
                return Err(impossible(lsn, why, remedy));
            }
            Err(error) => return Err(store_error("cannot look for a file of a lake table", &error)),
        }
    }
    Ok(())
}

/// No cut can be made at a position.
pub fn impossible(lsn: Lsn, why: String, remedy: &str) -> Error {
    Error::operator(Code::CutImpossible, format!("cannot make a cut at {lsn}"), why, remedy)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::lake_store::{LakeStore, S3Settings};
    use crate::store::operations::put;

    /// A commit with events, as a pipeline writes it.
    fn events(first: u64, last: u64, watermark: u64) -> Value {
        let events = json!({"first": Lsn(first), "last": Lsn(last)});
        json!({"watermark": Lsn(watermark), "commitMicros": watermark, "events": events})
    }

    fn watermark(watermark: u64) -> Value {
        json!({"watermark": Lsn(watermark), "commitMicros": watermark, "events": null})
    }

    struct World {
        _folder: tempfile::TempDir,
        location: TableLocation,
        table: TableName,
    }

    impl World {
        fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let store = LakeStore::open(&folder.path().display().to_string(), &S3Settings::default()).unwrap();
            let table = TableName::new("public", "t");
            World { _folder: folder, location: TableLocation::of_table(&store, &table), table }
        }

        async fn entry(&self, version: u64, operation: &str, written_millis: i64, sooner: Value) {
            let mut info = json!({"operation": operation, "timestamp": written_millis});
            if !sooner.is_null() {
                info["sooner"] = sooner;
            }
            let text = format!("{}\n{}\n", json!({"commitInfo": info}), json!({"add": {"path": "x"}}));
            put(self.location.store(), &log_path(version), text.into()).await.unwrap();
        }

        async fn at(&self, lsn: u64, is_complete: bool) -> std::result::Result<PastVersion, String> {
            let log = PastLog::open(&self.location, &self.table).await.unwrap().unwrap();
            log.version_at(Lsn(lsn), is_complete).await.map_err(|error| error.to_string())
        }

        async fn version(&self, lsn: u64, is_complete: bool) -> Option<u64> {
            self.at(lsn, is_complete).await.ok().map(|past| past.version)
        }
    }

    #[tokio::test]
    async fn a_version_is_exact_from_its_last_event_to_before_the_first_of_the_next() {
        let world = World::new();
        assert!(PastLog::open(&world.location, &world.table).await.unwrap().is_none());
        world.entry(0, "REPLACE TABLE AS SELECT", 0, watermark(10)).await;
        world.entry(1, "MERGE", 0, events(20, 20, 24)).await;
        world.entry(2, "OPTIMIZE", 0, Value::Null).await;
        world.entry(3, "MERGE", 0, events(30, 50, 55)).await;
        world.entry(4, "MERGE", 0, watermark(60)).await;
        world.entry(5, "MERGE", 0, events(70, 70, 70)).await;
        for (lsn, version) in [(10, 0), (19, 0), (20, 1), (29, 1), (50, 3), (69, 3), (70, 5)] {
            assert_eq!(world.version(lsn, false).await, Some(version), "{lsn}");
        }
        for spanned in [30, 49] {
            let why = world.at(spanned, true).await.unwrap_err();
            assert!(
                why.contains("is exactly at") && why.contains("(version 1)") && why.contains("(version 3)"),
                "{why}"
            );
        }
        assert_eq!((world.version(9, true).await, world.version(71, false).await), (None, None));
        assert_eq!(world.version(71, true).await, Some(5), "nothing happened since");
        let log = PastLog::open(&world.location, &world.table).await.unwrap().unwrap();
        for (micros, known) in [(9, None), (23, Some(10)), (24, Some(24)), (65, Some(60)), (99, Some(70))] {
            let found = log.position_at(micros).await.unwrap().map(|(lsn, _)| lsn);
            assert_eq!(found, known.map(Lsn), "{micros}");
        }
    }

    #[tokio::test]
    async fn what_ends_by_a_copy_is_exact_as_far_as_it_was_complete_and_old_commits_only_at_their_watermark() {
        let world = World::new();
        let old = |lsn: u64| json!({"watermark": Lsn(lsn), "commitMicros": lsn});
        world.entry(0, "MERGE", 0, old(10)).await;
        world.entry(1, "MERGE", 0, old(20)).await;
        world.entry(2, "MERGE", 0, events(30, 30, 35)).await;
        world.entry(3, "REPLACE TABLE AS SELECT", 0, watermark(50)).await;
        for (lsn, version) in [(10, Some(0)), (11, None), (20, Some(1)), (29, Some(1)), (35, Some(2)), (36, None)] {
            assert_eq!(world.version(lsn, true).await, version, "{lsn}");
        }
        assert_eq!(world.version(50, false).await, Some(3));
    }

    #[tokio::test]
    async fn rows_copied_over_others_are_exact_once_it_is_known_that_they_have_been_passed() {
        let world = World::new();
        let copied = |lsn: u64| {
            let mut told = events(lsn, lsn, lsn);
            told["copied"] = json!(true);
            told
        };
        world.entry(0, "REPLACE TABLE AS SELECT", 0, watermark(10)).await;
        world.entry(1, "MERGE", 0, copied(20)).await;
        world.entry(2, "MERGE", 1000, events(30, 30, 30)).await;
        let minute = COPIED_MICROS as u64;
        world.entry(3, "MERGE", COPIED_MICROS / 1000, events(minute + 40, minute + 40, minute + 40)).await;
        assert_eq!(world.at(10, true).await.unwrap().settled_after, None);
        for lsn in [20, 30] {
            assert_eq!(world.at(lsn, true).await.unwrap().settled_after, Some(COPIED_MICROS), "{lsn}");
        }
        assert_eq!(world.at(minute + 40, true).await.unwrap().settled_after, None);
    }
}
