//! The transaction of the stream that is being read: it numbers its changes.

use sooner_schemas::encode::{Origin, Snapshot};
use sooner_schemas::{Lsn, Position};

/// A transaction whose commit has not been read.
pub struct OpenTransaction {
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// When it was committed, in microseconds since 1970.
    pub commit_micros: i64,
    /// Its id.
    pub xid: u32,
    /// Number of changes so far, including those of ignored tables, so that a transaction sent again numbers its
    /// events the same.
    pub changes: u64,
    /// It ends before the position to start at: nothing of it is carried.
    pub is_former: bool,
}

impl OpenTransaction {
    /// Counts the next change, whose log record starts at `lsn`, and says where its event comes from.
    pub fn next(&mut self, lsn: Lsn, now_micros: i64) -> Origin {
        let position = Position { commit_lsn: self.commit_lsn, ordinal: self.changes * 2 };
        self.changes += 1;
        Origin { position, lsn, xid: self.xid, source_micros: self.commit_micros, now_micros, snapshot: Snapshot::No }
    }
}
