//! Which events are wanted: those after one bound, up to another. Bounds are positions of the source's log, or times.

use std::fmt;

use sooner_schemas::temporal::push_zoned;
use sooner_schemas::{Lsn, Position};

use super::facts::RowFacts;

/// How much earlier a transaction's commit time may be than that of one before it in the log: Postgres takes the time
/// before it writes the record. In microseconds.
pub const DISORDER_MICROS: i64 = 10_000_000;

/// One end of a range: whole transactions are on either side of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// By commit LSN.
    Lsn(Lsn),
    /// By commit time, in microseconds since 1970.
    Micros(i64),
}

impl Bound {
    /// Whether a row belongs to a transaction at or before the bound.
    pub fn covers(self, row: &RowFacts) -> bool {
        match self {
            Bound::Lsn(lsn) => row.position.commit_lsn <= lsn,
            Bound::Micros(micros) => row.commit_micros <= micros,
        }
    }

    /// Whether no row that follows one in commit order can be at or before the bound.
    pub fn is_passed_by(self, row: &RowFacts) -> bool {
        match self {
            Bound::Lsn(lsn) => row.position.commit_lsn > lsn,
            Bound::Micros(micros) => row.commit_micros > micros.saturating_add(DISORDER_MICROS),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Lsn(lsn) => lsn.fmt(f),
            Bound::Micros(micros) => f.write_str(&instant(*micros)),
        }
    }
}

/// An instant as ISO 8601 in UTC.
pub fn instant(micros: i64) -> String {
    let mut text = Vec::new();
    push_zoned(&mut text, micros, 6);
    String::from_utf8_lossy(&text).into_owned()
}

/// Where a range begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// After this bound.
    After(Bound),
    /// With the last copy of the whole table that began in time.
    Copy,
}

/// The events that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where they begin.
    pub from: From,
    /// The last transactions that are wanted.
    pub to: Bound,
}

/// The first event that is wanted, once that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first one after this bound.
    After(Bound),
    /// The one at this position.
    At(Position),
}

impl Start {
    /// Whether a row is of that event or a later one.
    pub fn admits(self, row: &RowFacts) -> bool {
        match self {
            Start::After(bound) => !bound.covers(row),
            Start::At(position) => row.position >= position,
        }
    }
}
