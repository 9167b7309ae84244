//! What makes a table equal again: the rows that differ are copied again, or, where that does not do, the whole table.

use std::collections::HashMap;
use std::io;

use sooner_api::CopyRequest;
use sooner_postgres::key_condition::{has_keys, integer_key, within};
use sooner_postgres::schedule::KeyTexts;
use sooner_schemas::{Relation, TableName};

use super::rounds::Pair;
use crate::config::Config;
use crate::control::Requests;
use crate::verifications::{Repaired, ReportsView};

/// Keys that a condition lists, or ranges of keys, at most.
const MOST_KEYS: usize = 500;

/// What makes a table equal again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A copy of the rows that fulfil this condition.
    Rows(String),
    /// A copy of the whole table.
    Table,
}

/// What makes a table equal again that has so many rows. Rows that only the lake has go with a copy of the whole table
/// alone: one of single rows takes nothing away.
pub fn repair_of(
    relation: &Relation,
    differing: &HashMap<u128, Pair>,
    texts: &HashMap<u128, KeyTexts>,
    rows: u64,
) -> Repair {
    let mut keys = Vec::with_capacity(differing.len());
    for (key, (source, _)) in differing {
        match texts.get(key).filter(|_| source.is_some()) {
            Some(texts) => keys.push(texts.clone()),
            None => return Repair::Table,
        }
    }
    keys.sort();
    let condition = match keys.len() {
        0 => None,
        1..=MOST_KEYS => Some(has_keys(relation, &keys)),
        _ => ranges_of(relation, &keys, rows),
    };
    condition.map_or(Repair::Table, Repair::Rows)
}

/// The condition of ranges that have these keys, if the table has one key column of integers, and they have not half of
/// its rows.
fn ranges_of(relation: &Relation, keys: &[KeyTexts], rows: u64) -> Option<String> {
    let column = integer_key(relation)?;
    let numbers: Option<Vec<i64>> = keys.iter().map(|key| key.first()?.parse().ok()).collect();
    let mut numbers = numbers?;
    numbers.sort_unstable();
    numbers.dedup();
    let ranges = merged(&numbers, MOST_KEYS);
    let width: u128 = ranges.iter().map(|(first, last)| u128::from(last.abs_diff(*first)) + 1).sum();
    (width <= u128::from(rows / 2)).then(|| within(column, &ranges))
}

/// Ranges that have these sorted numbers, so many at most: those that lie next to each other are in one.
fn merged(numbers: &[i64], most: usize) -> Vec<(i64, i64)> {
    let mut gaps: Vec<_> = numbers.windows(2).map(|pair| pair[1].abs_diff(pair[0])).enumerate().collect();
    gaps.sort_by_key(|(_, gap)| std::cmp::Reverse(*gap));
    let wide = gaps.iter().take(most.saturating_sub(1)).filter(|(_, gap)| *gap > 1);
    let mut ends: Vec<_> = wide.map(|(at, _)| *at).chain(numbers.len().checked_sub(1)).collect();
    ends.sort_unstable();
    let mut first = 0;
    let ranges = ends.into_iter().map(|end| {
        let range = (numbers[first], numbers[end]);
        first = end + 1;
        range
    });
    ranges.collect()
}

/// Asks the pipeline to repair a table that differs, and returns how. Where a repair was asked for before, and the
/// table was not found equal since, the whole table is copied: something else is wrong with it.
pub fn ask(config: &Config, table: &TableName, repair: &Repair) -> io::Result<Repaired> {
    let (condition, how) = match repair {
        Repair::Rows(condition) if !was_repaired(config, table) => (Some(condition.clone()), Repaired::Rows),
        _ => (None, Repaired::Table),
    };
    Requests::new(&config.state_dir).ask(&CopyRequest { table: table.clone(), condition })?;
    Ok(how)
}

/// Whether a repair was asked for since a table was found equal. What cannot be read says nothing of that.
fn was_repaired(config: &Config, table: &TableName) -> bool {
    let reports = ReportsView::new(&config.state_dir).read();
    reports.is_ok_and(|reports| reports.get(table).is_some_and(|report| report.repair.is_some()))
}

#[cfg(test)]
mod tests {
    use sooner_schemas::{Column, ColumnType, Scalar};

    use super::*;

    fn relation(scalar: Scalar) -> Relation {
        Relation::new(TableName::new("public", "t"), vec![Column::new("id", ColumnType::Scalar(scalar))], vec![0])
    }

    fn repair(scalar: Scalar, keys: impl Iterator<Item = i64>, pair: Pair, rows: u64) -> Repair {
        let texts: HashMap<u128, KeyTexts> = keys.map(|key| (key as u128, [key.to_string().into()].into())).collect();
        let differing = texts.keys().map(|key| (*key, pair)).collect();
        repair_of(&relation(scalar), &differing, &texts, rows)
    }

    #[test]
    fn a_few_rows_are_copied_by_their_keys_and_those_only_in_the_lake_need_the_whole_table() {
        let rows = Repair::Rows(r#"("id") IN (('3'), ('7'))"#.to_owned());
        assert_eq!(repair(Scalar::Text, [7, 3].into_iter(), (Some(1), Some(2)), 10), rows);
        assert_eq!(repair(Scalar::Text, [7, 3].into_iter(), (Some(1), None), 10), rows);
        assert_eq!(repair(Scalar::Text, [7, 3].into_iter(), (None, Some(2)), 10), Repair::Table);
        let unknown = HashMap::from([(1, (Some(1), None))]);
        assert_eq!(repair_of(&relation(Scalar::Text), &unknown, &HashMap::new(), 10), Repair::Table);
    }

    #[test]
    fn many_rows_are_copied_by_ranges_of_their_keys_unless_these_are_much_of_the_table() {
        let keys = || (0..2000).chain([-5, 9000]);
        let ranges = r#""id" BETWEEN '-5' AND '-5' OR "id" BETWEEN '0' AND '1999' OR "id" BETWEEN '9000' AND '9000'"#;
        assert_eq!(repair(Scalar::Int8, keys(), (Some(1), None), 10_000), Repair::Rows(ranges.to_owned()));
        assert_eq!(repair(Scalar::Int8, keys(), (Some(1), None), 4000), Repair::Table);
        assert_eq!(repair(Scalar::Text, keys(), (Some(1), None), 10_000), Repair::Table);
    }

    #[test]
    fn a_repair_of_rows_that_did_not_help_is_followed_by_one_of_the_table() {
        let folder = tempfile::tempdir().unwrap();
        let text = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[lake]\nurl = '/l'";
        let config = Config::parse(text, folder.path()).unwrap();
        let (table, repair) = (TableName::new("public", "t"), Repair::Rows("id = 1".to_owned()));
        assert_eq!(ask(&config, &table, &repair).unwrap(), Repaired::Rows);
        assert_eq!(ask(&config, &table, &Repair::Table).unwrap(), Repaired::Table);
        let report = r#"{"public.t":{"verdict":"different","at_micros":1,"equal_micros":null,"differing":1,"rows":1,
                         "lsn":null,"version":null,"millis":1,"repair":"rows"}}"#;
        std::fs::write(config.state_dir.join("verifications.json"), report).unwrap();
        assert_eq!(ask(&config, &table, &repair).unwrap(), Repaired::Table);
        assert_eq!(Requests::new(&config.state_dir).pending().len(), 2);
    }

    #[test]
    fn numbers_next_to_each_other_are_in_one_range() {
        assert_eq!(merged(&[1, 2, 4, 100, i64::MAX], 3), [(1, 4), (100, 100), (i64::MAX, i64::MAX)]);
        assert_eq!(merged(&[i64::MIN, i64::MAX], 1), [(i64::MIN, i64::MAX)]);
        assert_eq!(merged(&[5], 4), [(5, 5)]);
    }
}
