//! How long brokers make a client wait, because it exceeds a quota of theirs.
//!
//! <https://kafka.apache.org/documentation/#design_quotas>

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rdkafka::statistics::Statistics;

/// Throttling of one client, as librdkafka's statistics tell it. Clones share it.
#[derive(Clone, Debug)]
pub struct Throttle {
    /// Milliseconds; negative where that was not told since it was last taken.
    millis: Arc<AtomicI64>,
}

impl Default for Throttle {
    fn default() -> Throttle {
        Throttle { millis: Arc::new(AtomicI64::new(-1)) }
    }
}

impl Throttle {
    /// Takes the longest wait that a broker has told since the last statistics.
    pub fn hear(&self, statistics: &Statistics) {
        let brokers = statistics.brokers.values().filter_map(|broker| broker.throttle.as_ref());
        self.millis.store(brokers.map(|told| told.max).max().unwrap_or(0).max(0), Ordering::Relaxed);
    }

    /// What was told; none where nothing was since the last call.
    pub fn take(&self) -> Option<Duration> {
        u64::try_from(self.millis.swap(-1, Ordering::Relaxed)).ok().map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::{Broker, Window};

    use super::*;

    #[test]
    fn the_longest_wait_is_told_once() {
        let throttle = Throttle::default();
        assert_eq!(throttle.take(), None);
        let mut statistics = Statistics::default();
        for (name, max) in [("a", 20), ("b", 250), ("c", 0)] {
            let told = Window { max, ..Window::default() };
            statistics.brokers.insert(name.to_owned(), Broker { throttle: Some(told), ..Broker::default() });
        }
        throttle.hear(&statistics);
        assert_eq!(throttle.take(), Some(Duration::from_millis(250)));
        assert_eq!(throttle.take(), None);
        throttle.hear(&Statistics::default());
        assert_eq!(throttle.take(), Some(Duration::ZERO));
    }
}
