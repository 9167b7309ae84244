//! When a Kafka transaction ends: as soon as it pays. A commit takes the brokers a while in which nothing else is
//! written; so the next transaction stays open for about a share of what commits take, and gathers what comes
//! meanwhile. After a commit, brokers still write the transaction's markers; a transaction that begins meanwhile is
//! refused (`CONCURRENT_TRANSACTIONS`), and librdkafka tries it again after 20 ms only. Without I/O.

use std::time::{Duration, Instant};

/// Between two commits passes at least this share of the time that a commit takes.
const SHARE: f64 = 0.5;
/// How much the last commit counts in the mean.
const WEIGHT: f64 = 0.2;
/// The next transaction begins so long after a commit, at most.
const LONGEST_REST: Duration = Duration::from_millis(10);
/// After a transaction of so many bytes nothing rests: what comes next gathers anyway.
const LARGE_BYTES: usize = 1 << 20;

/// Knows how long commits take.
#[derive(Debug)]
pub struct Pacing {
    /// Age at which a transaction ends in any case.
    interval: Duration,
    /// When the last commit ended, and about how long commits take.
    last: Option<(Instant, Duration)>,
    /// Whether the last transaction was large.
    was_large: bool,
    /// What was written last ended with a transaction of the database.
    is_whole: bool,
    /// How old transactions were when they had been committed, since that was last asked.
    ages: Vec<Duration>,
}

impl Pacing {
    /// Transactions become no older than `interval`, unless writing is slow.
    pub fn new(interval: Duration) -> Pacing {
        Pacing { interval, last: None, was_large: false, is_whole: false, ages: Vec::new() }
    }

    /// Events were written; whether they end with a transaction of the database.
    pub fn wrote(&mut self, is_whole: bool) {
        self.is_whole = is_whole;
    }

    /// A commit of so many bytes began and ended.
    pub fn committed(&mut self, began: Instant, ended: Instant, bytes: usize) {
        self.was_large = bytes >= LARGE_BYTES;
        let took = ended.saturating_duration_since(began);
        let mean = self.last.map_or(took, |(_, mean)| mean.mul_f64(1.0 - WEIGHT) + took.mul_f64(WEIGHT));
        self.last = Some((ended, mean));
    }

    /// A transaction that was begun at `since` has ended.
    pub fn ended(&mut self, since: Instant, ended: Instant) {
        self.ages.push(ended.saturating_duration_since(since));
    }

    /// How old transactions became, since this was last asked.
    pub fn take_ages(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.ages)
    }

    /// How long the next transaction waits before it begins, so that the last one has ended in all partitions.
    pub fn rest(&self, now: Instant) -> Duration {
        let Some((ended, mean)) = self.last.filter(|_| !self.was_large) else { return Duration::ZERO };
        (ended + mean.mul_f64(SHARE).min(LONGEST_REST)).saturating_duration_since(now)
    }

    /// When a transaction that was begun at `since` ends, if nothing waits to be written.
    pub fn due(&self, since: Instant) -> Instant {
        let pays = self.last.map_or(since, |(ended, mean)| ended + mean.mul_f64(SHARE));
        if self.is_whole { pays.max(since).min(self.overdue(since)) } else { self.overdue(since) }
    }

    /// When it ends, whatever waits.
    pub fn overdue(&self, since: Instant) -> Instant {
        since + self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_transaction_ends_at_once_while_commits_are_rare_and_gathers_while_they_are_not() {
        let start = Instant::now();
        let mut pacing = Pacing::new(20 * MS);
        pacing.wrote(true);
        assert_eq!(pacing.due(start), start);
        pacing.committed(start, start + 4 * MS, 100);
        assert_eq!(pacing.due(start + 4 * MS), start + 6 * MS);
        assert_eq!(pacing.due(start + 100 * MS), start + 100 * MS);
        pacing.committed(start, start + 1000 * MS, 100);
        assert_eq!(pacing.due(start + 1000 * MS), start + 1020 * MS, "never later than the interval");
    }

    #[test]
    fn a_transaction_begins_when_the_last_one_has_ended_everywhere_unless_much_is_written() {
        let start = Instant::now();
        let mut pacing = Pacing::new(20 * MS);
        assert_eq!(pacing.rest(start), Duration::ZERO);
        pacing.committed(start, start + 4 * MS, 100);
        assert_eq!((pacing.rest(start + 5 * MS), pacing.rest(start + 7 * MS)), (MS, Duration::ZERO));
        pacing.committed(start, start + 4000 * MS, 100);
        assert_eq!(pacing.rest(start + 4000 * MS), 10 * MS, "slow brokers do not stop it");
        pacing.committed(start, start + 4000 * MS, LARGE_BYTES);
        assert_eq!(pacing.rest(start + 4000 * MS), Duration::ZERO);
    }

    #[test]
    fn a_part_of_a_transaction_of_the_database_waits_for_the_rest() {
        let start = Instant::now();
        let mut pacing = Pacing::new(20 * MS);
        pacing.wrote(false);
        assert_eq!(pacing.due(start), start + 20 * MS);
    }
}
