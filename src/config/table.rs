//! `[[table]]`: settings of tables whose names match a pattern. Of several blocks that match, the last one that has a
//! setting counts.

use std::time::Duration;

use sooner_schemas::TableName;

use super::pattern::TablePattern;
use super::reader::Section;

/// The shortest freshness: below that, commits would cost more than they carry.
pub const LEAST_FRESHNESS: Duration = Duration::from_millis(50);

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TableBlock {
    matches: TablePattern,
    freshness: Option<Duration>,
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
            Some(TableBlock { matches: matches?, freshness })
        }))
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
