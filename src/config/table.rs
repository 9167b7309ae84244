//! `[[table]]`: settings of tables whose names match a pattern. Of several blocks that match, the last one that has a
//! setting counts.

use std::path::Path;
use std::time::Duration;

use sooner_schemas::naming::check_topic;
use sooner_schemas::policy::{TYPES_WITH_ODD_VALUES, ValuePolicy, type_with_odd_values};
use sooner_schemas::{Column, TableName};

use super::pattern::TablePattern;
use super::reader::Section;

/// The shortest freshness: below that, commits would cost more than they carry.
pub const LEAST_FRESHNESS: Duration = Duration::from_millis(50);

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TableBlock {
    matches: TablePattern,
    freshness: Option<Duration>,
    unholdable: Option<ValuePolicy>,
    unholdable_types: Vec<(String, ValuePolicy)>,
    unholdable_columns: Vec<(String, ValuePolicy)>,
    topic: Option<String>,
    sort_by: Option<Vec<String>>,
}

/// All blocks, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableBlocks(Vec<TableBlock>);

impl TableBlocks {
    /// Reads the blocks of the configuration's root.
    pub(super) fn read(root: &mut Section) -> TableBlocks {
        TableBlocks(root.sections("table", |section| {
            let matches = section.text("match", TablePattern::parse);
            let freshness = section.optional_duration("freshness", LEAST_FRESHNESS);
            let unholdable = section.optional("unholdable", parse_policy);
            let unholdable_types = section.texts("unholdable_types", |name, policy| match name {
                name if TYPES_WITH_ODD_VALUES.contains(&name) => parse_policy(policy),
                _ => Err(format!("expected one of the types {}", TYPES_WITH_ODD_VALUES.join(", "))),
            });
            let unholdable_columns = section.texts("unholdable_columns", |_, policy| parse_policy(policy));
            let topic = section.optional("topic", |name| check_topic(name).map(|()| name.to_owned()));
            if topic.is_some() && matches.as_ref().is_some_and(|matches| matches.single().is_none()) {
                section.problem("topic", "a topic is that of one table: match must name it, without *");
            }
            let sort_by = section.list("sort_by", |name| Ok::<_, String>(name.to_owned()));
            let matches = matches?;
            Some(TableBlock { matches, freshness, unholdable, unholdable_types, unholdable_columns, topic, sort_by })
        }))
    }

    /// The blocks of a configuration's root as it was stored; none if they cannot be read any more.
    pub fn of(stored: toml::Table) -> Option<TableBlocks> {
        let mut root = Section::root(stored, Path::new("."));
        let blocks = TableBlocks::read(&mut root);
        root.finish().is_empty().then_some(blocks)
    }

    /// What becomes of a column's values that their target cannot hold. What a block says of the column counts before
    /// what one says of its type, and that before what one says of the table.
    pub fn value_policy(&self, table: &TableName, column: &Column) -> ValuePolicy {
        let blocks = || self.0.iter().rev().filter(|block| block.matches.matches(table));
        let named = |settings: &[(String, ValuePolicy)], name: &str| {
            settings.iter().find(|(known, _)| known == name).map(|(_, policy)| *policy)
        };
        let of_column = blocks().find_map(|block| named(&block.unholdable_columns, &column.name));
        let type_name = type_with_odd_values(&column.column_type).unwrap_or_default();
        of_column
            .or_else(|| blocks().find_map(|block| named(&block.unholdable_types, type_name)))
            .or_else(|| blocks().find_map(|block| block.unholdable))
            .unwrap_or_default()
    }

    /// Columns that a table's rows are sorted by in the lake; none for its key.
    pub fn sort_columns(&self, table: &TableName) -> Vec<String> {
        let mut blocks = self.0.iter().rev().filter(|block| block.matches.matches(table));
        blocks.find_map(|block| block.sort_by.clone()).unwrap_or_default()
    }

    /// Tables that have a topic of another name than the pattern says.
    pub fn topics(&self) -> Vec<(TableName, String)> {
        self.0.iter().rev().filter_map(|block| Some((block.matches.single()?, block.topic.clone()?))).collect()
    }

    /// How long an event of a table may wait before it is visible; none if no block says so.
    pub fn freshness(&self, table: &TableName) -> Option<Duration> {
        self.0.iter().rev().filter(|block| block.matches.matches(table)).find_map(|block| block.freshness)
    }

    /// The freshness of each block that has one, with its pattern.
    pub fn freshnesses(&self) -> impl Iterator<Item = (&TablePattern, Duration)> {
        self.0.iter().filter_map(|block| Some((&block.matches, block.freshness?)))
    }
}

fn parse_policy(name: &str) -> Result<ValuePolicy, String> {
    ValuePolicy::parse(name).ok_or_else(|| "expected \"park\", \"null\", \"clamp\" or \"text\"".to_owned())
}
