//! `[[table]]`: settings of tables whose names match a pattern. Of several blocks that match, the last one that has a
//! setting counts.

use std::time::Duration;

use sooner_schemas::TableName;

use super::TablePattern;
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const START: &str = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[lake]\nurl = '/l'\n";

    fn parse(blocks: &str) -> Result<Config, Vec<String>> {
        Config::parse(&format!("{START}{blocks}"), Path::new("."))
    }

    #[test]
    fn the_last_block_that_matches_counts() {
        let text = "[[table]]\nmatch = 'billing.*'\nfreshness = '1h'\n[[table]]\nmatch = '*.invoices'\nfreshness = '250ms'\n\
                    [[table]]\nmatch = 'billing.*'";
        let blocks = parse(text).unwrap().tables;
        let of = |schema: &str, table: &str| blocks.freshness(&TableName::new(schema, table));
        assert_eq!(of("billing", "lines"), Some(Duration::from_secs(3600)));
        assert_eq!(of("billing", "invoices"), Some(Duration::from_millis(250)));
        assert_eq!(of("public", "orders"), None);
        assert_eq!(parse("").unwrap().tables, TableBlocks::default());
    }

    #[test]
    fn problems_are_told_with_the_block_that_they_are_in() {
        let found = parse("[[table]]\nmatch = 'a.b'\n[[table]]\nfreshness = '1ms'\nfresh = 1").unwrap_err().join("\n");
        for expected in ["table[1].match: is missing", "table[1].freshness: '1ms'", "table[1].fresh: is not known"] {
            assert!(found.contains(expected), "'{expected}' not in:\n{found}");
        }
        assert!(parse("[table]\nmatch = 'a.b'").unwrap_err()[0].contains("[[table]]"));
    }
}
