//! Whether a pipeline moves, judged by the facts that it tells. Without I/O.

use std::time::Duration;

use sooner_api::Fact;
use sooner_schemas::Lsn;

/// Where a pipeline stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Where the server's log ends.
    pub server_end: Lsn,
    /// Up to where it has been read.
    pub received: Lsn,
    /// Up to where it is in the lake.
    pub durable: Lsn,
    /// Up to where the slot has been confirmed.
    pub confirmed: Lsn,
    /// How much of its log the slot had not been confirmed when it was looked at, in bytes.
    pub unconfirmed_bytes: u64,
}

/// When something was told last, and when something moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// How long nothing may move.
    limit: Duration,
    /// When anything was told, in microseconds since 1970.
    heard_micros: i64,
    /// When a position moved, rows were copied, something was committed, or an attempt began or failed.
    moved_micros: i64,
    /// Where the pipeline stood then.
    stood: Standing,
}

impl Pulse {
    /// Nothing was told yet at this moment. What stands still for `limit` is dead.
    pub fn new(now_micros: i64, limit: Duration) -> Pulse {
        Pulse { limit, heard_micros: now_micros, moved_micros: now_micros, ..Pulse::default() }
    }

    /// A fact is told of a pipeline that stood here before.
    pub fn hear(&mut self, fact: &Fact<'_>, before: Standing, now_micros: i64) {
        self.heard_micros = now_micros;
        if is_movement(fact, before) {
            self.moved_micros = now_micros;
            self.stood = before;
        }
    }

    /// Since when the loops have stood still although there is something to do, in microseconds since 1970; none if
    /// they turn. Nothing has been told for long; or the server wrote on for as long, and nothing moved. `is_copying`
    /// says that a table is being copied.
    pub fn still_since(&self, stands: Standing, is_copying: bool, now_micros: i64) -> Option<i64> {
        let silence = |since: i64| Duration::from_micros(now_micros.saturating_sub(since).max(0).unsigned_abs());
        let is_long = |since: i64| silence(since) >= self.limit;
        let is_behind = is_copying || stands.durable < stands.server_end;
        if is_behind && is_long(self.heard_micros) {
            return Some(self.heard_micros);
        }
        let is_written =
            stands.server_end > self.stood.server_end || stands.unconfirmed_bytes > self.stood.unconfirmed_bytes;
        (is_written && is_long(self.moved_micros)).then_some(self.moved_micros)
    }
}

/// Whether a fact says that something was done, rather than how things stand.
fn is_movement(fact: &Fact<'_>, before: Standing) -> bool {
    match fact {
        Fact::Received(lsn) => *lsn > before.received,
        Fact::Durable(lsn) => *lsn != before.durable,
        Fact::Confirmed(lsn) => *lsn > before.confirmed,
        Fact::ServerEnd(_)
        | Fact::Slot(_)
        | Fact::Unread { .. }
        | Fact::Coverage { .. }
        | Fact::Memory { .. }
        | Fact::Paused(..)
        | Fact::Standby(_)
        | Fact::Throttled(..)
        | Fact::Topic(..)
        | Fact::Shape(..)
        | Fact::DeadLetters(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn behind() -> Standing {
        Standing { server_end: Lsn(9), ..Standing::default() }
    }

    #[test]
    fn silence_is_death_only_where_there_is_something_to_do() {
        let pulse = Pulse::new(0, MINUTE);
        assert_eq!(pulse.still_since(Standing::default(), false, 600_000_000), None);
        assert_eq!(pulse.still_since(behind(), false, 600_000_000), Some(0));
        assert_eq!(pulse.still_since(behind(), false, 50_000_000), None);
        assert_eq!(pulse.still_since(Standing::default(), true, 600_000_000), Some(0));
    }

    #[test]
    fn talk_without_movement_is_death_once_the_server_has_written_on() {
        let (mut pulse, mut stands) = (Pulse::new(0, MINUTE), behind());
        pulse.hear(&Fact::Received(Lsn(5)), stands, 1);
        stands.received = Lsn(5);
        for second in 1..600 {
            pulse.hear(&Fact::Received(Lsn(5)), stands, second * 1_000_000);
            pulse.hear(&Fact::ServerEnd(Lsn(9)), stands, second * 1_000_000);
        }
        assert_eq!(pulse.still_since(stands, false, 600_000_000), None, "the server waits, too: so may a copy");
        stands.unconfirmed_bytes = 7;
        assert_eq!(pulse.still_since(stands, false, 600_000_000), Some(1));
        pulse.hear(&Fact::Received(Lsn(6)), stands, 599_000_000);
        assert_eq!(pulse.still_since(stands, false, 600_000_000), None);
    }
}
