//! What changes a table from outside: schemas of events, and commits of others.

use std::sync::Arc;

use sooner_api::{LakeTable, Result, Staged};
use sooner_schemas::Position;
use sooner_schemas::event::EventSchema;

use super::DeltaTable;
use super::appending::{appends, needs_copy, other_setting_of, provenance_of};
use crate::log::commit::LogEntry;
use crate::log::committer::Committer;
use crate::maintenance::refill::check_fill;
use crate::merge::event_plan::EventPlan;
use crate::merge::foreign;
use crate::merge::intake::{ColumnChange, TableColumns, columns_of_copy, compare_columns, key_changed};
use crate::merge::seal::next_columns;
use crate::merge::soft_delete::change_beside_mark;
use crate::rows::column_mapping::Mapping;
use crate::rows::columns::LakeColumn;
use crate::rows::mark;

impl DeltaTable {
    /// The table's column mapping, as it is with what is staged.
    pub(super) fn mapping(&self) -> Mapping {
        let mapping = self.base().mapping(self.settings.maps_columns);
        Mapping { last_id: mapping.last_id.max(self.staging.last_column_id), ..mapping }
    }

    /// Learns how the events of a schema are read, and changes the table's columns for them. `at` is the position of
    /// the first of them.
    pub(super) async fn adopt_schema(&mut self, schema: &Arc<EventSchema>, at: Option<Position>) -> Result<Staged> {
        let is_appended = appends(self, schema).is_some_and(|appending| appending.reads(schema));
        let lacks_mark = self.keeps_deleted && mark::of(next_columns(&self.staging, self.base())).is_none();
        if is_appended || !lacks_mark && self.staging.plan.as_ref().is_some_and(|plan| plan.reads(schema)) {
            return Ok(Staged::Taken);
        }
        self.seal().await?;
        let former = self.staging.provenance_after(self.base());
        if let Some(why) = other_setting_of(self) {
            return needs_copy(self, &why);
        }
        let provenance = provenance_of(self, schema, at, Some(&former));
        match change_of_columns(self, schema, at, former.since)? {
            ColumnChange::None if provenance.says_other_than(&former) && at >= former.since => {
                let columns = next_columns(&self.staging, self.base()).to_vec();
                self.staging.set_columns(columns, provenance);
            }
            ColumnChange::None => {}
            ColumnChange::NeedsCopy(why) => return Ok(Staged::NeedsCopy(why)),
            ColumnChange::Changed(columns) => {
                let former = next_columns(&self.staging, self.base()).to_vec();
                let limits = &self.settings.limits;
                if let Some(why) = check_fill(&self.name, &self.names, self.base(), limits, &former, &columns)? {
                    return Ok(Staged::NeedsCopy(why));
                }
                // The open part has the former columns.
                self.staging.parts.close(&self.generations.shown.location).await?;
                self.staging.change_columns(&former, columns, provenance);
            }
        }
        // Of a topic, messages without a key are refused.
        if schema.key.is_none() && self.appending.is_some() && !self.names.is_topic() {
            self.staging.plan = None;
            return Ok(Staged::Taken);
        }
        let plan = EventPlan::new(schema, self.secret)?;
        if self.staging.plan.as_ref().is_some_and(|known| !known.keys.same_columns(&plan.keys)) {
            return key_changed(&self.name, &self.names);
        }
        self.staging.plan = Some(plan);
        Ok(Staged::Taken)
    }

    /// Takes in what others have committed, so that the next attempt builds on it.
    pub(super) async fn follow_others(&mut self, mut next: Option<LogEntry>) -> Result<()> {
        let own = self.staging.commit_id;
        while let Some(entry) = next {
            self.follow(entry).await?;
            next = self.generations.target().read_other(&self.name, own).await?;
        }
        Ok(())
    }

    async fn follow(&mut self, entry: LogEntry) -> Result<()> {
        let name = self.name.to_string();
        let url = self.generations.shown.location.url.as_str();
        let author = foreign::author(&self.name, url, &self.names, self.base(), &self.staging, &entry)?;
        if entry.erases {
            self.compaction.void();
        }
        let commit = Committer::new(&self.generations.target().location, &name).load(entry).await?;
        tracing::info!(table = name, version = self.base().next_number(), "another writer committed; following it");
        let (was_absent, before) = (!self.base().exists(), self.base().columns().to_vec());
        let added = self.generations.target_mut().follow(commit);
        self.compare_with_feed();
        if !self.staging.is_copy() {
            self.base().check_mergeable(&name)?;
        }
        if self.base().columns() != before {
            // The open part has the former columns.
            let location = &self.generations.target().location;
            self.staging.parts.close(location).await?;
        }
        let target = self.generations.target_mut();
        foreign::adjust(&self.name, author, was_absent, &before, &target.base, &mut self.staging)?;
        target.index_added(&name, self.staging.plan.as_ref(), added).await
    }
}

/// What events of a schema, the first of which is at a position, mean for the columns that the table has since one.
fn change_of_columns(
    table: &DeltaTable,
    schema: &Arc<EventSchema>,
    at: Option<Position>,
    since: Option<Position>,
) -> Result<ColumnChange> {
    let (columns, mapping) = (next_columns(&table.staging, table.base()), table.mapping());
    if !table.keeps_deleted {
        return compare_columns(schema, at, TableColumns { columns, since }, mapping, &table.names);
    }
    let known = TableColumns { columns: &mark::without(columns), since };
    let change = compare_columns(schema, at, known, mapping, &table.names)?;
    change_beside_mark(&table.name, change, columns, mapping.last_id)
}

/// Columns of the table once its rows are replaced by those of a copy.
pub(super) fn copied_columns(table: &DeltaTable, schema: &EventSchema, mapping: Mapping) -> Result<Vec<LakeColumn>> {
    let columns = columns_of_copy(schema, mapping)?;
    if table.keeps_deleted { mark::beside(&table.name, columns, &[], mapping.last_id) } else { Ok(columns) }
}
