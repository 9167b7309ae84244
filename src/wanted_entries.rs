//! Which entries of the audit trail somebody wants to see.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sooner_api::Clock;
use sooner_delta::audit::chain::ChainedEntry;

use crate::clock::SystemClock;

/// Which entries are wanted; all that nothing is said of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// Of a kind.
    pub kind: Option<String>,
    /// Of a table: schema.table
    pub table: Option<String>,
    /// Of this moment and later ones, in microseconds since 1970.
    pub since_micros: Option<i64>,
}

impl Wanted {
    /// Entries of a kind, of a table and of the last while; of all that nothing is said of.
    pub fn new(kind: Option<String>, table: Option<String>, since: Option<Duration>) -> Wanted {
        let since_micros = since.map(|since| SystemClock.now_micros().saturating_sub(since.as_micros() as i64));
        Wanted { kind, table, since_micros }
    }

    /// Whether an entry is wanted.
    pub fn has(&self, chained: &ChainedEntry) -> bool {
        let is = |asked: &Option<String>, has: Option<&str>| asked.as_deref().is_none_or(|asked| has == Some(asked));
        let entry = &chained.entry;
        is(&self.kind, Some(&entry.kind))
            && is(&self.table, entry.table.as_deref())
            && self.since_micros.is_none_or(|since| entry.at_micros >= since)
    }
}
