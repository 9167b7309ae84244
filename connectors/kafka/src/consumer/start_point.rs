//! Where to read a partition from, by what its table says, what its writer recorded, and what is left of it. Decided
//! without I/O.

use sooner_api::{Code, Error, Opened, Standing};
use sooner_schemas::TableName;

use crate::cluster::admin::topic_gone;
use crate::progress::record::TopicOffsets;

/// What decides about one partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionFacts<'a> {
    /// Number of the partition.
    pub partition: i32,
    /// What the source recorded of the topic; none where another writer, or nobody, wrote it.
    pub recorded: Option<&'a TopicOffsets>,
    /// Whether the writer keeps records at all.
    pub has_records: bool,
    /// The first offset that is still there.
    pub first: i64,
    /// The offset after the last message.
    pub end: i64,
}

/// Where to start, and why the table cannot go on, if so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartPoint {
    /// Offset to read from.
    pub offset: i64,
    /// The table cannot be read on from there.
    pub problem: Option<Error>,
}

impl PartitionFacts<'_> {
    /// The offset after the last event that was written, as far as that is recorded.
    pub fn written(&self) -> Option<i64> {
        self.recorded?.next_offsets.get(usize::try_from(self.partition).ok()?).copied()
    }

    /// Where the partition of a table is read from.
    pub fn start_point(&self, topic: &str, table: &Opened) -> StartPoint {
        let next = table.positions.as_ref().and_then(|positions| positions.next_offset(self.partition));
        let written = self.written();
        let (from, expired) = match next {
            Some(next) => (next, next < self.first && written.is_none_or(|written| next < written)),
            // Ours start with the table's first event.
            None if self.has_records => {
                let from = self.recorded.map_or(0, |recorded| recorded.first_offset(self.partition));
                (from, self.first > from && written.is_none_or(|written| written > from))
            }
            // Debezium's topics are read from what is left of them.
            None => (self.first, false),
        };
        let problem = if from > self.end {
            let (partition, end) = (self.partition, self.end);
            let why = format!("partition {partition} ends at offset {end}, and the table has events up to {from}");
            Some(topic_gone(topic, &why))
        } else if expired {
            Some(self.expired(topic, &table.table, from))
        } else {
            None
        };
        StartPoint { offset: from.clamp(self.first, self.end.max(self.first)), problem }
    }

    fn expired(&self, topic: &str, table: &TableName, from: i64) -> Error {
        let (partition, first) = (self.partition, self.first);
        Error::operator(
            Code::EventsExpired,
            format!("events of {table} are gone before they were read"),
            format!(
                "{topic}/{partition} starts at offset {first}, and the table needs it from {from}: retention removed the \
                 events between"
            ),
            format!(
                "`sooner resume {table}` at the source writes the table again, and it goes on from there; raise the \
                 topic's retention above the longest time that the sink may be down"
            ),
        )
    }
}

/// Why a table whose positions are of another feed waits; none if they are of this one.
pub fn awaited_copy(topic: &str, table: &Opened, has_records: bool) -> Option<Error> {
    if table.standing != Standing::FollowsOther {
        return None;
    }
    let name = &table.table;
    let what = format!("the lake table {name} was not read from this topic {topic}");
    Some(match has_records {
        true => Error::operator(
            Code::CopyAwaited,
            what,
            "its writer began again, so the start of a copy comes first",
            format!("nothing, if it goes on by itself in a moment; otherwise `sooner resume {name}` at the source"),
        ),
        false => Error::operator(
            Code::CopyAwaited,
            what,
            "this pipeline filled it another way before, and nothing in the topic says where that ends",
            "move the table away; it is built again from the topic",
        ),
    })
}

/// Why a table that is not there cannot be built from a topic that took another one's place when retention had removed
/// events of that; none if it is there.
pub fn partial_history(topic: &str, table: &Opened) -> Option<Error> {
    let name = &table.table;
    let why = format!("retention had removed events before they could be written to topic {topic}, which lacks them");
    let remedy = format!("`sooner resume {name}` at the source writes the table again");
    let what = format!("the lake table {name} cannot be built from its topic");
    (table.standing == Standing::Absent).then(|| Error::operator(Code::EventsExpired, what, why, remedy))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sooner_api::Positions;

    use super::*;

    fn opened(next: Option<i64>, standing: Standing) -> Opened {
        Opened {
            table: TableName::new("public", "t"),
            standing,
            positions: next.map(|next| Positions::offsets(BTreeMap::from([(0, next)]))),
            watermark: None,
            error: None,
            needs_copy: false,
            copy: None,
            copied: None,
        }
    }

    fn recorded(first: i64, next: i64) -> TopicOffsets {
        TopicOffsets {
            topic: "t".into(),
            generation: 1,
            begun_over: false,
            first_offsets: vec![first],
            next_offsets: vec![next],
        }
    }

    fn facts(recorded: Option<&TopicOffsets>, has_records: bool, first: i64, end: i64) -> PartitionFacts<'_> {
        PartitionFacts { partition: 0, recorded, has_records, first, end }
    }

    fn start(facts: PartitionFacts<'_>, next: Option<i64>) -> (i64, Option<Code>) {
        let StartPoint { offset, problem } = facts.start_point("t", &opened(next, Standing::Follows));
        (offset, problem.map(|error| error.code))
    }

    #[test]
    fn a_table_goes_on_from_its_own_position() {
        let record = recorded(0, 20);
        assert_eq!(start(facts(Some(&record), true, 0, 21), Some(7)), (7, None));
        assert_eq!(start(facts(None, false, 0, 21), Some(7)), (7, None));
    }

    #[test]
    fn a_new_table_starts_where_the_topics_generation_begins_or_with_what_is_left() {
        let record = recorded(5, 20);
        assert_eq!(start(facts(Some(&record), true, 0, 21), None), (5, None));
        assert_eq!(start(facts(None, false, 3, 21), None), (3, None));
    }

    #[test]
    fn events_that_retention_removed_are_missed() {
        let record = recorded(0, 20);
        assert_eq!(start(facts(Some(&record), true, 9, 21), Some(7)).1, Some(Code::EventsExpired));
        assert_eq!(start(facts(Some(&record), true, 9, 21), None).1, Some(Code::EventsExpired));
        let read = recorded(0, 7);
        assert_eq!(start(facts(Some(&read), true, 9, 21), Some(7)), (9, None), "all that was written had been read");
    }

    #[test]
    fn a_topic_that_is_shorter_than_before_was_replaced() {
        let record = recorded(0, 20);
        assert_eq!(start(facts(Some(&record), true, 0, 5), Some(7)), (5, Some(Code::TopicReplaced)));
    }

    #[test]
    fn a_table_of_another_feed_waits_for_a_copy() {
        let other = opened(None, Standing::FollowsOther);
        for has_records in [true, false] {
            let error = awaited_copy("t", &other, has_records);
            assert_eq!(error.map(|error| error.code), Some(Code::CopyAwaited));
        }
        assert_eq!(awaited_copy("t", &opened(None, Standing::Follows), true), None);
    }
}
