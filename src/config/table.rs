//! `[[table]]`: settings of tables whose names match a pattern. Of several blocks that match, the last one that has a
//! setting counts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sooner_delta::{Deletes, OnChange, Ways};
use sooner_postgres::inspection::MaskRules;
use sooner_schemas::mask::MaskKey;
use sooner_schemas::masking::TableRules;
use sooner_schemas::naming::check_topic;
use sooner_schemas::policy::{TYPES_WITH_ODD_VALUES, ValuePolicy, type_with_odd_values};
use sooner_schemas::{Column, TableName};

use super::masking::{MaskBlock, read_masking};
use super::pattern::TablePattern;
use super::reader::Section;

/// The shortest freshness: below that, commits would cost more than they carry.
pub const LEAST_FRESHNESS: Duration = Duration::from_millis(50);

/// The shortest time for which a history keeps what is superseded: it is longer than events are on their way.
pub const LEAST_KEPT_HISTORY: Duration = Duration::from_secs(10);

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
    ways: Option<Ways>,
    on_change: Option<OnChange>,
    deletes: Option<Deletes>,
    chain: Option<bool>,
    keep_history: Option<Duration>,
    masks: MaskBlock,
}

/// All blocks, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableBlocks {
    blocks: Vec<TableBlock>,
    masking_key: Option<Arc<MaskKey>>,
}

impl TableBlocks {
    /// Reads the blocks of the configuration's root, and the key that they hash columns with. Who reads no database
    /// needs no key.
    pub(super) fn read(root: &mut Section) -> TableBlocks {
        let has_key = root.has("masking");
        let masking_key = root.optional_section("masking", read_masking);
        let blocks = TableBlocks::read_blocks(root);
        let hashed = blocks.iter().enumerate().find_map(|(at, block)| Some((at, block.masks.hashed()?)));
        if let (Some((at, column)), false, true) = (hashed, has_key, root.has("source")) {
            let why = "needs a key: set key in [masking], as { env = \"VARIABLE\" } or { file = \"path\" }";
            root.problem(&format!("table[{at}].mask.{column}"), why);
        }
        check_chains(root, &blocks);
        let tables = TableBlocks { blocks, masking_key };
        tables.check_kept_chains(root);
        tables
    }

    /// Refuses tables of which one block says that their rows are chained, and another one that they go after a while:
    /// tables that a block names, and one of each pattern, also of the schemas of one and the tables of another.
    fn check_kept_chains(&self, root: &mut Section) {
        let examples = || self.blocks.iter().map(|block| block.matches.example());
        for (at, block) in self.blocks.iter().enumerate() {
            let crossed =
                examples().flat_map(|one| examples().map(move |other| TableName::new(one.schema.clone(), other.table)));
            let has_both = |table: &TableName| {
                let ways = self.ways(table);
                ways.chain && ways.keep_history.is_some()
            };
            let says_one = block.chain == Some(true) || block.keep_history.is_some();
            let is_told = block.chain == Some(true) && block.keep_history.is_some();
            if says_one
                && !is_told
                && crossed.filter(|table| block.matches.matches(table)).any(|table| has_both(&table))
            {
                let why = "of a chained history no row may be missing, and other blocks for the same tables say the one \
                           and the other: set chain = false here, or leave keep_history to tables that are not chained";
                root.problem(&format!("table[{at}]"), why);
            }
        }
    }

    fn read_blocks(root: &mut Section) -> Vec<TableBlock> {
        root.sections("table", |section| {
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
            let ways = read_ways(section);
            let on_change = section.optional("on_change", parse_on_change);
            let deletes = read_deletes(section, ways);
            let (says_chain, chain) = (section.has("chain"), section.flag("chain", false));
            let keep_history = read_keep_history(section, ways);
            if chain && keep_history.is_some() {
                section.problem("keep_history", "of a chained history no row may be missing: choose this or chain");
            }
            let (masks, matches) = (MaskBlock::read(section), matches?);
            Some(TableBlock {
                matches,
                freshness,
                unholdable,
                unholdable_types,
                unholdable_columns,
                topic,
                sort_by,
                ways,
                on_change,
                deletes,
                chain: says_chain.then_some(chain),
                keep_history,
                masks,
            })
        })
    }

    /// Which columns of tables are masked.
    pub fn mask_rules(&self) -> MaskRules {
        let blocks = self.clone();
        Arc::new(move |table: &TableName| blocks.masks(table))
    }

    /// Patterns of the blocks that mask something.
    pub fn masking_patterns(&self) -> impl Iterator<Item = &TablePattern> {
        self.blocks.iter().filter(|block| block.masks.masks()).map(|block| &block.matches)
    }

    /// Columns that blocks for several tables mask, each with the block's pattern.
    pub fn masked_by_pattern(&self) -> impl Iterator<Item = (&TablePattern, &str)> {
        let several = self.blocks.iter().filter(|block| block.matches.single().is_none());
        several.flat_map(|block| block.masks.masked().map(|column| (&block.matches, column)))
    }

    /// What is said of a table's columns: of a column by the last block that names it, and the rest by the last one
    /// that says it.
    fn masks(&self, table: &TableName) -> TableRules {
        let mut rules = TableRules::default();
        for block in self.blocks.iter().filter(|block| block.masks != MaskBlock::default()) {
            if block.matches.matches(table) {
                block.masks.add_to(&mut rules, block.matches.single().is_some());
                rules.key.clone_from(&self.masking_key);
            }
        }
        rules
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
        let blocks = || self.blocks.iter().rev().filter(|block| block.matches.matches(table));
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
        let mut blocks = self.blocks.iter().rev().filter(|block| block.matches.matches(table));
        blocks.find_map(|block| block.sort_by.clone()).unwrap_or_default()
    }

    /// The ways in which a table is written.
    pub fn ways(&self, table: &TableName) -> Ways {
        let blocks = || self.blocks.iter().rev().filter(|block| block.matches.matches(table));
        let ways = blocks().find_map(|block| block.ways).unwrap_or_default();
        let on_change = blocks().find_map(|block| block.on_change);
        let deletes = blocks().find_map(|block| block.deletes).filter(|_| ways.mirror).unwrap_or_default();
        let chain = ways.history && blocks().find_map(|block| block.chain).unwrap_or_default();
        let keep_history = blocks().find_map(|block| block.keep_history).filter(|_| ways.history);
        let append = ways.append.map(|default| on_change.unwrap_or(default));
        Ways { append, deletes, chain, keep_history, ..ways }
    }

    /// How long histories keep what is superseded, for each block that says so, with its number.
    pub fn kept_histories(&self) -> impl Iterator<Item = (usize, Duration)> {
        self.blocks.iter().enumerate().filter_map(|(at, block)| Some((at, block.keep_history?)))
    }

    /// Tables that have a topic of another name than the pattern says.
    pub fn topics(&self) -> Vec<(TableName, String)> {
        self.blocks.iter().rev().filter_map(|block| Some((block.matches.single()?, block.topic.clone()?))).collect()
    }

    /// How long an event of a table may wait before it is visible; none if no block says so.
    pub fn freshness(&self, table: &TableName) -> Option<Duration> {
        self.blocks.iter().rev().filter(|block| block.matches.matches(table)).find_map(|block| block.freshness)
    }

    /// The freshness of each block that has one, with its pattern.
    pub fn freshnesses(&self) -> impl Iterator<Item = (&TablePattern, Duration)> {
        self.blocks.iter().filter_map(|block| Some((&block.matches, block.freshness?)))
    }
}

fn parse_policy(name: &str) -> Result<ValuePolicy, String> {
    ValuePolicy::parse(name).ok_or_else(|| "expected \"park\", \"null\", \"clamp\" or \"text\"".to_owned())
}

/// A table that is not written at all.
const NO_WAY: Ways =
    Ways { mirror: false, history: false, append: None, deletes: Deletes::Hard, chain: false, keep_history: None };

/// What becomes of a mirror's rows that the source deletes, in a block that says how its tables are written, or not.
fn read_deletes(section: &mut Section, ways: Option<Ways>) -> Option<Deletes> {
    let deletes = section.optional("deletes", |text| match text {
        "hard" => Ok(Deletes::Hard),
        "soft" => Ok(Deletes::Soft),
        _ => Err("expected \"hard\" or \"soft\"".to_owned()),
    });
    if deletes == Some(Deletes::Soft) && ways.is_some_and(|ways| !ways.mirror) {
        section.problem("deletes", "\"soft\" says what a mirror keeps: add \"mirror\" to write, or leave it out");
    }
    deletes
}

/// Refuses `chain` where nothing could be chained: in a block whose tables have no history, by its own `write`, or by
/// that of any block.
fn check_chains(root: &mut Section, blocks: &[TableBlock]) {
    let has_history = |ways: Option<Ways>| ways.is_some_and(|ways| ways.history);
    let any_has = blocks.iter().any(|block| has_history(block.ways));
    for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.chain == Some(true)) {
        let has = if block.ways.is_some() { has_history(block.ways) } else { any_has };
        if !has {
            let why = "rows of a history are chained: add \"history\" to write, or leave it out";
            root.problem(&format!("table[{at}].chain"), why);
        }
    }
}

/// How long a history keeps what is superseded, in a block that says how its tables are written, or not.
fn read_keep_history(section: &mut Section, ways: Option<Ways>) -> Option<Duration> {
    let keep_history = section.optional_duration("keep_history", LEAST_KEPT_HISTORY);
    if keep_history.is_some() && ways.is_some_and(|ways| !ways.history) {
        section
            .problem("keep_history", "says how long a history keeps events: add \"history\" to write, or leave it out");
    }
    keep_history
}

/// The ways that `write` lists.
fn read_ways(section: &mut Section) -> Option<Ways> {
    let ways = section.list("write", |way| match way {
        "mirror" => Ok(Ways { mirror: true, ..NO_WAY }),
        "history" => Ok(Ways { history: true, ..NO_WAY }),
        "append" => Ok(Ways { append: Some(OnChange::default()), ..NO_WAY }),
        _ => Err("expected \"mirror\", \"append\" or \"history\"".to_owned()),
    })?;
    let either = ways.into_iter().reduce(|a, b| Ways {
        mirror: a.mirror || b.mirror,
        history: a.history || b.history,
        append: a.append.or(b.append),
        ..NO_WAY
    });
    match either {
        None => {
            section.problem("write", "a table is written in one way at least: \"mirror\", \"append\" or \"history\"")
        }
        Some(Ways { mirror: true, append: Some(_), .. }) => {
            section
                .problem("write", "\"mirror\" and \"append\" are two ways to write the same table: choose one of them");
        }
        Some(_) => {}
    }
    either
}

fn parse_on_change(text: &str) -> Result<OnChange, String> {
    match text {
        "park" => Ok(OnChange::Park),
        "ignore" => Ok(OnChange::Ignore),
        _ => Err("expected \"park\" or \"ignore\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (TableBlocks, Vec<String>) {
        let mut root = Section::root(text.parse().unwrap(), Path::new("."));
        let blocks = TableBlocks::read(&mut root);
        (blocks, root.finish())
    }

    #[test]
    fn what_becomes_of_changes_is_said_of_tables_that_are_appended_to() {
        let text = "[[table]]\nmatch = 'a.*'\nwrite = ['append']\n[[table]]\nmatch = 'a.kept'\non_change = 'ignore'\n\
                    [[table]]\nmatch = 'b.*'\nwrite = ['history', 'append']\non_change = 'ignore'";
        let (blocks, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new());
        let of = |schema: &str, table: &str| blocks.ways(&TableName::new(schema, table));
        assert_eq!(of("a", "t"), Ways { append: Some(OnChange::Park), ..NO_WAY });
        assert_eq!(of("a", "kept").append, Some(OnChange::Ignore));
        assert_eq!(of("b", "t"), Ways { history: true, append: Some(OnChange::Ignore), ..NO_WAY });
        assert_eq!(of("c", "t"), Ways::default());
    }

    #[test]
    fn deleted_rows_are_kept_in_mirrors_alone() {
        let text = "[[table]]\nmatch = 'a.*'\ndeletes = 'soft'\n[[table]]\nmatch = 'a.clicks'\nwrite = ['append']\n\
                    [[table]]\nmatch = 'a.hard'\ndeletes = 'hard'";
        let (blocks, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new());
        let deletes = |table: &str| blocks.ways(&TableName::new("a", table)).deletes;
        assert_eq!(["t", "clicks", "hard"].map(deletes), [Deletes::Soft, Deletes::Hard, Deletes::Hard]);
        for write in ["append", "history"] {
            let (_, problems) = read(&format!("[[table]]\nmatch = 'a.*'\nwrite = ['{write}']\ndeletes = 'soft'"));
            assert!(
                problems.join("\n").contains("table[0].deletes: \"soft\" says what a mirror keeps"),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn histories_are_kept_for_a_while_where_there_are_any() {
        let text = "[[table]]\nmatch = 'a.*'\nkeep_history = '400d'\n[[table]]\nmatch = 'a.t'\nwrite = ['mirror', 'history']\n\
                    [[table]]\nmatch = 'a.u'\nwrite = ['history']\nkeep_history = '7years'";
        let (blocks, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new());
        let days = |table: &str| Some(blocks.ways(&TableName::new("a", table)).keep_history?.as_secs() / 86_400);
        assert_eq!([days("t"), days("u"), days("mirror")], [Some(400), Some(7 * 1461 / 4), None]);
        for (write, keep, told) in [("mirror", "400d", "add \"history\" to write"), ("history", "9s", "at least 10s")] {
            let text = format!("[[table]]\nmatch = 'a.*'\nwrite = ['{write}']\nkeep_history = '{keep}'");
            let problems = read(&text).1.join("\n");
            assert!(problems.contains("table[0].keep_history: ") && problems.contains(told), "{problems}");
        }
    }

    #[test]
    fn a_chained_history_is_kept_whole_whichever_blocks_say_so() {
        let chained = "[[table]]\nmatch = 'a.*'\nwrite = ['history']\nchain = true\n[[table]]\nmatch = 'a.t'\n";
        for (kept, at) in [("keep_history = '400d'", Some(1)), ("keep_history = '400d'\nchain = false", None)] {
            let problems = read(&format!("{chained}{kept}")).1.join("\n");
            assert_eq!(problems.contains("table[1]: of a chained history"), at.is_some(), "{problems}");
        }
        let either = "[[table]]\nmatch = '*.a*'\nwrite = ['history']\nkeep_history = '400d'\n[[table]]\nmatch = '*.a*'\nchain = true";
        assert!(read(either).1.join("\n").contains("table[0]: of a chained history"));
        let crossed = "[[table]]\nmatch = '*.t'\nwrite = ['history']\nkeep_history = '400d'\n[[table]]\nmatch = 'a.*'\nchain = true";
        assert!(read(crossed).1.join("\n").contains("of a chained history"));
    }

    #[test]
    fn a_table_is_mirrored_or_appended_to() {
        let (_, problems) = read("[[table]]\nmatch = 'a.*'\nwrite = ['mirror', 'append']\non_change = 'merge'");
        let problems = problems.join("\n");
        for expected in ["table[0].write: \"mirror\" and \"append\"", "table[0].on_change: 'merge'"] {
            assert!(problems.contains(expected), "'{expected}' not in:\n{problems}");
        }
    }

    #[test]
    fn only_histories_are_chained() {
        let text = "[[table]]\nmatch = 'a.*'\nwrite = ['mirror', 'history']\n[[table]]\nmatch = 'a.kept'\n\
                    chain = true\n[[table]]\nmatch = 'b.*'\nwrite = ['history']\nchain = true\n[[table]]\n\
                    match = 'b.plain'\nchain = false\n[[table]]\nmatch = 'b.mirror'\nwrite = ['mirror']";
        let (blocks, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new());
        let chain = |schema: &str, table: &str| blocks.ways(&TableName::new(schema, table)).chain;
        assert!(chain("a", "kept") && chain("b", "t"));
        assert!(!chain("a", "t") && !chain("b", "plain") && !chain("b", "mirror") && !chain("c", "t"));
        for more in ["", "write = ['mirror']", "write = ['append']"] {
            let (_, problems) = read(&format!("[[table]]\nmatch = 'a.*'\nchain = true\n{more}"));
            assert!(problems.join("\n").contains("table[0].chain: rows of a history are chained"), "{problems:?}");
        }
    }
}
