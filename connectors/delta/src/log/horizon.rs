//! Since when a history is whole: what had been superseded by then was removed from it, as `keep_history` says. A
//! property of the history has it, and is set by the commit that removes the rows.

use arrow_array::temporal_conversions::timestamp_us_to_datetime;
use arrow_cast::parse::string_to_timestamp_nanos;
use serde_json::{Map, Value, json};
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, TableName};

/// The property, whose value is a JSON object.
const PROPERTY: &str = "sooner.historyFrom";

/// A moment from which on a history can tell what its table was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Commit LSN of the last event before it.
    pub lsn: Lsn,
    /// Commit time of the latest of these events, in microseconds since 1970.
    pub micros: i64,
    /// When rows were removed, by the clock of whoever did so, in milliseconds since 1970.
    pub trimmed_millis: i64,
}

impl Horizon {
    /// What a history's metadata says; none if nothing was removed yet.
    pub fn of(metadata: &Value) -> Option<Horizon> {
        let text = metadata.get("configuration")?.get(PROPERTY)?.as_str()?;
        let told: Value = serde_json::from_str(text).ok()?;
        Some(Horizon {
            lsn: told.get("lsn")?.as_str()?.parse().ok()?,
            micros: micros_of(told.get("time")?.as_str()?)?,
            trimmed_millis: told.get("trimmedMillis")?.as_i64()?,
        })
    }

    /// Says so in a history's metadata.
    pub fn set(&self, metadata: &mut Value) {
        if !metadata["configuration"].is_object() {
            metadata["configuration"] = Value::Object(Map::new());
        }
        let told = json!({"time": self.instant(), "lsn": self.lsn, "trimmedMillis": self.trimmed_millis});
        metadata["configuration"][PROPERTY] = json!(told.to_string());
    }

    /// Its moment, as RFC 3339 has it.
    pub fn instant(&self) -> String {
        instant(self.micros)
    }
}

/// A time in microseconds since 1970, as RFC 3339 has it.
pub fn instant(micros: i64) -> String {
    let time = timestamp_us_to_datetime(micros).map(|time| time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string());
    time.unwrap_or_else(|| format!("{micros} microseconds after 1970"))
}

/// Microseconds since 1970 of a time that is written as RFC 3339 has it, or as statistics of data files do; none if it
/// is none, or a long time away.
pub fn micros_of(time: &str) -> Option<i64> {
    string_to_timestamp_nanos(time).ok().map(|nanos| nanos.div_euclid(1000))
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
    pub fn is_before(&self, (lsn, committed): (Lsn, i64)) -> bool {
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
        Moment::Lsn(lsn) => (*lsn >= horizon.lsn.0, Lsn(*lsn).to_string()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_horizon_is_read_as_it_was_set() {
        let mut metadata = json!({"configuration": {"owner": "sales"}});
        assert_eq!(Horizon::of(&metadata), None);
        let horizon = Horizon { lsn: Lsn(0x16_B374_D848), micros: 1_767_225_600_123_456, trimmed_millis: 77 };
        assert_eq!(horizon.instant(), "2026-01-01T00:00:00.123456Z");
        horizon.set(&mut metadata);
        assert_eq!(Horizon::of(&metadata), Some(horizon));
        assert_eq!(metadata["configuration"]["owner"], "sales");
        metadata["configuration"][PROPERTY] = json!("yesterday");
        assert_eq!(Horizon::of(&metadata), None);
        assert_eq!(micros_of("1970-01-01T00:00:01.5+00:00"), Some(1_500_000));
    }

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
