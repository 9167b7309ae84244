//! What a difference between two shapes of a table means for the rows that are there already. The one comparer, used at
//! the source, between log and lake, and in the lake.

use std::fmt;

use crate::column_type::{ColumnType, Scalar};
use crate::masking::{MaskChange, mask_change};
use crate::relation::{Column, Relation};

/// A column as far as a difference is judged by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnFacts {
    /// Name.
    pub name: String,
    /// Attribute number at the source, where it is known.
    pub number: Option<i16>,
    /// Name of the type, in words of whoever compares; none where types are not compared.
    pub type_name: Option<String>,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Rows older than the column hold values in it that no event carries.
    pub fills_older_rows: bool,
}

/// What has to be done about a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evolution {
    /// Nothing: the shapes are equal.
    Same,
    /// A change of metadata: what is there stays right. Columns were added at the end, or may be NULL now.
    Metadata,
    /// As `Metadata`, but columns were dropped or renamed, too: their numbers tell which is which. What is there stays
    /// right where columns are known by more than their names.
    Reshaped,
    /// The rows have to be copied again, for this reason.
    Recopy(String),
    /// A person has to decide, for this reason.
    Decision(String),
}

/// Which events may arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// In the order in which they happened: a column that is missing was dropped.
    InOrder,
    /// By partition, so that some may be older than the last columns of the table, if those may be NULL.
    MaybeOlder,
}

impl fmt::Display for ColumnFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column '{}'", self.name)
    }
}

/// Compares the columns of what is there with those of what comes.
pub fn compare(former: &[ColumnFacts], now: &[ColumnFacts], arrival: Arrival) -> Evolution {
    let newer = former.get(now.len()..).unwrap_or_default();
    if arrival == Arrival::MaybeOlder && newer.iter().all(|column| column.nullable) {
        return compare_in_order(&former[..former.len() - newer.len()], now);
    }
    compare_in_order(former, now)
}

/// Compares two relations of one table, as its source knows them: `former` is what its rows were last written by.
///
/// Either may be as the catalog has it, or as events carry it, with policies applied to its types, and without columns
/// that masks leave out.
pub fn compare_relations(former: &Relation, now: &Relation) -> Evolution {
    let policy_of = |column: &Column| {
        let was = former.columns.iter().find(|was| was.number == column.number && was.type_oid == column.type_oid);
        was.map(|was| was.policy).unwrap_or_default()
    };
    match mask_change(former, now) {
        Some(MaskChange::Unnamed(why)) => return Evolution::Decision(why),
        Some(MaskChange::Rules(why)) => return Evolution::Recopy(why),
        None => {}
    }
    let (former, now) = (&*former.without_omitted(), &now.without_omitted().under_policies(policy_of));
    let columns = |relation: &Relation| relation.columns.iter().map(column_facts).collect::<Vec<_>>();
    let key = |relation: &Relation| {
        let of = |index: &usize| relation.columns.get(*index).map(|column| (column.name.clone(), column.number));
        relation.key.iter().filter_map(of).collect::<Vec<_>>()
    };
    let names = |relation: &Relation| {
        let of = |index: &usize| relation.columns.get(*index).map(|column| column.name.as_str());
        relation.key.iter().filter_map(of).collect::<Vec<_>>().join(", ")
    };
    if !former.key.is_empty() && now.key.is_empty() {
        return Evolution::Decision(format!("it has lost its key ({})", names(former)));
    }
    match compare(&columns(former), &columns(now), Arrival::InOrder) {
        Evolution::Decision(why) | Evolution::Recopy(why) => Evolution::Recopy(why),
        _ if key(former) != key(now) => {
            Evolution::Recopy(format!("its key changed from ({}) to ({})", names(former), names(now)))
        }
        evolution => evolution,
    }
}

fn column_facts(column: &Column) -> ColumnFacts {
    ColumnFacts {
        name: column.name.clone(),
        number: column.number,
        type_name: Some(type_name(column)),
        nullable: column.nullable,
        fills_older_rows: column.missing.is_none() && (!column.nullable || column.has_default || column.generated),
    }
}

/// Name of a type by which values are written. An enum that has more labels is the same type.
fn type_name(column: &Column) -> String {
    match &column.column_type {
        ColumnType::Scalar(Scalar::Enum(_)) => format!("enum {}", column.type_oid),
        ColumnType::Array(Scalar::Enum(_)) => format!("array of enum {}", column.type_oid),
        ColumnType::Scalar(Scalar::Other) => format!("type {}", column.type_oid),
        ColumnType::Array(Scalar::Other) => format!("array type {}", column.type_oid),
        ColumnType::Scalar(scalar) => format!("{scalar:?}").to_lowercase(),
        ColumnType::Array(scalar) => format!("array of {scalar:?}").to_lowercase(),
    }
}

fn compare_in_order(former: &[ColumnFacts], now: &[ColumnFacts]) -> Evolution {
    match compare_by_place(former, now) {
        Evolution::Decision(why) => compare_by_number(former, now).unwrap_or(Evolution::Decision(why)),
        evolution => evolution,
    }
}

/// Compares columns that were dropped or renamed by their numbers, which only grow and are never used again; none if
/// these are not known, or a column has another type.
fn compare_by_number(former: &[ColumnFacts], now: &[ColumnFacts]) -> Option<Evolution> {
    let numbers = |columns: &[ColumnFacts]| columns.iter().map(|column| column.number).collect::<Option<Vec<_>>>();
    let (former_numbers, numbers) = (numbers(former)?, numbers(now)?);
    if !former_numbers.is_sorted_by(|a, b| a < b) || !numbers.is_sorted_by(|a, b| a < b) {
        return None;
    }
    let last = former_numbers.last()?;
    let (kept, added) = now.split_at(numbers.partition_point(|number| number <= last));
    for column in kept {
        let was = former.iter().find(|was| was.number == column.number)?;
        if was.type_name != column.type_name {
            return None;
        }
    }
    Some(filled(added).unwrap_or(Evolution::Reshaped))
}

/// Why rows have to be copied for columns that were added; none if they have not.
fn filled(added: &[ColumnFacts]) -> Option<Evolution> {
    let filled = added.iter().find(|column| column.fills_older_rows)?;
    Some(Evolution::Recopy(format!("rows older than the {filled} hold values that no event carries")))
}

fn compare_by_place(former: &[ColumnFacts], now: &[ColumnFacts]) -> Evolution {
    let mut widened = now.len() > former.len();
    for (index, was) in former.iter().enumerate() {
        match now.get(index) {
            None => return Evolution::Decision(format!("{was} was dropped")),
            Some(is) => {
                if let Some(what) = difference(was, is, now) {
                    return Evolution::Decision(format!("{was} {what}"));
                }
                widened |= is.nullable && !was.nullable;
            }
        }
    }
    let added = now.get(former.len()..).unwrap_or_default();
    let unchanged = if widened { Evolution::Metadata } else { Evolution::Same };
    filled(added).unwrap_or(unchanged)
}

/// How a column is another one than the one that stood in its place; none if it is the same.
fn difference(was: &ColumnFacts, is: &ColumnFacts, now: &[ColumnFacts]) -> Option<String> {
    if is.name != was.name {
        let gone = !now.iter().any(|column| column.name == was.name);
        return Some(if gone { "was dropped or renamed" } else { "moved" }.to_owned());
    }
    if let (Some(former), Some(number)) = (was.number, is.number)
        && former != number
    {
        return Some("was dropped and added again".to_owned());
    }
    match (&was.type_name, &is.type_name) {
        (Some(former), Some(now)) if former != now => Some(format!("changed its type from {former} to {now}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::ValuePolicy;
    use crate::table_name::TableName;

    fn column(name: &str, number: i16, type_name: &str, nullable: bool) -> ColumnFacts {
        ColumnFacts {
            name: name.to_owned(),
            number: Some(number),
            type_name: Some(type_name.to_owned()),
            nullable,
            fills_older_rows: false,
        }
    }

    fn two() -> Vec<ColumnFacts> {
        vec![column("a", 1, "integer", false), column("b", 2, "string", true)]
    }

    fn with(events: &[ColumnFacts]) -> Evolution {
        compare(&two(), events, Arrival::InOrder)
    }

    #[test]
    fn a_nullable_column_that_is_added_is_metadata() {
        let added = [two(), vec![column("c", 3, "long", true)]].concat();
        assert_eq!(with(&added), Evolution::Metadata);
    }

    #[test]
    fn a_column_that_may_be_null_now_is_metadata() {
        assert_eq!(with(&[column("a", 1, "integer", true), two()[1].clone()]), Evolution::Metadata);
    }

    #[test]
    fn a_column_that_fills_older_rows_needs_a_copy() {
        let filled = ColumnFacts { fills_older_rows: true, ..column("c", 3, "long", false) };
        let Evolution::Recopy(why) = with(&[two(), vec![filled]].concat()) else { panic!("it needs a copy") };
        assert!(why.contains("'c'"), "{why}");
    }

    #[test]
    fn columns_that_go_or_take_another_name_are_known_by_their_numbers() {
        for events in [
            vec![two()[0].clone()],
            vec![two()[1].clone()],
            vec![two()[0].clone(), column("z", 2, "string", true)],
            vec![column("b", 1, "integer", false), column("a", 2, "string", true)],
            vec![two()[1].clone(), column("a", 3, "long", true)],
        ] {
            assert_eq!(with(&events), Evolution::Reshaped, "{events:?}");
        }
        let filled = ColumnFacts { fills_older_rows: true, ..column("c", 3, "long", false) };
        assert!(matches!(with(&[two()[0].clone(), filled]), Evolution::Recopy(_)));
    }

    #[test]
    fn columns_that_go_where_nobody_knows_numbers_need_a_decision() {
        let unnumbered = |mut columns: Vec<ColumnFacts>| {
            columns.iter_mut().for_each(|column| column.number = None);
            columns
        };
        let former = unnumbered(two());
        let narrow = compare(&former, &former[..1], Arrival::InOrder);
        assert!(matches!(narrow, Evolution::Decision(what) if what.contains("'b' was dropped")));
        let renamed = unnumbered(vec![column("z", 1, "integer", false), two()[1].clone()]);
        let renamed = compare(&former, &renamed, Arrival::InOrder);
        assert!(matches!(renamed, Evolution::Decision(what) if what.contains("'a' was dropped or renamed")));
    }

    #[test]
    fn columns_that_move_or_change_need_a_decision() {
        for (events, expected) in [
            (vec![column("a", 1, "long", false), two()[1].clone()], "'a' changed its type from integer to long"),
            (vec![two()[1].clone(), two()[0].clone()], "'a' moved"),
        ] {
            let Evolution::Decision(what) = with(&events) else { panic!("{events:?} must be refused") };
            assert!(what.contains(expected), "{what}");
        }
    }

    #[test]
    fn events_of_a_partition_that_is_behind_lack_the_last_columns() {
        let older = |former: &[ColumnFacts], events: &[ColumnFacts]| compare(former, events, Arrival::MaybeOlder);
        assert_eq!(older(&two(), &two()[..1]), Evolution::Same);
        assert_eq!(older(&two(), &[column("a", 1, "integer", true)]), Evolution::Metadata);
        let required = [two()[0].clone(), column("b", 2, "string", false)];
        assert_eq!(older(&required, &two()[..1]), Evolution::Reshaped, "an older event would have a value");
    }

    #[test]
    fn a_relation_as_events_carry_it_is_the_same_table_as_the_catalogs() {
        let date = Column { type_oid: 1082, ..Column::new("until", ColumnType::Scalar(Scalar::Date)).numbered(2) };
        let id = Column { type_oid: 20, ..Column::new("id", ColumnType::Scalar(Scalar::Int8)).numbered(1) };
        let catalog = Relation::new(TableName::new("public", "t"), vec![id, date.clone()], vec![0]);
        for policy in [ValuePolicy::Text, ValuePolicy::Null, ValuePolicy::Clamp] {
            let carried = catalog.under_policies(|_| policy);
            assert_eq!(compare_relations(&carried, &catalog), Evolution::Same, "{policy:?}");
            assert_eq!(compare_relations(&carried, &carried), Evolution::Same, "{policy:?}");
        }
        let carried = catalog.under_policies(|_| ValuePolicy::Text);
        let mut retyped = catalog.clone();
        retyped.columns[1] = Column { type_oid: 25, column_type: ColumnType::Scalar(Scalar::Text), ..date };
        assert!(matches!(compare_relations(&carried, &retyped), Evolution::Recopy(_)));
    }

    proptest! {
        #[test]
        fn nothing_differs_from_itself(names in prop::collection::vec("[a-c]", 0..4)) {
            let columns: Vec<_> = names.iter().map(|name| column(name, 1, "long", true)).collect();
            prop_assert_eq!(compare(&columns, &columns, Arrival::InOrder), Evolution::Same);
            prop_assert_eq!(compare(&columns, &columns, Arrival::MaybeOlder), Evolution::Same);
        }

        #[test]
        fn whatever_starts_alike_only_grows(kept in 0..4usize, added in 0..3usize) {
            let columns: Vec<_> = (0..kept + added).map(|n| column(&format!("c{n}"), n as i16, "long", true)).collect();
            let evolution = compare(&columns[..kept], &columns, Arrival::InOrder);
            prop_assert_eq!(evolution, if added > 0 { Evolution::Metadata } else { Evolution::Same });
        }
    }
}
