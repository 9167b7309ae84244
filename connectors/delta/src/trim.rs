//! Removes from histories what they keep no longer, unless legal holds keep it; beside a running pipeline or without
//! one. Repeating it is safe at any point.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use crate::clock::now_millis;
use crate::history::columns::ChainPlaces;
use crate::lake::DeltaLake;
use crate::legal_holds::{LegalHold, LegalHolds};
pub use crate::log::horizon::{Horizon, Moment, check_within, instant};
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
    /// Whether a copy that has begun has ended, is not known: what was before it stays, as far as it is known.
    pub doubts_copies: bool,
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
            doubts_copies: manner.doubts_copies,
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
