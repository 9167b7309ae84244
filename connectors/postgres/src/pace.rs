//! How fast tables are copied at most.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bytes per second that all workers share.
pub struct Pace {
    bytes_per_second: Option<u64>,
    /// When what has been read so far is paid for.
    paid_at: Mutex<Instant>,
}

impl Pace {
    /// A pace of so many bytes a second; none for as fast as it goes.
    pub fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second, paid_at: Mutex::new(Instant::now()) }
    }

    /// How long reading so many bytes takes at this pace.
    pub fn duration_of(&self, bytes: usize) -> Duration {
        self.bytes_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64))
    }

    /// Waits as long as reading so many bytes should have taken.
    pub async fn keep(&self, bytes: usize) {
        let took = self.duration_of(bytes);
        if took.is_zero() {
            return;
        }
        let paid_at = {
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            // What was not read in time is not caught up.
            *paid_at = (*paid_at).max(Instant::now()) + took;
            *paid_at
        };
        sleep_until(paid_at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_workers_together_keep_the_pace() {
        let pace = Pace::new(Some(1000));
        let started = Instant::now();
        let worker = || async {
            for _ in 0..5 {
                pace.keep(500).await;
            }
        };
        tokio::join!(worker(), worker());
        assert_eq!(started.elapsed().as_secs_f64().round(), 5.0);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started = Instant::now();
        pace.keep(2000).await;
        assert_eq!(started.elapsed().as_secs_f64().round(), 2.0, "a pause is not caught up");
        Pace::new(None).keep(usize::MAX).await;
    }
}
