//! A lake table: opened from its log, fed with events, committed to. Decisions are made in [`merge`](crate::merge) and
//! [`log`](crate::log); this is the shell that does their I/O.

use std::sync::Arc;

use sooner_api::{Alteration, Committed, Error, LakePosition, LakeTable, Positions, Result, Rows, Staged, Standing};
use sooner_schemas::TableName;
use sooner_schemas::event::{EventSchema, Watermark};
use uuid::Uuid;

use crate::clock::now_millis;
use crate::index::build::{IndexedFile, index_file};
use crate::index::key_index::{FileId, KeyIndex};
use crate::log::actions::log_path;
use crate::log::commit::LogEntry;
use crate::log::committer::{Committer, Outcome, contended};
use crate::log::live_files::LiveFile;
use crate::log::position_names::PositionNames;
use crate::log::replay::replay;
use crate::log::table_version::TableVersion;
use crate::log::transaction::Plan;
use crate::maintenance::checkpoint::{CheckpointSchedule, start_checkpoint};
use crate::merge::event_plan::EventPlan;
use crate::merge::foreign::{self, Author, is_altered, made_by_somebody_else};
use crate::merge::intake::{
    ColumnChange, applies_to_whole_table, check_not_overtaken, compare_columns, covered_events, key_changed,
};
use crate::merge::mirror;
use crate::merge::own_entry::OwnEntry;
use crate::merge::parts::PartLimits;
use crate::merge::seal::next_columns;
use crate::merge::sealing::Sealer;
use crate::merge::staging::Staging;
use crate::rows::columns::{columns_of, widen};
use crate::store::location::TableLocation;
use crate::store::operations::get;

/// How often a commit gives way to others before it gives up.
const MAX_CONFLICTS: u32 = 50;

/// One table of the lake.
pub struct DeltaTable {
    name: TableName,
    location: TableLocation,
    names: PositionNames,
    base: TableVersion,
    standing: Standing,
    positions: Option<Positions>,
    /// None until the first event needs it.
    index: Option<KeyIndex>,
    /// Key of the keys' hash, so that nobody can make keys collide.
    secret: (u64, u64),
    staging: Staging,
    limits: PartLimits,
    checkpoints: CheckpointSchedule,
    /// The last entry of the log that was put here.
    own_entry: OwnEntry,
}

impl DeltaTable {
    /// Opens a table as its log says it is.
    pub async fn open(
        name: TableName,
        location: TableLocation,
        names: PositionNames,
        limits: PartLimits,
    ) -> Result<DeltaTable> {
        let base = replay(&location, &names.all()).await?;
        let mut table = DeltaTable {
            standing: Standing::Absent,
            positions: None,
            index: None,
            secret: rand::random(),
            staging: Staging::new(None),
            checkpoints: CheckpointSchedule::default(),
            own_entry: OwnEntry::default(),
            name,
            location,
            names,
            base,
            limits,
        };
        table.compare_with_feed();
        Ok(table)
    }

    /// The feed that it was opened for.
    pub fn feed(&self) -> &sooner_api::Feed {
        self.names.feed()
    }

    fn compare_with_feed(&mut self) {
        self.standing = self.names.standing(&self.base);
        self.positions = self.names.recorded(self.base.txns());
    }

    /// What of the feed is in the table, where that counts: of another topic's positions nothing does, and a copy takes
    /// everything.
    fn covered(&self) -> Option<&Positions> {
        self.positions.as_ref().filter(|_| self.standing == Standing::Follows && !self.staging.is_copy())
    }

    fn check_mergeable(&self) -> Result<()> {
        if self.staging.replaces() || !self.base.exists() {
            return Ok(());
        }
        if self.positions.is_none() {
            return Err(made_by_somebody_else(&self.name, self.location.url.as_str()));
        }
        self.base.check_mergeable(&self.name.to_string())
    }

    /// Builds the key index from the key columns of all live files.
    async fn build_index(&mut self) -> Result<()> {
        if self.index.is_some() || self.staging.replaces() {
            return Ok(());
        }
        let mut index = KeyIndex::default();
        let rows = self.base.files().iter().filter_map(|(_, file)| file.rows).sum::<u64>();
        index.reserve(rows as usize);
        for (id, file) in self.base.files().iter() {
            self.index_file(id, file, &mut index).await?;
        }
        tracing::debug!(table = %self.name, keys = index.len(), "built the key index");
        self.index = Some(index);
        Ok(())
    }

    async fn index_file(&self, id: FileId, file: &LiveFile, index: &mut KeyIndex) -> Result<()> {
        let Some(plan) = &self.staging.plan else {
            return Err(Error::internal("cannot build the key index", "the key is not known yet"));
        };
        let file = IndexedFile { id, path: &file.path, size: file.size, deleted: &file.deleted };
        index_file(&self.location.table, &self.name.to_string(), &plan.keys, file, index).await
    }

    /// Learns how the events of a schema are read, and widens the table's columns for them.
    async fn adopt_schema(&mut self, schema: &Arc<EventSchema>) -> Result<Staged> {
        if self.staging.plan.as_ref().is_some_and(|plan| plan.reads(schema)) {
            return Ok(Staged::Taken);
        }
        self.seal_pending().await?;
        match compare_columns(schema, next_columns(&self.staging, &self.base), &self.names)? {
            ColumnChange::None => {}
            ColumnChange::NeedsCopy(why) => return Ok(Staged::NeedsCopy(why)),
            ColumnChange::Widened(columns) => {
                // The open part has the former columns.
                self.staging.parts.close(&self.location).await?;
                self.staging.columns = Some(widen(next_columns(&self.staging, &self.base), &columns));
            }
        }
        let plan = EventPlan::new(schema, self.secret)?;
        if self.staging.plan.as_ref().is_some_and(|known| !known.keys.same_columns(&plan.keys)) {
            return key_changed(&self.name, &self.names);
        }
        self.staging.plan = Some(plan);
        Ok(Staged::Taken)
    }

    /// Stages the events from `first` on.
    fn take_rows(&mut self, rows: Rows, first: usize) -> Result<()> {
        self.staging.note(rows.positions());
        let Staging { plan, pending, .. } = &mut self.staging;
        let Some(plan) = plan else {
            return Err(Error::internal("cannot stage events", "their schema is not known"));
        };
        let count = rows.events.events.len();
        let batch = pending.open_batch(rows);
        let mut scratch = Vec::new();
        for index in first..count {
            let (key, old_key) = plan.keys_of(&self.name, pending.batch(batch), index, &mut scratch)?;
            pending.push(batch, index as u32, key, old_key);
        }
        Ok(())
    }

    async fn seal_pending(&mut self) -> Result<()> {
        let sealer = Sealer {
            table: &self.name,
            location: &self.location,
            base: &self.base,
            index: self.index.as_ref(),
            in_commit_order: self.names.is_in_commit_order(),
            from_topic: self.names.is_topic(),
            is_first_copy: !self.base.exists() && self.names.generation().is_some(),
            limits: &self.limits,
        };
        sealer.seal(&mut self.staging).await
    }

    /// Takes in what others have committed, so that the next attempt builds on it.
    async fn follow_others(&mut self, mut next: Option<LogEntry>) -> Result<()> {
        let own = self.staging.commit_id;
        while let Some(entry) = next {
            self.follow(entry).await?;
            next = self.read_other(own).await?;
        }
        Ok(())
    }

    /// The next entry of the log, if somebody else wrote it.
    async fn read_other(&self, own: Uuid) -> Result<Option<LogEntry>> {
        let name = self.name.to_string();
        let entry = Committer::new(&self.location, &name).read(self.base.next_number()).await?;
        Ok(entry.filter(|entry| entry.id != Some(own.to_string())))
    }

    async fn follow(&mut self, entry: LogEntry) -> Result<()> {
        let name = self.name.to_string();
        let url = self.location.url.as_str();
        let staged = self.staging.positions.as_ref();
        let author = match foreign::judge(&self.name, url, &self.names, &self.base, staged, &entry) {
            // A copy replaces all rows, whatever others made of them.
            Err(error) if self.staging.is_copy() && is_altered(&error) => Author::Stranger,
            judged => judged?,
        };
        let commit = Committer::new(&self.location, &name).load(entry).await?;
        tracing::info!(table = %self.name, version = self.base.next_number(), "another writer committed; following it");
        // A file whose rows only went away needs nothing; one that came back, or is new, is indexed.
        let is_known = |file: &LiveFile| {
            self.base.files().find(file.key()).is_some_and(|known| known.deleted.is_subset(&file.deleted))
        };
        let added = commit.adds.iter().map(|added| &added.file).filter(|file| !is_known(file));
        let added: Vec<String> = added.map(|file| file.key().to_owned()).collect();
        let (was_absent, before) = (!self.base.exists(), self.base.columns().to_vec());
        self.base = std::mem::take(&mut self.base).apply(commit);
        self.compare_with_feed();
        if !self.staging.is_copy() {
            self.base.check_mergeable(&name)?;
        }
        foreign::adjust(&self.name, author, was_absent, &before, &self.base, &mut self.staging)?;
        if let Some(mut index) = self.index.take() {
            for path in added {
                if let Some((id, file)) = self.base.files().id_of(&path).zip(self.base.files().find(&path)) {
                    self.index_file(id, file, &mut index).await?;
                }
            }
            self.index = Some(index);
        }
        Ok(())
    }

    /// Takes in what we have committed.
    fn finish_commit(&mut self, plan: Plan, id: Uuid) -> Committed {
        let Plan { commit, rows_written, rows_removed, .. } = plan;
        self.base = std::mem::take(&mut self.base).apply(commit);
        self.compare_with_feed();
        let staging = std::mem::replace(&mut self.staging, Staging::new(None));
        let replaces = staging.replaces();
        let (moved, gone) = staging.parts.into_places();
        match &mut self.index {
            _ if replaces => self.index = Some(moved),
            Some(index) => index.apply(gone, &moved),
            None => {}
        }
        // How keys are hashed stays known: the index depends on it.
        self.staging = Staging::new(staging.plan);
        let table_version = self.base.number().unwrap_or_default();
        self.own_entry = OwnEntry(Some((table_version, id)));
        if self.checkpoints.count_commit() {
            start_checkpoint(self.location.clone(), self.name.clone(), table_version);
        }
        Committed { table_version, rows_written, rows_removed }
    }
}

impl LakeTable for DeltaTable {
    fn name(&self) -> &TableName {
        &self.name
    }

    fn standing(&self) -> Standing {
        self.standing
    }

    fn positions(&self) -> Option<&Positions> {
        self.positions.as_ref().filter(|_| self.standing == Standing::Follows)
    }

    fn watermark(&self) -> Option<sooner_schemas::Lsn> {
        self.names.watermark(self.base.txns())
    }

    fn version(&self) -> Option<u64> {
        self.base.number()
    }

    async fn altered_since(&self, stored: &LakePosition) -> Result<Option<Alteration>> {
        let positions = self.positions();
        foreign::altered_since(&self.name, &self.location, &self.names, &self.base, positions, stored).await
    }

    async fn is_current(&self) -> Result<bool> {
        if !self.own_entry.is_kept(&self.location).await? {
            return Ok(false);
        }
        Ok(get(self.location.store(), &log_path(self.base.next_number())).await?.is_none())
    }

    async fn inspect(&mut self) -> Result<()> {
        if !self.own_entry.is_kept(&self.location).await? {
            return Err(self.own_entry.lost(&self.name, &self.names));
        }
        if !self.base.exists() || self.staging.is_copy() {
            return Ok(());
        }
        let next = self.read_other(self.staging.commit_id).await?;
        self.follow_others(next).await
    }

    async fn begin_copy(&mut self, start: Rows) -> Result<Staged> {
        check_not_overtaken(&self.name, self.covered(), &start)?;
        self.staging.note(start.positions());
        let positions = self.positions.as_ref();
        if !applies_to_whole_table(&self.name, &self.names, self.standing, positions, &start, true)? {
            return Ok(Staged::Taken);
        }
        if self.standing == Standing::Foreign {
            return Err(made_by_somebody_else(&self.name, self.location.url.as_str()));
        }
        self.index = None;
        self.staging.begin_copy(columns_of(&start.events.schema)?);
        // On a topic, the mark of a copy comes without the schema of keys.
        if start.events.schema.key.is_some() || !self.names.is_topic() {
            self.staging.plan = Some(EventPlan::new(&start.events.schema, self.secret)?);
        }
        Ok(Staged::Taken)
    }

    async fn truncate(&mut self, truncate: Rows) -> Result<Staged> {
        if covered_events(self.covered(), &truncate) > 0 {
            return Ok(Staged::Taken);
        }
        check_not_overtaken(&self.name, self.covered(), &truncate)?;
        let positions = self.positions.as_ref();
        applies_to_whole_table(&self.name, &self.names, self.standing, positions, &truncate, false)?;
        self.check_mergeable()?;
        self.staging.note(truncate.positions());
        if self.base.exists() || self.staging.columns.is_some() {
            self.staging.truncate();
        }
        Ok(Staged::Taken)
    }

    async fn stage(&mut self, rows: Rows) -> Result<Staged> {
        check_not_overtaken(&self.name, self.covered(), &rows)?;
        let first = covered_events(self.covered(), &rows);
        if first == rows.events.events.len() {
            self.staging.note(rows.positions());
            return Ok(Staged::Taken);
        }
        self.check_mergeable()?;
        if !self.base.exists() && self.staging.columns.is_none() {
            // A topic may begin with rows: then the table does, too.
            self.staging.columns = Some(columns_of(&rows.events.schema)?);
            self.index = Some(KeyIndex::default());
        }
        if let Staged::NeedsCopy(why) = self.adopt_schema(&rows.events.schema).await? {
            return Ok(Staged::NeedsCopy(why));
        }
        self.build_index().await?;
        self.take_rows(rows, first)?;
        Ok(Staged::Taken)
    }

    fn staged_bytes(&self) -> usize {
        self.staging.pending.size_bytes()
    }

    async fn seal(&mut self) -> Result<()> {
        self.seal_pending().await
    }

    async fn commit(&mut self, watermark: Watermark) -> Result<Committed> {
        self.seal_pending().await?;
        self.staging.parts.close(&self.location).await?;
        if self.staging.is_empty() {
            let table_version = self.base.number().unwrap_or_default();
            return Ok(Committed { table_version, ..Committed::default() });
        }
        let name = self.name.to_string();
        for _ in 0..MAX_CONFLICTS {
            let transaction =
                mirror::transaction(&self.staging, &self.base, self.index.as_ref(), &self.names, watermark);
            let plan = transaction.plan(&self.base, now_millis());
            let committer = Committer::new(&self.location, &name);
            match committer.commit(self.base.next_number(), transaction.id, &plan).await? {
                Outcome::Committed => return Ok(self.finish_commit(plan, transaction.id)),
                Outcome::Conflict(entry) => self.follow_others(Some(*entry)).await?,
                Outcome::Unknown(error) => return Err(error),
            }
        }
        Err(contended(&name, MAX_CONFLICTS))
    }

    fn discard(&mut self) {
        self.staging = Staging::new(self.staging.plan.take());
    }
}
