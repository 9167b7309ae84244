//! How far a history is trimmed: up to the first event that is young, by files' statistics where these say enough, and
//! no further than is judged at once.

use futures::StreamExt;
use serde_json::Value;
use sooner_api::Result;

use super::event_rows::{EventColumns, LSN, TIME, stored_name};
use crate::index::key_index::FileId;
use crate::log::horizon::micros_of;
use crate::log::live_files::LiveFile;
use crate::log::table_version::TableVersion;
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::location::TableLocation;

/// Bounds of times in statistics may be cut to milliseconds.
const ROUNDED_MICROS: i64 = 1000;

/// A file of a history, and the LSNs that it has rows of.
#[derive(Clone, Debug)]
pub struct OldFile {
    /// Its number.
    pub id: FileId,
    /// The file.
    pub file: LiveFile,
    /// The least of them.
    pub least: i64,
    /// The greatest.
    pub most: i64,
}

/// How far a history is trimmed.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Rows are judged whose LSN is less than this.
    pub before: i64,
    /// The files that may have such rows.
    pub files: Vec<OldFile>,
    /// Rows of older LSNs, up to this one, were judged already; none were if none.
    pub judged: Option<i64>,
    /// More could be judged.
    pub has_more: bool,
}

/// What a file's statistics say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    lsns: (i64, i64),
    /// None if times are not known of all rows.
    micros: Option<(i64, i64)>,
}

/// Looks how far a history can be trimmed of what was committed at or before a moment, in microseconds since 1970, if
/// what has LSNs up to `judged` was judged already, and about `most_rows` more are judged at once. None if nothing is
/// old enough.
pub async fn reach(
    location: &TableLocation,
    version: &TableVersion,
    columns: &EventColumns<'_>,
    cutoff_micros: i64,
    judged: Option<i64>,
    most_rows: u64,
) -> Result<Option<Reach>> {
    let names = (stored_name(version.columns(), LSN), stored_name(version.columns(), TIME));
    let (mut before, mut old) = (i64::MAX, Vec::new());
    for (id, file) in version.files().iter() {
        let told = told(file, &names.0, &names.1);
        let is = |holds: fn(i64, i64, i64) -> bool| {
            told.and_then(|told| told.micros).is_some_and(|(least, most)| holds(least, most, cutoff_micros))
        };
        let lsns = told.map(|told| told.lsns);
        if is(|least, _, cutoff| least > cutoff) {
            before = before.min(lsns.map_or(i64::MIN, |(least, _)| least));
        } else if let Some((least, most)) = lsns
            && is(|_, most, cutoff| most.saturating_add(ROUNDED_MICROS) <= cutoff)
        {
            old.push(OldFile { id, file: file.clone(), least, most });
        } else if let Some(((least, most), young)) = looked_at(location, file, columns, cutoff_micros).await? {
            before = before.min(young.unwrap_or(i64::MAX));
            old.push(OldFile { id, file: file.clone(), least, most });
        }
    }
    Ok(cut(old, before, judged, most_rows))
}

/// Leaves out files without old rows; none if none of the others has rows to be judged.
fn cut(mut files: Vec<OldFile>, before: i64, judged: Option<i64>, most_rows: u64) -> Option<Reach> {
    files.sort_by_key(|file| file.least);
    let is_new = |file: &OldFile| judged.is_none_or(|judged| file.most > judged);
    let first = files.iter().find(|file| is_new(file)).map_or(i64::MIN, |file| file.least);
    let (mut rows, mut reached) = (0, before);
    for file in files.iter().filter(|file| is_new(file) && file.least < before) {
        if rows >= most_rows && file.least > judged.map_or(first, |judged| judged.saturating_add(1)) {
            reached = file.least;
            break;
        }
        rows += file.file.rows.unwrap_or_default();
    }
    files.retain(|file| file.least < reached);
    let has_new = files.iter().any(is_new) && judged.is_none_or(|judged| reached > judged.saturating_add(1));
    has_new.then_some(Reach { before: reached, files, judged, has_more: reached < before })
}

/// What statistics say of a file; nothing if they lack LSNs.
fn told(file: &LiveFile, lsn: &str, time: &str) -> Option<Told> {
    let text = file.add.get("stats").and_then(Value::as_str)?;
    let stats: Value = serde_json::from_str(text).ok()?;
    let bound = |which: &str, name: &str| stats.get(which)?.get(name).cloned();
    let nulls = stats.get("nullCount").and_then(|nulls| nulls.get(time)?.as_u64());
    let micros = |which: &str| micros_of(bound(which, time)?.as_str()?);
    Some(Told {
        lsns: (bound("minValues", lsn)?.as_i64()?, bound("maxValues", lsn)?.as_i64()?),
        micros: micros("minValues").zip(micros("maxValues")).filter(|_| nulls == Some(0)),
    })
}

/// Reads a file's LSNs, and the least of those of rows that are young, or of which no time is known; nothing if it has
/// no rows.
async fn looked_at(
    location: &TableLocation,
    file: &LiveFile,
    columns: &EventColumns<'_>,
    cutoff_micros: i64,
) -> Result<Option<((i64, i64), Option<i64>)>> {
    let stored = StoredFile::open(&location.table, &file.path, file.size, false).await?;
    let mut batches = stored.batches(Some(&columns.of_moments()), None, READ_ROWS)?;
    let (mut lsns, mut young): (Option<(i64, i64)>, Option<i64>) = (None, None);
    while let Some(batch) = batches.next().await {
        for moment in columns.moments(file, &batch?)? {
            let (least, most) = lsns.unwrap_or((moment.lsn, moment.lsn));
            lsns = Some((least.min(moment.lsn), most.max(moment.lsn)));
            if moment.micros.is_none_or(|micros| micros > cutoff_micros) {
                young = Some(young.map_or(moment.lsn, |young| young.min(moment.lsn)));
            }
        }
        tokio::task::yield_now().await;
    }
    Ok(lsns.map(|lsns| (lsns, young)))
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;
    use serde_json::json;

    use super::*;

    fn file(id: FileId, least: i64, most: i64) -> OldFile {
        OldFile { id, file: LiveFile::written(Path::from("x"), 1, 10, 0), least, most }
    }

    fn found(files: Vec<OldFile>, before: i64, judged: Option<i64>, rows: u64) -> Option<(i64, Vec<FileId>, bool)> {
        let reach = cut(files, before, judged, rows)?;
        Some((reach.before, reach.files.iter().map(|file| file.id).collect(), reach.has_more))
    }

    #[test]
    fn all_that_is_old_is_judged_unless_it_is_too_much_at_once() {
        let files = || vec![file(3, 30, 39), file(1, 10, 19), file(2, 20, 29)];
        assert_eq!(found(files(), 35, None, 99), Some((35, vec![1, 2, 3], false)));
        assert_eq!(found(files(), 30, None, 99), Some((30, vec![1, 2], false)));
        assert_eq!(found(files(), 35, None, 20), Some((30, vec![1, 2], true)));
        assert_eq!(found(files(), 35, Some(19), 10), Some((30, vec![1, 2], true)), "what was judged does not count");
        assert_eq!(found(files(), 10, None, 99), None, "all is young");
        assert_eq!(found(files(), 20, Some(19), 99), None, "nothing new is old");
    }

    #[test]
    fn files_over_the_same_lsns_are_judged_together_so_that_it_goes_on() {
        let files = || vec![file(1, 1, 50), file(2, 1, 60), file(3, 1, 70), file(4, 40, 90)];
        assert_eq!(found(files(), 99, None, 10), Some((40, vec![1, 2, 3], true)));
        assert_eq!(found(files(), 99, Some(39), 10), Some((99, vec![1, 2, 3, 4], false)));
    }

    #[test]
    fn statistics_say_which_lsns_and_times_a_file_has() {
        let stats = |text: Value| LiveFile::written(Path::from("x"), 1, 1, 0).with_statistics(&text.to_string());
        let all = json!({"minValues": {"_commit_lsn": 5, "_commit_time": "1970-01-01T00:00:01.000Z"},
            "maxValues": {"_commit_lsn": 7, "_commit_time": "1970-01-01T00:00:02.000Z"},
            "nullCount": {"_commit_time": 0}});
        let micros = Some((1_000_000, 2_000_000));
        assert_eq!(told(&stats(all.clone()), LSN, TIME), Some(Told { lsns: (5, 7), micros }));
        let mut some = all;
        some["nullCount"][TIME] = json!(1);
        assert_eq!(told(&stats(some), LSN, TIME), Some(Told { lsns: (5, 7), micros: None }));
        assert_eq!(told(&stats(json!({"numRecords": 1})), LSN, TIME), None);
    }
}
