//! Removes rows from a history that it keeps no longer: files are written again without them, and all of them are
//! committed at once, with the moment from which on the history is whole. A kill leaves it as it was, and files that
//! nobody refers to, which its upkeep deletes.

use std::collections::BTreeMap;
use std::time::Duration;

use object_store::path::Path;
use roaring::RoaringBitmap;
use sooner_api::{Code, Error, Result, failpoint};
use sooner_schemas::{Lsn, TableName};
use uuid::Uuid;

use super::event_rows::EventColumns;
use super::held::{HeldColumns, HeldSubject};
use super::judging::{Judged, Judging};
use super::reach::{Reach, reach};
use crate::clock::now_millis;
use crate::history::columns::ORDER;
use crate::index::key_index::FileId;
use crate::log::committer::{Committer, MAX_CONFLICTS, Outcome, contended};
use crate::log::horizon::Horizon;
use crate::log::live_files::LiveFile;
use crate::log::replay::replay;
use crate::log::table_version::TableVersion;
use crate::log::transaction::{Kind, Transaction};
use crate::maintenance::blanking::Blanking;
use crate::maintenance::rewrite::Rewrite;
use crate::settings::TableSettings;
use crate::store::location::TableLocation;
use crate::store::operations::discard;

/// Rows that are judged for the first time at once, about.
const ROWS_AT_ONCE: u64 = 4 << 20;
/// Memory of what is known of a key, about.
const KEY_BYTES: usize = 128;
/// Keys of which something is in memory at once, at least and at most.
const FEWEST_KEYS: u64 = 4 << 10;
const MOST_KEYS: u64 = 256 << 10;
/// How often it is tried to remove rows from files that others write again meanwhile.
const ATTEMPTS: u32 = 8;
/// Pause before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// A history that is trimmed.
pub struct Trim<'a> {
    /// Where it lies.
    pub location: &'a TableLocation,
    /// Its table's name at the source.
    pub table: &'a TableName,
    /// The pipeline that made it.
    pub pipeline: &'a str,
    /// Settings of the lake's tables.
    pub settings: &'a TableSettings,
    /// Subjects whose rows stay.
    pub held: &'a [HeldSubject],
    /// What was committed at or before this moment is old, in microseconds since 1970.
    pub cutoff_micros: i64,
    /// Rows are judged again that were judged before: something may not be held any more.
    pub judges_all: bool,
    /// Whether a copy that has begun has ended, is not known.
    pub doubts_copies: bool,
    /// It is only found out what would go.
    pub is_dry: bool,
}

/// What was removed from a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// What was committed at or before this moment was old, in microseconds since 1970.
    pub cutoff_micros: i64,
    /// Rows that went.
    pub rows: u64,
    /// Files that they were in.
    pub files: usize,
    /// Rows that would have gone, by the names of the holds that keep them.
    pub held: BTreeMap<String, u64>,
    /// Since when the history is whole; none if nothing was ever removed.
    pub horizon: Option<Horizon>,
    /// Version of the history that the last commit made; none without one.
    pub version: Option<u64>,
}

/// Files that take the place of others.
#[derive(Default)]
struct Replacement {
    /// Files that go, with the rows that they had lost when they were read.
    sources: Vec<(FileId, RoaringBitmap)>,
    written: BTreeMap<FileId, LiveFile>,
}

/// How an attempt ended.
enum Attempt {
    /// What is old up to an LSN was judged, and nothing of it is left that goes; more may be.
    Done { judged: i64, has_more: bool },
    /// Nothing is old that was not judged.
    Nothing,
    /// Others have written the same files, or erased rows, or holds are others by now.
    Overtaken,
}

impl Trim<'_> {
    /// Removes what goes; nothing once `is_right` says that holds are others by now.
    pub async fn run(&self, is_right: impl AsyncFn() -> Result<bool>) -> Result<Trimmed> {
        let mut trimmed = Trimmed { cutoff_micros: self.cutoff_micros, ..Trimmed::default() };
        let (mut judged, mut attempts) = (None, 0);
        loop {
            match self.attempt(judged, &mut trimmed, &is_right).await? {
                Attempt::Nothing => return Ok(trimmed),
                Attempt::Done { judged: to, has_more } => {
                    (judged, attempts) = (Some(to), 0);
                    if !has_more {
                        return Ok(trimmed);
                    }
                }
                Attempt::Overtaken if !is_right().await? => return Err(overtaken(self.table)),
                Attempt::Overtaken if attempts == ATTEMPTS => return Err(contended(&self.table.to_string())),
                Attempt::Overtaken => {
                    attempts += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Judges what is old beyond `judged`, or beyond what was judged before this began, and removes what goes.
    async fn attempt(
        &self,
        judged: Option<i64>,
        trimmed: &mut Trimmed,
        is_right: &impl AsyncFn() -> Result<bool>,
    ) -> Result<Attempt> {
        let base = replay(self.location, &[]).await?;
        base.check_mergeable(&format!("{} (its history)", self.table))?;
        let horizon = Horizon::of(base.metadata());
        trimmed.horizon = horizon;
        let before = horizon.filter(|_| !self.judges_all).map(|horizon| horizon.lsn.0.cast_signed());
        let columns = EventColumns::of(&base, HeldColumns::of(self.held, base.columns()), self.doubts_copies);
        let judged = judged.or(before);
        let found = reach(self.location, &base, &columns, self.cutoff_micros, judged, ROWS_AT_ONCE).await;
        let Some(reach) = gone_is_none(found)? else { return Ok(Attempt::Overtaken) };
        let Some(reach) = reach else { return Ok(Attempt::Nothing) };
        let judging =
            Judging { location: self.location, columns: &columns, reach: &reach, has_holds: !self.held.is_empty() };
        let work = self.settings.effort.work();
        let Some(found) = gone_is_none(judging.run(self.keys_at_once()).await)? else { return Ok(Attempt::Overtaken) };
        drop(work);
        let done = Attempt::Done { judged: reach.before.saturating_sub(1), has_more: reach.has_more };
        if let Some(to) = horizon_after(horizon, &found)
            && !found.goes.is_empty()
            && !self.is_dry
        {
            let Some(replacement) = gone_is_none(self.replace(&base, &reach, &found).await)? else {
                return Ok(Attempt::Overtaken);
            };
            failpoint("trimmed_files_written");
            let is_right = is_right().await?;
            let Some(version) = self.commit(base, replacement, to, is_right).await? else {
                return Ok(Attempt::Overtaken);
            };
            (trimmed.version, trimmed.horizon) = (Some(version), Some(to));
        }
        trimmed.rows += found.goes.values().map(RoaringBitmap::len).sum::<u64>();
        trimmed.files += found.goes.len();
        for (hold, rows) in found.held {
            *trimmed.held.entry(hold).or_default() += rows;
        }
        Ok(done)
    }

    /// Keys of which something is in memory at once.
    fn keys_at_once(&self) -> u64 {
        let bytes = self.settings.limits.budget.free_bytes() / 2 / KEY_BYTES;
        (bytes as u64).clamp(FEWEST_KEYS, MOST_KEYS)
    }

    /// Writes files again without the rows that go.
    async fn replace(&self, base: &TableVersion, reach: &Reach, found: &Judged) -> Result<Replacement> {
        let mut replacement = Replacement::default();
        for (id, goes) in &found.goes {
            let Some(old) = reach.files.iter().find(|old| old.id == *id) else { continue };
            if old.file.is_emptied_by(goes) {
                replacement.sources.push((*id, old.file.deleted.clone()));
                continue;
            }
            let rewrite = Rewrite {
                sources: vec![(*id, old.file.clone())],
                erased: BTreeMap::from([(*id, goes.clone())]),
                blanked: Blanking::default(),
                location: self.location.clone(),
                columns: base.columns().to_vec(),
                sort_by: ORDER.map(str::to_owned).to_vec(),
                keys: None,
                ids: base.files().ids(),
                limits: self.settings.limits.clone(),
                effort: self.settings.effort.clone(),
            };
            match rewrite.run().await {
                Ok(rewritten) => {
                    let (sources, written) = rewritten.into_files();
                    replacement.sources.extend(sources);
                    replacement.written.extend(written);
                }
                Err(error) => {
                    self.discard(&replacement).await;
                    return Err(error);
                }
            }
        }
        Ok(replacement)
    }

    /// Commits after what others commit meanwhile. Returns the version; none, and nothing is left of the files, if they
    /// have written the same files, or erased rows.
    async fn commit(
        &self,
        mut base: TableVersion,
        replacement: Replacement,
        to: Horizon,
        is_right: bool,
    ) -> Result<Option<u64>> {
        let name = self.table.to_string();
        let committer = Committer::new(self.location, &name);
        let (transaction, mut erases) = (self.transaction(&replacement, to), false);
        for _ in 0..MAX_CONFLICTS {
            if !is_right || erases || !replacement.fits(&base) {
                self.discard(&replacement).await;
                return Ok(None);
            }
            let plan = transaction.plan(&base, now_millis());
            match committer.commit(base.next_number(), transaction.id, &plan).await? {
                Outcome::Committed => {
                    failpoint("history_trimmed");
                    return Ok(Some(base.next_number()));
                }
                Outcome::Conflict(entry) => {
                    erases = entry.erases;
                    base = base.apply(committer.load(*entry).await?);
                    base.check_mergeable(&name)?;
                }
                Outcome::Unknown(error) => return Err(error),
            }
        }
        self.discard(&replacement).await;
        Err(contended(&name))
    }

    fn transaction(&self, replacement: &Replacement, to: Horizon) -> Transaction {
        Transaction {
            id: Uuid::new_v4(),
            kind: Kind::Trim(to),
            pipeline: self.pipeline.to_owned(),
            retention: Default::default(),
            columns: None,
            last_column_id: None,
            provenance: Default::default(),
            refilled: Default::default(),
            added: replacement.written.clone(),
            superseded: BTreeMap::new(),
            removed: replacement.sources.iter().map(|(id, _)| (*id, RoaringBitmap::new())).collect(),
            txns: Default::default(),
            watermark: None,
            span: Default::default(),
        }
    }

    async fn discard(&self, replacement: &Replacement) {
        let paths: Vec<&Path> = replacement.written.values().map(|file| &file.path).collect();
        for path in paths {
            discard(self.location.store(), path).await;
        }
    }
}

impl Replacement {
    /// Whether the files that go are all there as they were read.
    fn fits(&self, base: &TableVersion) -> bool {
        self.sources.iter().all(|(id, deleted)| base.files().get(*id).is_some_and(|file| file.deleted == *deleted))
    }
}

/// Since when the history is whole once rows have gone.
fn horizon_after(former: Option<Horizon>, found: &Judged) -> Option<Horizon> {
    let (lsn, micros) = found.last?;
    let (lsn, trimmed_millis) = (Lsn(lsn.cast_unsigned()), now_millis());
    let former_or =
        |former: Horizon| Horizon { lsn: lsn.max(former.lsn), micros: micros.max(former.micros), trimmed_millis };
    Some(former.map_or(Horizon { lsn, micros, trimmed_millis }, former_or))
}

/// A file that is gone was written again by somebody else, who deleted it at once.
fn gone_is_none<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code == Code::ObjectMissing => Ok(None),
        Err(error) => Err(error),
    }
}

fn overtaken(table: &TableName) -> Error {
    Error::retry(
        Code::Held,
        format!("rows of the history of {table} were not removed"),
        "legal holds were made or released meanwhile",
        "nothing; it is tried again",
    )
}
