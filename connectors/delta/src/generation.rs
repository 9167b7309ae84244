//! A generation of a table: a log, and the rows that it lists. Readers see one; the next one is built by a copy, beside
//! it and unseen, and takes its place in one commit.

use std::collections::HashSet;

use sooner_api::{Code, Error, Result, TableSize, failpoint};
use sooner_schemas::TableName;
use uuid::Uuid;

use crate::clock::now_millis;
use crate::index::build::{IndexedFile, index_files};
use crate::index::key::{KeyHash, KeyMap, KeyPlan};
use crate::index::key_index::{FileId, RowAddress};
use crate::index::manifest::{Described, DescribedFile, Manifest};
use crate::index::table_index::TableIndex;
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
use crate::merge::mirror::RowSets;
use crate::merge::own_entry::OwnEntry;
use crate::merge::staging::Staging;
use crate::settings::TableSettings;
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// A generation of a table.
pub struct Generation {
    /// Where its rows and its log lie.
    pub location: TableLocation,
    /// The version that the next commit builds on.
    pub base: TableVersion,
    /// Where its rows lie; none until the first event needs it.
    pub index: Option<TableIndex>,
    settings: TableSettings,
    /// The index that a former process has left.
    left: Option<Manifest>,
    /// Paths of live files whose rows the index lacks: others have written them.
    unindexed: Vec<String>,
    /// The last entry of the log that was put here.
    pub own_entry: OwnEntry,
    /// The last entry of the log, whoever wrote it, where its writer gave it an id.
    last_commit: Option<(u64, Uuid)>,
    checkpoints: CheckpointSchedule,
}

impl Generation {
    /// What the log at a location says.
    pub async fn open(location: TableLocation, names: &PositionNames, settings: &TableSettings) -> Result<Generation> {
        let base = replay(&location, &names.all()).await?;
        Ok(Generation { base, ..Generation::new(location, settings) })
    }

    /// One without a log.
    pub fn new(location: TableLocation, settings: &TableSettings) -> Generation {
        let (base, own_entry) = Default::default();
        Generation {
            location,
            base,
            index: None,
            settings: settings.clone(),
            left: None,
            unindexed: Vec::new(),
            own_entry,
            last_commit: None,
            checkpoints: CheckpointSchedule::new(settings.effort.clone()),
        }
    }

    /// Takes up the index that a former process has left of the table, if it describes a version of this log. Files get
    /// the numbers that they had there.
    pub async fn take_up_index(&mut self, table: &TableName) -> Result<()> {
        let Some(left) = self.settings.indexes.load(table) else { return Ok(()) };
        let Described { version, commit, last_file, .. } = left.described;
        let is_ours = left.described.table_id == table_id(&self.base) && self.base.number() >= Some(version);
        if !is_ours || !OwnEntry(Some((version, commit))).is_kept(&self.location).await? {
            self.settings.indexes.forget(table);
            return Ok(());
        }
        let known = left.described.files.iter().map(|file| (file.path.as_str(), file.id)).collect();
        let base = std::mem::take(&mut self.base);
        self.base = base.renumbered(|files| files.numbered_as(&known, last_file));
        self.left = Some(left);
        Ok(())
    }

    /// Key of the keys' hash of the index that a former process has left.
    pub fn secret(&self) -> Option<(u64, u64)> {
        self.left.as_ref().map(|left| left.described.secret)
    }

    /// The next generation, that a copy will build. It has no log, and its files are numbered as these are.
    pub fn beside(&self, copy: u64) -> Generation {
        let base = TableVersion::default().with_files(LiveFiles::numbered_by(self.base.files().ids()));
        Generation { base, ..Generation::new(self.location.next_generation(copy), &self.settings) }
    }

    /// Whether nobody has committed since it was opened or last committed.
    pub async fn is_current(&self) -> Result<bool> {
        if !self.own_entry.is_kept(&self.location).await? {
            return Ok(false);
        }
        let last = self.base.number().filter(|_| self.own_entry.0.is_none());
        if let Some(last) = last
            && get(self.location.store(), &log_path(last)).await?.is_none()
        {
            return Ok(false);
        }
        Ok(get(self.location.store(), &log_path(self.base.next_number())).await?.is_none())
    }

    /// Builds the key index from the key columns of all live files, if what is staged needs it and it is not there.
    pub async fn build_index(&mut self, table: &TableName, staging: &Staging) -> Result<()> {
        self.index_rest(&table.to_string(), staging.plan.as_ref()).await?;
        let is_needed = self.index.is_none() && self.base.exists() && !staging.replaces();
        let Some(plan) = staging.plan.as_ref().filter(|_| is_needed) else { return Ok(()) };
        let left = self.left.take().filter(|left| left.described.key == plan.keys.description());
        let left = self.open_left(table, left);
        let is_new = left.is_none();
        let (mut index, known) = left.unwrap_or_else(|| {
            self.settings.indexes.forget(table);
            (TableIndex::new(&self.settings.indexes, table), HashSet::new())
        });
        let unknown: Vec<_> = self.indexed_files().into_iter().filter(|file| !known.contains(&file.id)).collect();
        let (name, files) = (table.to_string(), unknown.len());
        let keys = plan.keys.stored_in(self.base.columns());
        index_files(&self.location.table, &name, &keys, unknown, &mut index).await?;
        if is_new {
            index.compact().await;
        }
        tracing::debug!(table = name, keys = index.len(), files, "built the key index");
        self.index = Some(index);
        self.unindexed.clear();
        Ok(())
    }

    /// All live files, as they are indexed.
    pub fn indexed_files(&self) -> Vec<IndexedFile> {
        self.base.files().iter().map(|(id, file)| indexed_file(id, file)).collect()
    }

    /// The index that a former process has left, and the files whose rows it has; none if it cannot be trusted.
    fn open_left(&self, table: &TableName, left: Option<Manifest>) -> Option<(TableIndex, HashSet<FileId>)> {
        let left = left?;
        let files = &left.described.files;
        let live = files.iter().filter_map(|file| Some((file, self.base.files().get(file.id)?)));
        // Rows that had gone are not in the index, so they must not have come back.
        let has_all_rows = live.clone().all(|(known, file)| file.deleted.len() >= known.deleted);
        let known = live.map(|(known, _)| known.id).collect();
        match TableIndex::open(&self.settings.indexes, table, left.clone()) {
            Ok(index) if has_all_rows => Some((index, known)),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(%table, %error, "cannot read the key index; it is built again");
                None
            }
        }
    }

    /// Where the rows of these keys lie that are live. An index that cannot be read is built again.
    pub async fn locate(
        &mut self,
        table: &TableName,
        staging: &Staging,
        keys: Vec<KeyHash>,
    ) -> Result<KeyMap<RowAddress>> {
        for _ in 0..2 {
            self.build_index(table, staging).await?;
            let Some(index) = self.index.as_ref().filter(|_| !keys.is_empty()) else { break };
            match index.locate(keys.clone()).await {
                Ok(found) => return Ok(found.into_iter().filter(|(_, row)| self.base.files().holds(*row)).collect()),
                Err(error) => tracing::warn!(%table, %error, "cannot read the key index; it is built again"),
            }
            self.index = None;
            self.settings.indexes.forget(table);
        }
        match self.index.is_none() && !keys.is_empty() && self.base.exists() && !staging.replaces() {
            true => Err(index_unreadable(table)),
            false => Ok(KeyMap::default()),
        }
    }

    /// The live rows of all keys that are staged.
    pub async fn touched_rows(&mut self, table: &TableName, staging: &mut Staging) -> Result<RowSets> {
        let mut rows = RowSets::new();
        if staging.replaces() {
            return Ok(rows);
        }
        let mut touched = staging.parts.touched().await?;
        while let Some(keys) = touched.next().await? {
            for row in self.locate(table, staging, keys).await?.into_values() {
                rows.entry(row.file).or_default().insert(row.row);
            }
        }
        Ok(rows)
    }

    /// The next entry of the log, if somebody else wrote it: not with the id `own`.
    pub async fn read_other(&self, table: &TableName, own: Uuid) -> Result<Option<LogEntry>> {
        let entry = Committer::new(&self.location, &table.to_string()).read(self.base.next_number()).await?;
        Ok(entry.filter(|entry| entry.id != Some(own.to_string())))
    }

    /// Takes in what somebody else has committed. Returns the paths of files to be indexed.
    pub fn follow(&mut self, commit: Commit) -> Vec<String> {
        let id = commit.id;
        // A file whose rows only went away needs nothing; one that came back, or is new, is indexed.
        let is_known = |file: &LiveFile| {
            self.base.files().find(file.key()).is_some_and(|known| known.deleted.is_subset(&file.deleted))
        };
        let added = commit.adds.iter().map(|added| &added.file).filter(|file| !is_known(file));
        let added: Vec<String> = added.map(|file| file.key().to_owned()).collect();
        self.base = std::mem::take(&mut self.base).apply(commit);
        // What was written here has still to be there, below theirs.
        self.last_commit = self.base.number().zip(id);
        added
    }

    /// Indexes files that somebody else has added. After an error this is made up for before the index is needed.
    pub async fn index_added(&mut self, table: &str, plan: Option<&EventPlan>, added: Vec<String>) -> Result<()> {
        if self.index.is_some() {
            self.unindexed.extend(added);
        }
        self.index_rest(table, plan).await?;
        if let Some(plan) = plan {
            self.settle_index(&plan.keys).await;
        }
        Ok(())
    }

    async fn index_rest(&mut self, table: &str, plan: Option<&EventPlan>) -> Result<()> {
        let Generation { index, unindexed, base, location, .. } = self;
        let Some(index) = index.as_mut().filter(|_| !unindexed.is_empty()) else { return Ok(()) };
        let Some(plan) = plan else {
            return Err(Error::internal("cannot build the key index", "the key is not known yet"));
        };
        let files =
            unindexed.iter().filter_map(|path| Some(indexed_file(base.files().id_of(path)?, base.files().find(path)?)));
        let keys = plan.keys.stored_in(base.columns());
        index_files(&location.table, table, &keys, files.collect(), index).await?;
        unindexed.clear();
        Ok(())
    }

    /// Takes in what was staged and committed here. Returns how the next events are read.
    pub async fn finish_commit(&mut self, table: &TableName, plan: Plan, staging: Staging) -> Option<EventPlan> {
        self.base = std::mem::take(&mut self.base).apply(plan.commit);
        let (id, replaces) = (staging.commit_id, staging.replaces());
        let (staged, files) = staging.parts.into_keys();
        if replaces {
            self.index = Some(TableIndex::new(&self.settings.indexes, table));
        }
        if let Some(index) = &mut self.index {
            index.apply(staged, files).await;
        }
        self.note_own(table, id, plan.text.len());
        if let Some(plan) = &staging.plan {
            self.settle_index(&plan.keys).await;
        }
        staging.plan
    }

    async fn settle_index(&mut self, keys: &KeyPlan) {
        let base = &self.base;
        let last = self.last_commit.filter(|(version, _)| base.number() == Some(*version));
        if let Some((index, (version, commit))) = self.index.as_mut().zip(last) {
            index.settle(|| described(base, version, commit, keys)).await;
        }
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
                if let Some(index) = &mut self.index {
                    index.absorb(rewritten.moved_rows(&self.base)).await;
                }
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
        self.last_commit = self.own_entry.0;
        let retention = Retention::of(self.base.metadata());
        start_checkpoint(&self.location, table, version, retention, &mut self.checkpoints, entry_bytes);
        version
    }

    /// What it consists of; none if it does not exist yet.
    pub fn size(&self) -> Option<TableSize> {
        let index = self.index.as_ref();
        let (index_keys, index_bytes) = (index.map(TableIndex::len), index.map_or(0, TableIndex::disk_bytes));
        self.base.exists().then(|| TableSize { index_keys, index_bytes, ..self.base.files().size() })
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
            last_column_id: self.base.last_column_id(),
            provenance: self.base.provenance(),
            refilled: Default::default(),
            added: files.collect(),
            superseded: Default::default(),
            removed: Default::default(),
            txns: Default::default(),
            watermark: None,
            span: Default::default(),
        }
    }

    /// This generation has taken the place of another one, by a commit to that one's log. Returns the version.
    pub fn take_place(&mut self, of: Generation, table: &TableName, plan: Plan, id: Uuid) -> u64 {
        let files = std::mem::take(&mut self.base).into_files();
        self.base = of.base.apply(plan.commit).with_files(files);
        (self.location, self.checkpoints) = (of.location, of.checkpoints);
        self.index.iter_mut().for_each(TableIndex::describe_anew);
        self.note_own(table, id, plan.text.len())
    }
}

fn indexed_file(id: FileId, file: &LiveFile) -> IndexedFile {
    IndexedFile { id, path: file.path.clone(), size: file.size, deleted: file.deleted.clone() }
}

/// A version of a table, for an index that follows it.
fn described(base: &TableVersion, version: u64, commit: Uuid, keys: &KeyPlan) -> Described {
    let files = base.files().iter().map(|(id, file)| DescribedFile {
        id,
        path: file.key().to_owned(),
        deleted: file.deleted.len(),
    });
    Described {
        table_id: table_id(base),
        version,
        commit,
        secret: keys.secret(),
        key: keys.description(),
        last_file: base.files().ids().last(),
        files: files.collect(),
    }
}

/// The id that the table has in its metadata.
fn table_id(base: &TableVersion) -> String {
    base.metadata().get("id").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

fn index_unreadable(table: &TableName) -> Error {
    Error::retry(
        Code::IndexUnreadable,
        format!("cannot find rows of {table} in the lake by their keys"),
        "the key index on the local disk cannot be read, although it was built again just now",
        "check the disk that state_dir lies on; it is tried again",
    )
}
