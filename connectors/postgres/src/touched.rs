//! How copied rows join the stream: a row that the stream has changed since before the copy saw it is left out.
//! Without I/O.
//!
//! A row was read by a snapshot, and is handed on after events of the stream. Those of transactions that the snapshot
//! sees are part of the row. One that it does not see is newer than the row, and has been handed on already; so the row
//! must not follow it. Events that come later replace the row, whether or not the snapshot saw them.

use std::collections::HashMap;

use sooner_schemas::Lsn;
use sooner_schemas::event::{Op, TableEvents};

use crate::chunk::CopiedRows;
use crate::unseen::Unseen;
use crate::visibility::Visibility;

/// Keys of a table that are remembered at most.
const LIMIT: usize = 500_000;

/// What the stream has changed of a table that is being copied, as far as a snapshot may not see it.
#[derive(Debug)]
pub struct Touched {
    /// Keys that were changed at or after this LSN are known.
    from: Lsn,
    /// The last change of each key: the key's message, and the commit LSN.
    keys: HashMap<Box<[u8]>, Lsn>,
    /// The last change of the whole table.
    truncated: Option<Lsn>,
}

impl Touched {
    /// Knows of changes from an LSN on: everything before it must be seen by a snapshot that rows are read under.
    pub fn since(from: Lsn) -> Touched {
        Touched { from, keys: HashMap::new(), truncated: None }
    }

    /// Takes note of events that are handed on.
    pub fn note(&mut self, events: &TableEvents) {
        for event in &events.events {
            let commit_lsn = event.position.commit_lsn;
            match event.op {
                Op::Truncate => {
                    self.truncated = Some(commit_lsn);
                    self.keys.clear();
                }
                _ => {
                    if self.keys.len() >= LIMIT {
                        // Snapshots that do not see this transaction are refused from here on.
                        self.from = Lsn(commit_lsn.0 + 1);
                        self.keys.clear();
                    }
                    self.keys.insert(events.bytes[event.key.clone()].into(), commit_lsn);
                }
            }
        }
    }

    /// Forgets changes that every snapshot sees.
    pub fn forget(&mut self, unseen: &Unseen) {
        self.keys.retain(|_, commit_lsn| unseen.holds(*commit_lsn));
        self.truncated = self.truncated.filter(|commit_lsn| unseen.holds(*commit_lsn));
    }

    /// Whether rows that were read under a snapshot can join at all: it sees every change whose keys are not known.
    pub fn admits(&self, snapshot: &Visibility, unseen: &Unseen) -> bool {
        !unseen.misses_before(snapshot, self.from)
    }

    /// Leaves out the rows that have been changed by transactions that their snapshot does not see.
    pub fn keep_current(&self, rows: &mut CopiedRows, snapshot: &Visibility, unseen: &Unseen) {
        if self.truncated.is_some_and(|commit_lsn| !unseen.is_seen(snapshot, commit_lsn)) {
            rows.rows.clear();
            return;
        }
        if self.keys.is_empty() {
            return;
        }
        let bytes = &rows.bytes;
        rows.rows.retain(|row| {
            self.keys.get(&bytes[row.key.clone()]).is_none_or(|commit_lsn| unseen.is_seen(snapshot, *commit_lsn))
        });
    }
}
