//! Positions in Postgres' write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A log sequence number: a byte offset into the write-ahead log, written as two hexadecimal halves (`16/B374D848`).
///
/// <https://www.postgresql.org/docs/current/datatype-pg-lsn.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// "No position", as Postgres writes it: `0/0`.
    pub const ZERO: Lsn = Lsn(0);

    /// The highest `commit_lsn` before an end LSN: a transaction whose commit record starts exactly there comes later.
    pub fn last_before(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// Bytes of log between `earlier` and `self`; zero if `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Error: the text is not two hexadecimal numbers with a slash between.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("'{0}' is not an LSN; expected two hexadecimal numbers with a slash between, such as 16/B374D848")]
pub struct BadLsn(String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Lsn, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Lsn((u64::from(high) << 32) | u64::from(low)))
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

impl TryFrom<String> for Lsn {
    type Error = BadLsn;

    fn try_from(text: String) -> Result<Lsn, BadLsn> {
        text.parse()
    }
}

/// Position of an event: unique, and totally ordered in commit order.
///
/// A per-row LSN would not do: rows share LSNs, and the LSNs of concurrent transactions interleave. Copied rows follow
/// the transaction after which they joined the stream: they bear its LSN, and ordinals that no change of it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// LSN of the transaction's commit record.
    pub commit_lsn: Lsn,
    /// Index of the event within its transaction, from 0; for what a copy sends, from
    /// [`FIRST_COPIED`](Position::FIRST_COPIED).
    pub ordinal: u64,
}

impl Position {
    /// Ordinals of copied rows, and of the start of a copy, begin here.
    pub const FIRST_COPIED: u64 = 1 << 40;

    /// Whether it is that of a copied row, or of the start of a copy.
    pub fn is_copied(self) -> bool {
        self.ordinal >= Position::FIRST_COPIED && self.ordinal < u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_postgres_own() {
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!("0/0".parse(), Ok(Lsn::ZERO));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "16", "16/", "/1", "x/1", "1/100000000", "1/2/3"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
