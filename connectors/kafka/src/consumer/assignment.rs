//! Partitions that were assigned, by table: which of a table's topics is read, and how its lake table's positions are
//! those of that topic. Decided without I/O.
//!
//! The partitions of all topics that a table's events have been on are numbered through, the oldest first. Of a former
//! topic a sink reads as long as the lake table does not have all of it, whoever of the group has it; only then does
//! anybody read the next one, so each key's events are applied in order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sooner_api::{Feed, NextOffsets, Opened, Positions};
use sooner_schemas::TableName;

use crate::cluster::topic_partition::TopicPartition;
use crate::progress::record::TopicProgress;
use crate::progress::stages::Stage;

/// Partitions that were assigned, with what is known of their topics.
pub struct Assignment {
    /// The last record of the topics' writer.
    pub record: Option<TopicProgress>,
    /// Number of partitions of each topic in the cluster.
    pub partitions: HashMap<String, i32>,
    /// What of each table is held.
    pub tables: BTreeMap<TableName, Held>,
}

/// What of a table is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Topics that the table's events have been on; the present one is last.
    pub stages: Vec<Stage>,
    /// Index of the stage that is read.
    pub at: usize,
    /// Partitions of that stage's topic that are held.
    pub partitions: BTreeSet<i32>,
}

impl Held {
    /// What of a table is held among all partitions, by topic; none if nothing is. `reads` names the topic to be read;
    /// the present one, unless it is one of the table's.
    pub fn of(stages: Vec<Stage>, held: &HashMap<&str, BTreeSet<i32>>, reads: Option<&str>) -> Option<Held> {
        if !stages.iter().any(|stage| held.contains_key(stage.topic.as_str())) {
            return None;
        }
        let read = reads.and_then(|topic| stages.iter().position(|stage| stage.topic == topic));
        let at = read.unwrap_or(stages.len() - 1);
        let partitions = held.get(stages[at].topic.as_str()).cloned().unwrap_or_default();
        Some(Held { stages, at, partitions })
    }

    /// The stage that is read.
    pub fn stage(&self) -> &Stage {
        &self.stages[self.at]
    }

    /// The feed that the lake table is opened for. Of topics that are not read at the moment, nobody writes anything to
    /// the lake, so all of their partitions count as held. `partitions` is the number that the present topic has.
    pub fn feed(&self, partitions: i32, in_commit_order: bool) -> Feed {
        let last = self.stages.len() - 1;
        let count = |index: usize| if index == last { partitions } else { self.stages[index].partitions() };
        let own = self.partitions.iter().map(|partition| self.stage().shift + partition);
        let others = (0..self.stages.len()).filter(|index| *index != self.at);
        let others = others.flat_map(|index| (0..count(index)).map(move |partition| (index, partition)));
        let others = others.map(|(index, partition)| self.stages[index].shift + partition);
        Feed::Topic {
            topic: self.stages[0].topic.clone(),
            generation: self.stage().offsets.as_ref().map(|offsets| offsets.generation),
            partitions: (0..self.stages.len()).map(count).sum(),
            assigned: own.chain(others).collect(),
            in_commit_order,
        }
    }

    /// Index of the stage that a lake table with these positions has to read: the first that it does not have all of,
    /// from the one on that it has something of. A table without any begins with the present topic, which has all.
    pub fn stage_for(&self, positions: Option<&Positions>) -> usize {
        let last = self.stages.len() - 1;
        let Some(begun) = (0..=last).rev().find(|index| self.has_part_of(*index, positions)) else { return last };
        (begun..last).find(|index| !self.has_all_of(*index, positions)).unwrap_or(last)
    }

    /// Whether a lake table has taken everything of these partitions of the stage that is read.
    pub fn has_taken(&self, partitions: &BTreeSet<i32>, table: &Opened) -> bool {
        let Some(offsets) = &self.stage().offsets else { return true };
        partitions.iter().all(|partition| {
            let next = self.next_offset(self.at, *partition, table.positions.as_ref());
            let end = usize::try_from(*partition).ok().and_then(|index| offsets.next_offsets.get(index));
            next.unwrap_or_else(|| offsets.first_offset(*partition)) >= end.copied().unwrap_or_default()
        })
    }

    fn has_part_of(&self, index: usize, positions: Option<&Positions>) -> bool {
        let stage = &self.stages[index];
        let next = self.stages.get(index + 1).map_or(i32::MAX, |next| next.shift);
        let numbers = positions.into_iter().flat_map(|positions| match positions {
            Positions::Topic { next_offsets, .. } => next_offsets.keys().copied().collect(),
            Positions::Stream(_) => Vec::new(),
        });
        numbers.into_iter().any(|number| (stage.shift..next).contains(&number))
    }

    fn has_all_of(&self, index: usize, positions: Option<&Positions>) -> bool {
        let Some(offsets) = &self.stages[index].offsets else { return true };
        (0..).zip(&offsets.next_offsets).all(|(partition, end)| {
            let next = self.next_offset(index, partition, positions);
            next.unwrap_or_else(|| offsets.first_offset(partition)) >= *end
        })
    }

    /// The offset from which a lake table needs a partition of a stage; none if it has nothing of the stage, nor of the
    /// one before.
    fn next_offset(&self, index: usize, partition: i32, positions: Option<&Positions>) -> Option<i64> {
        let stage = &self.stages[index];
        let taken = positions.and_then(|positions| positions.next_offset(stage.shift + partition));
        let follows = || (0..index).any(|former| self.has_part_of(former, positions));
        taken.or_else(|| {
            let starts_at = stage.starts_at.as_ref().filter(|_| follows())?;
            starts_at.get(usize::try_from(partition).ok()?).copied()
        })
    }

    /// A lake table as if the stage that is read were all: its positions are offsets of that topic.
    pub fn local(&self, table: &Opened) -> Opened {
        let Some(Positions::Topic { generation, .. }) = table.positions else { return table.clone() };
        let next = self.stages.get(self.at + 1).map_or(i32::MAX, |next| next.shift);
        let mut next_offsets = NextOffsets::new();
        if let Some(Positions::Topic { next_offsets: all, .. }) = &table.positions {
            let own = all.iter().filter(|(number, _)| (self.stage().shift..next).contains(*number));
            next_offsets.extend(own.map(|(number, offset)| (number - self.stage().shift, *offset)));
        }
        for &partition in &self.partitions {
            if let Some(offset) = self.next_offset(self.at, partition, table.positions.as_ref()) {
                next_offsets.insert(partition, offset);
            }
        }
        let positions = (!next_offsets.is_empty()).then_some(Positions::Topic { generation, next_offsets });
        Opened { positions, ..table.clone() }
    }
}

/// Partitions by the topic that they are of.
pub fn by_topic(held: &[TopicPartition]) -> HashMap<&str, BTreeSet<i32>> {
    let mut topics: HashMap<&str, BTreeSet<i32>> = HashMap::new();
    for (topic, partition) in held {
        topics.entry(topic).or_default().insert(*partition);
    }
    topics
}

#[cfg(test)]
mod tests {
    use sooner_api::Standing;

    use super::*;
    use crate::progress::record::TopicOffsets;

    fn offsets(topic: &str, next_offsets: Vec<i64>) -> TopicOffsets {
        let first_offsets = vec![0; next_offsets.len()];
        TopicOffsets { topic: topic.into(), generation: 7, begun_over: false, first_offsets, next_offsets }
    }

    /// Of a table that went from two partitions to three, and then to one.
    fn held(at: usize, partitions: &[i32]) -> Held {
        let stage = |topic: &str, shift, next: Vec<i64>, starts_at| Stage {
            topic: topic.into(),
            shift,
            offsets: Some(offsets(topic, next)),
            starts_at,
        };
        let stages = vec![
            stage("t", 0, vec![5, 0], None),
            stage("t.v2", 2, vec![9, 2, 4], Some(vec![3, 2, 0])),
            stage("t.v3", 5, vec![20], Some(vec![11])),
        ];
        Held { stages, at, partitions: partitions.iter().copied().collect() }
    }

    fn at(offsets: &[(i32, i64)]) -> Option<Positions> {
        let next_offsets: NextOffsets = offsets.iter().copied().collect();
        (!next_offsets.is_empty()).then_some(Positions::Topic { generation: Some(7), next_offsets })
    }

    #[test]
    fn a_topic_is_read_to_its_end_before_the_next_one_is() {
        let of = |offsets: &[(i32, i64)]| held(2, &[0]).stage_for(at(offsets).as_ref());
        assert_eq!(of(&[]), 2, "a new table reads the topic that has everything");
        assert_eq!(of(&[(0, 4)]), 0);
        assert_eq!(of(&[(0, 5)]), 1, "the other partition of the first topic has no events");
        assert_eq!(of(&[(0, 5), (2, 8)]), 1);
        assert_eq!(of(&[(0, 5), (2, 9)]), 1, "the last partition of the second topic goes on at 0");
        assert_eq!(of(&[(0, 5), (2, 9), (4, 4)]), 2, "another one has no events after the switch");
        assert_eq!(of(&[(5, 1)]), 2, "a table that was built from the last topic");
        assert_eq!(of(&[(2, 9), (3, 2), (4, 4)]), 2);
        assert_eq!(of(&[(2, 9), (3, 1)]), 1, "a table that was built from the second topic");
    }

    #[test]
    fn a_partition_that_a_table_has_nothing_of_goes_on_where_the_former_topic_ended() {
        let local = |held: &Held, offsets: &[(i32, i64)]| {
            let table = Opened {
                table: TableName::new("public", "t"),
                standing: Standing::Follows,
                positions: at(offsets),
                watermark: None,
                error: None,
                needs_copy: false,
                copy: None,
                copied: None,
            };
            held.local(&table).positions
        };
        let second = held(1, &[0, 1, 2]);
        assert_eq!(local(&second, &[(0, 5)]), at(&[(0, 3), (1, 2), (2, 0)]));
        assert_eq!(local(&second, &[(0, 5), (2, 8)]), at(&[(0, 8), (1, 2), (2, 0)]));
        assert_eq!(local(&second, &[(2, 8)]), at(&[(0, 8)]), "a table that was built from this topic");
        assert_eq!(local(&held(0, &[0, 1]), &[(0, 4), (5, 3)]), at(&[(0, 4)]));
        assert_eq!(local(&second, &[]), None);
    }

    #[test]
    fn whoever_holds_all_partitions_of_what_is_read_holds_the_table() {
        let is_whole = |held: Held| {
            let feed = held.feed(1, true);
            assert!(matches!(&feed, Feed::Topic { topic, partitions: 6, .. } if topic == "t"));
            feed.is_whole()
        };
        assert!(is_whole(held(1, &[0, 1, 2])) && is_whole(held(2, &[0])));
        assert!(!is_whole(held(1, &[0, 2])) && !is_whole(held(2, &[])));
        let partitions = vec![("t.v2".to_owned(), 1), ("t.v2".to_owned(), 2), ("t".to_owned(), 0)];
        let of =
            |reads| Held::of(held(0, &[]).stages, &by_topic(&partitions), reads).map(|held| (held.at, held.partitions));
        assert_eq!(of(Some("t.v2")), Some((1, [1, 2].into())));
        assert_eq!(of(None), Some((2, BTreeSet::new())));
        assert_eq!(Held::of(held(0, &[]).stages, &by_topic(&partitions[..0]), None), None);
    }
}
