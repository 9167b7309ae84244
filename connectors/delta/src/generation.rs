//! A generation of a table: a log, and the rows that it lists. Readers see one; the next one is built by a copy, beside
//! it and unseen, and takes its place in one commit.

use sooner_api::{Error, Result, failpoint};
use sooner_schemas::TableName;
use uuid::Uuid;

use crate::clock::now_millis;
use crate::index::build::{IndexedFile, index_file};
use crate::index::key_index::{FileId, KeyIndex};
use crate::log::actions::log_path;
use crate::log::commit::{Commit, LogEntry};
use crate::log::committer::{Committer, Outcome};
use crate::log::live_files::{LiveFile, LiveFiles};
use crate::log::position_names::PositionNames;
use crate::log::replay::replay;
use crate::log::retention::Retention;
use crate::log::table_version::TableVersion;
use crate::log::transaction::{Kind, Plan, Transaction};
use crate::maintenance::rewrite::Rewritten;
use crate::maintenance::schedule::CheckpointSchedule;
use crate::maintenance::upkeep::start_checkpoint;
use crate::merge::event_plan::EventPlan;
use crate::merge::own_entry::OwnEntry;
use crate::merge::staging::Staging;
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// A generation of a table.
pub struct Generation {
    /// Where its rows and its log lie.
    pub location: TableLocation,
    /// The version that the next commit builds on.
    pub base: TableVersion,
    /// Where its rows lie; none until the first event needs it.
    pub index: Option<KeyIndex>,
    /// The last entry of the log that was put here.
    pub own_entry: OwnEntry,
    checkpoints: CheckpointSchedule,
}

impl Generation {
    /// What the log at a location says.
    pub async fn open(location: TableLocation, names: &PositionNames) -> Result<Generation> {
        let base = replay(&location, &names.all()).await?;
        Ok(Generation { base, ..Generation::new(location) })
    }

    /// One without a log.
    pub fn new(location: TableLocation) -> Generation {
        let (base, own_entry, checkpoints) = Default::default();
        Generation { location, base, index: None, own_entry, checkpoints }
    }

    /// The next generation, that a copy will build. It has no log, and its files are numbered as these are.
    pub fn beside(&self, copy: u64) -> Generation {
        let base = TableVersion::default().with_files(LiveFiles::numbered_by(self.base.files().ids()));
        Generation { base, ..Generation::new(self.location.next_generation(copy)) }
    }

    /// Whether nobody has committed since it was opened or last committed.
    pub async fn is_current(&self) -> Result<bool> {
        if !self.own_entry.is_kept(&self.location).await? {
            return Ok(false);
        }
        Ok(get(self.location.store(), &log_path(self.base.next_number())).await?.is_none())
    }

    /// Builds the key index from the key columns of all live files, if what is staged needs it and it is not there.
    pub async fn build_index(&mut self, table: &TableName, staging: &Staging) -> Result<()> {
        let is_needed = self.index.is_none() && self.base.exists() && !staging.replaces();
        let Some(plan) = staging.plan.as_ref().filter(|_| is_needed) else { return Ok(()) };
        let table = table.to_string();
        let mut index = KeyIndex::default();
        let rows = self.base.files().iter().filter_map(|(_, file)| file.rows).sum::<u64>();
        index.reserve(rows as usize);
        for (id, file) in self.base.files().iter() {
            self.index_file(&table, Some(plan), id, file, &mut index).await?;
        }
        tracing::debug!(table, keys = index.len(), "built the key index");
        self.index = Some(index);
        Ok(())
    }

    async fn index_file(
        &self,
        table: &str,
        plan: Option<&EventPlan>,
        id: FileId,
        file: &LiveFile,
        index: &mut KeyIndex,
    ) -> Result<()> {
        let Some(plan) = plan else {
            return Err(Error::internal("cannot build the key index", "the key is not known yet"));
        };
        let file = IndexedFile { id, path: &file.path, size: file.size, deleted: &file.deleted };
        index_file(&self.location.table, table, &plan.keys, file, index).await
    }

    /// The next entry of the log, if somebody else wrote it: not with the id `own`.
    pub async fn read_other(&self, table: &TableName, own: Uuid) -> Result<Option<LogEntry>> {
        let entry = Committer::new(&self.location, &table.to_string()).read(self.base.next_number()).await?;
        Ok(entry.filter(|entry| entry.id != Some(own.to_string())))
    }

    /// Takes in what somebody else has committed.
    pub fn follow(&mut self, commit: Commit) -> Vec<String> {
        // A file whose rows only went away needs nothing; one that came back, or is new, is indexed.
        let is_known = |file: &LiveFile| {
            self.base.files().find(file.key()).is_some_and(|known| known.deleted.is_subset(&file.deleted))
        };
        let added = commit.adds.iter().map(|added| &added.file).filter(|file| !is_known(file));
        let added: Vec<String> = added.map(|file| file.key().to_owned()).collect();
        self.base = std::mem::take(&mut self.base).apply(commit);
        added
    }

    /// Indexes files that somebody else has added. After an error the whole index is built again when it is needed.
    pub async fn index_added(&mut self, table: &str, plan: Option<&EventPlan>, added: Vec<String>) -> Result<()> {
        let Some(mut index) = self.index.take() else { return Ok(()) };
        for path in added {
            if let Some((id, file)) = self.base.files().id_of(&path).zip(self.base.files().find(&path)) {
                self.index_file(table, plan, id, file, &mut index).await?;
            }
        }
        self.index = Some(index);
        Ok(())
    }

    /// Takes in what was staged and committed here. Returns the version.
    pub fn finish_commit(&mut self, table: &TableName, plan: Plan, staging: Staging) -> u64 {
        self.base = std::mem::take(&mut self.base).apply(plan.commit);
        let (id, replaces) = (staging.commit_id, staging.replaces());
        let (moved, gone) = staging.parts.into_places();
        match &mut self.index {
            _ if replaces => self.index = Some(moved),
            Some(index) => index.apply(gone, &moved),
            None => {}
        }
        self.note_own(table, id, plan.text.len())
    }

    /// Files that were written again take the place of the former ones. Returns the entry of somebody else that comes
    /// first, if there is one.
    pub async fn rearrange(
        &mut self,
        table: &TableName,
        pipeline: &str,
        rewritten: &Rewritten,
    ) -> Result<Option<LogEntry>> {
        let transaction = rewritten.transaction(&self.base, pipeline);
        if transaction.removed.is_empty() || !rewritten.has_all_rows(&self.base) {
            rewritten.discard_unused(&self.location, &self.base).await;
            return Ok(None);
        }
        let (name, plan) = (table.to_string(), transaction.plan(&self.base, now_millis()));
        let committer = Committer::new(&self.location, &name);
        match committer.commit(self.base.next_number(), transaction.id, &plan).await? {
            Outcome::Committed => {
                failpoint("files_rearranged");
                self.index.iter_mut().for_each(|index| rewritten.move_rows(index));
                self.base = std::mem::take(&mut self.base).apply(plan.commit);
                self.note_own(table, transaction.id, plan.text.len());
                rewritten.discard_unused(&self.location, &self.base).await;
                Ok(None)
            }
            Outcome::Conflict(entry) => Ok(Some(*entry)),
            Outcome::Unknown(error) => Err(error),
        }
    }

    /// The last entry of the log is ours, and has so many bytes. Returns the version.
    fn note_own(&mut self, table: &TableName, id: Uuid, entry_bytes: usize) -> u64 {
        let version = self.base.number().unwrap_or_default();
        self.own_entry = OwnEntry(Some((version, id)));
        let retention = Retention::of(self.base.metadata());
        start_checkpoint(&self.location, table, version, retention, &mut self.checkpoints, entry_bytes);
        version
    }

    /// The transaction by which this generation takes the place of another one.
    pub fn replacement(&self, id: Uuid, pipeline: &str) -> Transaction {
        let files = self.base.files().iter().map(|(id, file)| (id, file.clone()));
        Transaction {
            id,
            kind: Kind::Copy,
            pipeline: pipeline.to_owned(),
            retention: Default::default(),
            columns: Some(self.base.columns().to_vec()),
            added: files.collect(),
            superseded: Default::default(),
            removed: Default::default(),
            txns: Default::default(),
            watermark: None,
        }
    }

    /// This generation has taken the place of another one, by a commit to that one's log. Returns the version.
    pub fn take_place(&mut self, of: Generation, table: &TableName, plan: Plan, id: Uuid) -> u64 {
        let files = std::mem::take(&mut self.base).into_files();
        self.base = of.base.apply(plan.commit).with_files(files);
        (self.location, self.checkpoints) = (of.location, of.checkpoints);
        self.note_own(table, id, plan.text.len())
    }
}
