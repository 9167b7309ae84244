//! Whether a member of the consumer group waits for partitions: it has joined, and others have them all. Without I/O.

use rdkafka::Statistics;

/// What librdkafka's statistics tell of a member.
///
/// A member of the classic protocol is told by a rebalance that it is given nothing. Under KIP-848 none follows, and
/// the member looks as it did before it joined, but for the coordinator's answers to its heartbeats.
#[derive(Debug, Default)]
pub struct Standby {
    /// Answers of the coordinator, when the member was first seen connected to it.
    answers: Option<u64>,
    waits: bool,
}

impl Standby {
    /// Whether the group has been joined, and has given no partitions.
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// Takes the next statistics.
    pub fn hear(&mut self, statistics: &Statistics) {
        let group = statistics.cgrp.as_ref().filter(|group| group.state == "up");
        let Some(group) = group else {
            *self = Standby::default();
            return;
        };
        // What the coordinator answers comes by a connection of its own.
        let coordinator = statistics.brokers.values().filter(|broker| broker.source == "logical");
        let answers: u64 = coordinator.map(|broker| broker.rx).sum();
        let known = *self.answers.get_or_insert(answers);
        let has_joined = match group.join_state.as_str() {
            "steady" => true,
            "init" => answers > known,
            _ => false,
        };
        self.waits = has_joined && group.assignment_size == 0;
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::{Broker, ConsumerGroup};

    use super::*;

    fn told(standby: &mut Standby, (state, join_state): (&str, &str), assignment_size: i32, rx: u64) -> bool {
        let (state, join_state) = (state.to_owned(), join_state.to_owned());
        let group = ConsumerGroup { state, join_state, assignment_size, ..ConsumerGroup::default() };
        let broker = |source: &str, rx| Broker { source: source.to_owned(), rx, ..Broker::default() };
        let brokers = [("c".to_owned(), broker("logical", rx)), ("b".to_owned(), broker("learned", rx * 7))].into();
        standby.hear(&Statistics { cgrp: Some(group), brokers, ..Statistics::default() });
        standby.waits()
    }

    #[test]
    fn a_member_that_has_joined_and_was_given_nothing_stands_by() {
        let mut standby = Standby::default();
        assert!(!told(&mut standby, ("wait-broker-transport", "init"), 0, 1));
        assert!(!told(&mut standby, ("up", "init"), 0, 2), "nothing was answered yet");
        assert!(!told(&mut standby, ("up", "init"), 0, 2));
        assert!(told(&mut standby, ("up", "init"), 0, 3), "KIP-848");
        assert!(!told(&mut standby, ("up", "wait-assign-call"), 0, 3));
        assert!(!told(&mut standby, ("up", "steady"), 1, 4), "it has partitions");
        assert!(told(&mut standby, ("up", "steady"), 0, 5), "others have them again");
        assert!(!told(&mut standby, ("wait-coord", "init"), 0, 5), "it has to join again");
        assert!(!told(&mut standby, ("up", "wait-join"), 0, 7));
        assert!(told(&mut standby, ("up", "steady"), 0, 7), "classic");
    }
}
