//! A lake table: opened from its log, fed with events, committed to. Decisions are made in [`merge`](crate::merge) and
//! [`log`](crate::log); this is the shell that does their I/O.

mod appending;
mod carrying;
mod following;
mod truncating;
mod whole_table;

use sooner_api::{
    Alteration, Code, Committed, LakeCopy, LakePosition, LakeTable, Positions, Result, Rows, Staged, Standing,
    TableSize,
};
use sooner_schemas::TableName;
use sooner_schemas::event::Watermark;
use uuid::Uuid;

use crate::clock::now_millis;
use crate::generation::Generation;
use crate::generations::Generations;
use crate::index::table_index::TableIndex;
use crate::log::committer::{Committer, MAX_CONFLICTS, Outcome, contended};
use crate::log::position_names::PositionNames;
use crate::log::table_version::TableVersion;
use crate::maintenance::choice::Occasion;
use crate::maintenance::compaction::Compaction;
use crate::maintenance::refill::Refilled;
use crate::merge::append::Appending;
use crate::merge::event_plan::EventPlan;
use crate::merge::foreign::{self, made_by_somebody_else};
use crate::merge::intake::{check_not_overtaken, covered_events};
use crate::merge::mirror;
use crate::merge::staging::Staging;
use crate::settings::TableSettings;
use crate::store::location::TableLocation;

/// One table of the lake.
pub struct DeltaTable {
    name: TableName,
    names: PositionNames,
    generations: Generations,
    standing: Standing,
    positions: Option<Positions>,
    /// Key of the keys' hash, so that nobody can make keys collide.
    secret: (u64, u64),
    staging: Staging,
    settings: TableSettings,
    /// A topic that begins with rows begins with those of a copy.
    expects_copy: bool,
    compaction: Compaction,
    /// Where rows are only added: how.
    appending: Option<Appending>,
    /// Rows stay that the source deletes, with the time of that.
    keeps_deleted: bool,
}

impl DeltaTable {
    /// Opens a table as its log says it is.
    pub async fn open(
        name: TableName,
        location: TableLocation,
        names: PositionNames,
        settings: TableSettings,
        compaction: Compaction,
    ) -> Result<DeltaTable> {
        let generations = Generations::open(&name, location, &names, &settings).await?;
        let mut table = DeltaTable {
            secret: generations.shown.secret().unwrap_or_else(rand::random),
            appending: settings.ways.of(&name).append.map(Appending::new),
            keeps_deleted: settings.ways.of(&name).keeps_deleted(),
            generations,
            standing: Standing::Absent,
            positions: None,
            staging: Staging::new(None),
            name,
            names,
            settings,
            expects_copy: false,
            compaction,
        };
        table.compare_with_feed();
        Ok(table)
    }

    fn compare_with_feed(&mut self) {
        let base = &self.generations.durable().base;
        (self.standing, self.positions) = (self.names.standing(base), self.names.recorded(base.txns()));
    }

    fn url(&self) -> &str {
        self.generations.shown.location.url.as_str()
    }

    fn base(&self) -> &TableVersion {
        &self.generations.target().base
    }

    /// What of the feed is in the table, where that counts: of another topic's positions nothing does, and a copy takes
    /// everything.
    fn covered(&self) -> Option<&Positions> {
        self.positions.as_ref().filter(|_| self.standing == Standing::Follows && !self.staging.is_copy())
    }

    /// Commits what is staged to the log that events are merged into; `copy` is the copy that ends with it.
    async fn commit_staged(&mut self, watermark: Watermark, copy: Option<u64>) -> Result<Committed> {
        self.seal().await?;
        self.staging.parts.close(&self.generations.shown.location).await?;
        if self.staging.is_empty() {
            return Ok(Committed { table_version: self.version().unwrap_or_default(), ..Committed::default() });
        }
        let name = self.name.to_string();
        let mut refilled = Refilled::default();
        if self.staging.fills_files {
            // What is written at the moment lacks the columns that come.
            self.compaction.give_up(&self.generations.shown.location, &self.generations.shown.base).await;
        }
        for _ in 0..MAX_CONFLICTS {
            let removed = self.generations.target_mut().touched_rows(&self.name, &mut self.staging).await?;
            let Generation { location, base, .. } = self.generations.target();
            let mut transaction = mirror::transaction(&self.staging, base, removed, &self.names, watermark);
            transaction.retention = self.settings.retention;
            transaction.end_copy(copy.map(|id| self.names.version_of_copy(id)), watermark);
            refilled.complete(&mut transaction, &self.staging, base, location, &self.settings.limits).await?;
            let plan = transaction.plan(base, now_millis());
            match Committer::new(location, &name).commit(base.next_number(), transaction.id, &plan).await? {
                Outcome::Committed => {
                    let staging = std::mem::replace(&mut self.staging, Staging::new(None));
                    let committed = plan.committed();
                    self.staging.plan = self.generations.target_mut().finish_commit(&self.name, plan, staging).await;
                    self.compare_with_feed();
                    let Generation { location, base, .. } = self.generations.target();
                    refilled.discard(location, |path| base.files().find(path).is_some()).await;
                    self.consider_compaction(Occasion::Merged);
                    return Ok(Committed { table_version: self.version().unwrap_or_default(), ..committed });
                }
                Outcome::Conflict(entry) => self.follow_others(Some(*entry)).await?,
                Outcome::Unknown(error) => return Err(error),
            }
        }
        Err(contended(&name))
    }

    /// Has files written again where that is worth it.
    fn consider_compaction(&mut self, occasion: Occasion) {
        let (is_appended, plan) = (self.appending.is_some(), self.staging.plan.as_ref());
        let subject = self.generations.compactable(&self.name, is_appended, plan, &self.settings);
        if let Some(subject) = subject {
            self.compaction.consider(subject, occasion);
        }
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
        self.names.watermark(self.generations.durable().base.txns())
    }

    fn version(&self) -> Option<u64> {
        self.generations.shown.base.number()
    }

    fn history_version(&self) -> Option<u64> {
        None
    }

    fn size(&self) -> Option<TableSize> {
        self.generations.shown.size()
    }

    async fn altered_since(&self, stored: &LakePosition) -> Result<Option<Alteration>> {
        let Generation { location, base, .. } = &self.generations.shown;
        if let Some(why) = appending::other_setting_of(self) {
            return Ok(Some(Alteration::Rows(why)));
        }
        foreign::altered_since(&self.name, location, &self.names, base, self.positions(), stored).await
    }

    async fn is_current(&self) -> Result<bool> {
        Ok(self.generations.shown.is_current().await? && self.generations.durable().is_current().await?)
    }

    async fn inspect(&mut self) -> Result<()> {
        if self.generations.keep_copies() {
            // It replaces what others make of the table.
            return self.generations.inspect_shown(&self.name, &self.names).await;
        }
        if !self.generations.shown.own_entry.is_kept(&self.generations.shown.location).await? {
            return Err(self.generations.shown.own_entry.lost(&self.name, &self.names));
        }
        if !self.generations.shown.base.exists() || self.staging.is_copy() {
            return Ok(());
        }
        let next = self.generations.target().read_other(&self.name, self.staging.commit_id).await?;
        self.follow_others(next).await
    }

    async fn begin_copy(&mut self, start: Rows) -> Result<Staged> {
        check_not_overtaken(&self.name, self.covered(), &start)?;
        let applies = whole_table::applies(self, &start, true)?;
        if applies {
            appending::prepare_copy(self, &start).await?;
        }
        self.staging.note(start.positions());
        if !applies {
            return Ok(Staged::Taken);
        }
        if self.standing == Standing::Foreign {
            return Err(made_by_somebody_else(&self.name, self.url()));
        }
        self.compaction.give_up(&self.generations.shown.location, &self.generations.shown.base).await;
        let mapping = self.generations.shown.base.mapping(self.settings.maps_columns);
        let schema = &start.events.schema;
        let provenance = appending::provenance_of(self, schema, start.first_position(), None);
        self.staging.begin_copy(following::copied_columns(self, schema, mapping)?, provenance);
        self.generations.begin_copy(self.names.orders_whole_table());
        self.compare_with_feed();
        // On a topic, the mark of a copy comes without the schema of keys.
        if start.events.schema.key.is_some() || !self.names.is_topic() && self.appending.is_none() {
            self.staging.plan = Some(EventPlan::new(&start.events.schema, self.secret)?);
        }
        Ok(Staged::Taken)
    }

    async fn truncate(&mut self, truncate: Rows) -> Result<Staged> {
        if covered_events(self.covered(), &truncate) > 0 {
            return Ok(Staged::Taken);
        }
        check_not_overtaken(&self.name, self.covered(), &truncate)?;
        whole_table::applies(self, &truncate, false)?;
        foreign::check_mergeable(&self.name, self.url(), self.base(), &self.staging, self.positions.is_some())?;
        self.staging.note_rows(&truncate, 0);
        truncating::truncate(self, &truncate).await.map(|()| Staged::Taken)
    }

    async fn stage(&mut self, rows: Rows) -> Result<Staged> {
        check_not_overtaken(&self.name, self.covered(), &rows)?;
        let first = covered_events(self.covered(), &rows);
        let has_columns = self.base().exists() || self.staging.columns.is_some();
        let tells_columns = rows.events.events.is_empty() && has_columns;
        if first == rows.events.events.len() && !tells_columns {
            self.staging.note(rows.positions());
            return Ok(Staged::Taken);
        }
        foreign::check_mergeable(&self.name, self.url(), self.base(), &self.staging, self.positions.is_some())?;
        if !self.base().exists() && self.staging.columns.is_none() {
            // A topic may begin with rows: then the table does, too.
            let columns = following::copied_columns(self, &rows.events.schema, self.mapping())?;
            let provenance = appending::provenance_of(self, &rows.events.schema, rows.first_position(), None);
            self.staging.set_columns(columns, provenance);
            if self.expects_copy && self.names.orders_whole_table() {
                self.generations.begin_copy(true);
            }
            self.generations.target_mut().index = Some(TableIndex::new(&self.settings.indexes, &self.name));
        }
        match self.adopt_schema(&rows.events.schema, rows.first_position()).await {
            Ok(Staged::Taken) => {}
            // Events will show whether that is so.
            Err(error) if tells_columns && error.code == Code::ShapeChanged => {}
            other => return other,
        }
        if tells_columns {
            self.staging.note_told(&rows);
            return Ok(Staged::Taken);
        }
        if appending::appends(self, &rows.events.schema).is_some() {
            return appending::append(self, &rows, first).await;
        }
        self.generations.target_mut().build_index(&self.name, &self.staging).await?;
        self.staging.take_rows(&self.name, rows, first)?;
        Ok(Staged::Taken)
    }

    fn staged_bytes(&self) -> usize {
        self.staging.pending.size_bytes() + self.appending.as_ref().map_or(0, Appending::bytes)
    }

    async fn seal(&mut self) -> Result<()> {
        if let Some(appending) = &mut self.appending {
            appending.seal(self.generations.added_to(), &mut self.staging).await?;
        }
        self.generations.seal(&self.name, &self.names, &mut self.staging).await
    }

    async fn commit(&mut self, watermark: Watermark) -> Result<Committed> {
        self.generations.discard_leftovers().await;
        self.commit_staged(watermark, None).await
    }

    async fn end_copy(&mut self, watermark: Watermark) -> Result<Committed> {
        self.expects_copy = false;
        appending::keep_former_rows(self, watermark).await?;
        if self.generations.unfinished_copy().is_none() {
            // Nothing of it is durable: it replaces the table at once.
            let copy = self.generations.take_next();
            let committed = self.commit_staged(watermark, copy).await?;
            appending::forget_keys(self);
            return Ok(committed);
        }
        self.commit_staged(watermark, None).await?;
        let commit = (self.staging.commit_id, self.settings.retention);
        let committed = self.generations.show_next(&self.name, &self.names, commit, watermark).await?;
        self.staging.commit_id = Uuid::new_v4();
        self.compare_with_feed();
        appending::forget_keys(self);
        Ok(committed)
    }

    fn expect_copy(&mut self) {
        self.expects_copy = true;
    }

    fn keeps_copies(&self) -> bool {
        self.generations.keep_copies()
    }

    async fn resume_copy(&mut self, copy: Option<LakeCopy>) -> Result<bool> {
        let resumed = self.generations.resume_copy(&self.name, &self.names, copy).await?;
        self.compare_with_feed();
        Ok(resumed)
    }

    fn unfinished_copy(&self) -> Option<LakeCopy> {
        self.generations.unfinished_copy()
    }

    fn last_copy(&self) -> Option<u64> {
        self.names.copy(self.generations.shown.base.txns())
    }

    async fn maintenance_due(&mut self) {
        self.compaction.due().await;
    }

    async fn maintain(&mut self) -> Result<()> {
        if self.compaction.is_written() {
            self.inspect().await?;
        }
        let shown = &mut self.generations.shown;
        let Some(rewritten) = self.compaction.take(&shown.location, &shown.base).await else {
            self.consider_compaction(self.compaction.quietness());
            return Ok(());
        };
        if let Some(entry) = shown.rearrange(&self.name, self.names.pipeline(), &rewritten).await? {
            self.compaction.put_back(rewritten);
            return self.follow_others(Some(entry)).await;
        }
        self.consider_compaction(Occasion::Merged);
        Ok(())
    }

    fn discard(&mut self) {
        self.staging = Staging::new(self.staging.plan.take());
        self.appending.iter_mut().for_each(Appending::discard);
        self.generations.discard();
        self.compare_with_feed();
    }
}
