//! How much of its time a process spends on keeping tables fast. What has to be done is done; beyond that, tables whose
//! commits leave time for it are kept in fewer files, and read from younger checkpoints.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Share of one core's time that may be spent beyond what has to be done, as one part in so many.
const SHARE: u32 = 20;
/// Time that can be saved up, at most.
const MOST_SAVED: Duration = Duration::from_secs(2);

/// Effort of all tables of a lake together.
#[derive(Debug)]
pub struct Effort {
    /// One place for each rewrite of files at the same time.
    rewrites: Semaphore,
    saved: Mutex<Saved>,
    /// Pieces of work that are done, or wait for their turn.
    pending: AtomicUsize,
}

#[derive(Debug)]
struct Saved {
    /// Microseconds that may be spent, as they were then; negative if more was spent.
    micros: i64,
    at: Instant,
}

/// A piece of work that takes time until this is dropped.
pub struct Work<'a> {
    effort: &'a Effort,
    /// Time of the machine: also where a test turns the clock.
    began: Option<std::time::Instant>,
    _place: Option<SemaphorePermit<'a>>,
}

impl Effort {
    /// Nothing was done so far, and some time is saved up.
    pub fn new() -> Arc<Effort> {
        let saved = Saved { micros: micros(MOST_SAVED), at: Instant::now() };
        Arc::new(Effort { rewrites: Semaphore::new(1), saved: Mutex::new(saved), pending: AtomicUsize::new(0) })
    }

    /// Whether there is time for what need not be done: some is saved up, and nothing is under way.
    pub fn has_time(&self) -> bool {
        let is_idle = self.pending.load(Ordering::Relaxed) == 0;
        is_idle && self.saved.lock().unwrap_or_else(PoisonError::into_inner).now() > 0
    }

    /// So much time was spent. More than was saved up leaves a debt, as large as what can be saved up.
    pub fn spend(&self, time: Duration) {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        saved.micros = (saved.now() - micros(time)).max(-micros(MOST_SAVED));
    }

    /// Begins to write files again, once no other table does. Waiting is no work.
    pub async fn rewrite(&self) -> Work<'_> {
        let mut work = self.queue();
        // The semaphore is never closed.
        work._place = self.rewrites.acquire().await.ok();
        work.began = Some(std::time::Instant::now());
        work
    }

    /// Begins something that others may do at the same time.
    pub fn work(&self) -> Work<'_> {
        let mut work = self.queue();
        work.began = Some(std::time::Instant::now());
        work
    }

    fn queue(&self) -> Work<'_> {
        self.pending.fetch_add(1, Ordering::Relaxed);
        Work { effort: self, began: None, _place: None }
    }
}

impl Saved {
    fn now(&mut self) -> i64 {
        let now = Instant::now();
        self.micros = (self.micros + micros((now - self.at) / SHARE)).min(micros(MOST_SAVED));
        self.at = now;
        self.micros
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.effort.pending.fetch_sub(1, Ordering::Relaxed);
        if let Some(began) = self.began {
            self.effort.spend(began.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_spent_is_saved_up_again_at_a_share_of_the_time() {
        let effort = Effort::new();
        assert!(effort.has_time());
        let work = effort.work();
        assert!(!effort.has_time(), "one piece of such work at a time");
        drop(work);
        assert!(effort.has_time());
        effort.spend(MOST_SAVED);
        assert!(!effort.has_time());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(effort.has_time());
        effort.spend(Duration::from_secs(3600));
        tokio::time::advance(MOST_SAVED * SHARE).await;
        assert!(!effort.has_time(), "the debt is paid, and nothing is saved up");
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(effort.saved.lock().unwrap().now(), micros(MOST_SAVED), "no more than can be spent at once");
    }
}
