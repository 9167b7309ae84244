//! Copies of tables, as progress records report them: which have ended, and which were broken off.

use std::collections::HashMap;

use sooner_api::{Coverage, Error, TableState};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use super::record::TopicProgress;

/// Remembers the copies whose end has been reported, by table.
#[derive(Default)]
pub struct Copies {
    ended: HashMap<TableName, Lsn>,
}

impl Copies {
    /// Tables whose copy is complete with what this record covers, and was not reported before. Each comes with the
    /// watermark up to which the table is complete then.
    ///
    /// `is_beyond` says of a table that more of it has been read than the record covers: then it has begun something
    /// since, of which the record knows nothing.
    pub fn newly_ended(
        &mut self,
        record: &TopicProgress,
        is_beyond: impl Fn(&TableName) -> bool,
    ) -> Vec<(TableName, Watermark)> {
        let mut newly = Vec::new();
        for (name, table) in &record.record.tables {
            if let TableState::Streaming { copied_lsn: Some(copied) } = table.state
                && self.ended.get(name) != Some(&copied)
                && !is_beyond(name)
            {
                self.ended.insert(name.clone(), copied);
                let lsn = copied.max(record.commit_lsn);
                let watermark =
                    Watermark { commit_lsn: lsn, end_lsn: Lsn(lsn.0 + 1), commit_micros: record.commit_micros };
                newly.push((name.clone(), watermark));
            }
        }
        newly
    }
}

/// Topics whose table was parked before its copy ended, each with the reason.
pub fn broken_copies(record: &TopicProgress) -> impl Iterator<Item = (&str, &Error)> {
    record.record.tables.iter().filter_map(|(name, table)| match &table.state {
        TableState::Parked { error, copied_lsn: None } => Some((record.topics.get(name)?.topic.as_str(), error)),
        _ => None,
    })
}

/// A coverage up to a watermark, with the tables of which it says nothing since they do not follow the stream at their
/// source.
pub fn coverage(record: &TopicProgress, watermark: Watermark) -> Coverage {
    let mut coverage = Coverage::all(watermark);
    for (name, table) in &record.record.tables {
        match table.state {
            TableState::Streaming { .. } => continue,
            TableState::Copying => &mut coverage.except,
            TableState::Parked { .. } | TableState::Waiting { .. } => &mut coverage.stopped,
            TableState::Gone => &mut coverage.gone,
        }
        .push(name.clone());
    }
    coverage
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, TableProgress};

    use super::*;
    use crate::progress::record::TopicOffsets;

    fn record(state: TableState) -> TopicProgress {
        let name = TableName::new("public", "t");
        let offsets = TopicOffsets {
            topic: "topic".into(),
            generation: 1,
            begun_over: false,
            first_offsets: Vec::new(),
            next_offsets: vec![3],
        };
        let mut record = TopicProgress { commit_lsn: Lsn(50), ..TopicProgress::default() };
        record.record.tables.insert(name.clone(), TableProgress::new(state, None));
        record.topics.insert(name, offsets);
        record
    }

    fn parked(copied_lsn: Option<Lsn>) -> TableState {
        let error = Error::operator(Code::MessageTooLarge, "cannot write", "it is too large", "make it smaller");
        TableState::Parked { error, copied_lsn }
    }

    #[test]
    fn the_end_of_a_copy_is_reported_once_and_that_of_the_next_one_again() {
        let mut copies = Copies::default();
        let mut ends = |lsn: u64| {
            let record = record(TableState::Streaming { copied_lsn: Some(Lsn(lsn)) });
            let ended = copies.newly_ended(&record, |_| false);
            ended.into_iter().map(|(_, watermark)| watermark.commit_lsn.0).collect::<Vec<_>>()
        };
        assert_eq!(ends(60), [60], "the copy may be of a later moment than the stream has got to");
        assert_eq!(ends(60), Vec::<u64>::new());
        assert_eq!(ends(70), [70]);
        assert!(copies.newly_ended(&record(TableState::Copying), |_| false).is_empty());
    }

    #[test]
    fn a_record_that_is_older_than_what_was_read_ends_no_copy() {
        let mut copies = Copies::default();
        let ended = record(TableState::Streaming { copied_lsn: Some(Lsn(60)) });
        assert!(copies.newly_ended(&ended, |_| true).is_empty());
        assert_eq!(copies.newly_ended(&ended, |_| false).len(), 1, "it is told once that is reached");
    }

    #[test]
    fn a_copy_is_broken_if_its_table_was_parked_before_it_ended() {
        let topics = |state| broken_copies(&record(state)).map(|(topic, _)| topic.to_owned()).collect::<Vec<_>>();
        assert_eq!(topics(parked(None)), ["topic"]);
        assert!(topics(parked(Some(Lsn(5)))).is_empty());
        assert!(topics(TableState::Copying).is_empty());
    }

    #[test]
    fn a_table_that_is_copied_is_excepted_from_the_streams_watermark() {
        let of = |state| coverage(&record(state), Watermark::default());
        let table = TableName::new("public", "t");
        assert_eq!(of(TableState::Copying).except, vec![table.clone()]);
        let stopped = of(parked(Some(Lsn(7))));
        assert!(stopped.except.is_empty() && stopped.stopped == vec![table.clone()] && !stopped.applies_to(&table));
        assert_eq!(of(TableState::Gone).gone, vec![table.clone()]);
        assert!(of(TableState::Streaming { copied_lsn: None }).applies_to(&table));
    }
}
