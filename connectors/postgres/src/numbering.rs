//! Which columns a relation of the stream means: the stream names them, and names may have been given to other columns
//! since. What is known from before and from the catalog, which may be ahead of the stream, tells which is which.

use sooner_schemas::{Column, Relation};

/// Numbers the columns of `relation`, which the stream describes. `written` is what the table was before, `catalog` is
/// what it is by now. False if it cannot be told whether a column is the former one, or another one of its name and
/// type.
pub fn number_columns(relation: &mut Relation, written: &Relation, catalog: &Relation) -> bool {
    let as_before = numbers(relation, written, catalog);
    let as_by_now = numbers(relation, catalog, written);
    let (numbers, is_clear) = match (as_before, as_by_now) {
        (Some(before), Some(now)) if before != now => (now, false),
        (Some(numbers), _) | (None, Some(numbers)) => (numbers, true),
        (None, None) => return true,
    };
    for (column, number) in relation.columns.iter_mut().zip(numbers) {
        column.number = number;
    }
    is_clear
}

/// Numbers of the columns, if they are those that `first` has, or else those that `second` has; none if that cannot be,
/// because columns stand in the order of their numbers.
fn numbers(relation: &Relation, first: &Relation, second: &Relation) -> Option<Vec<Option<i16>>> {
    let find = |among: &Relation, column: &Column| {
        among.columns.iter().find(|known| known.name == column.name && known.type_oid == column.type_oid)?.number
    };
    let numbers = relation.columns.iter().map(|column| find(first, column).or_else(|| find(second, column)));
    let numbers: Vec<_> = numbers.collect();
    numbers.iter().flatten().is_sorted_by(|a, b| a < b).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use sooner_schemas::{ColumnType, Scalar, TableName};

    use super::*;

    fn relation(columns: &[(&str, Option<i16>, u32)]) -> Relation {
        let columns = columns.iter().map(|(name, number, type_oid)| {
            let column = Column::new(*name, ColumnType::Scalar(Scalar::Text));
            Column { number: *number, type_oid: *type_oid, ..column }
        });
        Relation::new(TableName::new("public", "t"), columns.collect(), vec![0])
    }

    fn known(columns: &[(&str, i16)]) -> Relation {
        relation(&columns.iter().map(|(name, number)| (*name, Some(*number), 25)).collect::<Vec<_>>())
    }

    fn streamed(columns: &[&str]) -> Relation {
        relation(&columns.iter().map(|name| (*name, None, 25)).collect::<Vec<_>>())
    }

    #[track_caller]
    fn check(streamed: &Relation, written: &Relation, catalog: &Relation, expected: Option<&[i16]>) {
        let mut numbered = streamed.clone();
        let is_clear = number_columns(&mut numbered, written, catalog);
        let numbers: Vec<_> = numbered.columns.iter().filter_map(|column| column.number).collect();
        assert_eq!(is_clear.then_some(&numbers[..]), expected);
    }

    #[test]
    fn a_table_that_stays_as_it_is_has_the_numbers_that_it_had() {
        let table = known(&[("id", 1), ("a", 3)]);
        check(&streamed(&["id", "a"]), &table, &table, Some(&[1, 3]));
    }

    #[test]
    fn names_that_were_swapped_are_told_by_their_order() {
        let (before, now) = (known(&[("id", 1), ("a", 2), ("b", 3)]), known(&[("id", 1), ("b", 2), ("a", 3)]));
        check(&streamed(&["id", "a", "b"]), &before, &now, Some(&[1, 2, 3]));
        check(&streamed(&["id", "b", "a"]), &before, &now, Some(&[1, 2, 3]));
    }

    #[test]
    fn a_renamed_column_is_known_by_its_former_name_and_by_its_new_one() {
        let (before, now) = (known(&[("id", 1), ("a", 2)]), known(&[("id", 1), ("z", 2)]));
        check(&streamed(&["id", "a"]), &before, &now, Some(&[1, 2]));
        check(&streamed(&["id", "z"]), &before, &now, Some(&[1, 2]));
    }

    #[test]
    fn a_column_that_was_added_again_is_told_by_its_place_or_its_type_and_otherwise_not_at_all() {
        let before = known(&[("id", 1), ("a", 2), ("b", 3)]);
        let now = known(&[("id", 1), ("b", 3), ("a", 4)]);
        check(&streamed(&["id", "a", "b"]), &before, &now, Some(&[1, 2, 3]));
        check(&streamed(&["id", "b", "a"]), &before, &now, Some(&[1, 3, 4]));
        let last = known(&[("id", 1), ("a", 2), ("b", 5)]);
        check(&streamed(&["id", "a", "b"]), &before, &last, None);
        let other_type = relation(&[("id", Some(1), 25), ("a", Some(2), 25), ("b", Some(5), 23)]);
        check(&streamed(&["id", "a", "b"]), &before, &other_type, Some(&[1, 2, 3]));
        check(&relation(&[("id", None, 25), ("a", None, 25), ("b", None, 23)]), &before, &other_type, Some(&[1, 2, 5]));
    }

    #[test]
    fn a_name_that_nobody_knows_has_no_number() {
        let table = known(&[("id", 1), ("a", 2)]);
        check(&streamed(&["id", "between"]), &table, &table, Some(&[1]));
    }
}
