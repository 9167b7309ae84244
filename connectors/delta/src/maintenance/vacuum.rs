//! The end of files that no version needs any more: those that a checkpoint finds expired, and those that are found by
//! listing the table, because nobody's log mentions them.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use sooner_api::{Code, Error, Result};

use super::holds::held;
use super::reconcile::{Object, Recent, Reconciler};
use crate::log::actions::log_path;
use crate::log::checkpoint_file::{each_batch, replayed_checkpoint};
use crate::log::deletion_vector::relative_path;
use crate::log::last_checkpoint::LastCheckpoint;
use crate::log::retention::Retention;
use crate::store::errors::store_error;
use crate::store::location::{NEXT_GENERATIONS, TableLocation};
use crate::store::operations::get;

/// A file that no log mentions may be part of a commit to come: of a transaction that takes long, or of another writer.
/// So old it has to be, whatever the table keeps of its files.
const ORPHAN_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// An object that nobody needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unneeded {
    /// Where it lies, below the table.
    pub path: Path,
    /// Its size.
    pub bytes: u64,
}

/// Deletes objects by the names that the log has for them, but for those that are held. Returns how many.
pub async fn delete_unused(location: &TableLocation, objects: Vec<Object>) -> Result<usize> {
    let held = held(location, SystemTime::now()).await?;
    delete(location, objects.iter().filter_map(path_of).filter(|path| !held.keeps(path)).collect()).await
}

/// Deletes objects; those that are not there do not count as failures. Returns how many.
pub async fn delete(location: &TableLocation, paths: Vec<Path>) -> Result<usize> {
    let count = paths.len();
    let mut deleted = location.table.delete_stream(stream::iter(paths.into_iter().map(Ok)).boxed());
    while let Some(outcome) = deleted.next().await {
        match outcome {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(store_error("cannot delete files that a lake table no longer needs", &error)),
        }
    }
    Ok(count)
}

/// Lists a table for objects that no version which is kept needs, nor a copy that goes on beside it. The table has got
/// to `version`, at least. Not for the location of a next generation, whose log knows only its own files.
pub async fn find_unneeded(
    location: &TableLocation,
    version: u64,
    retention: &Retention,
    now: SystemTime,
) -> Result<Vec<Unneeded>> {
    if location.is_next_generation {
        return Err(unreadable(location, "its files are those of several generations"));
    }
    // Before the logs are read: what is written after this is not in the list.
    let old = old_objects(location, now - retention.deleted_files).await?;
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let held = held(location, now).await?;
    if held.everything {
        return Ok(Vec::new());
    }
    let mut needs = Needs { used: held.objects, ..Needs::default() };
    // The shown log last: a generation that takes its place meanwhile is in it then.
    let listed = location.table.list_with_delimiter(Some(&Path::from(NEXT_GENERATIONS))).await;
    let generations = listed.map_err(|error| store_error("cannot list a lake table", &error))?.common_prefixes;
    for id in generations.iter().filter_map(|folder| folder.filename()?.parse().ok()) {
        needs.read(&location.next_generation(id), None, retention, now).await?;
    }
    needs.read(location, Some(version), retention, now).await?;
    let orphans_before = now - ORPHAN_AGE.max(retention.deleted_files);
    let unneeded = old.into_iter().filter(|(object, modified)| {
        let is_old_enough = needs.expired.contains(&object.path) || *modified < orphans_before;
        is_old_enough && !needs.used.contains(&object.path)
    });
    Ok(unneeded.map(|(object, _)| object).collect())
}

/// What the logs of a table say of its objects.
#[derive(Default)]
struct Needs {
    used: HashSet<Path>,
    expired: HashSet<Path>,
}

impl Needs {
    /// Reads a log that has got to `version`; or that of a next generation, which may be gone.
    async fn read(
        &mut self,
        location: &TableLocation,
        version: Option<u64>,
        retention: &Retention,
        now: SystemTime,
    ) -> Result<()> {
        let former = match LastCheckpoint::read(location).await? {
            LastCheckpoint::Other(_) => Some(replayed_checkpoint(location, None).await?),
            LastCheckpoint::Classic(former) => Some(former),
            LastCheckpoint::Unknown => None,
        };
        let (recent, last) = newest_entries(location, former.map_or(0, |former| former.version + 1)).await?;
        if last < version {
            return Err(unreadable(location, "entries are missing"));
        }
        let cutoff = retention.deleted_files_cutoff_millis(now);
        let mut reconciler = Reconciler::new(recent, cutoff, usize::MAX);
        let former = former.map(|former| former.paths()).unwrap_or_default();
        for path in &former {
            let note = |rows| {
                reconciler.keep(&rows);
                Ok(())
            };
            each_batch(location, path, false, note).await?;
        }
        reconciler.recent_rows();
        for path in &former {
            let note = |rows| {
                reconciler.keep_removes(&rows);
                Ok(())
            };
            each_batch(location, path, true, note).await?;
        }
        reconciler.recent_removes();
        self.used.extend(reconciler.used().filter_map(path_of));
        self.expired.extend(reconciler.into_unused().iter().filter_map(path_of));
        Ok(())
    }
}

/// The log's entries from a version on, up to the last one; and the version that they lead to, if there is one.
pub async fn newest_entries(location: &TableLocation, first: u64) -> Result<(Recent, Option<u64>)> {
    let mut recent = Recent::default();
    for version in first.. {
        let Some(entry) = get(location.store(), &log_path(version)).await? else {
            return Ok((recent, version.checked_sub(1)));
        };
        recent.take(&entry).map_err(|error| unreadable(location, error))?;
    }
    Ok((recent, None))
}

/// Data files and files of vectors that were written before a moment, with when that was.
async fn old_objects(location: &TableLocation, before: SystemTime) -> Result<Vec<(Unneeded, SystemTime)>> {
    let mut listed = location.table.list(None);
    let mut old = Vec::new();
    while let Some(object) = listed.try_next().await.map_err(|error| store_error("cannot list a lake table", &error))? {
        let modified = SystemTime::from(object.last_modified);
        if modified < before && is_ours(&object.location) {
            old.push((Unneeded { path: object.location, bytes: object.size }, modified));
        }
    }
    Ok(old)
}

/// Whether an object is a data file or a file of vectors, outside of folders that readers leave alone.
fn is_ours(path: &Path) -> bool {
    let is_hidden = path.parts().any(|part| part.as_ref().starts_with(['_', '.']));
    let name = path.filename().unwrap_or_default();
    let is_vectors = name.starts_with("deletion_vector_") && name.ends_with(".bin");
    !is_hidden && (is_vectors || name.ends_with(".parquet"))
}

/// Where an object lies; none if it is not below the table.
pub fn path_of(object: &Object) -> Option<Path> {
    match object {
        Object::Data(path) if path.starts_with('/') || path.contains("://") => None,
        Object::Data(path) => Path::from_url_path(path).ok(),
        Object::Vectors(name) => relative_path(name),
    }
}

fn unreadable(location: &TableLocation, why: impl std::fmt::Display) -> Error {
    let what = format!("cannot tell which files of the lake table {} are needed", location.url);
    Error::operator(Code::LogUnreadable, what, why, "restore the table's log; nothing is deleted until then")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_files_and_vectors_that_readers_see_may_go() {
        let is_ours = |path: &str| is_ours(&Path::from(path));
        assert!(is_ours("part-0.parquet") && is_ours("p=1/x.parquet") && is_ours("ab/deletion_vector_x.bin"));
        for other in ["_delta_log/1.checkpoint.parquet", "_x/y.parquet", "notes.txt", "x.bin", "p=1/.x.parquet"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn objects_elsewhere_are_left_alone() {
        for elsewhere in ["s3://other/x.parquet", "/tmp/x.parquet", "file:///x.parquet"] {
            assert_eq!(path_of(&Object::Data(elsewhere.to_owned())), None, "{elsewhere}");
        }
        assert_eq!(path_of(&Object::Data("a%20b.parquet".to_owned())), Some(Path::from("a b.parquet")));
    }
}
