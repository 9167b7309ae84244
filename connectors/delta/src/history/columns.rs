//! Columns of a history: what happened, when and in which transaction, then the columns of the source, under every
//! name and type that they have had.

use std::collections::BTreeSet;

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

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
/// Columns by which the rows of a history are in order.
pub const ORDER: [&str; 2] = ["_commit_lsn", "_ordinal"];
/// Number of the columns that say what happened.
pub const FACT_COLUMNS: usize = FACTS.len() + 1;

/// The columns that say what happened.
pub fn fact_columns() -> Vec<LakeColumn> {
    let facts = FACTS.iter().map(|(name, lake_type)| column(name, lake_type.clone()));
    facts.chain([column(UNCHANGED, LakeType::Array(Box::new(LakeType::String)))]).collect()
}

/// Columns of a history that has `known` ones (none before it exists), once it holds events with the columns `events`;
/// and the place in them of each of the latter. A column that comes, or comes back under another type, is added. An
/// operator error if a column of the source has the name of one that says what happened.
pub fn extended(
    table: &TableName,
    known: &[LakeColumn],
    events: &[LakeColumn],
) -> Result<(Vec<LakeColumn>, Vec<usize>)> {
    let mut columns = if known.is_empty() { fact_columns() } else { known.to_vec() };
    let mut places = Vec::with_capacity(events.len());
    let mut taken: BTreeSet<usize> = (0..FACT_COLUMNS).collect();
    for event in events {
        if columns[..FACT_COLUMNS].iter().any(|fact| fact.name.eq_ignore_ascii_case(&event.name)) {
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
    Error::operator(
        Code::TypeUnsupported,
        format!("cannot keep a history of {table}"),
        format!("its column '{name}' has the name of one that a history tells by what happened"),
        "rename the column, or leave history out of write for this table",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(columns: &[LakeColumn]) -> Vec<&str> {
        columns[FACT_COLUMNS..].iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn a_history_keeps_each_column_under_every_type_that_it_has_had() {
        let table = TableName::new("public", "t");
        let id = column("id", LakeType::Long);
        let [narrow, wide] = [LakeType::Decimal(10, 2), LakeType::Decimal(20, 2)].map(|kind| column("total", kind));
        let (first, places) = extended(&table, &[], &[id.clone(), narrow.clone()]).unwrap();
        assert_eq!(places, [FACT_COLUMNS, FACT_COLUMNS + 1]);
        let (second, places) = extended(&table, &first, &[wide.clone(), id.clone()]).unwrap();
        assert_eq!(names(&second), ["id", "total", "total_decimal_20_2"]);
        assert_eq!(places, [FACT_COLUMNS + 2, FACT_COLUMNS]);
        let (third, places) = extended(&table, &second, &[id.clone(), narrow]).unwrap();
        assert_eq!((&third, places), (&second, vec![FACT_COLUMNS, FACT_COLUMNS + 1]));
        let other = column("total_decimal_20_2", LakeType::Decimal(20, 2));
        let (fourth, places) = extended(&table, &third, &[other, wide]).unwrap();
        assert_eq!(places[0], FACT_COLUMNS + 2);
        assert_eq!(names(&fourth)[places[1] - FACT_COLUMNS], "total_decimal_20_2_2", "no two columns share one");
    }

    #[test]
    fn a_column_with_the_name_of_a_fact_is_refused() {
        let table = TableName::new("public", "t");
        let error = extended(&table, &[], &[column("_Ordinal", LakeType::Long)]).unwrap_err();
        assert!(error.to_string().contains("'_Ordinal'"), "{error}");
    }
}
