//! The names under which a pipeline keeps positions in a table's log, one `txn` action each.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#transaction-identifiers>

use std::collections::{BTreeMap, HashMap};

use sooner_api::{Feed, NextOffsets, Positions, Standing};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, Position};

use super::table_version::TableVersion;

/// Names of one table's positions for one feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionNames {
    pipeline: String,
    feed: Feed,
    /// LSN up to which the table is complete; none where its writer reports no LSN.
    watermark: Option<String>,
    positions: Names,
    generation: Option<String>,
    /// Which copy replaced the table last.
    copy: String,
    /// Number of the last row of a history that was chained.
    sequence: String,
}

/// Name of the number of the last row of a history that was chained, whatever the feed.
pub fn sequence_name(pipeline: &str) -> String {
    format!("sooner/{pipeline}/history/sequence")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    /// Commit LSN up to which events are in the table.
    Stream(String),
    /// For each partition, the offset after the last event that is in the table.
    Topic(BTreeMap<i32, String>),
}

impl PositionNames {
    /// The names of a pipeline for a feed.
    pub fn new(pipeline: &str, feed: &Feed) -> PositionNames {
        let (watermark, positions, generation_name, copy) = match feed {
            Feed::Slot(slot) => {
                let name = format!("sooner/{pipeline}/{slot}");
                let copy = format!("{name}/copy");
                (Some(format!("{name}/watermark")), Names::Stream(name), None, copy)
            }
            Feed::Topic { topic, partitions, in_commit_order, generation, .. } => {
                let prefix = format!("sooner/{pipeline}/{topic}");
                let names = (0..*partitions).map(|partition| (partition, format!("{prefix}/{partition}")));
                let watermark = in_commit_order.then(|| format!("{prefix}/watermark"));
                let generation_name = generation.map(|_| format!("{prefix}/generation"));
                (watermark, Names::Topic(names.collect()), generation_name, format!("{prefix}/copy"))
            }
        };
        PositionNames {
            pipeline: pipeline.to_owned(),
            feed: feed.clone(),
            watermark,
            positions,
            generation: generation_name,
            copy,
            sequence: sequence_name(pipeline),
        }
    }

    /// Name of the pipeline.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// The feed.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Whether a commit's watermark is true of the whole table: nobody else commits events of it.
    pub fn knows_watermark(&self) -> bool {
        self.feed.knows_watermark()
    }

    /// Whether the feed is a topic.
    pub fn is_topic(&self) -> bool {
        matches!(self.positions, Names::Topic(_))
    }

    /// Whether a commit with these positions is of this pipeline's feed: it says of which generation of the topic it
    /// is, also where nothing but columns change.
    pub fn are_of_feed(&self, txns: &HashMap<String, i64>) -> bool {
        self.recorded(txns).is_some() || self.generation.as_ref().is_some_and(|name| txns.contains_key(name))
    }

    /// The position of an event, if others that come later may be older: those of our own topics, by partition.
    pub fn counted(&self, position: Option<Position>) -> Option<Position> {
        position.filter(|_| self.generation().is_some())
    }

    /// Incarnation of the topic that is read, where its writer reports it.
    pub fn generation(&self) -> Option<i64> {
        match &self.feed {
            Feed::Slot(_) => None,
            Feed::Topic { generation, .. } => *generation,
        }
    }

    /// Whether events come in commit order.
    pub fn is_in_commit_order(&self) -> bool {
        match &self.feed {
            Feed::Slot(_) => true,
            Feed::Topic { in_commit_order, partitions, .. } => *in_commit_order || *partitions == 1,
        }
    }

    /// Whether an event of the whole table, such as a truncate, can be put in order with all others: everything that it
    /// concerns is read here.
    pub fn orders_whole_table(&self) -> bool {
        self.feed.is_whole() && self.is_in_commit_order()
    }

    /// All names.
    pub fn all(&self) -> Vec<&str> {
        let positions: Vec<_> = match &self.positions {
            Names::Stream(name) => vec![name.as_str()],
            Names::Topic(names) => names.values().map(String::as_str).collect(),
        };
        let further = [self.watermark.as_deref(), self.generation.as_deref(), Some(&*self.copy), Some(&*self.sequence)];
        positions.into_iter().chain(further.into_iter().flatten()).collect()
    }

    /// What a log says has been taken of this feed, of whatever incarnation; none if nothing.
    pub fn recorded(&self, txns: &HashMap<String, i64>) -> Option<Positions> {
        match &self.positions {
            Names::Stream(name) => txns.get(name).map(|version| Positions::whole(Lsn(version.cast_unsigned()))),
            Names::Topic(names) => {
                let offsets = names.iter().filter_map(|(partition, name)| Some((*partition, *txns.get(name)?)));
                let next_offsets: NextOffsets = offsets.collect();
                let generation = self.generation.as_ref().and_then(|name| txns.get(name)).copied();
                (!next_offsets.is_empty()).then_some(Positions::Topic { generation, next_offsets })
            }
        }
    }

    /// The LSN up to which a log says that the table is complete; none where several sinks share it, or did when it
    /// was last committed to.
    pub fn watermark(&self, txns: &HashMap<String, i64>) -> Option<Lsn> {
        let name = self.watermark.as_deref().filter(|_| self.knows_watermark())?;
        txns.get(name).map(|version| Lsn(version.cast_unsigned())).filter(|lsn| *lsn > Lsn::ZERO)
    }

    /// The copy that replaced the table last; none if its log does not say so.
    pub fn copy(&self, txns: &HashMap<String, i64>) -> Option<u64> {
        txns.get(&self.copy).map(|id| id.cast_unsigned())
    }

    /// What the commit of a copy writes in addition.
    pub fn version_of_copy(&self, id: u64) -> (String, i64) {
        (self.copy.clone(), id.cast_signed())
    }

    /// The number of the last row that was chained, which is not given again even if the row is gone.
    pub fn sequence(&self, txns: &HashMap<String, i64>) -> Option<i64> {
        txns.get(&self.sequence).copied()
    }

    /// What a commit of chained rows writes in addition.
    pub fn version_of_sequence(&self, sequence: i64) -> (String, i64) {
        (self.sequence.clone(), sequence)
    }

    /// What a table holds, compared with this feed.
    pub fn standing(&self, table: &TableVersion) -> Standing {
        if !table.exists() {
            return Standing::Absent;
        }
        match self.recorded(table.txns()) {
            Some(positions) => match (positions.generation(), self.generation()) {
                (Some(recorded), Some(current)) if recorded != current => Standing::FollowsOther,
                (Some(_), None) => Standing::FollowsOther,
                _ => Standing::Follows,
            },
            None if table.is_made_by(&self.pipeline) => Standing::FollowsOther,
            None => Standing::Foreign,
        }
    }

    /// What a commit writes: names and versions.
    pub fn versions(&self, positions: &Positions, watermark: Watermark) -> HashMap<String, i64> {
        let mut versions = HashMap::new();
        match (&self.positions, positions) {
            (Names::Stream(name), Positions::Stream(position)) => {
                versions.insert(name.clone(), position.commit_lsn.0.cast_signed());
            }
            (Names::Topic(names), Positions::Topic { next_offsets, .. }) => {
                let written = next_offsets.iter().filter_map(|(partition, next)| Some((names.get(partition)?, *next)));
                versions.extend(written.map(|(name, next)| (name.clone(), next)));
            }
            _ => {}
        }
        // A share of the events says of no position that the table is complete to it, nor is what was said before true
        // of what it is by now.
        let lsn = if self.knows_watermark() { watermark.commit_lsn } else { Lsn::ZERO };
        versions.extend(self.watermark.clone().map(|name| (name, lsn.0.cast_signed())));
        versions.extend(self.generation.clone().zip(self.generation()));
        versions
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::log::actions::{metadata, protocol};
    use crate::log::commit::Commit;

    fn topic(generation: Option<i64>, assigned: &[i32]) -> PositionNames {
        let feed = Feed::Topic {
            topic: "shop.t".into(),
            generation,
            partitions: 2,
            assigned: assigned.iter().copied().collect::<BTreeSet<_>>(),
            in_commit_order: true,
        };
        PositionNames::new("shop", &feed)
    }

    fn offsets(generation: Option<i64>, offsets: &[(i32, i64)]) -> Positions {
        Positions::Topic { generation, next_offsets: offsets.iter().copied().collect() }
    }

    fn mark(lsn: u64) -> Watermark {
        Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 1), commit_micros: 0 }
    }

    fn table(pipeline: &str, txns: HashMap<String, i64>) -> TableVersion {
        let metadata = Some(metadata(pipeline, &[], 0));
        TableVersion::default().apply(Commit { metadata, protocol: Some(protocol()), txns, ..Commit::default() })
    }

    #[test]
    fn what_is_written_is_read_back() {
        let names = topic(Some(5), &[0, 1]);
        let positions = offsets(Some(5), &[(0, 7), (1, 9)]);
        let txns = names.versions(&positions, mark(50));
        assert_eq!(names.recorded(&txns), Some(positions));
        assert_eq!(names.watermark(&txns), Some(Lsn(50)));
        let slot = PositionNames::new("shop", &Feed::Slot("s".into()));
        let txns = slot.versions(&Positions::whole(Lsn(40)), mark(45));
        assert_eq!(slot.recorded(&txns), Some(Positions::whole(Lsn(40))));
        assert_eq!(slot.watermark(&txns), Some(Lsn(45)));
    }

    #[test]
    fn a_share_of_the_partitions_says_nothing_of_the_whole_table() {
        let names = topic(Some(5), &[1]);
        assert!(!names.knows_watermark() && !names.orders_whole_table());
        let whole = topic(Some(5), &[0, 1]);
        let mut txns = whole.versions(&offsets(Some(5), &[(0, 7), (1, 9)]), mark(50));
        assert_eq!((whole.watermark(&txns), names.watermark(&txns)), (Some(Lsn(50)), None));
        txns.extend(names.versions(&offsets(Some(5), &[(1, 12)]), mark(60)));
        assert_eq!(whole.watermark(&txns), None, "what was said before is not true of what the table is by now");
        assert!(topic(Some(5), &[0, 1]).orders_whole_table());
    }

    #[test]
    fn a_tables_standing_is_what_its_log_says_of_the_feed() {
        let names = topic(Some(5), &[0, 1]);
        let of = |generation| topic(generation, &[0, 1]).versions(&offsets(generation, &[(0, 7)]), mark(1));
        assert_eq!(names.standing(&TableVersion::default()), Standing::Absent);
        assert_eq!(names.standing(&table("shop", of(Some(5)))), Standing::Follows);
        assert_eq!(names.standing(&table("shop", of(Some(4)))), Standing::FollowsOther);
        assert_eq!(names.standing(&table("shop", HashMap::new())), Standing::FollowsOther);
        assert_eq!(names.standing(&table("other", HashMap::new())), Standing::Foreign);
        assert_eq!(names.standing(&table("other", of(None))), Standing::Follows, "positions count, whoever made it");
    }
}
