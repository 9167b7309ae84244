//! Cuts at positions that have passed: made from the tables' logs alone, whether a pipeline runs or not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};
use sooner_api::{Class, Error, Result};
use sooner_schemas::{Lsn, TableName};
use uuid::Uuid;

use crate::clock::now_millis;
use crate::cuts::{Cut, CutVersion, Versions, secure};
use crate::lake::DeltaLake;
use crate::legal_holds::LegalHolds;
use crate::log::replay::replay;
use crate::maintenance::holds::{holds_in_force, objects_of, release};
use crate::maintenance::past::{COPIED_MICROS, PastLog, PastVersion, check_files, impossible};
use crate::rebuilding::{Wanted, rebuild};
use crate::rebuilt::{abandoned, rebuilt_location, remove_rebuilt};
use crate::replaying::history_rows::HistoryRows;
use crate::store::location::TableLocation;

/// Logs of tables that are looked at together.
const AT_ONCE: usize = 16;
/// Tables that no cut names are left over if nothing was written to them for so long: a day.
const ABANDONED_MILLIS: i64 = 86_400_000;

/// What a cut at a past position is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastCut {
    /// Position.
    pub lsn: Lsn,
    /// Commit time of the latest position at or before it that a table's log knows, in microseconds since 1970.
    pub commit_micros: i64,
    /// Versions of its tables.
    pub versions: BTreeMap<TableName, Versions>,
    /// Tables that have no version there, and are to be made of their histories.
    pub rebuilt: BTreeMap<TableName, ToRebuild>,
    /// Tables whose history has no version that ends there: of a later one, only rows up to there count.
    pub beyond: BTreeSet<TableName>,
}

/// A table that is to be made of its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToRebuild {
    /// Version of the history.
    history: u64,
    /// Version of the table that has its columns; the latest if none.
    columns: Option<u64>,
    /// What the last copy of it by then was complete to.
    copied_to: Option<Lsn>,
}

/// What was found of a history.
struct FoundHistory {
    version: u64,
    /// It has events from after the position.
    is_beyond: bool,
}

/// Cuts at past positions of a lake.
#[derive(Clone, Copy)]
pub struct PastCuts<'a>(&'a DeltaLake);

impl<'a> PastCuts<'a> {
    /// Of this lake.
    pub fn of(lake: &'a DeltaLake) -> PastCuts<'a> {
        PastCuts(lake)
    }

    /// The latest position that one of these tables' logs knows to be committed at or before a moment, in microseconds
    /// since 1970; where a table's logs do not go back so far, the last one of its history. None if none knows any.
    pub async fn position_at(&self, tables: &[TableName], micros: i64) -> Result<Option<Lsn>> {
        let mut latest = None;
        for table in tables {
            let mut known = None;
            for location in [self.0.location(table), self.0.history_location(table)] {
                if let Some(log) = PastLog::open(&location, table).await? {
                    known = known.max(log.position_at(micros).await?.map(|(lsn, _)| lsn));
                }
            }
            if known.is_none() {
                known = HistoryRows::position_at(self.0, table, micros).await?;
            }
            latest = latest.max(known);
        }
        Ok(latest)
    }

    /// For each of these tables the version that is exactly a past position, or a history that it can be made of; an
    /// operator error if one has neither. Each is told with whether everything up to there was in the lake before this
    /// is called.
    pub async fn past_cut(&self, lsn: Lsn, tables: &[(TableName, bool)]) -> Result<PastCut> {
        let (mut known, mut copied) = (None, Vec::new());
        let mut cut = PastCut {
            lsn,
            commit_micros: 0,
            versions: BTreeMap::new(),
            rebuilt: BTreeMap::new(),
            beyond: BTreeSet::new(),
        };
        for (table, is_complete) in tables {
            let mut note = |past: PastVersion| {
                known = known.max(past.known);
                copied.extend(past.settled_after.map(|after| (table, after)));
                past.version
            };
            let history = self.past_history(table, lsn, *is_complete, &mut note).await?;
            let location = self.0.location(table);
            let mut mirror = None;
            if let Some(log) = PastLog::open(&location, table).await? {
                match (log.version_at(lsn, *is_complete).await, &history) {
                    (Ok(past), _) => mirror = Some(note(past)),
                    (Err(error), Some(history)) if error.class == Class::Operator => {
                        let (columns, copied_to) = (log.first_after(lsn).await?, log.copied_to(lsn).await?);
                        let to_rebuild = ToRebuild { history: history.version, columns, copied_to };
                        cut.rebuilt.insert(table.clone(), to_rebuild);
                    }
                    (Err(error), _) => return Err(error),
                }
            }
            if mirror.is_none() && history.is_none() {
                let why = format!("there is no table {table} in the lake");
                return Err(impossible(lsn, why, "see `sooner status` for the tables, and name those that are meant"));
            }
            if history.as_ref().is_some_and(|history| history.is_beyond) {
                cut.beyond.insert(table.clone());
            }
            cut.versions.insert(table.clone(), (mirror, history.map(|history| history.version)));
        }
        cut.commit_micros = known.map_or(0, |(_, micros)| micros);
        if let Some((table, _)) = copied.iter().find(|(_, after)| cut.commit_micros < *after) {
            let why = format!("rows of {table} were copied again over others at about that time");
            let minutes = COPIED_MICROS / 60_000_000;
            return Err(impossible(lsn, why, &format!("choose a position at least {minutes} minute(s) later")));
        }
        Ok(cut)
    }

    /// The version of a table's history that is exactly a past position, or else its latest one, if that is complete to
    /// there. None if the table has no history; an operator error if it is not complete to there.
    async fn past_history(
        &self,
        table: &TableName,
        lsn: Lsn,
        is_complete: bool,
        note: &mut impl FnMut(PastVersion) -> u64,
    ) -> Result<Option<FoundHistory>> {
        let location = self.0.history_location(table);
        let Some(log) = PastLog::open(&location, table).await? else { return Ok(None) };
        let error = match log.version_at(lsn, is_complete).await {
            Ok(past) => return Ok(Some(FoundHistory { version: note(past), is_beyond: false })),
            Err(error) if error.class == Class::Operator => error,
            Err(error) => return Err(error),
        };
        let reached = log.position_at(i64::MAX).await?;
        if !is_complete && reached.is_none_or(|(reached, _)| reached < lsn) {
            return Err(error);
        }
        let latest = replay(&location, &[]).await?.number();
        Ok(latest.map(|version| FoundHistory { version, is_beyond: true }))
    }

    /// Makes a cut at a past position: tables that have no version there are made of their histories first. Its
    /// `tables` are filled in. If that fails, what was made for it is removed. An operator error if there is a cut of
    /// that name, also if another process stores it meanwhile; that one stays whole.
    pub async fn make_past_cut(&self, mut cut: Cut, past: &PastCut) -> Result<Cut> {
        self.0.check_new(&cut.name).await?;
        // A folder of this attempt alone: another process may be making a cut of the same name.
        let folder = format!("{}/{}", cut.name, Uuid::new_v4().simple());
        for (table, versions) in &past.versions {
            let mut found = self.0.cut_table(table, *versions);
            if let Some(history) = found.history.as_mut().filter(|_| past.beyond.contains(table)) {
                history.up_to = Some(past.lsn);
            }
            if past.rebuilt.contains_key(table) {
                let url = rebuilt_location(self.0, &folder, table).url.to_string();
                found.mirror = Some(CutVersion { url, version: 0, rebuilt: Some(folder.clone()), up_to: None });
            }
            cut.tables.insert(table.clone(), found);
        }
        // Before histories are read, so that their files stay meanwhile.
        self.0.hold_cut(&cut).await?;
        let (name, tables) = (cut.name.clone(), cut.tables.keys().cloned().collect::<Vec<_>>());
        let stored = match self.rebuild_all(&mut cut, past, &folder).await {
            Ok(()) => self.0.store_cut(cut).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &stored {
            tracing::debug!(cut = name, %error, "a cut was not made");
            if let Err(left) = self.give_up(&name, &tables, &folder).await {
                tracing::warn!(cut = name, error = %left, "what was made for a cut is still there");
            }
        }
        stored
    }

    async fn rebuild_all(&self, cut: &mut Cut, past: &PastCut, folder: &str) -> Result<()> {
        for (table, to_rebuild) in &past.rebuilt {
            let ToRebuild { history, columns, copied_to } = *to_rebuild;
            let (lsn, commit_micros) = (past.lsn, past.commit_micros);
            let wanted = Wanted { table, lsn, commit_micros, history, columns, copied_to };
            let micros = rebuild(self.0, wanted, &rebuilt_location(self.0, folder, table)).await?;
            cut.commit_micros = cut.commit_micros.max(micros);
        }
        Ok(())
    }

    /// Removes what this attempt made, and nothing of what another process makes, or has stored, under the same name.
    async fn give_up(&self, name: &str, tables: &[TableName], folder: &str) -> Result<()> {
        let stored = self.0.cut(name).await?;
        if stored.as_ref().is_some_and(|cut| cut.is_made_of(folder)) {
            // Stored after all, though the answer said otherwise.
            return Ok(());
        }
        remove_rebuilt(self.0, folder).await?;
        if stored.is_none() {
            for table in tables {
                release(&self.0.location(table), name).await?;
                release(&self.0.history_location(table), name).await?;
            }
        }
        // Holds have the cut's name, so those of another process may have been replaced, or have gone with them.
        match self.0.cut(name).await? {
            Some(theirs) => self.0.hold_cut(&theirs).await,
            None => Ok(()),
        }
    }

    /// Removes tables that were made for cuts which have ended, unless a legal hold keeps them, and what attempts have
    /// left that did not come to their end.
    pub async fn sweep(self) -> Result<()> {
        let now = now_millis();
        let cuts = self.0.cuts().await?;
        let is_recent = |cut: &&Cut| cut.made_micros / 1000 > now - ABANDONED_MILLIS;
        let has_ended = |cut: &&Cut| cut.until_millis.is_some_and(|until| until < now);
        for cut in cuts.iter().filter(|cut| is_recent(cut) && !has_ended(cut)) {
            if let Err(error) = secure(self.0, cut).await {
                tracing::warn!(cut = cut.name, %error, "versions of a cut are not held");
            }
        }
        for cut in cuts.iter().filter(has_ended) {
            let is_rebuilt = cut.tables.values().flat_map(|table| &table.mirror).any(|found| found.rebuilt.is_some());
            if is_rebuilt && LegalHolds::of(self.0).check_cut_not_held(&cut.name).await.is_ok() {
                remove_rebuilt(self.0, &cut.name).await?;
            }
        }
        for folder in abandoned(self.0, now - ABANDONED_MILLIS).await? {
            if !cuts.iter().any(|cut| cut.is_made_of(&folder)) {
                remove_rebuilt(self.0, &folder).await?;
            }
        }
        Ok(())
    }

    /// An error if files of a cut's versions, which are held, had been deleted before they were.
    pub async fn check_held(&self, cut: &Cut) -> Result<()> {
        for (table, versions) in &cut.tables {
            if let Some(found) = versions.mirror.as_ref().filter(|found| found.rebuilt.is_some()) {
                // An erasure that began before the cut was stored has removed it.
                if !replay(&self.0.mirror_in_cut(table, found), &[]).await?.exists() {
                    return Err(gone_meanwhile(table, cut.lsn));
                }
            } else if versions.mirror.is_some() {
                check(&self.0.location(table), table, cut).await?;
            }
            if versions.history.is_some() {
                check(&self.0.history_location(table), table, cut).await?;
            }
        }
        Ok(())
    }
}

/// Versions of tables, each as the newest that has the same rows but for those that were erased since: a table to which
/// nothing happens is not told of its erasures before its next commit.
pub async fn after_erasures(
    lake: &DeltaLake,
    versions: BTreeMap<TableName, Versions>,
) -> Result<BTreeMap<TableName, Versions>> {
    let looking = versions.into_iter().map(|(table, (mirror, history))| async move {
        let mirror = newest(&lake.location(&table), &table, mirror).await?;
        let history = newest(&lake.history_location(&table), &table, history).await?;
        Ok::<_, Error>((table, (mirror, history)))
    });
    stream::iter(looking).buffer_unordered(AT_ONCE).try_collect().await
}

async fn newest(location: &TableLocation, table: &TableName, version: Option<u64>) -> Result<Option<u64>> {
    let Some(version) = version else { return Ok(None) };
    match PastLog::open(location, table).await? {
        Some(log) => log.after_erasures(version).await.map(Some),
        None => Ok(Some(version)),
    }
}

fn gone_meanwhile(table: &TableName, lsn: Lsn) -> Error {
    let why = format!("what was held of {table} was released meanwhile, as by an erasure");
    impossible(lsn, why, "ask for it again")
}

async fn check(location: &TableLocation, table: &TableName, cut: &Cut) -> Result<()> {
    if !holds_in_force(location, SystemTime::now()).await?.contains_key(&cut.name) {
        return Err(gone_meanwhile(table, cut.lsn));
    }
    check_files(location, table, cut.lsn, &objects_of(location, &cut.name).await?).await
}
