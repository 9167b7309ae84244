//! Keeps a table in few files: decides when files are written again, and has that done beside merging.

use std::sync::Arc;
use std::time::Duration;

use sooner_api::Result;
use sooner_schemas::TableName;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::choice::{Occasion, choose};
use super::rewrite::{Rewrite, Rewritten};
use crate::effort::Effort;
use crate::index::key::KeyPlan;
use crate::log::table_version::TableVersion;
use crate::merge::parts::PartLimits;
use crate::store::location::TableLocation;

/// After so long without a commit, nothing happens to a table.
const QUIET: Duration = Duration::from_secs(5);
/// After so much longer, nothing will for a while.
const IDLE: Duration = Duration::from_secs(30);
/// After an error, and after work that was not worth it, so long nothing is tried.
const PAUSE: Duration = Duration::from_secs(60);
/// Size of a file that is large enough, at most.
const LARGEST_TARGET_BYTES: usize = 128 << 20;

/// Size of a file that is large enough. Half of the room: files that are merged into open there, too.
pub fn target_bytes(limits: &PartLimits) -> u64 {
    (limits.part_bytes / 2).min(LARGEST_TARGET_BYTES) as u64
}

/// The table whose files may be written again.
pub struct Subject<'a> {
    /// Where it lies.
    pub location: &'a TableLocation,
    /// What it is.
    pub base: &'a TableVersion,
    /// How its keys are hashed; none where no index follows its rows.
    pub keys: Option<&'a KeyPlan>,
    /// Columns that its rows are sorted by.
    pub sort_by: Vec<String>,
    /// Limits for files in memory.
    pub limits: &'a PartLimits,
}

/// What a table does for itself.
pub struct Compaction {
    table: TableName,
    effort: Arc<Effort>,
    /// The rewrite that runs; at most one.
    running: JoinSet<Result<Rewritten>>,
    rewritten: Option<Rewritten>,
    /// What runs, or waits to be committed, has read files before rows of them were erased.
    is_void: bool,
    /// When it is looked what can be done in quiet times, and how quiet they are then.
    quiet_at: Option<(Instant, Occasion)>,
    paused_until: Instant,
}

impl Compaction {
    /// Nothing is done yet.
    pub fn new(table: TableName, effort: Arc<Effort>) -> Compaction {
        let (running, rewritten, quiet_at, paused_until) = (JoinSet::new(), None, None, Instant::now());
        Compaction { table, effort, running, rewritten, is_void: false, quiet_at, paused_until }
    }

    /// Waits until files are written again, or nothing has happened to the table for a while. May be cancelled.
    pub async fn due(&mut self) {
        if self.rewritten.is_some() {
            return;
        }
        while let Some(ended) = self.running.join_next().await {
            match ended.map_err(|panic| sooner_api::Error::internal("cannot write files again", panic)) {
                Ok(Ok(rewritten)) => {
                    self.rewritten = Some(rewritten);
                    return;
                }
                Ok(Err(error)) | Err(error) => {
                    self.is_void = false;
                    tracing::warn!(table = %self.table, %error, "could not write files again");
                    self.paused_until = Instant::now() + PAUSE;
                    self.quiet_at = Some((self.paused_until, Occasion::Quiet));
                }
            }
        }
        match self.quiet_at {
            Some((at, _)) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Whether files are written, and wait to be committed: not on top of an entry that others may have replaced.
    pub fn is_written(&self) -> bool {
        self.rewritten.is_some()
    }

    /// Files that are written, to be committed to the table at a location, which is `base` by now.
    pub async fn take(&mut self, location: &TableLocation, base: &TableVersion) -> Option<Rewritten> {
        let rewritten = self.rewritten.take()?;
        if !std::mem::take(&mut self.is_void) && rewritten.is_worth_it() {
            return Some(rewritten);
        }
        self.paused_until = Instant::now() + PAUSE;
        rewritten.discard_unused(location, base).await;
        None
    }

    /// How quiet it has become, where [`Compaction::due`] ended without files that are written.
    pub fn quietness(&self) -> Occasion {
        self.quiet_at.map_or(Occasion::Quiet, |(_, occasion)| occasion)
    }

    /// Files that are written are committed later.
    pub fn put_back(&mut self, rewritten: Rewritten) {
        self.rewritten = Some(rewritten);
    }

    /// Rows of the table were erased: files that were read before are not committed. They are written to their end, so
    /// that it is known what is to be deleted.
    pub fn void(&mut self) {
        self.is_void = !self.running.is_empty() || self.rewritten.is_some();
    }

    /// Has files written again where that is worth it.
    pub fn consider(&mut self, subject: Subject<'_>, occasion: Occasion) {
        let now = Instant::now();
        let next = match occasion {
            Occasion::Quiet => Some((now + IDLE, Occasion::Idle)),
            Occasion::Idle => None,
            Occasion::Merged | Occasion::Spare | Occasion::Asked => Some((now + QUIET, Occasion::Quiet)),
        };
        self.quiet_at = next.map(|(at, occasion)| (at.max(self.paused_until), occasion));
        if !self.running.is_empty() || self.rewritten.is_some() || now < self.paused_until {
            return;
        }
        let Subject { location, base, keys, sort_by, limits } = subject;
        let mut chosen = choose(base.files().iter(), target_bytes(limits), occasion);
        if chosen.is_empty() && occasion == Occasion::Merged && self.effort.has_time() {
            chosen = choose(base.files().iter(), target_bytes(limits), Occasion::Spare);
        }
        if chosen.is_empty() {
            return;
        }
        let sources = chosen.into_iter().filter_map(|id| Some((id, base.files().get(id)?.clone())));
        let rewrite = Rewrite {
            sources: sources.collect(),
            erased: Default::default(),
            blanked: Default::default(),
            location: location.clone(),
            columns: base.columns().to_vec(),
            sort_by,
            keys: keys.map(|keys| keys.stored_in(base.columns())),
            ids: base.files().ids(),
            limits: limits.clone(),
            effort: self.effort.clone(),
        };
        tracing::debug!(table = %self.table, files = rewrite.sources.len(), "writes files again");
        self.running.spawn(rewrite.run());
    }

    /// All rows come again: what was under way is given up.
    pub async fn give_up(&mut self, location: &TableLocation, base: &TableVersion) {
        while let Some(ended) = self.running.try_join_next() {
            self.rewritten = ended.ok().and_then(Result::ok).or(self.rewritten.take());
        }
        self.running.shutdown().await;
        (self.quiet_at, self.is_void) = (None, false);
        if let Some(rewritten) = self.rewritten.take() {
            rewritten.discard_unused(location, base).await;
        }
    }
}
