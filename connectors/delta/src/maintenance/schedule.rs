//! When a table's next checkpoint is due: by commits, and by bytes of log, so that writing checkpoints costs a fixed
//! share of what commits cost, however large they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::effort::Effort;

/// Commits between two checkpoints, at least, unless they are large.
const INTERVAL_COMMITS: u64 = 50;
/// Bytes of log between two checkpoints, at least, if there are fewer commits.
const INTERVAL_BYTES: u64 = 4 << 20;
/// The same, where there is time for it: readers replay the commits since the last one.
const SPARE_COMMITS: u64 = 10;
/// Readers replay so many commits, at most.
const MOST_COMMITS: u64 = 250;
/// Entries that are older than the table keeps them are looked for so often, at most: the whole log is listed for it.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(3600);

/// The table is listed so often for files that nobody's log mentions.
const LISTING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// What follows a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The end of old entries.
    pub cleans_log: bool,
    /// The end of files that no log mentions.
    pub lists_table: bool,
}

/// Says when a table's next checkpoint is due.
#[derive(Debug)]
pub struct CheckpointSchedule {
    effort: Arc<Effort>,
    commits: u64,
    bytes: u64,
    running: Running,
    cleaned: Option<Instant>,
    /// None before the first commit.
    lists_at: Option<Instant>,
}

/// The checkpoint that is being written, and the size of the last one.
#[derive(Clone, Debug, Default)]
pub struct Running {
    is_running: Arc<AtomicBool>,
    last_bytes: Arc<AtomicU64>,
}

impl CheckpointSchedule {
    /// No commit is counted yet.
    pub fn new(effort: Arc<Effort>) -> CheckpointSchedule {
        let (cleaned, lists_at) = (None, None);
        CheckpointSchedule { effort, commits: 0, bytes: 0, running: Running::default(), cleaned, lists_at }
    }

    /// Counts a commit whose log entry has so many bytes. If a checkpoint should follow it, says what follows that.
    pub fn count_commit(&mut self, entry_bytes: usize) -> Option<Due> {
        self.commits += 1;
        self.bytes += entry_bytes as u64;
        // One of unknown size may be large.
        let is_known = self.running.last_bytes.load(Ordering::Relaxed) > 0;
        let is_spare = self.commits >= SPARE_COMMITS && is_known && self.effort.has_time();
        let is_time = is_spare || self.commits >= INTERVAL_COMMITS || self.bytes >= INTERVAL_BYTES;
        let is_cheap = self.bytes >= self.running.last_bytes.load(Ordering::Relaxed) / 2;
        let is_due = self.commits >= MOST_COMMITS || (is_time && is_cheap);
        if !is_due || self.running.is_running.swap(true, Ordering::Relaxed) {
            return None;
        }
        (self.commits, self.bytes) = (0, 0);
        let now = Instant::now();
        let cleans_log = self.cleaned.is_none_or(|cleaned| now - cleaned >= CLEANUP_INTERVAL);
        if cleans_log {
            self.cleaned = Some(now);
        }
        // Tables that are opened together are not listed together.
        let lists_at = *self.lists_at.get_or_insert_with(|| now + LISTING_INTERVAL.mul_f64(rand::random()));
        let lists_table = now >= lists_at;
        if lists_table {
            self.lists_at = Some(now + LISTING_INTERVAL);
        }
        Some(Due { cleans_log, lists_table })
    }

    /// What is spent on checkpoints counts there.
    pub fn effort(&self) -> Arc<Effort> {
        self.effort.clone()
    }

    /// The checkpoint that [`CheckpointSchedule::count_commit`] has called for.
    pub fn running(&self) -> Running {
        self.running.clone()
    }
}

impl Running {
    /// The checkpoint is written, with so many bytes, or given up.
    pub fn end(&self, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.last_bytes.store(bytes, Ordering::Relaxed);
        }
        self.is_running.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The effort of a process that has no time for what need not be done.
    fn busy() -> Arc<Effort> {
        let effort = Effort::new();
        effort.spend(Duration::from_secs(3600));
        effort
    }

    fn after(schedule: &mut CheckpointSchedule, commits: u64, bytes: usize) -> Vec<Due> {
        let due: Vec<_> = (0..commits).filter_map(|_| schedule.count_commit(bytes)).collect();
        if !due.is_empty() {
            schedule.running().end(None);
        }
        due
    }

    fn cleans_log(due: &[Due]) -> Vec<bool> {
        due.iter().map(|due| due.cleans_log).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_fiftieth_commit_is_followed_by_a_checkpoint_and_old_entries_go_once_an_hour() {
        let mut schedule = CheckpointSchedule::new(busy());
        assert_eq!(after(&mut schedule, 49, 100), []);
        assert_eq!(cleans_log(&after(&mut schedule, 1, 100)), [true]);
        assert_eq!(cleans_log(&after(&mut schedule, 50, 100)), [false]);
        tokio::time::advance(CLEANUP_INTERVAL).await;
        assert_eq!(cleans_log(&after(&mut schedule, 50, 100)), [true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_is_listed_once_a_day() {
        let mut schedule = CheckpointSchedule::new(busy());
        let mut listed = 0;
        for _ in 0..3 * 24 {
            listed += after(&mut schedule, 50, 100).iter().filter(|due| due.lists_table).count();
            tokio::time::advance(CLEANUP_INTERVAL).await;
        }
        assert!((2..=3).contains(&listed), "{listed} times in three days");
    }

    #[tokio::test]
    async fn large_entries_are_followed_by_one_earlier() {
        let mut schedule = CheckpointSchedule::new(busy());
        assert_eq!(after(&mut schedule, 4, 1 << 20).len(), 1);
    }

    #[tokio::test]
    async fn a_large_checkpoint_is_not_written_for_little_and_not_put_off_for_ever() {
        let mut schedule = CheckpointSchedule::new(busy());
        schedule.running().end(Some(1 << 20));
        assert_eq!(after(&mut schedule, 100, 1000), []);
        assert_eq!(after(&mut schedule, 1, 512 << 10).len(), 1);
        assert_eq!(after(&mut schedule, MOST_COMMITS - 1, 10), []);
        assert_eq!(after(&mut schedule, 1, 10).len(), 1);
    }

    #[tokio::test]
    async fn one_checkpoint_is_written_at_a_time() {
        let mut schedule = CheckpointSchedule::new(busy());
        assert_eq!((0..200).filter(|_| schedule.count_commit(1).is_some()).count(), 1);
    }

    #[tokio::test]
    async fn where_there_is_time_readers_replay_few_commits() {
        let effort = Effort::new();
        let mut schedule = CheckpointSchedule::new(effort.clone());
        assert_eq!(after(&mut schedule, 49, 100).len(), 0, "how large one is, is not known yet");
        assert_eq!(after(&mut schedule, 1, 100).len(), 1);
        schedule.running().end(Some(500));
        assert_eq!(after(&mut schedule, 9, 100).len(), 0);
        assert_eq!(after(&mut schedule, 1, 100).len(), 1);
        assert_eq!(after(&mut schedule, 10, 100).len(), 1);
        effort.spend(Duration::from_secs(3600));
        assert_eq!(after(&mut schedule, 49, 100).len(), 0);
    }
}
