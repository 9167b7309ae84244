//! How rows are looked at: how fast, and how patiently.

use std::time::Duration;

/// How rows are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes per second that are read at the source, at most.
    pub bytes_per_second: Option<u64>,
    /// How long the lake may take to get to where the source was looked at.
    pub patience: Duration,
}

impl Pace {
    /// Waits as long as so many bytes may take.
    pub async fn keep(&self, bytes: usize) {
        if let Some(rate) = self.bytes_per_second.filter(|rate| *rate > 0) {
            tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate as f64)).await;
        }
    }
}
