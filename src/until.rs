//! A moment or a position of the source's log, as a person writes it.

use std::time::{SystemTime, UNIX_EPOCH};

use sooner_schemas::Lsn;

/// A moment or a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Everything that was committed before this moment.
    Time(SystemTime),
    /// Everything before this position of the source's log.
    Lsn(Lsn),
}

/// Parses a moment or a position, as a person wrote it.
pub fn parse_until(text: &str) -> Result<Until, String> {
    if text == "now" {
        return Ok(Until::Time(SystemTime::now()));
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        return Ok(Until::Lsn(lsn));
    }
    humantime::parse_rfc3339_weak(text)
        .map(Until::Time)
        .map_err(|_| "expected now, a UTC time such as 2026-01-31T22:00:00Z, or an LSN such as 0/16B3748".to_owned())
}

/// A moment in microseconds since 1970; the first one for whatever is earlier, and the last one for what is too late.
pub fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
