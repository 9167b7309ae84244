//! A table to which rows are only added, as far as it differs from a mirror.

use std::sync::Arc;

use sooner_api::{LakeTable, Result, Rows, Staged, Standing};
use sooner_schemas::Position;
use sooner_schemas::event::{EventSchema, Watermark};

use super::DeltaTable;
use super::carrying::Carrying;
use crate::clock::now_millis;
use crate::log::provenance::Provenance;
use crate::merge::append::{Appending, cannot_keep, other_setting};
use crate::merge::foreign::rows_altered;
use crate::merge::intake::copy_needed;
use crate::merge::soft_delete::no_longer_kept;
use crate::rows::mark;

/// How events of a schema are added; none where they are merged, as those of a copy are if their rows have a key.
pub(super) fn appends<'a>(table: &'a DeltaTable, schema: &EventSchema) -> Option<&'a Appending> {
    let is_copied = table.staging.is_copy() || table.generations.keep_copies();
    let has_key = schema.key.is_some() || table.names.is_topic();
    table.appending.as_ref().filter(|_| !is_copied || !has_key)
}

/// Adds the rows that events insert, from `first` on.
pub(super) async fn append(table: &mut DeltaTable, rows: &Rows, first: usize) -> Result<Staged> {
    let complete = table.names.watermark(table.base().txns()).filter(|_| table.covered().is_some());
    let (target, staging) = (table.generations.added_to(), &mut table.staging);
    let Some(appending) = &mut table.appending else { return Ok(Staged::Taken) };
    if !appending.reads(&rows.events.schema) {
        appending.seal(target, staging).await?;
        appending.learn(&rows.events.schema)?;
    }
    appending.take(rows, first, complete, target, staging).await?;
    table.staging.note_rows(rows, first);
    Ok(Staged::Taken)
}

fn ignores_changes(table: &DeltaTable) -> bool {
    table.appending.as_ref().is_some_and(Appending::ignores_changes)
}

/// Where columns of events come from, and whether changes of rows are ignored.
pub(super) fn provenance_of(
    table: &DeltaTable,
    schema: &Arc<EventSchema>,
    at: Option<Position>,
    former: Option<&Provenance>,
) -> Provenance {
    let none = Provenance::default();
    let provenance = Provenance::of_events(schema, table.names.counted(at), former.unwrap_or(&none));
    provenance.ignoring(ignores_changes(table))
}

/// Why the table has to be copied again, if it was written under another setting.
pub(super) fn other_setting_of(table: &DeltaTable) -> Option<String> {
    let base = table.base();
    if !table.staging.replaces() && !table.keeps_deleted && mark::of(base.columns()).is_some() {
        return Some(no_longer_kept());
    }
    let ignored = base.exists() && !table.staging.replaces() && base.provenance().ignores_changes;
    other_setting(ignored, ignores_changes(table))
}

/// The table has to be copied again: from a slot by itself, from a topic once a person asks for it.
pub(super) fn needs_copy(table: &DeltaTable, why: &str) -> Result<Staged> {
    match table.names.is_topic() {
        true => Err(rows_altered(&table.name, &table.names, why)),
        false => Ok(Staged::NeedsCopy(copy_needed(&table.name, why))),
    }
}

/// Whether rows stay in the table that its source has removed.
fn keeps_rows(table: &DeltaTable) -> bool {
    table.keeps_deleted || ignores_changes(table)
}

/// Before a copy begins. Where rows stay, what is staged is committed, since the source may have removed it by now; and
/// a copy is refused that would lose rows which the source has removed.
pub(super) async fn prepare_copy(table: &mut DeltaTable, start: &Rows) -> Result<()> {
    if keeps_rows(table) && !table.generations.keep_copies() && table.standing() == Standing::Follows {
        let has_key = start.events.schema.key.is_some() || table.names.is_topic();
        if !has_key && ignores_changes(table) && table.base().files().iter().next().is_some() {
            return Err(cannot_keep(&table.name));
        }
        // A copy begins between two transactions.
        let commit_lsn = start.first_position().map(|position| position.commit_lsn).unwrap_or_default();
        let watermark = Watermark { commit_lsn, end_lsn: commit_lsn, commit_micros: now_millis() * 1000 };
        table.commit_staged(watermark, None).await?;
    }
    table.appending.iter_mut().for_each(Appending::discard);
    Ok(())
}

/// Before a copy takes the place of the table: rows stay that the source has removed, where that is so.
pub(super) async fn keep_former_rows(table: &mut DeltaTable, watermark: Watermark) -> Result<()> {
    if !keeps_rows(table) || !table.generations.shown.base.exists() {
        return Ok(());
    }
    match table.generations.unfinished_copy() {
        // What is staged may remove rows that are durable.
        Some(_) => {
            table.commit_staged(watermark, None).await?;
        }
        None => table.seal().await?,
    }
    let Some((former, next)) = table.generations.both_mut() else { return Ok(()) };
    // Nothing says when exactly a row went that the copy lacks.
    let deleted_at = table.keeps_deleted.then(|| watermark.commit_micros.max(1));
    let (secret, settings) = (table.secret, &table.settings);
    let carrying = Carrying { table: &table.name, former, secret, deleted_at, settings };
    let kept = carrying.run(next, &mut table.staging).await?;
    tracing::info!(table = %table.name, rows = kept, "kept rows that the source has no more");
    Ok(())
}

/// After a copy, no row has to be found by its key.
pub(super) fn forget_keys(table: &mut DeltaTable) {
    if table.appending.is_some() {
        table.generations.forget_index(&table.name);
    }
}
