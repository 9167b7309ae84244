//! Which events a commit holds, as its `commitInfo` tells: by that, the version of a past position is found.

use serde_json::{Value, json};
use sooner_schemas::Lsn;
use sooner_schemas::event::{Event, Watermark};

/// Events of a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Commit LSNs of the first and of the last one; none without events. They may be further apart than those of the
    /// events that count.
    pub events: Option<(Lsn, Lsn)>,
    /// Whether some are copied rows, which may be as they were later than their position.
    pub has_copied: bool,
}

impl Span {
    /// Takes in events.
    pub fn note(&mut self, events: &[Event]) {
        for event in events {
            let lsn = event.position.commit_lsn;
            let (first, last) = self.events.unwrap_or((lsn, lsn));
            self.events = Some((first.min(lsn), last.max(lsn)));
            self.has_copied |= event.position.is_copied();
        }
    }

    /// The commit ends a copy of the whole table: all rows are as they were at the watermark, at the latest.
    pub fn end_copy(&mut self, watermark: Watermark) {
        let first = self.events.map_or(watermark.commit_lsn, |(first, _)| first);
        *self = Span { events: Some((first, watermark.commit_lsn)), has_copied: false };
    }

    /// What a commit that is complete to a watermark tells of itself.
    pub fn told(&self, watermark: Watermark) -> Value {
        let events = self.events.map(|(first, last)| json!({"first": first, "last": last}));
        let mut told =
            json!({"watermark": watermark.commit_lsn, "commitMicros": watermark.commit_micros, "events": events});
        if self.has_copied {
            told["copied"] = json!(true);
        }
        told
    }
}
