//! Erases subjects from the lake, table by table, beside a running pipeline or without one. Repeating it is safe at any
//! point: what is found is what is left.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::Serialize;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use crate::erasure::deleting::{Deleted, HeldFile, delete_former, held_files};
use crate::erasure::finding::{Found, find};
use crate::erasure::log_traces::{Cleaned, clean};
use crate::erasure::objects::FoundFile;
use crate::erasure::rewriting::Target;
use crate::erasure::search::{LEAST_BYTES, Needles, Searched, search, search_folder};
use crate::erasure::subject::Subject;
use crate::erasures::folder;
use crate::lake::DeltaLake;
use crate::log::replay::replay;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::put;
use crate::trimming::held::HeldSubject;
use crate::trimming::held_rows::holds_of_rows;

/// How often a table is looked through again for what others have written meanwhile.
const PASSES: u32 = 10;
/// Pause before that, where files may belong to a commit to come.
const PAUSE: Duration = Duration::from_secs(1);

/// What a table holds of subjects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Places {
    /// Its name at the source.
    pub table: TableName,
    /// Whether it is the table's history.
    pub is_history: bool,
    /// Rows that readers see.
    pub live_rows: u64,
    /// Rows that they do not: hidden by vectors, or in files of former versions, each as often as it lies there.
    pub other_rows: u64,
    /// Files that have them.
    pub files: usize,
    /// Those of the files that holds keep.
    pub held: Vec<Kept>,
    /// Whether a copy builds the table's next generation.
    pub is_copying: bool,
    /// The cut that the table was made for, of its history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_cut: Option<String>,
    /// Legal holds of other subjects that keep some of these rows.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub kept_for: BTreeSet<String>,
    /// Where it lies, below the lake.
    #[serde(skip)]
    pub folder: String,
}

/// A file that holds keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Where it lies, below its table.
    pub path: String,
    /// Names of cuts, and of legal holds behind `legal=`.
    pub holds: Vec<String>,
}

/// What was done to a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Erased {
    /// Its name at the source.
    pub table: String,
    /// Whether it is the table's history.
    pub is_history: bool,
    /// Rows that went which readers saw.
    pub rows: u64,
    /// Those of them that are left in a chained history, without their values.
    pub stubs: u64,
    /// Files that were deleted, below the table.
    pub files_deleted: Vec<String>,
    /// Rows of the subject that are still seen by readers, because they were to stay.
    pub rows_left: u64,
    /// Files that hold rows still, because of holds.
    pub held: Vec<Kept>,
    /// Files that hold rows still, because they may belong to a commit to come.
    pub young: Vec<String>,
    /// Entries of the log that tell less than they did.
    pub log_entries: usize,
    /// Checkpoints and checksums that were deleted.
    pub checkpoints: usize,
}

/// How rows are erased.
#[derive(Clone, Copy, Debug)]
pub struct Manner<'a> {
    /// Name of the erasure.
    pub erasure: &'a str,
    /// Files of no version are deleted if they were written before this moment, by the store's clock: the pipeline had
    /// committed everything then that it had of the subject.
    pub before: SystemTime,
    /// Rows that readers of a mirror see stay, because its source has them.
    pub spares_mirrors: bool,
}

/// What is erased from a lake.
#[derive(Clone, Copy, Debug)]
pub struct Erasures<'a>(&'a DeltaLake);

impl<'a> Erasures<'a> {
    /// From this lake.
    pub fn of(lake: &'a DeltaLake) -> Erasures<'a> {
        Erasures(lake)
    }

    /// Finds what tables hold of subjects, also those that were made for cuts; those that hold nothing are left out.
    /// `held` are the subjects that legal holds keep.
    pub async fn find_subjects(
        &self,
        tables: &[TableName],
        subjects: &[Subject],
        held: &[HeldSubject],
    ) -> Result<Vec<Places>> {
        let mut places = Vec::new();
        for table in tables {
            for is_history in [false, true] {
                let location = if is_history { self.0.history_location(table) } else { self.0.location(table) };
                let Some(found) = find(&location, table, subjects).await? else { continue };
                let is_ours = found.version.is_made_by(self.0.pipeline());
                if !is_ours || (found.files.is_empty() && !found.is_copying) {
                    continue;
                }
                let kept = kept(held_files(&location, &found.files).await?);
                let kept_for = holds_of_rows(&location, table, &found, held).await?;
                let folder = self.below_lake(&location);
                places.push(Places { is_history, held: kept, kept_for, ..Places::of(table, &found, folder) });
            }
        }
        for cut in self.0.cuts().await? {
            for (table, versions) in &cut.tables {
                let Some(mirror) = versions.mirror.as_ref().filter(|mirror| mirror.rebuilt.is_some()) else { continue };
                let location = self.0.mirror_in_cut(table, mirror);
                let Some(found) = find(&location, table, subjects).await?.filter(|found| !found.files.is_empty())
                else {
                    continue;
                };
                let keep =
                    |file: &FoundFile| Kept { path: file.object.path.to_string(), holds: vec![cut.name.clone()] };
                let held = found.files.iter().map(keep).collect();
                let place = Places::of(table, &found, self.below_lake(&location));
                places.push(Places { held, of_cut: Some(cut.name.clone()), ..place });
            }
        }
        Ok(places)
    }

    /// The folder of a location, below the lake.
    fn below_lake(&self, location: &TableLocation) -> String {
        let path = location.folder().to_string();
        path.strip_prefix(self.0.store().prefix().as_ref()).unwrap_or(&path).trim_start_matches('/').to_owned()
    }

    /// Erases subjects from a table, or from its history; none if it holds nothing of them. A retriable error while a
    /// copy builds the table's next generation.
    pub async fn erase_subjects(
        &self,
        table: &TableName,
        is_history: bool,
        subjects: &[Subject],
        manner: Manner<'_>,
    ) -> Result<Option<Erased>> {
        let location = if is_history { self.0.history_location(table) } else { self.0.location(table) };
        let (pipeline, settings, erasure) = (self.0.pipeline(), self.0.settings(), manner.erasure);
        let target = Target { location: &location, table, is_history, pipeline, settings, erasure };
        let Some(mut found) = find(&location, table, subjects).await? else { return Ok(None) };
        if !found.version.is_made_by(self.0.pipeline()) {
            return Ok(None);
        }
        let spares = manner.spares_mirrors && !is_history;
        let mut erased = Erased { table: table.to_string(), is_history, ..Erased::default() };
        let first = match found.files.is_empty() {
            true => found.version.number().unwrap_or_default(),
            false => target.mark().await?,
        };
        for pass in 0..PASSES {
            check_not_copying(table, &found)?;
            erased.rows_left = if spares { spare_live_rows(&mut found) } else { 0 };
            if found.files.is_empty() {
                break;
            }
            let gone = target.rewrite(&found).await?;
            (erased.rows, erased.stubs) = (erased.rows + gone.rows, erased.stubs + gone.stubs);
            let Deleted { gone, held, young } = delete_former(&location, &found.files, manner.before, first).await?;
            erased.files_deleted.extend(gone.iter().map(Path::to_string));
            erased.held = kept(held);
            erased.young = young.iter().map(Path::to_string).collect();
            if pass > 0 && gone.is_empty() && young.is_empty() {
                break;
            }
            if !young.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            let Some(again) = find(&location, table, subjects).await? else { break };
            found = again;
        }
        let since = replay(&location, &[]).await?.number().unwrap_or_default();
        let values: Vec<_> = subjects.iter().map(|subject| subject.value.as_str()).collect();
        if erased.touched() || self.log_tells(&location, &values).await? {
            let Cleaned { entries, checkpoints } = clean(&location, since, &long(&values)).await?;
            (erased.log_entries, erased.checkpoints) = (entries, checkpoints);
        }
        Ok((erased.touched() || erased.rows_left > 0 || erased.log_entries > 0).then_some(erased))
    }

    /// Looks for values in all bytes of the lake, but for those that are too short.
    pub async fn search_bytes<'b>(&self, values: impl IntoIterator<Item = &'b str>) -> Result<Searched> {
        search(self.0.store(), &Needles::new(values)).await
    }

    /// The present moment by the store's clock.
    pub async fn store_time(&self, name: &str) -> Result<SystemTime> {
        let (store, path) = (self.0.store().root(), folder(self.0).join(format!("{name}.begun")));
        put(&*store, &path, Bytes::from_static(b"begun")).await?;
        let head = store.head(&path).await.map_err(|error| store_error("cannot begin to erase", &error))?;
        // That it cannot be deleted costs only its space.
        let _ = store.delete(&path).await;
        Ok(SystemTime::from(head.last_modified))
    }

    /// Whether a table's log has one of the values.
    async fn log_tells(&self, location: &TableLocation, values: &[&str]) -> Result<bool> {
        let needles = Needles::new(values.iter().copied());
        if needles.is_empty() {
            return Ok(false);
        }
        let log = location.folder().clone().join("_delta_log");
        Ok(!search_folder(self.0.store(), &log, &needles).await?.holding.is_empty())
    }
}

impl Places {
    /// Of a table, of which nothing is kept.
    fn of(table: &TableName, found: &Found, folder: String) -> Places {
        let all: u64 = found.files.iter().map(|file| file.rows.len()).sum();
        Places {
            table: table.clone(),
            is_history: false,
            live_rows: found.live_rows(),
            other_rows: all - found.live_rows(),
            files: found.files.len(),
            held: Vec::new(),
            is_copying: found.is_copying,
            of_cut: None,
            kept_for: BTreeSet::new(),
            folder,
        }
    }
}

impl Erased {
    fn touched(&self) -> bool {
        self.rows > 0 || !self.files_deleted.is_empty() || !self.held.is_empty() || !self.young.is_empty()
    }
}

/// Values that are long enough to be replaced wherever they stand.
fn long<'a>(values: &[&'a str]) -> Vec<&'a str> {
    values.iter().copied().filter(|value| value.len() >= LEAST_BYTES).collect()
}

/// Leaves rows that readers see out of what is to be erased; returns how many.
fn spare_live_rows(found: &mut Found) -> u64 {
    let spared = found.live_rows();
    for file in &mut found.files {
        if let Some((_, live)) = &file.live {
            file.rows &= &live.deleted;
        }
    }
    found.files.retain(|file| !file.rows.is_empty());
    spared
}

fn check_not_copying(table: &TableName, found: &Found) -> Result<()> {
    if !found.is_copying {
        return Ok(());
    }
    let why = "a copy builds its next generation, which may have read rows of the subject";
    let remedy = "repeat it when the copy has ended; see `sooner status`";
    Err(Error::operator(Code::ErasureRefused, format!("cannot erase rows of {table}"), why, remedy))
}

fn kept(held: Vec<HeldFile>) -> Vec<Kept> {
    held.into_iter().map(|HeldFile { path, holds }| Kept { path: path.to_string(), holds }).collect()
}
