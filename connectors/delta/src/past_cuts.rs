//! Cuts at positions that have passed: made from the tables' logs alone, whether a pipeline runs or not.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use sooner_api::{Error, Result};
use sooner_schemas::{Lsn, TableName};

use crate::cuts::{Cut, Versions};
use crate::lake::DeltaLake;
use crate::maintenance::holds::objects_of;
use crate::maintenance::past::{COPIED_MICROS, PastLog, PastVersion, check_files, impossible};
use crate::store::location::TableLocation;

/// Logs of tables that are looked at together.
const AT_ONCE: usize = 16;

/// What a cut at a past position is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastCut {
    /// Position.
    pub lsn: Lsn,
    /// Commit time of the latest position at or before it that a table's log knows, in microseconds since 1970.
    pub commit_micros: i64,
    /// Versions of its tables.
    pub versions: BTreeMap<TableName, Versions>,
}

impl DeltaLake {
    /// The latest position that one of these tables' logs knows to be committed at or before a moment, in microseconds
    /// since 1970; none if none knows any.
    pub async fn position_at(&self, tables: &[TableName], micros: i64) -> Result<Option<Lsn>> {
        let mut latest = None;
        for table in tables {
            for location in [self.location(table), self.history_location(table)] {
                if let Some(log) = PastLog::open(&location, table).await? {
                    latest = latest.max(log.position_at(micros).await?.map(|(lsn, _)| lsn));
                }
            }
        }
        Ok(latest)
    }

    /// For each of these tables the version that is exactly a past position; an operator error if one has none. Each is
    /// told with whether everything up to there was in the lake before this is called.
    pub async fn past_cut(&self, lsn: Lsn, tables: &[(TableName, bool)]) -> Result<PastCut> {
        let (mut versions, mut known, mut copied) = (BTreeMap::new(), None, Vec::new());
        for (table, is_complete) in tables {
            let mut found = [None, None];
            for (place, location) in [self.location(table), self.history_location(table)].iter().enumerate() {
                let Some(log) = PastLog::open(location, table).await? else { continue };
                let past: PastVersion = log.version_at(lsn, *is_complete).await?;
                known = known.max(past.known);
                copied.extend(past.settled_after.map(|after| (table, after)));
                found[place] = Some(past.version);
            }
            if found == [None, None] {
                let why = format!("there is no table {table} in the lake");
                return Err(impossible(lsn, why, "see `sooner status` for the tables, and name those that are meant"));
            }
            versions.insert(table.clone(), (found[0], found[1]));
        }
        let commit_micros = known.map_or(0, |(_, micros)| micros);
        if let Some((table, _)) = copied.iter().find(|(_, after)| commit_micros < *after) {
            let why = format!("rows of {table} were copied again over others at about that time");
            let minutes = COPIED_MICROS / 60_000_000;
            return Err(impossible(lsn, why, &format!("choose a position at least {minutes} minute(s) later")));
        }
        Ok(PastCut { lsn, commit_micros, versions })
    }

    /// An error if files of a cut's versions, which are held, had been deleted before they were.
    pub async fn check_held(&self, cut: &Cut) -> Result<()> {
        for (table, versions) in &cut.tables {
            if versions.mirror.is_some() {
                check(&self.location(table), table, cut).await?;
            }
            if versions.history.is_some() {
                check(&self.history_location(table), table, cut).await?;
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

async fn check(location: &TableLocation, table: &TableName, cut: &Cut) -> Result<()> {
    check_files(location, table, cut.lsn, &objects_of(location, &cut.name).await?).await
}
