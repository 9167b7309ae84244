//! Transactions that have been read from the stream, and that a snapshot may not see yet. Without I/O.

use std::collections::VecDeque;

use sooner_api::{Code, Error, Result};
use sooner_schemas::Lsn;

use crate::visibility::Visibility;

/// Transactions that are remembered at most: about 64 MiB. They are forgotten every few seconds.
const LIMIT: usize = 4 << 20;

/// A transaction of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Where its commit record starts.
    pub commit_lsn: Lsn,
    /// Its id, without the epoch.
    pub xid: u32,
}

/// Transactions in commit order, of which not every snapshot in use is known to see the changes.
#[derive(Debug, Default)]
pub struct Unseen(VecDeque<Ended>);

impl Unseen {
    /// Takes transactions that were read, in commit order. An error if there are too many: then the server has not
    /// answered for long which of them it lets snapshots see.
    pub fn extend(&mut self, ended: impl IntoIterator<Item = Ended>) -> Result<()> {
        self.0.extend(ended);
        if self.0.len() <= LIMIT {
            return Ok(());
        }
        Err(Error::retry(
            Code::PostgresUnavailable,
            "cannot follow the stream",
            format!("the server has not said for {LIMIT} transactions which of them are visible"),
            "see why queries of the catalog fail (debug log); it is tried again",
        ))
    }

    /// Forgets what all of these snapshots see: the latest one, and those that are still in use.
    pub fn forget<'a>(&mut self, snapshots: impl Iterator<Item = &'a Visibility> + Clone) {
        self.0.retain(|ended| !snapshots.clone().all(|snapshot| snapshot.sees(ended.xid)));
    }

    /// The first transaction that is not known to be visible: before it, everything is.
    pub fn first(&self) -> Option<Lsn> {
        self.0.front().map(|ended| ended.commit_lsn)
    }

    /// Whether a snapshot misses a transaction of the stream before an LSN.
    pub fn misses_before(&self, snapshot: &Visibility, lsn: Lsn) -> bool {
        self.0.iter().take_while(|ended| ended.commit_lsn < lsn).any(|ended| !snapshot.sees(ended.xid))
    }

    /// Whether a snapshot sees the transaction with this commit LSN, which was read from the stream.
    pub fn is_seen(&self, snapshot: &Visibility, commit_lsn: Lsn) -> bool {
        self.find(commit_lsn).is_none_or(|ended| snapshot.sees(ended.xid))
    }

    /// Whether a transaction is remembered.
    pub fn holds(&self, commit_lsn: Lsn) -> bool {
        self.find(commit_lsn).is_some()
    }

    fn find(&self, commit_lsn: Lsn) -> Option<&Ended> {
        let index = self.0.binary_search_by_key(&commit_lsn, |ended| ended.commit_lsn).ok()?;
        self.0.get(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(commit_lsn: u64, xid: u32) -> Ended {
        Ended { commit_lsn: Lsn(commit_lsn), xid }
    }

    #[test]
    fn a_commit_that_waits_for_its_standby_is_remembered_until_snapshots_see_it() {
        let mut unseen = Unseen::default();
        unseen.extend([ended(100, 7), ended(200, 9), ended(300, 8)]).unwrap();
        let waiting = Visibility::parse("7:10:7").unwrap();
        assert!(!unseen.is_seen(&waiting, Lsn(100)) && unseen.is_seen(&waiting, Lsn(200)));
        assert!(unseen.misses_before(&waiting, Lsn(101)) && !unseen.misses_before(&waiting, Lsn(100)));
        unseen.forget([&waiting].into_iter());
        assert_eq!(unseen.first(), Some(Lsn(100)));
        assert!(unseen.holds(Lsn(100)) && !unseen.holds(Lsn(200)));
        let later = Visibility::parse("10:10:").unwrap();
        unseen.forget([&later, &waiting].into_iter());
        assert_eq!(unseen.first(), Some(Lsn(100)), "an older snapshot is still in use");
        unseen.forget([&later].into_iter());
        assert_eq!(unseen.first(), None);
    }
}
