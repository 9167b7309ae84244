//! How far something has got in the events that feed it: a table, an event log, a batch on its way. The only place that
//! does arithmetic on positions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sooner_schemas::{Lsn, Position};

/// Next offsets by partition: the offset after the last event.
pub type NextOffsets = BTreeMap<i32, i64>;

/// What has been taken of the events that feed a table. Events come either in commit order from a slot, or by partition
/// from a topic, where each partition has an order of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Every event at or before this position, in commit order.
    Stream(#[serde(with = "position_text")] Position),
    /// Of each partition listed, every event below its next offset.
    Topic {
        /// Incarnation of the topic: offsets of another one belong to another topic of the same name. None where the
        /// topic's writer does not report it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        generation: Option<i64>,
        /// Next offsets.
        next_offsets: NextOffsets,
    },
}

impl Positions {
    /// All events of all transactions with `commit_lsn` at or below this one.
    pub fn whole(commit_lsn: Lsn) -> Positions {
        Positions::Stream(Position { commit_lsn, ordinal: u64::MAX })
    }

    /// Offsets of a topic whose writer reports no generation.
    pub fn offsets(next_offsets: NextOffsets) -> Positions {
        Positions::Topic { generation: None, next_offsets }
    }

    /// Whether everything that `other` has taken is taken here too. Positions of different kinds or generations cover
    /// nothing of each other.
    pub fn covers(&self, other: &Positions) -> bool {
        match (self, other) {
            (Positions::Stream(mine), Positions::Stream(theirs)) => theirs <= mine,
            (Positions::Topic { next_offsets: mine, .. }, Positions::Topic { next_offsets: theirs, .. }) => {
                let covered = |(partition, next): (&i32, &i64)| mine.get(partition).is_some_and(|mine| next <= mine);
                self.is_comparable(other) && theirs.iter().all(covered)
            }
            _ => false,
        }
    }

    /// Whether an event of the stream is taken. Never for a topic.
    pub fn covers_event(&self, position: Position) -> bool {
        matches!(self, Positions::Stream(taken) if position <= *taken)
    }

    /// Whether a message of a topic is taken. Never for a stream, nor for a partition that is not listed.
    pub fn covers_offset(&self, partition: i32, offset: i64) -> bool {
        self.next_offset(partition).is_some_and(|next| offset < next)
    }

    /// The next offset of a partition; none for a stream, or if nothing of the partition has been taken.
    pub fn next_offset(&self, partition: i32) -> Option<i64> {
        match self {
            Positions::Stream(_) => None,
            Positions::Topic { next_offsets, .. } => next_offsets.get(&partition).copied(),
        }
    }

    /// The commit LSN of the last event taken; none for a topic.
    pub fn commit_lsn(&self) -> Option<Lsn> {
        match self {
            Positions::Stream(position) => Some(position.commit_lsn),
            Positions::Topic { .. } => None,
        }
    }

    /// The topic's generation; none for a stream, or where it is not reported.
    pub fn generation(&self) -> Option<i64> {
        match self {
            Positions::Stream(_) => None,
            Positions::Topic { generation, .. } => *generation,
        }
    }

    /// Takes what `other` has taken. Progress moves forward only: what is behind changes nothing. Positions of another
    /// kind or generation replace these, since the two cannot be compared.
    pub fn advance(&mut self, other: &Positions) {
        match (&mut *self, other) {
            (Positions::Stream(mine), Positions::Stream(theirs)) => *mine = (*mine).max(*theirs),
            (
                Positions::Topic { generation: mine, next_offsets },
                Positions::Topic { generation: theirs, next_offsets: more },
            ) if mine.is_none() || theirs.is_none() || mine == theirs => {
                *mine = theirs.or(*mine);
                for (partition, next) in more {
                    let known = next_offsets.entry(*partition).or_insert(*next);
                    *known = (*known).max(*next);
                }
            }
            _ => *self = other.clone(),
        }
    }

    /// What both these and `other` have taken; none if the two cannot be compared.
    pub fn common(&self, other: &Positions) -> Option<Positions> {
        match (self, other) {
            (Positions::Stream(mine), Positions::Stream(theirs)) => Some(Positions::Stream(*mine.min(theirs))),
            (Positions::Topic { generation, next_offsets: mine }, Positions::Topic { next_offsets: theirs, .. })
                if self.is_comparable(other) =>
            {
                let both =
                    mine.iter().filter_map(|(partition, next)| Some((*partition, *next.min(theirs.get(partition)?))));
                let generation = generation.or(other.generation());
                Some(Positions::Topic { generation, next_offsets: both.collect() })
            }
            _ => None,
        }
    }

    /// Whether two writers that take these cannot both be right: they read the same slot, or a partition in common.
    pub fn collides(&self, other: &Positions) -> bool {
        match (self, other) {
            (Positions::Stream(_), Positions::Stream(_)) => true,
            (Positions::Topic { next_offsets: mine, .. }, Positions::Topic { next_offsets: theirs, .. }) => {
                theirs.keys().any(|partition| mine.contains_key(partition))
            }
            _ => false,
        }
    }

    fn is_comparable(&self, other: &Positions) -> bool {
        match (self.generation(), other.generation()) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        }
    }
}

/// A position in the stream as `16/B374D848#4`; a whole transaction without the part after the sharp.
mod position_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use sooner_schemas::Position;

    pub fn serialize<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
        match position.ordinal {
            u64::MAX => serializer.collect_str(&position.commit_lsn),
            ordinal => serializer.collect_str(&format_args!("{}#{ordinal}", position.commit_lsn)),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (lsn, ordinal) = match text.split_once('#') {
            Some((lsn, ordinal)) => (lsn, ordinal.parse().map_err(D::Error::custom)?),
            None => (text.as_str(), u64::MAX),
        };
        Ok(Position { commit_lsn: lsn.parse().map_err(D::Error::custom)?, ordinal })
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::*;

    fn stream() -> impl Strategy<Value = Positions> {
        (0..20u64, prop_oneof![0..4u64, Just(u64::MAX)])
            .prop_map(|(lsn, ordinal)| Positions::Stream(Position { commit_lsn: Lsn(lsn), ordinal }))
    }

    fn topic() -> impl Strategy<Value = Positions> {
        (prop_oneof![Just(None), (1..3i64).prop_map(Some)], btree_map(0..4i32, 0..20i64, 0..4))
            .prop_map(|(generation, next_offsets)| Positions::Topic { generation, next_offsets })
    }

    fn any_positions() -> impl Strategy<Value = Positions> {
        prop_oneof![stream(), topic()]
    }

    proptest! {
        #[test]
        fn what_was_taken_stays_taken(mut mine in any_positions(), other in any_positions()) {
            let before = mine.clone();
            mine.advance(&other);
            prop_assert!(mine.covers(&other), "{mine:?} does not cover {other:?}");
            if before.is_comparable(&other) && std::mem::discriminant(&before) == std::mem::discriminant(&other) {
                prop_assert!(mine.covers(&before), "{mine:?} lost something of {before:?}");
            }
        }

        #[test]
        fn advancing_twice_is_advancing_once(mut mine in any_positions(), other in any_positions()) {
            mine.advance(&other);
            let once = mine.clone();
            mine.advance(&other);
            prop_assert_eq!(mine, once);
        }

        #[test]
        fn advancing_in_any_order_ends_alike(a in stream(), b in stream(), c in stream()) {
            let (mut left, mut right) = (a.clone(), c.clone());
            left.advance(&b);
            left.advance(&c);
            right.advance(&a);
            right.advance(&b);
            prop_assert_eq!(left, right);
        }

        #[test]
        fn covering_is_transitive_within_a_generation(a in topic(), b in topic(), c in topic()) {
            let strip = |positions: Positions| match positions {
                Positions::Topic { next_offsets, .. } => Positions::offsets(next_offsets),
                stream => stream,
            };
            let (a, b, c) = (strip(a), strip(b), strip(c));
            prop_assert!(!(a.covers(&b) && b.covers(&c)) || a.covers(&c));
        }

        #[test]
        fn writers_collide_both_ways_or_not_at_all(a in any_positions(), b in any_positions()) {
            prop_assert_eq!(a.collides(&b), b.collides(&a));
        }

        #[test]
        fn offsets_agree_with_covers(positions in topic(), partition in 0..4i32, offset in 0..20i64) {
            let one = Positions::offsets(NextOffsets::from([(partition, offset + 1)]));
            prop_assert_eq!(positions.covers_offset(partition, offset), positions.covers(&one));
        }

        #[test]
        fn positions_survive_json(positions in any_positions()) {
            let text = serde_json::to_string(&positions).unwrap();
            prop_assert_eq!(serde_json::from_str::<Positions>(&text).unwrap(), positions);
        }
    }

    #[test]
    fn offsets_of_another_generation_cover_nothing() {
        let old = Positions::Topic { generation: Some(1), next_offsets: NextOffsets::from([(0, 9)]) };
        let new = Positions::Topic { generation: Some(2), next_offsets: NextOffsets::from([(0, 3)]) };
        assert!(!old.covers(&new));
        let mut advanced = old;
        advanced.advance(&new);
        assert_eq!(advanced, new, "the offsets of the former topic mean nothing in the new one");
    }

    #[test]
    fn a_transaction_is_covered_whole_or_up_to_an_event() {
        let at = |lsn, ordinal| Position { commit_lsn: Lsn(lsn), ordinal };
        let whole = Positions::whole(Lsn(100));
        assert!(whole.covers_event(at(100, 9)) && !whole.covers_event(at(101, 0)));
        let inside = Positions::Stream(at(150, 7));
        assert!(inside.covers_event(at(150, 7)) && inside.covers_event(at(140, 20)));
        assert!(!inside.covers_event(at(150, 8)) && !inside.covers(&Positions::whole(Lsn(150))));
    }
}
