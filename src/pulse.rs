//! Whether a pipeline moves, judged by the facts that it tells. Without I/O.

use std::time::Duration;

use sooner_api::{Fact, TableState};
use sooner_schemas::Lsn;

use crate::status::Status;

/// When something was told last, and when something moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// How long nothing may move.
    limit: Duration,
    /// When anything was told, in microseconds since 1970.
    heard_micros: i64,
    /// When a position moved, rows were copied, something was committed, or an attempt began or failed.
    moved_micros: i64,
    /// How far the server's log went then.
    server_end: Lsn,
    /// How much of it the slot had not been confirmed then, in bytes.
    unconfirmed_bytes: u64,
}

impl Pulse {
    /// Nothing was told yet at this moment. What stands still for `limit` is dead.
    pub fn new(now_micros: i64, limit: Duration) -> Pulse {
        Pulse { limit, heard_micros: now_micros, moved_micros: now_micros, ..Pulse::default() }
    }

    /// A fact is told, to a status that has not taken it yet.
    pub fn hear(&mut self, fact: &Fact<'_>, before: &Status, now_micros: i64) {
        self.heard_micros = now_micros;
        if is_movement(fact, before) {
            self.moved_micros = now_micros;
            self.server_end = before.server_end_lsn;
            self.unconfirmed_bytes = unconfirmed_bytes(before);
        }
    }

    /// Since when the loops have stood still although there is something to do, in microseconds since 1970; none if
    /// they turn. Nothing has been told for long; or the server wrote on for as long, and nothing moved.
    pub fn still_since(&self, status: &Status, now_micros: i64) -> Option<i64> {
        let silence = |since: i64| Duration::from_micros(now_micros.saturating_sub(since).max(0).unsigned_abs());
        let is_long = |since: i64| silence(since) >= self.limit;
        let is_copying = status.tables.values().any(|table| table.state == TableState::Copying);
        let is_behind = is_copying || status.durable_lsn < status.server_end_lsn;
        if is_behind && is_long(self.heard_micros) {
            return Some(self.heard_micros);
        }
        let is_written = status.server_end_lsn > self.server_end || unconfirmed_bytes(status) > self.unconfirmed_bytes;
        (is_written && is_long(self.moved_micros)).then_some(self.moved_micros)
    }
}

fn unconfirmed_bytes(status: &Status) -> u64 {
    status.slot.as_ref().map_or(0, |slot| slot.unconfirmed_bytes)
}

/// Whether a fact says that something was done, rather than how things stand.
fn is_movement(fact: &Fact<'_>, before: &Status) -> bool {
    match fact {
        Fact::Received(lsn) => *lsn > before.received_lsn,
        Fact::Durable(lsn) => *lsn != before.durable_lsn,
        Fact::Confirmed(lsn) => *lsn > before.confirmed_flush_lsn,
        Fact::ServerEnd(_)
        | Fact::Slot(_)
        | Fact::Unread { .. }
        | Fact::Coverage { .. }
        | Fact::Memory { .. }
        | Fact::Paused(..)
        | Fact::DeadLetters(_) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::SlotStanding;
    use sooner_schemas::TableName;

    use super::*;
    use crate::status::TableStatus;

    const MINUTE: Duration = Duration::from_secs(60);

    fn behind() -> Status {
        Status { server_end_lsn: Lsn(9), ..Status::default() }
    }

    #[test]
    fn silence_is_death_only_where_there_is_something_to_do() {
        let pulse = Pulse::new(0, MINUTE);
        let at = |status: &Status, micros: i64| pulse.still_since(status, micros);
        assert_eq!(at(&Status::default(), 600_000_000), None);
        assert_eq!(at(&behind(), 600_000_000), Some(0));
        assert_eq!(at(&behind(), 50_000_000), None);
        let mut copying = Status::default();
        copying.tables.insert(TableName::new("public", "t"), TableStatus::new(TableState::Copying));
        assert_eq!(at(&copying, 600_000_000), Some(0));
    }

    #[test]
    fn talk_without_movement_is_death_once_the_server_has_written_on() {
        let (mut pulse, mut status) = (Pulse::new(0, MINUTE), behind());
        pulse.hear(&Fact::Received(Lsn(5)), &status, 1);
        status.received_lsn = Lsn(5);
        for second in 1..600 {
            pulse.hear(&Fact::Received(Lsn(5)), &status, second * 1_000_000);
            pulse.hear(&Fact::ServerEnd(Lsn(9)), &status, second * 1_000_000);
        }
        assert_eq!(pulse.still_since(&status, 600_000_000), None, "the server waits, too: so may a copy");
        status.slot = Some(SlotStanding { unconfirmed_bytes: 7, ..SlotStanding::default() });
        assert_eq!(pulse.still_since(&status, 600_000_000), Some(1));
        pulse.hear(&Fact::Received(Lsn(6)), &status, 599_000_000);
        assert_eq!(pulse.still_since(&status, 600_000_000), None);
    }
}
