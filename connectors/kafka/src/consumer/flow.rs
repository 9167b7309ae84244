//! Back-pressure on partitions: those with enough waiting are paused, so that memory stays bounded for a backlog,
//! and for a partition that is fuller than those it is merged with.

use std::collections::{BTreeSet, HashMap};

use crate::cluster::topic_partition::TopicPartition;

/// Smallest share of a partition, in bytes: with no more than this waiting it is not paused, however many
/// partitions there are.
const LEAST_BYTES: usize = 128 << 10;

/// Knows which partitions are paused, and decides which to pause and to resume.
pub struct Flow {
    limit_bytes: usize,
    paused: HashMap<String, BTreeSet<i32>>,
}

/// Partitions to pause and to resume.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FlowChange {
    /// Partitions to be fetched no longer.
    pub pause: Vec<TopicPartition>,
    /// Partitions to be fetched again.
    pub resume: Vec<TopicPartition>,
}

impl Flow {
    /// Starts with no partition paused. `limit_bytes` is about what all partitions together may have waiting.
    pub fn new(limit_bytes: usize) -> Flow {
        Flow { limit_bytes, paused: HashMap::new() }
    }

    /// Decides what to pause and resume. `waiting` has the bytes that wait for each partition, `count` is the
    /// number of partitions. A partition is paused above its share and resumed at half of it; one with nothing
    /// waiting is never left paused, since what is missing is on its way.
    pub fn regulate<'a>(&mut self, waiting: impl Iterator<Item = (&'a str, i32, usize)>, count: usize) -> FlowChange {
        let most = (self.limit_bytes / count.max(1)).max(LEAST_BYTES);
        let mut change = FlowChange::default();
        for (topic, partition, bytes) in waiting {
            let paused = self.paused.get(topic).is_some_and(|paused| paused.contains(&partition));
            if !paused && bytes > most {
                self.paused.entry(topic.to_owned()).or_default().insert(partition);
                change.pause.push((topic.to_owned(), partition));
            } else if paused && bytes <= most / 2 {
                self.paused.entry(topic.to_owned()).or_default().remove(&partition);
                change.resume.push((topic.to_owned(), partition));
            }
        }
        change
    }

    /// Forgets all pauses: nothing waits any more, and all partitions are fetched.
    pub fn start_over(&mut self) {
        self.paused.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_paused_while_it_has_more_than_its_share_waiting() {
        let mut flow = Flow::new(1 << 20);
        let at = |partition| ("t".to_owned(), partition);
        let mut regulate =
            |first: usize, second: usize| flow.regulate([("t", 0, first), ("t", 1, second)].into_iter(), 2);
        assert_eq!(regulate(500 << 10, 0), FlowChange::default());
        assert_eq!(regulate(600 << 10, 0), FlowChange { pause: vec![at(0)], resume: vec![] });
        assert_eq!(regulate(300 << 10, 600 << 10), FlowChange { pause: vec![at(1)], resume: vec![] });
        assert_eq!(regulate(200 << 10, 600 << 10), FlowChange { pause: vec![], resume: vec![at(0)] });
        flow.start_over();
        assert_eq!(flow.regulate([("t", 1, 0)].into_iter(), 1), FlowChange::default());
    }

    #[test]
    fn many_partitions_still_have_some_each() {
        let mut flow = Flow::new(1 << 20);
        assert_eq!(flow.regulate([("t", 0, 100 << 10)].into_iter(), 1000), FlowChange::default());
    }
}
