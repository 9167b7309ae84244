//! Which transactions a snapshot sees.
//!
//! The order of the log is not that of visibility: a transaction whose commit waits for a synchronous standby is in the
//! stream before any snapshot sees it.
//!
//! <https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-PG-SNAPSHOT-PARTS>

use std::collections::HashSet;

use crate::errors::protocol;

/// The transactions that a snapshot sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visibility {
    /// The first transaction that had not been assigned when the snapshot was taken.
    end: u64,
    /// Earlier ones that had not ended.
    running: HashSet<u64>,
}

impl Visibility {
    /// Parses what `pg_current_snapshot()` returns: `xmin:xmax:xip_list`.
    pub fn parse(text: &str) -> sooner_api::Result<Visibility> {
        let malformed = || protocol("cannot understand a snapshot", format!("'{text}' is not the expected text"));
        let mut parts = text.split(':');
        let (Some(_), Some(end), Some(running), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(malformed());
        };
        let running = running.split(',').filter(|xid| !xid.is_empty());
        let running = running.map(|xid| xid.parse().map_err(|_| malformed())).collect::<sooner_api::Result<_>>()?;
        Ok(Visibility { end: end.parse().map_err(|_| malformed())?, running })
    }

    /// Whether it sees a transaction that has committed, given its id as the stream has it: without the epoch.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.with_epoch(xid);
        xid < self.end && !self.running.contains(&xid)
    }

    /// Whether it sees everything that another one sees.
    pub fn sees_all_of(&self, other: &Visibility) -> bool {
        let misses = |xid: &u64| *xid < other.end && !other.running.contains(xid);
        !self.running.iter().any(misses) && !(self.end..other.end).any(|xid| misses(&xid))
    }

    /// The full id that is nearest to the snapshot's end: ids wrap around after 2³².
    fn with_epoch(&self, xid: u32) -> u64 {
        let distance = xid.wrapping_sub(self.end as u32) as i32;
        self.end.saturating_add_signed(distance.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Visibility {
        Visibility::parse(text).unwrap()
    }

    #[test]
    fn what_had_ended_is_seen() {
        let snapshot = parse("10:20:10,14");
        let seen: Vec<_> = (8..22).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]);
        assert!(parse("20:20:").sees(19) && !parse("20:20:").sees(20));
    }

    #[test]
    fn ids_wrap_around() {
        let snapshot = parse("4294967290:4294967300:4294967295");
        assert!(snapshot.sees(4_294_967_294) && !snapshot.sees(4_294_967_295));
        assert!(snapshot.sees(3) && !snapshot.sees(4) && !snapshot.sees(100));
    }

    #[test]
    fn a_later_snapshot_sees_more_unless_a_commit_still_waits() {
        let slot = parse("10:20:12");
        assert!(parse("20:20:").sees_all_of(&slot));
        assert!(parse("12:20:12").sees_all_of(&slot), "12 ran for both");
        assert!(!parse("15:20:15").sees_all_of(&slot), "15 waits for its standby");
        assert!(!parse("19:19:").sees_all_of(&slot), "so does 19");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "1:2", "1:2:3:4", "a:b:", "1:x:", "1:2:y"] {
            assert!(Visibility::parse(text).is_err(), "{text}");
        }
    }
}
