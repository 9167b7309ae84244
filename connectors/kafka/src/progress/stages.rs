//! What a record says of tables whose events have moved from topic to topic, or are about to. Without I/O.

use sooner_schemas::TableName;

use super::lineage::{FormerTopic, Lineage, Successor};
use super::record::{TopicOffsets, TopicProgress};

/// One of the topics that a table's events are or were on, as sinks number its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Name of the topic.
    pub topic: String,
    /// Number that its first partition has among the partitions of all stages.
    pub shift: i32,
    /// What its source recorded of it; none where another writer, or nobody, wrote it.
    pub offsets: Option<TopicOffsets>,
    /// For each partition, the offset from which the events follow that the stage before lacks; none for the first
    /// stage.
    pub starts_at: Option<Vec<i64>>,
}

impl Stage {
    /// A topic that is the only one of its table, with what is recorded of it.
    pub fn alone(topic: &str, offsets: Option<TopicOffsets>) -> Stage {
        Stage { topic: topic.to_owned(), shift: 0, offsets, starts_at: None }
    }

    /// Number of partitions that are recorded.
    pub fn partitions(&self) -> i32 {
        self.offsets.as_ref().map_or(0, |offsets| offsets.next_offsets.len() as i32)
    }
}

/// A former topic as it was recorded while a table's events were written to it.
fn offsets_of(former: &FormerTopic, generation: i64) -> TopicOffsets {
    TopicOffsets {
        topic: former.topic.clone(),
        generation,
        begun_over: false,
        first_offsets: former.first_offsets.clone(),
        next_offsets: former.end_offsets.clone(),
    }
}

impl TopicProgress {
    /// A topic that a table's events were on before; none if it is not one of them.
    pub fn former(&self, table: &TableName, topic: &str) -> Option<&FormerTopic> {
        self.lineages.get(table)?.former.iter().find(|former| former.topic == topic)
    }

    /// Topics of a table, the oldest first, the present one last; empty for a table without a topic.
    pub fn stages(&self, table: &TableName) -> Vec<Stage> {
        let Some(present) = self.topics.get(table) else { return Vec::new() };
        let former = self.lineages.get(table).map(|lineage| lineage.former.as_slice()).unwrap_or_default();
        let (mut stages, mut shift, mut starts_at) = (Vec::new(), 0, None);
        for topic in former {
            let offsets = Some(offsets_of(topic, present.generation));
            stages.push(Stage { topic: topic.topic.clone(), shift, offsets, starts_at: starts_at.take() });
            shift += topic.end_offsets.len() as i32;
            starts_at = Some(topic.continues_at.clone());
        }
        stages.push(Stage { topic: present.topic.clone(), shift, offsets: Some(present.clone()), starts_at });
        stages
    }

    /// The topic that is being filled to take the place of a table's present one.
    pub fn successor(&self, table: &TableName) -> Option<&Successor> {
        self.lineages.get(table)?.successor.as_ref()
    }

    /// The same, to be changed.
    pub fn successor_mut(&mut self, table: &TableName) -> Option<&mut Successor> {
        self.lineages.get_mut(table)?.successor.as_mut()
    }

    /// A table's messages are written to a new topic, as far as they are still there: the partitions of its present one
    /// begin at `first_offsets` by now.
    pub fn begin_successor(
        &mut self,
        table: &TableName,
        base: String,
        topic: &str,
        partitions: i32,
        first_offsets: &[i64],
    ) {
        let Some(present) = self.topics.get(table) else { return };
        let begun = |partition: usize| present.first_offset(partition as i32);
        let numbered = || first_offsets.iter().copied().enumerate();
        let is_partial = numbered().any(|(partition, first)| first > begun(partition));
        // Where retention has removed everything, the log begins behind the end of the last message's transaction.
        let ends = present.next_offsets.iter();
        let read_offsets = numbered().zip(ends).map(|((partition, first), end)| first.max(begun(partition)).min(*end));
        let read_offsets = read_offsets.collect();
        let next_offsets = vec![0; partitions as usize];
        let lineage = self.lineages.entry(table.clone()).or_insert_with(|| Lineage { base, ..Lineage::default() });
        let is_partial = is_partial || lineage.is_partial;
        let topic = topic.to_owned();
        lineage.successor = Some(Successor { topic, next_offsets, read_offsets, is_partial, is_lost: false });
    }

    /// The successor takes the place of a table's topic: events up to the record's LSN are in that one, all later ones
    /// come to the successor. Whole transactions must be written, and everything must be in the successor.
    pub fn switch(&mut self, table: &TableName) {
        let (commit_lsn, commit_micros) = (self.commit_lsn, self.commit_micros);
        assert!(self.split.is_none(), "a topic is switched between transactions");
        let Some(lineage) = self.lineages.get_mut(table) else { return };
        let (Some(present), Some(next)) = (self.topics.get_mut(table), lineage.successor.take()) else { return };
        assert_eq!(next.read_offsets, present.next_offsets, "everything is in the successor");
        let first_offsets = vec![0; next.next_offsets.len()];
        let following =
            TopicOffsets { topic: next.topic, first_offsets, next_offsets: next.next_offsets, ..present.clone() };
        let continues_at = following.next_offsets.clone();
        let former = std::mem::replace(present, following);
        let (first_offsets, end_offsets) = (former.first_offsets, former.next_offsets);
        let topic = former.topic;
        lineage.former.push(FormerTopic { topic, first_offsets, end_offsets, continues_at, commit_lsn, commit_micros });
        lineage.is_partial = next.is_partial;
    }

    /// Takes over what a later record, whose transaction was not committed, says of successors: a switch counts, since
    /// all that it relies on had been committed before it; what was written to a successor does not count beyond the
    /// `committed` record, because nobody sees it.
    pub fn keep_committed_successors(&mut self, committed: Option<&TopicProgress>) {
        for (table, lineage) in &mut self.lineages {
            let known = committed.and_then(|record| record.lineages.get(table));
            let is_switched = known.is_none_or(|known| known.former.len() < lineage.former.len());
            if lineage.successor.is_some() || !is_switched {
                lineage.successor = known.filter(|_| !is_switched).and_then(|known| known.successor.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::Lsn;

    use super::*;

    fn name() -> TableName {
        TableName::new("public", "t")
    }

    fn progress() -> TopicProgress {
        let present = TopicOffsets {
            topic: "t".into(),
            generation: 7,
            begun_over: false,
            first_offsets: vec![0, 2],
            next_offsets: vec![9, 5],
        };
        let successor = Successor {
            topic: "t.v2".into(),
            next_offsets: vec![3, 0, 8],
            read_offsets: vec![9, 5],
            ..Successor::default()
        };
        let lineage = Lineage { base: "t".into(), successor: Some(successor), ..Lineage::default() };
        let mut progress = TopicProgress { commit_lsn: Lsn(50), ..TopicProgress::default() };
        progress.topics.insert(name(), present);
        progress.lineages.insert(name(), lineage);
        progress
    }

    #[test]
    fn a_switch_says_where_the_former_topic_ends_and_where_the_next_goes_on() {
        let mut switched = progress();
        switched.switch(&name());
        let present = &switched.topics[&name()];
        assert_eq!((present.topic.as_str(), present.generation), ("t.v2", 7), "positions stay of one generation");
        assert_eq!(present.next_offsets, [3, 0, 8]);
        let former = switched.former(&name(), "t").unwrap();
        assert_eq!((&former.end_offsets, &former.continues_at), (&vec![9, 5], &vec![3, 0, 8]));
        assert_eq!(former.watermark().commit_lsn, Lsn(50));
        let stages = switched.stages(&name());
        assert_eq!(stages.iter().map(|stage| stage.shift).collect::<Vec<_>>(), [0, 2]);
        assert_eq!((&stages[0].starts_at, &stages[1].starts_at), (&None, &Some(vec![3, 0, 8])));
        assert_eq!(switched.successor(&name()), None);
        let again = switched.clone();
        switched.switch(&name());
        assert_eq!(switched, again, "there is nothing to switch to");
    }

    #[test]
    #[should_panic(expected = "everything is in the successor")]
    fn a_topic_that_is_not_all_in_its_successor_is_not_switched() {
        let mut progress = progress();
        progress.topics.get_mut(&name()).unwrap().next_offsets = vec![9, 6];
        progress.switch(&name());
    }

    #[test]
    fn of_a_record_that_was_not_committed_a_switch_counts_and_a_replay_does_not() {
        let committed = progress();
        let mut further = progress();
        further.successor_mut(&name()).unwrap().next_offsets = vec![4, 0, 8];
        further.keep_committed_successors(Some(&committed));
        assert_eq!(further.lineages, committed.lineages);
        let mut switched = progress();
        switched.switch(&name());
        let before = switched.clone();
        switched.keep_committed_successors(Some(&committed));
        assert_eq!(switched, before);
        let mut begun = progress();
        begun.keep_committed_successors(Some(&TopicProgress::default()));
        assert_eq!(begun.successor(&name()), None, "nobody knows that it was begun");
    }

    #[test]
    fn a_topic_whose_messages_have_all_expired_has_nothing_left_to_write_again() {
        let mut progress = progress();
        // Of the first partition the last transaction's end is gone, too; of the second a message is left.
        progress.lineages.clear();
        progress.begin_successor(&name(), "t".to_owned(), "t.v2", 3, &[10, 4]);
        let successor = progress.successor(&name()).unwrap();
        assert_eq!((successor.read_offsets.as_slice(), successor.is_partial), (&[9, 4][..], true));
        progress.successor_mut(&name()).unwrap().read_offsets[1] = 5;
        progress.switch(&name());
        assert_eq!((&*progress.topics[&name()].topic, progress.topics[&name()].next_offsets.len()), ("t.v2", 3));
    }
}
