//! Columns of a history: what happened, when and in which transaction, then the columns of the source, under every
//! name and type that they have had.

use std::collections::BTreeSet;

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use crate::rows::column_mapping::shown_names;
use crate::rows::columns::LakeColumn;
use crate::rows::lake_type::{LakeType, type_name};

/// Names and types of the columns that say what happened, in their order. Those of an event of Spark's change data feed
/// are called alike.
const FACTS: [(&str, LakeType); 5] = [
    ("_change_type", LakeType::String),
    ("_commit_lsn", LakeType::Long),
    ("_ordinal", LakeType::Long),
    ("_commit_time", LakeType::Timestamp),
    ("_transaction_id", LakeType::Long),
];
/// Name of the column that lists the columns of the row whose values the source did not send, because they had not
/// changed.
const UNCHANGED: &str = "_unchanged";
/// Names, numbers and types of the columns of a chain. By the numbers they are told from columns of the source, which
/// have none in a history.
const CHAIN: [(&str, i16, LakeType); 3] =
    [("_sequence", -1, LakeType::Long), ("_hash", -2, LakeType::String), ("_erased", -3, LakeType::String)];
/// Columns by which the rows of a history are in order. The last one tells rows of one event apart that are chained.
pub const ORDER: [&str; 3] = ["_commit_lsn", "_ordinal", "_sequence"];
/// Place of the column `_commit_lsn`.
pub const LSN: usize = 1;
/// Place of the column `_ordinal`.
pub const ORDINAL: usize = 2;
/// Number of the columns that say what happened.
pub const FACT_COLUMNS: usize = FACTS.len() + 1;

/// The columns that say what happened.
pub fn fact_columns() -> Vec<LakeColumn> {
    let facts = FACTS.iter().map(|(name, lake_type)| column(name, lake_type.clone()));
    facts.chain([column(UNCHANGED, LakeType::Array(Box::new(LakeType::String)))]).collect()
}

/// Where the columns of a chain stand among those of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPlaces {
    /// `_sequence`: the row's number in the chain.
    pub sequence: usize,
    /// `_hash`: the hash of the row and of the one before.
    pub hash: usize,
    /// `_erased`: the erasure that has taken the row's values.
    pub erased: usize,
}

impl ChainPlaces {
    /// The places among these columns; none if the history is not chained.
    pub fn of(columns: &[LakeColumn]) -> Option<ChainPlaces> {
        let [sequence, hash, erased] =
            CHAIN.map(|(_, number, _)| columns.iter().position(|column| column.number == Some(number)));
        Some(ChainPlaces { sequence: sequence?, hash: hash?, erased: erased? })
    }
}

/// Those of a history's columns that hold values of its source, with their places.
pub fn source_columns(columns: &[LakeColumn]) -> impl Iterator<Item = (usize, &LakeColumn)> {
    columns.iter().enumerate().filter(|(place, column)| !is_own(*place, column))
}

/// Whether a column is one of a history's own.
fn is_own(place: usize, column: &LakeColumn) -> bool {
    place < FACT_COLUMNS || CHAIN.iter().any(|(_, number, _)| column.number == Some(*number))
}

/// Adds the columns of a chain: behind the facts, where statistics are kept of them however many columns follow. Where
/// a shown name depends on the column's place, they come last, so that it stays.
fn add_chain(table: &TableName, columns: &mut Vec<LakeColumn>) -> Result<()> {
    let is_taken = |column: &&LakeColumn| CHAIN.iter().any(|(name, ..)| column.name.eq_ignore_ascii_case(name));
    if let Some(taken) = columns.iter().find(is_taken) {
        return Err(name_taken(table, &taken.name));
    }
    let has_own_names = shown_names(columns).iter().zip(&*columns).all(|(shown, column)| *shown == column.name);
    let place = if has_own_names { FACT_COLUMNS } else { columns.len() };
    let chain = CHAIN.map(|(name, number, lake_type)| LakeColumn { number: Some(number), ..column(name, lake_type) });
    columns.splice(place..place, chain);
    Ok(())
}

/// Place of the column with events' commit LSNs.
pub const LSN_PLACE: usize = 1;

/// Columns of a history that has `known` ones (none before it exists), once it holds events with the columns `events`;
/// and the place in them of each of the latter. A column that comes, or comes back under another type, is added, and so
/// are those of a chain, if rows are chained from now on. An operator error if a column of the source has the name of
/// one of the history's own.
pub fn extended(
    table: &TableName,
    known: &[LakeColumn],
    events: &[LakeColumn],
    chains: bool,
) -> Result<(Vec<LakeColumn>, Vec<usize>)> {
    let mut columns = if known.is_empty() { fact_columns() } else { known.to_vec() };
    if chains && ChainPlaces::of(&columns).is_none() {
        add_chain(table, &mut columns)?;
    }
    let mut places = Vec::with_capacity(events.len());
    let mut taken: BTreeSet<usize> = (0..FACT_COLUMNS).collect();
    for event in events {
        let mut own = columns.iter().enumerate().filter(|(place, column)| is_own(*place, column));
        if own.any(|(_, own)| own.name.eq_ignore_ascii_case(&event.name)) {
            return Err(name_taken(table, &event.name));
        }
        let place = place_of(&columns, &taken, event).unwrap_or_else(|name| {
            columns.push(column(&name, event.lake_type.clone()));
            columns.len() - 1
        });
        taken.insert(place);
        places.push(place);
    }
    Ok((columns, places))
}

/// Place of the column that holds values of an event's column; if there is none, the name of the one to be added. That
/// is the column's own, or, where it had another type before, its own with the type.
fn place_of(columns: &[LakeColumn], taken: &BTreeSet<usize>, event: &LakeColumn) -> std::result::Result<usize, String> {
    let typed: String =
        type_name(&event.lake_type).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let typed = format!("{}_{}", event.name, typed.trim_end_matches('_'));
    let numbered = (2..).map(|number| format!("{typed}_{number}"));
    for name in [event.name.clone(), typed.clone()].into_iter().chain(numbered) {
        match columns.iter().position(|column| column.name == name) {
            None => return Err(name),
            Some(place) if columns[place].lake_type == event.lake_type && !taken.contains(&place) => return Ok(place),
            Some(_) => {}
        }
    }
    Err(typed)
}

fn column(name: &str, lake_type: LakeType) -> LakeColumn {
    LakeColumn { name: name.to_owned(), lake_type, nullable: true, number: None, stored: None, missing: None }
}

fn name_taken(table: &TableName, name: &str) -> Error {
    let remedy = match CHAIN.iter().any(|(own, ..)| own.eq_ignore_ascii_case(name)) {
        true => "rename the column, or leave chain out for this table if its history is not chained yet",
        false => "rename the column, or leave history out of write for this table",
    };
    Error::operator(
        Code::TypeUnsupported,
        format!("cannot keep a history of {table}"),
        format!("its column '{name}' has the name of one that a history tells by what happened, or is chained by"),
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::columns::{parse_schema_string, schema_string};

    fn names(columns: &[LakeColumn]) -> Vec<&str> {
        columns[FACT_COLUMNS..].iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn a_history_keeps_each_column_under_every_type_that_it_has_had() {
        let table = TableName::new("public", "t");
        let id = column("id", LakeType::Long);
        let [narrow, wide] = [LakeType::Decimal(10, 2), LakeType::Decimal(20, 2)].map(|kind| column("total", kind));
        let (first, places) = extended(&table, &[], &[id.clone(), narrow.clone()], false).unwrap();
        assert_eq!(places, [FACT_COLUMNS, FACT_COLUMNS + 1]);
        let (second, places) = extended(&table, &first, &[wide.clone(), id.clone()], false).unwrap();
        assert_eq!(names(&second), ["id", "total", "total_decimal_20_2"]);
        assert_eq!(places, [FACT_COLUMNS + 2, FACT_COLUMNS]);
        let (third, places) = extended(&table, &second, &[id.clone(), narrow], false).unwrap();
        assert_eq!((&third, places), (&second, vec![FACT_COLUMNS, FACT_COLUMNS + 1]));
        let other = column("total_decimal_20_2", LakeType::Decimal(20, 2));
        let (fourth, places) = extended(&table, &third, &[other, wide], false).unwrap();
        assert_eq!(places[0], FACT_COLUMNS + 2);
        assert_eq!(names(&fourth)[places[1] - FACT_COLUMNS], "total_decimal_20_2_2", "no two columns share one");
    }

    #[test]
    fn a_column_with_the_name_of_a_fact_is_refused() {
        let table = TableName::new("public", "t");
        let error = extended(&table, &[], &[column("_Ordinal", LakeType::Long)], false).unwrap_err();
        assert!(error.to_string().contains("'_Ordinal'"), "{error}");
    }

    #[test]
    fn a_chain_comes_behind_the_facts_and_no_column_of_the_source_gets_into_it() {
        let table = TableName::new("public", "t");
        let [id, odd] = ["id", "ID"].map(|name| column(name, LakeType::Long));
        let (plain, _) = extended(&table, &[], std::slice::from_ref(&id), false).unwrap();
        let (chained, places) = extended(&table, &plain, std::slice::from_ref(&id), true).unwrap();
        assert_eq!(names(&chained), ["_sequence", "_hash", "_erased", "id"]);
        assert_eq!(places, [FACT_COLUMNS + 3]);
        assert_eq!(parse_schema_string(&schema_string(&chained)).as_ref(), Some(&chained), "the log knows them");
        let source: Vec<_> = source_columns(&chained).map(|(place, column)| (place, column.name.as_str())).collect();
        assert_eq!(source, [(FACT_COLUMNS + 3, "id")]);
        // Switched off, the columns stay.
        assert_eq!(extended(&table, &chained, std::slice::from_ref(&id), false).unwrap(), (chained.clone(), places));
        for chains in [false, true] {
            let taken = [column("_Hash", LakeType::String)];
            let error = extended(&table, &chained, &taken, chains).unwrap_err();
            assert!(error.why.contains("'_Hash'") && error.remedy.contains("chain"), "{error}");
        }
        let (free, _) = extended(&table, &plain, &[column("_sequence", LakeType::Long)], false).unwrap();
        assert!(extended(&table, &free, std::slice::from_ref(&id), true).unwrap_err().why.contains("'_sequence'"));
        // A name that is shown with the column's place stays as it is.
        let (twins, _) = extended(&table, &[], &[id.clone(), odd.clone()], false).unwrap();
        let (chained, _) = extended(&table, &twins, &[id, odd], true).unwrap();
        assert_eq!(names(&chained), ["id", "ID", "_sequence", "_hash", "_erased"]);
    }
}
