//! Removes from histories what they keep no longer, unless legal holds keep it; beside a running pipeline or without
//! one. Repeating it is safe at any point.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use crate::clock::now_millis;
use crate::history::columns::ChainPlaces;
use crate::lake::DeltaLake;
use crate::legal_holds::{LegalHold, LegalHolds};
use crate::log::horizon::micros_of;
pub use crate::log::horizon::{Horizon, instant};
use crate::log::replay::replay;
use crate::maintenance::holds::holds_in_force;
use crate::trimming::held::HeldSubject;
use crate::trimming::rewriting::Trim;
pub use crate::trimming::rewriting::Trimmed;

/// What became of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrimOutcome {
    /// What is older than it keeps was removed, as far as no hold keeps it.
    Trimmed(Trimmed),
    /// Nothing was: these holds keep the whole table.
    Held(Vec<String>),
}

/// How a history is trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// It is only found out what would go.
    pub is_dry: bool,
    /// All that is old is judged, also what was judged before.
    pub judges_all: bool,
}

/// The histories of a lake.
#[derive(Clone, Copy, Debug)]
pub struct Trims<'a>(&'a DeltaLake);

/// Holds of a table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holds {
    /// Of the whole table.
    of_table: Vec<String>,
    of_subjects: Vec<HeldSubject>,
    /// When the last one of a subject ended that is not in force any more, in milliseconds since 1970.
    ended_millis: Option<i64>,
}

impl<'a> Trims<'a> {
    /// Of this lake.
    pub fn of(lake: &'a DeltaLake) -> Trims<'a> {
        Trims(lake)
    }

    /// When a table's history was last trimmed, and since when it is whole then; none if nothing was ever removed. An
    /// outer none if this pipeline made no such history.
    pub async fn horizon(&self, table: &TableName) -> Result<Option<Option<Horizon>>> {
        let version = replay(&self.0.history_location(table), &[]).await?;
        Ok(version.is_made_by(self.0.pipeline()).then(|| Horizon::of(version.metadata())))
    }

    /// Removes from a table's history what is older than `keep` and no longer known at that moment; none if this
    /// pipeline made no such history. An operator error if its rows are chained, since of a chain no row may be
    /// missing; or if they had another key before, since it is not known then which of them belong together.
    pub async fn trim(&self, table: &TableName, keep: Duration, manner: Manner) -> Result<Option<TrimOutcome>> {
        let version = replay(&self.0.history_location(table), &[]).await?;
        if !version.is_made_by(self.0.pipeline()) {
            return Ok(None);
        }
        if ChainPlaces::of(version.columns()).is_some() {
            return Err(chained(table));
        }
        if version.provenance().key_changed {
            return Err(other_key(table));
        }
        let horizon = Horizon::of(version.metadata());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let cutoff_micros = i64::try_from(now.saturating_sub(keep).as_micros()).unwrap_or_default();
        let holds = self.holds(table).await?;
        if !holds.of_table.is_empty() {
            return Ok(Some(TrimOutcome::Held(holds.of_table)));
        }
        let has_ended = |horizon: Horizon| holds.ended_millis.is_some_and(|ended| ended >= horizon.trimmed_millis);
        let trim = Trim {
            location: &self.0.history_location(table),
            table,
            pipeline: self.0.pipeline(),
            settings: self.0.settings(),
            held: &holds.of_subjects,
            cutoff_micros,
            judges_all: manner.judges_all || horizon.is_some_and(has_ended),
            is_dry: manner.is_dry,
        };
        // A hold that is made while files are read counts, too.
        let trimmed = trim.run(async || Ok(self.holds(table).await? == holds)).await?;
        Ok(Some(TrimOutcome::Trimmed(trimmed)))
    }

    async fn holds(&self, table: &TableName) -> Result<Holds> {
        let mut holds = Holds::default();
        for (name, hold) in holds_in_force(&self.0.history_location(table), SystemTime::now()).await? {
            if hold.everything {
                let name = name.strip_prefix(crate::legal_holds::LEGAL).unwrap_or(&name);
                holds.of_table.push(name.to_owned());
            }
        }
        for hold in LegalHolds::of(self.0).all().await? {
            if hold.is_in_force() && hold.tables.contains(table) && !holds.of_table.contains(&hold.name) {
                // Of a history that is younger than the hold.
                holds.of_table.push(hold.name.clone());
            }
            let Some(subject) = hold.subject.clone().filter(|subject| subject.concerns(table)) else { continue };
            match hold.is_in_force() {
                true => holds.of_subjects.push(HeldSubject { hold: hold.name, subject }),
                false => holds.ended_millis = holds.ended_millis.max(ended_millis(&hold)),
            }
        }
        Ok(holds)
    }
}

/// When a hold ended that is not in force any more.
fn ended_millis(hold: &LegalHold) -> Option<i64> {
    let ends = [hold.until_millis, hold.released.as_ref().map(|released| released.at_millis)];
    ends.into_iter().flatten().filter(|end| *end <= now_millis()).min()
}

/// A moment that somebody wants to know a history's table as of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment<'a> {
    /// A commit LSN.
    Lsn(u64),
    /// A time, written as RFC 3339.
    Time(&'a str),
    /// A time, in microseconds since 1970.
    Micros(i64),
}

impl Moment<'_> {
    /// Whether it is before a position, and its commit time in microseconds since 1970.
    pub fn is_before(&self, (lsn, committed): (sooner_schemas::Lsn, i64)) -> bool {
        match self {
            Moment::Lsn(moment) => *moment < lsn.0,
            Moment::Time(time) => micros_of(time).is_none_or(|micros| micros < committed),
            Moment::Micros(micros) => *micros < committed,
        }
    }
}

/// An operator error if a moment is before the horizon of a table's history.
pub fn check_within(table: &TableName, horizon: Option<Horizon>, moment: &Moment<'_>) -> Result<()> {
    let Some(horizon) = horizon else { return Ok(()) };
    let (is_within, told) = match moment {
        Moment::Lsn(lsn) => (*lsn >= horizon.lsn.0, sooner_schemas::Lsn(*lsn).to_string()),
        Moment::Time(time) => (micros_of(time).is_some_and(|micros| micros >= horizon.micros), (*time).to_owned()),
        Moment::Micros(micros) => (*micros >= horizon.micros, instant(*micros)),
    };
    if is_within {
        return Ok(());
    }
    Err(Error::operator(
        Code::HistoryTrimmed,
        format!("cannot tell what {table} was at {told}"),
        format!(
            "its history reaches back to {} (LSN {}): what was superseded by then was removed, as keep_history says",
            horizon.instant(),
            horizon.lsn
        ),
        "choose a later moment; a cut that was made before still has the table as it was (`sooner cut list`)",
    ))
}

fn other_key(table: &TableName) -> Error {
    Error::operator(
        Code::HistoryKeyChanged,
        format!("cannot remove what the history of {table} keeps no longer"),
        "its rows had another key before, so that it is not certain which of them are states of the same row",
        format!(
            "leave keep_history out for this table; or move the history away, and `sooner copy {table}` begins another"
        ),
    )
}

fn chained(table: &TableName) -> Error {
    Error::operator(
        Code::HistoryChained,
        format!("cannot remove what the history of {table} keeps no longer"),
        "its rows are chained, or were, and of a chain no row may be missing",
        "leave keep_history out for this table",
    )
}

#[cfg(test)]
mod tests {
    use sooner_schemas::Lsn;

    use super::*;

    #[test]
    fn a_moment_before_the_horizon_is_refused_and_the_horizon_is_told() {
        let table = TableName::new("public", "t");
        let horizon = Some(Horizon { lsn: Lsn(0x100), micros: 5_000_000, trimmed_millis: 0 });
        let check = |moment| check_within(&table, horizon, &moment);
        for within in [Moment::Lsn(0x100), Moment::Time("1970-01-01T00:00:05Z"), Moment::Micros(5_000_000)] {
            assert_eq!(check(within), Ok(()));
        }
        for before in [Moment::Lsn(0xff), Moment::Time("1970-01-01T00:00:04.999999Z"), Moment::Micros(4_999_999)] {
            let error = check(before).unwrap_err();
            assert_eq!(error.code, Code::HistoryTrimmed);
            assert!(error.why.contains("1970-01-01T00:00:05.000000Z (LSN 0/100)"), "{error}");
        }
        assert_eq!(check_within(&table, None, &Moment::Lsn(0)), Ok(()));
    }
}
