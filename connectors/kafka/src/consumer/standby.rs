//! Whether a member of the consumer group waits for partitions: it has joined, and others have them all. Without I/O.

use rdkafka::Statistics;

/// Request that a member sends again and again under the protocol of KIP-848; one is in flight at a time.
const HEARTBEAT: &str = "ConsumerGroupHeartbeat";

/// Whether the group has been joined and has given no partitions, as librdkafka's statistics tell it.
///
/// A member of the classic protocol is told so by a rebalance. Under KIP-848, one that is given nothing stays as it was
/// before it joined, but for its heartbeats: there are two once the first has been answered.
pub fn is_standby(statistics: &Statistics) -> bool {
    let Some(group) = &statistics.cgrp else { return false };
    let heartbeats = || statistics.brokers.values().filter_map(|broker| broker.req.get(HEARTBEAT)).sum::<i64>();
    let has_joined = match group.join_state.as_str() {
        "steady" => true,
        "init" => heartbeats() >= 2,
        _ => false,
    };
    group.state == "up" && group.assignment_size == 0 && has_joined
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::{Broker, ConsumerGroup};

    use super::*;

    fn told(state: &str, join_state: &str, assignment_size: i32, heartbeats: i64) -> bool {
        let group = ConsumerGroup {
            state: state.to_owned(),
            join_state: join_state.to_owned(),
            assignment_size,
            ..ConsumerGroup::default()
        };
        let mut broker = Broker::default();
        broker.req.insert(HEARTBEAT.to_owned(), heartbeats);
        let brokers = [("b".to_owned(), broker)].into();
        is_standby(&Statistics { cgrp: Some(group), brokers, ..Statistics::default() })
    }

    #[test]
    fn a_member_that_has_joined_and_was_given_nothing_stands_by() {
        assert!(!is_standby(&Statistics::default()));
        assert!(told("up", "steady", 0, 0), "classic");
        assert!(told("up", "init", 0, 2), "KIP-848");
        assert!(!told("up", "init", 0, 1), "nothing was answered yet");
        assert!(!told("up", "wait-join", 0, 0) && !told("wait-coord", "init", 0, 9));
        assert!(!told("up", "steady", 1, 9), "it has partitions");
    }
}
