//! Which of a table's topics is read, where its events have moved from one to another. Decided without I/O.

use std::collections::{BTreeSet, HashMap};

use sooner_api::{Code, Error, Opened};
use sooner_schemas::TableName;

use super::assignment::Held;

/// What a reader has found out about tables whose lake tables do not have all of a former topic.
#[derive(Debug, Default)]
pub struct Succession {
    /// Former topic that is read of each of these tables.
    behind: HashMap<TableName, String>,
    /// Partitions of that topic that have been read to their ends.
    ended: HashMap<TableName, BTreeSet<i32>>,
    /// Tables that cannot be read on in a former topic, each with the reason: they wait for a copy in the present one.
    given_up: HashMap<TableName, Error>,
}

impl Succession {
    /// The former topic to be read of a table; none if it reads the present one.
    pub fn topic(&self, table: &TableName) -> Option<&str> {
        self.behind.get(table).map(String::as_str)
    }

    /// Why a table waits for a copy in the present topic; none if it does not.
    pub fn given_up(&self, table: &TableName) -> Option<Error> {
        self.given_up.get(table).cloned()
    }

    /// A table cannot be read on in a former topic.
    pub fn give_up(&mut self, table: &TableName, why: Error) {
        self.given_up.insert(table.clone(), why);
        self.behind.remove(table);
        self.ended.remove(table);
    }

    /// These partitions of a table's former topic have been read to their ends.
    pub fn end(&mut self, table: TableName, partitions: BTreeSet<i32>) {
        self.ended.insert(table, partitions);
    }

    /// Whether the topic that was assigned of a table is the one that its lake table has to read; otherwise that one is
    /// to be assigned next.
    pub fn follow(&mut self, held: &Held, table: &Opened) -> bool {
        let (name, last) = (&table.table, held.stages.len() - 1);
        let mut needed = held.stage_for(table.positions.as_ref());
        if needed == last {
            self.given_up.remove(name);
        }
        // What was handed on was committed, so what is missing was not taken.
        let is_missing = self.ended.get(name).is_some_and(|partitions| !held.has_taken(partitions, table));
        if needed < last && held.at == needed && is_missing {
            self.give_up(name, unread(name, &held.stage().topic));
        }
        if self.given_up.contains_key(name) {
            needed = last;
        }
        if needed != held.at {
            self.ended.remove(name);
        }
        match needed == last {
            true => self.behind.remove(name),
            false => self.behind.insert(name.clone(), held.stages[needed].topic.clone()),
        };
        needed == held.at
    }
}

fn unread(table: &TableName, topic: &str) -> Error {
    Error::operator(
        Code::CopyAwaited,
        format!("the lake table {table} has not taken all events of topic {topic}, after which another one goes on"),
        "the table stopped before the end of that topic; the log says why",
        format!("remove the reason, then `sooner resume {table}` at the source writes the table again"),
    )
}

#[cfg(test)]
mod tests {
    use sooner_api::{NextOffsets, Positions, Standing};

    use super::*;
    use crate::progress::record::TopicOffsets;
    use crate::progress::stages::Stage;

    fn name() -> TableName {
        TableName::new("public", "t")
    }

    fn held(at: usize) -> Held {
        let offsets = |topic: &str, next_offsets: Vec<i64>| {
            let first_offsets = vec![0; next_offsets.len()];
            Some(TopicOffsets { topic: topic.into(), generation: 7, begun_over: false, first_offsets, next_offsets })
        };
        let former = Stage::alone("t", offsets("t", vec![5]));
        let (topic, starts_at) = ("t.v2".to_owned(), Some(vec![4, 1]));
        let present = Stage { topic, shift: 1, offsets: offsets("t.v2", vec![9, 9]), starts_at };
        Held { stages: vec![former, present], at, partitions: [0].into() }
    }

    fn table(next: i64) -> Opened {
        let next_offsets = NextOffsets::from([(0, next)]);
        Opened {
            table: name(),
            standing: Standing::Follows,
            positions: Some(Positions::Topic { generation: Some(7), next_offsets }),
            watermark: None,
            error: None,
            needs_copy: false,
            copy: None,
            copied: None,
        }
    }

    #[test]
    fn a_table_reads_the_former_topic_to_its_end_and_then_the_present_one() {
        let mut succession = Succession::default();
        assert!(!succession.follow(&held(1), &table(3)));
        assert_eq!(succession.topic(&name()), Some("t"));
        assert!(succession.follow(&held(0), &table(3)));
        succession.end(name(), [0].into());
        assert!(!succession.follow(&held(0), &table(5)));
        assert_eq!(succession.topic(&name()), None);
        assert!(succession.follow(&held(1), &table(5)));
    }

    #[test]
    fn partitions_that_come_later_are_read_as_well() {
        let mut succession = Succession::default();
        let none = |at| Held { partitions: BTreeSet::new(), ..held(at) };
        assert!(!succession.follow(&none(1), &table(3)) && succession.follow(&none(0), &table(3)));
        succession.end(name(), BTreeSet::new());
        assert!(succession.follow(&held(0), &table(3)));
        assert_eq!(succession.given_up(&name()), None);
    }

    #[test]
    fn a_table_that_did_not_take_what_was_read_waits_for_a_copy_in_the_present_topic() {
        let mut succession = Succession::default();
        assert!(!succession.follow(&held(1), &table(3)));
        succession.end(name(), [0].into());
        assert!(!succession.follow(&held(0), &table(4)));
        assert_eq!(succession.given_up(&name()).map(|error| error.code), Some(Code::CopyAwaited));
        assert!(succession.follow(&held(1), &table(4)), "it waits there");
        assert!(succession.follow(&held(1), &table(5)), "whoever else has read it");
        assert_eq!(succession.given_up(&name()), None);
    }
}
