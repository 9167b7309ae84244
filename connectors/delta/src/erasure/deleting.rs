//! Deletes files that hold rows of subjects and are no part of the last version, whatever the table's retention says;
//! but none that is held, and none that may be part of a commit to come.

use std::collections::HashSet;
use std::time::SystemTime;

use object_store::path::Path;
use sooner_api::{Result, failpoint};

use super::objects::FoundFile;
use crate::log::actions::log_path;
use crate::log::commit::LogEntry;
use crate::log::replay::replay;
use crate::maintenance::holds::{Hold, holds_in_force};
use crate::maintenance::vacuum::delete;
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// A file that is kept because of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFile {
    /// Where it lies, below the table.
    pub path: Path,
    /// Names of holds: of cuts, and of legal holds behind [`LEGAL`](crate::legal_holds::LEGAL).
    pub holds: Vec<String>,
}

/// What became of files that are no part of the last version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Files that are gone.
    pub gone: Vec<Path>,
    /// Files that are held.
    pub held: Vec<HeldFile>,
    /// Files that are part of no version yet.
    pub young: Vec<Path>,
}

/// Files among these that holds keep.
pub async fn held_files(location: &TableLocation, files: &[FoundFile]) -> Result<Vec<HeldFile>> {
    let holds = holds_in_force(location, SystemTime::now()).await?;
    let held = files.iter().filter_map(|file| {
        let keeps =
            |hold: &Hold| hold.everything || hold.objects.iter().any(|kept| *kept == *file.object.path.as_ref());
        let holds: Vec<_> = holds.iter().filter(|(_, hold)| keeps(hold)).map(|(name, _)| name.clone()).collect();
        (!holds.is_empty()).then(|| HeldFile { path: file.object.path.clone(), holds })
    });
    Ok(held.collect())
}

/// Deletes those of the files that are no part of the last version, if they were written before a moment by the store's
/// clock, at which the pipeline had nothing of the subject left to commit, or are known from versions since `first`.
pub async fn delete_former(
    location: &TableLocation,
    files: &[FoundFile],
    before: SystemTime,
    first: u64,
) -> Result<Deleted> {
    let held = held_files(location, files).await?;
    let kept: HashSet<&Path> = held.iter().map(|file| &file.path).collect();
    let version = replay(location, &[]).await?;
    let live: HashSet<&Path> = version.files().iter().map(|(_, file)| &file.path).collect();
    let mentioned = mentioned_since(location, first, version.number().unwrap_or_default()).await?;
    let (mut gone, mut young) = (Vec::new(), Vec::new());
    for file in files {
        let path = &file.object.path;
        if live.contains(path) || kept.contains(path) {
            continue;
        }
        let was_committed = file.live.is_some() || file.object.modified < before || mentioned.contains(path);
        if was_committed { &mut gone } else { &mut young }.push(path.clone());
    }
    failpoint("erased_files_found");
    delete(location, gone.clone()).await?;
    Ok(Deleted { gone, held, young })
}

/// Files that versions after one have added.
async fn mentioned_since(location: &TableLocation, first: u64, last: u64) -> Result<HashSet<Path>> {
    let mut mentioned = HashSet::new();
    for version in first..=last {
        let Some(text) = get(location.store(), &log_path(version)).await? else { continue };
        let adds = LogEntry::parse(&text).map(|entry| entry.adds).unwrap_or_default();
        let paths = adds.iter().filter_map(|add| Path::from_url_path(add.get("path")?.as_str()?).ok());
        mentioned.extend(paths);
    }
    Ok(mentioned)
}
