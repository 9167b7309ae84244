//! Names of the topics that tables' events go to: by the configuration, unless a table's topic got another number of
//! partitions, and with them another name. Without I/O.

use std::collections::BTreeMap;

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use super::topic_names::TopicNames;
use crate::progress::record::TopicProgress;

/// Names of topics at present.
pub struct PresentNames<'a> {
    /// Names by the configuration.
    pub names: TopicNames<'a>,
    /// Tables that have moved, or are about to.
    pub moved: BTreeMap<TableName, MovedTopic>,
}

/// The topic of a table that has moved, or is about to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedTopic {
    /// Name that the configuration gave the table's topic.
    pub base: String,
    /// Topic that its events go to.
    pub topic: String,
}

impl<'a> PresentNames<'a> {
    /// Names by the configuration, and by what a record says of tables that have moved.
    pub fn new(names: TopicNames<'a>, record: Option<&TopicProgress>) -> PresentNames<'a> {
        let moved = record.into_iter().flat_map(|record| {
            record.lineages.iter().filter_map(|(table, lineage)| {
                let (base, topic) = (lineage.base.clone(), record.topics.get(table)?.topic.clone());
                Some((table.clone(), MovedTopic { base, topic }))
            })
        });
        PresentNames { names, moved: moved.collect() }
    }

    /// Tables that have moved by the last record of predecessors, which are fenced by now. An error to retry if one of
    /// them has moved a table since the record that these names are of.
    pub fn check_still(self, last: Option<&TopicProgress>) -> Result<BTreeMap<TableName, MovedTopic>> {
        let moved = PresentNames::new(self.names, last).moved;
        if moved == self.moved {
            return Ok(moved);
        }
        Err(Error::retry(
            Code::TopicRepartitioned,
            "cannot write to the topics yet",
            "the former source has just begun to repartition a topic, or has switched to another one",
            "nothing; the source starts over",
        ))
    }

    /// The topic that a table's events go to. One that the configuration gives another topic by now goes there.
    pub fn topic(&self, table: &TableName) -> String {
        let configured = self.names.pattern.topic(table);
        match self.moved.get(table).filter(|moved| moved.base == configured) {
            Some(moved) => moved.topic.clone(),
            None => configured,
        }
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::naming::{SubjectStrategy, TopicPattern};

    use super::*;
    use crate::progress::lineage::Lineage;
    use crate::progress::record::TopicOffsets;

    #[test]
    fn a_table_that_has_moved_stays_where_it_is_as_long_as_the_configuration_says_the_same() {
        let (table, other) = (TableName::new("public", "t"), TableName::new("public", "u"));
        let mut record = TopicProgress::default();
        let lineage = Lineage { base: "shop.public.t".into(), ..Lineage::default() };
        record.lineages.insert(table.clone(), lineage);
        let offsets = TopicOffsets {
            topic: "shop.public.t.v2".into(),
            generation: 7,
            begun_over: false,
            first_offsets: vec![0],
            next_offsets: vec![0],
        };
        record.topics.insert(table.clone(), offsets);
        for (prefix, expected) in [("shop", "shop.public.t.v2"), ("mall", "mall.public.t")] {
            let pattern = TopicPattern::debezium(prefix);
            let names = TopicNames { pattern: &pattern, subjects: SubjectStrategy::Topic };
            let names = PresentNames::new(names, Some(&record));
            assert_eq!(names.topic(&table), expected);
            assert_eq!(names.topic(&other), format!("{prefix}.public.u"));
            assert!(names.check_still(Some(&record)).is_ok());
        }
        let pattern = TopicPattern::debezium("shop");
        let names = || TopicNames { pattern: &pattern, subjects: SubjectStrategy::Topic };
        let before = PresentNames::new(names(), Some(&TopicProgress::default()));
        assert_eq!(before.check_still(Some(&record)).unwrap_err().code, Code::TopicRepartitioned);
    }
}
