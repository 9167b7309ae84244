//! The SQL statement that reads a part of a table. Without I/O.
//!
//! A partitioned table is read as if the blocks of its partitions, one after the other, were its own.

use std::ops::Range;

use sooner_api::SourceTable;
use sooner_schemas::mask::Mask;
use sooner_schemas::{Column, Relation, TableName};

use crate::client::{quote_name, quote_text};
use crate::publication::quote_table;
use crate::schedule::{KeyTexts, Part};

/// What holds rows of a table that is being copied: the table itself, or one of its partitions.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Its name.
    pub name: TableName,
    /// Blocks that it had when the copy began.
    pub blocks: u32,
}

/// SQL conditions on the rows that are copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    /// The publication's row filter: rows that do not fulfil it do not exist for the stream.
    pub published: Option<&'a str>,
    /// What somebody asked for.
    pub asked: Option<&'a str>,
}

/// The statement that reads a part of those rows that satisfy the conditions; `blocks` is how many the table has, for a
/// first part.
pub fn select(
    table: &SourceTable,
    conditions: Conditions<'_>,
    part: &Part,
    blocks: Option<u32>,
    leaves: &[Leaf],
) -> String {
    let relation = &table.relation;
    let is_partitioned = table.facts.partitions.is_some();
    let columns: Vec<_> = relation.columns.iter().map(expression).collect();
    let (name, columns) = (quote_table(&table.source_name), columns.join(", "));
    let from = if is_partitioned { name.clone() } else { format!("ONLY {name}") };
    let range = match part {
        Part::First(taken) if blocks.is_some_and(|blocks| blocks > *taken) => Some(0..*taken),
        // Whatever is in its last block or behind it.
        Part::First(_) => None,
        Part::Blocks(blocks) => Some(blocks.clone()),
        // A row that is read by its key is needed, whether or not somebody asked for it.
        Part::Keys(keys) => {
            let keys = has_keys(relation, keys);
            let condition = all_of([Some(keys.as_str()), conditions.published]).unwrap_or_default();
            return format!("COPY (SELECT {columns} FROM {from} WHERE {condition}) TO STDOUT");
        }
    };
    let condition = all_of([conditions.published, conditions.asked]);
    match (range, condition) {
        // A whole table without generated columns, which can only be copied out of a query, is read faster without one.
        (None, None) if !is_partitioned && !relation.columns.iter().any(|it| it.generated || is_masked_whole(it)) => {
            format!("COPY {name} ({columns}) TO STDOUT")
        }
        (None, None) => format!("COPY (SELECT {columns} FROM {from}) TO STDOUT"),
        (None, Some(condition)) => format!("COPY (SELECT {columns} FROM {from} WHERE {condition}) TO STDOUT"),
        (Some(range), condition) if is_partitioned => {
            let parts = leaves_in(&range, leaves).map(|(leaf, range)| {
                let conditions = [blocks_of(&range)].into_iter().chain(condition.clone()).collect::<Vec<_>>();
                let leaf = quote_table(leaf);
                format!("SELECT {columns} FROM ONLY {leaf} WHERE {}", conditions.join(" AND "))
            });
            let parts: Vec<_> = parts.collect();
            format!("COPY ({}) TO STDOUT", parts.join(" UNION ALL "))
        }
        (Some(range), condition) => {
            let conditions = [blocks_of(&range)].into_iter().chain(condition).collect::<Vec<_>>();
            format!("COPY (SELECT {columns} FROM {from} WHERE {}) TO STDOUT", conditions.join(" AND "))
        }
    }
}

/// Values of which masks leave nothing do not even leave the database.
fn expression(column: &Column) -> String {
    if is_masked_whole(column) { "NULL".to_owned() } else { quote_name(&column.name) }
}

fn is_masked_whole(column: &Column) -> bool {
    column.mask.as_ref().is_some_and(Mask::leaves_nothing)
}

fn all_of<'a>(conditions: impl IntoIterator<Item = Option<&'a str>>) -> Option<String> {
    let all: Vec<_> = conditions.into_iter().flatten().map(|sql| format!("({sql})")).collect();
    (!all.is_empty()).then(|| all.join(" AND "))
}

fn blocks_of(range: &Range<u32>) -> String {
    match range.start {
        0 => format!("ctid < '({},0)'", range.end),
        start => format!("ctid >= '({start},0)' AND ctid < '({},0)'", range.end),
    }
}

/// Partitions that have blocks of a range, each with those, counted from its own first one.
fn leaves_in<'a>(range: &Range<u32>, leaves: &'a [Leaf]) -> impl Iterator<Item = (&'a TableName, Range<u32>)> {
    let (range, mut first) = (range.clone(), 0u32);
    leaves.iter().filter_map(move |leaf| {
        let (start, end) = (first, first.saturating_add(leaf.blocks));
        first = end;
        let part = range.start.max(start)..range.end.min(end);
        (!part.is_empty()).then(|| (&leaf.name, part.start - start..part.end - start))
    })
}

/// The condition that a row has one of these keys.
pub fn has_keys(relation: &Relation, keys: &[KeyTexts]) -> String {
    let columns: Vec<_> = relation.key.iter().map(|&index| quote_name(&relation.columns[index].name)).collect();
    let row = |key: &KeyTexts| {
        let texts: Vec<_> = key.iter().map(|text| quote_text(text)).collect();
        format!("({})", texts.join(", "))
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    format!("({}) IN ({})", columns.join(", "), rows.join(", "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sooner_schemas::{ColumnType, Scalar};

    use super::*;

    fn table(is_partitioned: bool) -> SourceTable {
        let columns = vec![Column::new("id", ColumnType::Scalar(Scalar::Int8))];
        let mut table = SourceTable::new(Relation::new(TableName::new("public", "t"), columns, vec![0]));
        table.facts.partitions = is_partitioned.then(BTreeMap::new);
        table
    }

    #[test]
    fn a_table_is_read_by_its_blocks() {
        let read = |part, blocks| select(&table(false), Conditions::default(), &part, blocks, &[]);
        assert_eq!(read(Part::First(8), Some(5)), r#"COPY "public"."t" ("id") TO STDOUT"#);
        let first = r#"COPY (SELECT "id" FROM ONLY "public"."t" WHERE ctid < '(8,0)') TO STDOUT"#;
        assert_eq!(read(Part::First(8), Some(9)), first);
        let range = r#"COPY (SELECT "id" FROM ONLY "public"."t" WHERE ctid >= '(8,0)' AND ctid < '(9,0)') TO STDOUT"#;
        assert_eq!(read(Part::Blocks(8..9), None), range);
        let keys = Part::Keys(vec![["7".into()].into()]);
        assert_eq!(
            read(keys, None),
            r#"COPY (SELECT "id" FROM ONLY "public"."t" WHERE (("id") IN (('7')))) TO STDOUT"#
        );
    }

    #[test]
    fn values_of_which_nothing_is_left_are_not_read() {
        let mut table = table(false);
        for (name, mask) in [("gone", Mask::Omit), ("void", Mask::Null), ("cut", Mask::Truncate(2))] {
            let column = Column::new(name, ColumnType::Scalar(Scalar::Text));
            table.relation.columns.push(Column { mask: Some(mask), ..column });
        }
        let read = |part, blocks| select(&table, Conditions::default(), &part, blocks, &[]);
        let expected = r#"COPY (SELECT "id", NULL, NULL, "cut" FROM ONLY "public"."t") TO STDOUT"#;
        assert_eq!(read(Part::First(8), Some(5)), expected);
    }

    #[test]
    fn rows_that_the_publication_leaves_out_are_never_read_and_those_asked_for_are_among_the_others() {
        let conditions = Conditions { published: Some("id > 1"), asked: Some("id < 9 OR id = 20") };
        let read = |part, blocks| select(&table(false), conditions, &part, blocks, &[]);
        let asked = r#"COPY (SELECT "id" FROM ONLY "public"."t" WHERE (id > 1) AND (id < 9 OR id = 20)) TO STDOUT"#;
        assert_eq!(read(Part::First(8), Some(5)), asked);
        let keys = Part::Keys(vec![["7".into()].into()]);
        let by_key = r#"COPY (SELECT "id" FROM ONLY "public"."t" WHERE (("id") IN (('7'))) AND (id > 1)) TO STDOUT"#;
        assert_eq!(read(keys, None), by_key);
    }

    #[test]
    fn blocks_of_a_partitioned_table_are_those_of_its_partitions() {
        let leaf = |name: &str, blocks| Leaf { name: TableName::new("public", name), blocks };
        let leaves = [leaf("a", 3), leaf("b", 0), leaf("c", 10)];
        let conditions = Conditions { published: None, asked: Some("id > 1") };
        let read = |part, blocks| select(&table(true), conditions, &part, blocks, &leaves);
        let both = r#"COPY (SELECT "id" FROM ONLY "public"."a" WHERE ctid >= '(2,0)' AND ctid < '(3,0)' AND (id > 1) UNION ALL SELECT "id" FROM ONLY "public"."c" WHERE ctid < '(4,0)' AND (id > 1)) TO STDOUT"#;
        assert_eq!(read(Part::Blocks(2..7), None), both);
        let whole = r#"COPY (SELECT "id" FROM "public"."t" WHERE (id > 1)) TO STDOUT"#;
        assert_eq!(read(Part::First(20), Some(13)), whole);
    }
}
