//! Since when a history is whole: what had been superseded by then was removed from it, as `keep_history` says. A
//! property of the history has it, and is set by the commit that removes the rows.

use arrow_array::temporal_conversions::timestamp_us_to_datetime;
use arrow_cast::parse::string_to_timestamp_nanos;
use serde_json::{Map, Value, json};
use sooner_schemas::Lsn;

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
}
