//! Names of topics and of registry subjects.
//!
//! Topics: <https://debezium.io/documentation/reference/3.6/connectors/postgresql.html#postgresql-topic-names>;
//! subjects:
//! <https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/>

use std::fmt;

use crate::table_name::TableName;

const SCHEMA: &str = "{schema}";
const TABLE: &str = "{table}";
/// Kafka's limit for the length of a topic's name, in characters.
const LONGEST_TOPIC: usize = 249;

/// Pattern of topic names: a text with `{schema}` and `{table}`, which maps a table to the topic of its events. Single
/// tables may have a topic of another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    before: String,
    between: String,
    after: String,
    exceptions: Vec<(TableName, String)>,
}

/// Error: the pattern does not distinguish tables, or yields an invalid topic name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPattern {
    /// `{schema}` or `{table}` is missing, they are in the other order, or no text separates them.
    #[error("expected {{schema}} and then {{table}}, with a text between that keeps them apart")]
    Parts,
    /// The pattern has a character that topic names may not contain.
    #[error("the character '{0}' is not allowed in a topic's name (letters, digits, '.', '_' and '-' are)")]
    Character(char),
}

impl TopicPattern {
    /// Parses a pattern whose `{prefix}`, if there is one, is replaced first.
    pub fn parse(pattern: &str, prefix: &str) -> Result<TopicPattern, BadPattern> {
        let text = pattern.replace("{prefix}", prefix);
        let (before, rest) = text.split_once(SCHEMA).ok_or(BadPattern::Parts)?;
        let (between, after) = rest.split_once(TABLE).ok_or(BadPattern::Parts)?;
        if between.is_empty() {
            return Err(BadPattern::Parts);
        }
        if let Some(bad) = [before, between, after].concat().chars().find(|c| !is_allowed(*c)) {
            return Err(BadPattern::Character(bad));
        }
        Ok(TopicPattern { before: before.into(), between: between.into(), after: after.into(), exceptions: Vec::new() })
    }

    /// Debezium's pattern: `<prefix>.<schema>.<table>`.
    pub fn debezium(prefix: &str) -> TopicPattern {
        TopicPattern { before: format!("{prefix}."), between: ".".into(), after: String::new(), exceptions: Vec::new() }
    }

    /// The same pattern, but for tables that have a topic of their own.
    pub fn except(self, exceptions: Vec<(TableName, String)>) -> TopicPattern {
        TopicPattern { exceptions, ..self }
    }

    /// What the topics of all tables begin with, but for those of [`TopicPattern::exceptions`].
    pub fn before(&self) -> &str {
        &self.before
    }

    /// Topics of tables that have one of their own.
    pub fn exceptions(&self) -> impl Iterator<Item = &str> {
        self.exceptions.iter().map(|(_, topic)| topic.as_str())
    }

    /// Whether a table's topic tells schema and table apart.
    pub fn is_ambiguous(&self, table: &TableName) -> bool {
        table.schema.contains('.') && !self.exceptions.iter().any(|(known, _)| known == table)
    }

    /// The topic of a table. Characters that topic names may not contain become underscores; longer names are cut.
    pub fn topic(&self, table: &TableName) -> String {
        if let Some((_, topic)) = self.exceptions.iter().find(|(known, _)| known == table) {
            return topic.clone();
        }
        let name = [&self.before, &table.schema, &self.between, &table.table, &self.after].map(String::as_str).concat();
        name.chars().map(|c| if is_allowed(c) { c } else { '_' }).take(LONGEST_TOPIC).collect()
    }

    /// The table of a topic, if its name fits the pattern.
    pub fn table(&self, topic: &str) -> Option<TableName> {
        if let Some((table, _)) = self.exceptions.iter().find(|(_, name)| name == topic) {
            return Some(table.clone());
        }
        let middle = topic.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())?;
        let (schema, table) = middle.split_once(self.between.as_str())?;
        (!schema.is_empty() && !table.is_empty()).then(|| TableName::new(schema, table))
    }
}

/// Whether a topic may have this name; otherwise the error is a phrase for a person.
pub fn check_topic(name: &str) -> Result<(), String> {
    match name.chars().find(|c| !is_allowed(*c)) {
        Some(bad) => Err(BadPattern::Character(bad).to_string()),
        None if name.is_empty() || name == "." || name == ".." => Err("expected the name of a topic".to_owned()),
        None if name.len() > LONGEST_TOPIC => Err(format!("a topic's name has {LONGEST_TOPIC} characters at most")),
        None => Ok(()),
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// Strategy by which registry subjects are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubjectStrategy {
    /// `<topic>-key` and `<topic>-value`.
    #[default]
    Topic,
    /// The record's full name.
    Record,
    /// `<topic>-<the record's full name>`.
    TopicRecord,
}

/// Part of a message that a schema describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The message's key.
    Key,
    /// The message's value.
    Value,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Key => "key",
            Part::Value => "value",
        })
    }
}

impl SubjectStrategy {
    /// The subject of a schema whose record has the full name `record`.
    pub fn subject(self, topic: &str, part: Part, record: &str) -> String {
        match self {
            SubjectStrategy::Topic => format!("{topic}-{part}"),
            SubjectStrategy::Record => record.to_owned(),
            SubjectStrategy::TopicRecord => format!("{topic}-{record}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_leads_back_to_its_table() {
        let table = TableName::new("public", "order.lines");
        let pattern = TopicPattern::parse("{prefix}.{schema}.{table}", "shop").unwrap();
        assert_eq!(pattern, TopicPattern::debezium("shop"));
        assert_eq!(pattern.topic(&table), "shop.public.order.lines");
        assert_eq!(pattern.table("shop.public.order.lines"), Some(table));
        assert_eq!(pattern.table("other.public.orders"), None);
        assert_eq!(pattern.table("shop.public"), None);
        assert_eq!(pattern.topic(&TableName::new("public", "straße")), "shop.public.stra_e");
    }

    #[test]
    fn patterns_must_tell_tables_apart() {
        for text in ["{schema}{table}", "{table}.{schema}", "all", "{schema}"] {
            assert_eq!(TopicPattern::parse(text, "p"), Err(BadPattern::Parts), "{text}");
        }
        assert_eq!(TopicPattern::parse("{schema} {table}", "p"), Err(BadPattern::Character(' ')));
    }

    #[test]
    fn a_table_may_have_a_topic_of_its_own() {
        let (odd, plain) = (TableName::new("a.b", "c d"), TableName::new("a", "c"));
        let pattern = TopicPattern::debezium("p").except(vec![(odd.clone(), "own".to_owned())]);
        assert_eq!((pattern.topic(&odd), pattern.topic(&plain)), ("own".to_owned(), "p.a.c".to_owned()));
        assert_eq!((pattern.table("own"), pattern.table("p.a.c")), (Some(odd.clone()), Some(plain)));
        assert!(!pattern.is_ambiguous(&odd) && TopicPattern::debezium("p").is_ambiguous(&odd));
        assert!(check_topic("a b").unwrap_err().contains("' '"));
        assert!(check_topic("..").is_err() && check_topic(&"x".repeat(250)).is_err() && check_topic("x-1_y.z").is_ok());
    }

    #[test]
    fn subjects_by_strategy() {
        let named = |strategy: SubjectStrategy| strategy.subject("t", Part::Value, "n.Envelope");
        assert_eq!(named(SubjectStrategy::Topic), "t-value");
        assert_eq!(named(SubjectStrategy::Record), "n.Envelope");
        assert_eq!(named(SubjectStrategy::TopicRecord), "t-n.Envelope");
    }
}
