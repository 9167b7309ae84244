//! Offsets that each watermark covers, kept until the watermark is durable and then committed to the consumer
//! group. Only tools that show lag read the group's offsets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sooner_schemas::Lsn;

use crate::cluster::topic_partition::Offsets;

/// A note is added at most this often; one that comes sooner replaces the latest.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most notes that are kept while no watermark becomes durable.
const MOST: usize = 64;

/// Watermarks that were handed on and are not durable yet, each with the offsets that it covers.
#[derive(Default)]
pub struct OffsetsInFlight {
    notes: VecDeque<(Lsn, Offsets)>,
    last: Option<Instant>,
}

impl OffsetsInFlight {
    /// Notes the offsets that a watermark covers. Soon after the last note that was added, or when no more can be
    /// kept, the new one replaces the latest.
    pub fn note(&mut self, end_lsn: Lsn, positions: Offsets) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) || self.notes.len() >= MOST {
            self.notes.pop_back();
        } else {
            self.last = Some(Instant::now());
        }
        self.notes.push_back((end_lsn, positions));
    }

    /// Takes the offsets of the last watermark at or below `durable_lsn`; none if no watermark has become durable
    /// since the last call.
    pub fn take(&mut self, durable_lsn: Lsn) -> Option<Offsets> {
        let mut reached = None;
        while self.notes.front().is_some_and(|(lsn, _)| *lsn <= durable_lsn) {
            reached = self.notes.pop_front();
        }
        reached.map(|(_, positions)| positions)
    }

    /// Forgets all notes.
    pub fn clear(&mut self) {
        *self = OffsetsInFlight::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_durable_is_taken_and_the_rest_stays_bounded() {
        let mut delivered = OffsetsInFlight::default();
        let at = |offset| Offsets::from([(("t".to_owned(), 0), offset)]);
        delivered.note(Lsn(10), at(1));
        assert_eq!(delivered.take(Lsn(9)), None);
        delivered.note(Lsn(20), at(2));
        assert_eq!(delivered.take(Lsn(15)), None, "the later one took its place");
        assert_eq!(delivered.take(Lsn(20)), Some(at(2)));
        for lsn in 0..1000 {
            delivered.last = None;
            delivered.note(Lsn(lsn), at(0));
        }
        assert_eq!(delivered.notes.len(), MOST);
    }
}
