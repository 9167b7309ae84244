//! Whether the topics and subjects of tables differ. Without I/O.
//!
//! Brokers refuse topics that differ only in `.` and `_`, because the names of their metrics would be the same:
//! <https://github.com/apache/kafka/blob/trunk/clients/src/main/java/org/apache/kafka/common/internals/Topic.java>

use std::collections::HashMap;

use sooner_api::{Code, Error};
use sooner_schemas::TableName;
use sooner_schemas::envelope::namespace;
use sooner_schemas::naming::{SubjectStrategy, TopicPattern};

/// What names topics and subjects.
#[derive(Clone, Copy, Debug)]
pub struct TopicNames<'a> {
    /// Pattern of topics.
    pub pattern: &'a TopicPattern,
    /// Strategy of subjects.
    pub subjects: SubjectStrategy,
}

impl TopicNames<'_> {
    /// Tables that cannot have a topic or subjects of their own, each with the reason. Of two that would share one,
    /// that which has it already keeps it, or else the first.
    pub fn refused<'t>(
        self,
        tables: impl Iterator<Item = &'t TableName>,
        has_topic: impl Fn(&TableName) -> bool,
    ) -> Vec<(TableName, Error)> {
        let mut tables: Vec<_> = tables.collect();
        tables.sort_by_key(|table| !has_topic(table));
        let mut owners: HashMap<String, &TableName> = HashMap::new();
        let mut refused = Vec::new();
        for table in tables {
            let topic = self.pattern.topic(table);
            if self.pattern.is_ambiguous(table) {
                refused.push((table.clone(), ambiguous(table)));
                continue;
            }
            let names = self.names_of(&topic);
            match names.iter().find_map(|(name, what)| Some((owners.get(name)?, *what))) {
                Some((owner, what)) => refused.push((table.clone(), shared(table, owner, &topic, what))),
                None => owners.extend(names.into_iter().map(|(name, _)| (name, table))),
            }
        }
        refused
    }

    /// What has to be different for each topic, each with what it is called.
    fn names_of(self, topic: &str) -> Vec<(String, &'static str)> {
        let mut names = vec![(format!("topic {}", topic.replace('.', "_")), "topic")];
        if self.subjects == SubjectStrategy::Record {
            names.push((format!("record {}", namespace(topic)), "subject"));
        }
        names
    }
}

fn ambiguous(table: &TableName) -> Error {
    Error::operator(
        Code::TopicNameAmbiguous,
        format!("{table} cannot go through Kafka"),
        "the name of its schema has a dot, so schema and table cannot be told apart in a topic's name",
        remedy(table),
    )
}

fn shared(table: &TableName, owner: &TableName, topic: &str, what: &str) -> Error {
    let why = match what {
        "topic" => {
            "characters that topics do not have become underscores, and brokers refuse topics that differ only in . and _"
        }
        _ => "subjects = \"record\" names subjects by records, whose names have underscores for what Avro forbids",
    };
    let what = format!("{table} would share the {what} of {owner} with its topic {topic}");
    Error::operator(Code::TopicShared, what, why, remedy(table))
}

fn remedy(table: &TableName) -> String {
    format!(
        "give it a topic of its own ([[table]] with match = '{table}' and topic = \"…\"), or exclude it; then restart"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(subjects: SubjectStrategy, tables: &[(&str, &str)], owner: Option<(&str, &str)>) -> Vec<(String, Code)> {
        let pattern = TopicPattern::debezium("p");
        let names = TopicNames { pattern: &pattern, subjects };
        let tables: Vec<_> = tables.iter().map(|(schema, table)| TableName::new(*schema, *table)).collect();
        let owner = owner.map(|(schema, table)| TableName::new(schema, table));
        let refused = names.refused(tables.iter(), |table| Some(table) == owner.as_ref());
        refused.into_iter().map(|(table, error)| (table.to_string(), error.code)).collect()
    }

    #[test]
    fn of_two_tables_that_would_share_a_topic_the_second_is_refused() {
        let topic = SubjectStrategy::Topic;
        let shared = |table: &str| vec![(table.to_owned(), Code::TopicShared)];
        assert_eq!(refused(topic, &[("a", "b c"), ("a", "b_c"), ("a", "d")], None), shared("a.b_c"));
        assert_eq!(refused(topic, &[("a", "b c"), ("a", "b_c")], Some(("a", "b_c"))), shared("a.b c"));
        assert_eq!(refused(topic, &[("a", "b.c"), ("a", "b_c")], None), shared("a.b_c"));
        assert_eq!(refused(topic, &[("a", "b_c"), ("a_b", "c")], None), shared("a_b.c"));
        assert_eq!(refused(topic, &[("a.b", "c")], None), [("\"a.b\".c".to_owned(), Code::TopicNameAmbiguous)]);
    }

    #[test]
    fn of_two_tables_that_would_share_a_subject_the_second_is_refused() {
        let tables = [("a", "b-c"), ("a", "b_c")];
        assert_eq!(refused(SubjectStrategy::Topic, &tables, None), []);
        assert_eq!(refused(SubjectStrategy::TopicRecord, &tables, None), []);
        assert_eq!(refused(SubjectStrategy::Record, &tables, None), [("a.b_c".to_owned(), Code::TopicShared)]);
    }
}
