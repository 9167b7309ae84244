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

/// An end of a range of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeEnd {
    /// The last copy of the whole table: a range may begin with it.
    Copy,
    /// Where the source's log ends: a range may end there.
    Now,
    /// A moment or a position.
    At(Until),
}

/// Parses the start of a range of events, as a person wrote it.
pub fn parse_from(text: &str) -> Result<RangeEnd, String> {
    match text {
        "copy" => Ok(RangeEnd::Copy),
        "now" => Err("nothing happened after now".to_owned()),
        _ => parse_until(text).map(RangeEnd::At).map_err(|_| expected("copy")),
    }
}

/// Parses the end of a range of events, as a person wrote it.
pub fn parse_to(text: &str) -> Result<RangeEnd, String> {
    match text {
        "now" => Ok(RangeEnd::Now),
        _ => parse_until(text).map(RangeEnd::At).map_err(|_| expected("now")),
    }
}

fn expected(word: &str) -> String {
    format!("expected {word}, a UTC time such as 2026-01-31T22:00:00Z, or an LSN such as 0/16B3748")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_a_range_are_positions_times_or_words() {
        assert_eq!(parse_from("copy"), Ok(RangeEnd::Copy));
        assert_eq!(parse_from("0/AB"), Ok(RangeEnd::At(Until::Lsn(Lsn(0xAB)))));
        assert_eq!(parse_to("now"), Ok(RangeEnd::Now));
        assert!(parse_from("now").is_err());
        assert!(parse_to("copy").unwrap_err().contains("UTC"));
    }
}
