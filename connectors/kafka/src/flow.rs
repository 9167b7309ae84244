//! Which partitions are fetched. Those that have enough waiting are paused: so neither a backlog nor a partition that is fuller
//! than those it is merged with grows in memory.

use std::collections::{BTreeSet, HashMap};

use crate::group::Place;

/// A partition that has less than this waiting is fetched, however many there are.
const LEAST_BYTES: usize = 128 << 10;

/// The partitions that are paused.
pub struct Flow {
    limit_bytes: usize,
    paused: HashMap<String, BTreeSet<i32>>,
}

/// What has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FlowChange {
    /// To fetch no more.
    pub pause: Vec<Place>,
    /// To fetch again.
    pub resume: Vec<Place>,
}

impl Flow {
    /// All together may have about so much waiting.
    pub fn new(limit_bytes: usize) -> Flow {
        Flow { limit_bytes, paused: HashMap::new() }
    }

    /// Looks at what waits of each partition, in bytes; `count` is their number. One that has nothing waiting is never
    /// paused: what is missing is on its way.
    pub fn look<'a>(&mut self, waiting: impl Iterator<Item = (&'a str, i32, usize)>, count: usize) -> FlowChange {
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

    /// Nothing waits any more, and all are fetched.
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
        let mut look = |first: usize, second: usize| flow.look([("t", 0, first), ("t", 1, second)].into_iter(), 2);
        assert_eq!(look(500 << 10, 0), FlowChange::default());
        assert_eq!(look(600 << 10, 0), FlowChange { pause: vec![at(0)], resume: vec![] });
        assert_eq!(look(300 << 10, 600 << 10), FlowChange { pause: vec![at(1)], resume: vec![] });
        assert_eq!(look(200 << 10, 600 << 10), FlowChange { pause: vec![], resume: vec![at(0)] });
        flow.start_over();
        assert_eq!(flow.look([("t", 1, 0)].into_iter(), 1), FlowChange::default());
    }

    #[test]
    fn many_partitions_still_have_some_each() {
        let mut flow = Flow::new(1 << 20);
        assert_eq!(flow.look([("t", 0, 100 << 10)].into_iter(), 1000), FlowChange::default());
    }
}
