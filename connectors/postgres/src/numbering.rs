//! Which columns a relation of the stream means: the stream names them, and names may have been given to other columns
//! since. What is known from before and from the catalog, which may be ahead of the stream, tells which is which.
//!
//! Attribute numbers only grow, are never used again, and the stream sends columns in their order. So a column that was
//! there before and is there by now was there all the time, and of those that were added since, a later one is there
//! only if the earlier ones are. Of all ways to number the columns under these rules, the one counts that needs the
//! fewest names that nobody knows; where several differ in columns that are there by now, the numbers are not clear.

use std::collections::BTreeMap;

use sooner_schemas::{Column, Relation};

/// Cost of a name that a column has neither before nor by now.
const OTHER_NAME: u32 = 1;
/// Cost of a type that a column has neither before nor by now, although it is there both times.
const OTHER_TYPE: u32 = 10_000;

/// Numbers the columns of `relation`, which the stream describes. `written` is what the table was before, `catalog` is
/// what it is by now. False if it cannot be told which column is which.
pub fn number_columns(relation: &mut Relation, written: &Relation, catalog: &Relation) -> bool {
    let candidates = candidates(written, catalog);
    let Some(numbers) = clear_numbers(&relation.columns, &candidates) else { return false };
    for (column, number) in relation.columns.iter_mut().zip(&numbers) {
        column.number = Some(*number);
        let same = |known: &&Column| known.number == Some(*number) && known.type_oid == column.type_oid;
        column.missing = None;
        if let Some(known) = catalog.columns.iter().find(same) {
            (column.nullable, column.has_default, column.generated) =
                (known.nullable, known.has_default, known.generated);
            column.missing.clone_from(&known.missing);
        }
    }
    relation.last_number = numbers.last().copied().unwrap_or_default().max(written.last_number);
    true
}

/// A column that the relation may have.
struct Candidate<'a> {
    number: i16,
    /// As it was before; none if it was not there.
    before: Option<&'a Column>,
    /// As it is by now; none if it is gone.
    now: Option<&'a Column>,
}

impl Candidate<'_> {
    /// It was there all the time.
    fn is_required(&self) -> bool {
        self.before.is_some() && self.now.is_some()
    }

    /// It was added, and is there ever since.
    fn is_added(&self) -> bool {
        self.before.is_none() && self.now.is_some()
    }

    /// Cost of taking a column of the stream for it; none if it cannot be that. Of one that was added since, and may
    /// have got its name later, a name says nothing.
    fn cost(&self, column: &Column) -> Option<u32> {
        let known: Vec<_> = self.before.iter().chain(&self.now).collect();
        // One that was added and dropped since may be of any type.
        let fits = known.is_empty() || known.iter().any(|known| known.type_oid == column.type_oid);
        let has_name = self.before.is_none() || known.iter().any(|known| known.name == column.name);
        let name = if has_name { 0 } else { OTHER_NAME };
        match fits {
            true => Some(name),
            false => self.is_required().then_some(name + OTHER_TYPE),
        }
    }
}

/// All columns that may be there at some moment between the two, by number.
fn candidates<'a>(written: &'a Relation, catalog: &'a Relation) -> Vec<Candidate<'a>> {
    let numbered = |relation: &'a Relation| {
        relation.columns.iter().filter_map(|column| Some((column.number?, column))).collect::<BTreeMap<_, _>>()
    };
    let (before, now) = (numbered(written), numbered(catalog));
    let greatest = |known: &BTreeMap<i16, &Column>| known.keys().next_back().copied().unwrap_or_default();
    let last_before = written.last_number.max(greatest(&before));
    let last_now = catalog.last_number.max(greatest(&now));
    let candidate = |number| Candidate { number, before: before.get(&number).copied(), now: now.get(&number).copied() };
    let is_there = |candidate: &Candidate<'_>| {
        candidate.before.is_some() || candidate.now.is_some() || candidate.number > last_before
    };
    (1..=last_now.max(last_before)).map(candidate).filter(is_there).collect()
}

/// The cheapest way to number some columns by some candidates.
#[derive(Clone, Copy)]
struct Way {
    cost: u32,
    /// Which of the columns are which of those that are there by now, as a hash.
    stays: u64,
    /// Another way costs the same, and differs in that.
    is_unclear: bool,
}

impl Way {
    fn take(self, candidate: &Candidate<'_>, column: &Column) -> Option<Way> {
        let stays = candidate.now.map_or(0, |_| candidate.number.unsigned_abs().into());
        let stays = self.stays.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stays);
        Some(Way { cost: self.cost + candidate.cost(column)?, stays, ..self })
    }
}

/// Which of two ways counts, and whether it takes the last candidate, rather than leaves it out.
fn cheaper(absent: Option<Way>, taken: Option<Way>) -> (Option<Way>, bool) {
    let (Some(without), Some(with)) = (absent, taken) else { return (absent.or(taken), absent.is_none()) };
    if without.cost != with.cost {
        return if without.cost < with.cost { (absent, false) } else { (taken, true) };
    }
    let is_unclear = without.is_unclear || with.is_unclear || without.stays != with.stays;
    (Some(Way { is_unclear, ..without }), false)
}

/// The numbers that the columns have in the only cheapest way; none if there is none, or another one.
fn clear_numbers(columns: &[Column], candidates: &[Candidate<'_>]) -> Option<Vec<i16>> {
    // Place `i`: the way to number the first `i` columns by the candidates so far; none if they cannot be.
    let mut ways = vec![None; columns.len() + 1];
    ways[0] = Some(Way { cost: 0, stays: 0, is_unclear: false });
    let mut takes_last = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let next = (0..=columns.len()).map(|count| {
            // Nothing comes after a column that is not there yet, but will be.
            let may_be_absent = !candidate.is_required() && (!candidate.is_added() || count == columns.len());
            let taken = count.checked_sub(1).and_then(|before| ways[before]?.take(candidate, &columns[before]));
            cheaper(ways[count].filter(|_| may_be_absent), taken)
        });
        let (next, takes): (Vec<Option<Way>>, Vec<bool>) = next.unzip();
        ways = next;
        takes_last.push(takes);
    }
    ways[columns.len()].filter(|way| !way.is_unclear)?;
    let (mut count, mut numbers) = (columns.len(), Vec::new());
    for (candidate, takes) in candidates.iter().zip(&takes_last).rev() {
        if takes[count] {
            numbers.push(candidate.number);
            count -= 1;
        }
    }
    numbers.reverse();
    Some(numbers)
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
        let relation = Relation::new(TableName::new("public", "t"), columns.collect(), vec![0]);
        let last_number = relation.columns.iter().filter_map(|column| column.number).max().unwrap_or_default();
        Relation { last_number, ..relation }
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
        let before = Relation { last_number: 4, ..before };
        check(&relation(&[("id", None, 25), ("a", None, 25), ("b", None, 23)]), &before, &other_type, Some(&[1, 2, 5]));
    }

    #[test]
    fn names_of_a_moment_between_are_told_by_the_columns_that_were_there_all_the_time() {
        let before = known(&[("id", 1), ("a", 2), ("c", 3), ("d", 4)]);
        let now = known(&[("id", 1), ("d", 3), ("c", 4), ("e", 5)]);
        check(&streamed(&["id", "x", "d"]), &before, &now, Some(&[1, 3, 4]));
        check(&streamed(&["id", "a", "x", "d"]), &before, &now, Some(&[1, 2, 3, 4]));
        check(&streamed(&["id", "d", "c"]), &before, &now, Some(&[1, 3, 4]));
        check(&streamed(&["id", "a", "d", "c", "y"]), &before, &now, Some(&[1, 2, 3, 4, 5]));
        check(
            &streamed(&["id", "between"]),
            &known(&[("id", 1), ("a", 2)]),
            &known(&[("id", 1), ("a", 2)]),
            Some(&[1, 2]),
        );
    }

    #[test]
    fn a_column_that_came_and_went_is_not_taken_for_one_of_its_name_that_came_later() {
        let (before, now) = (known(&[("id", 1)]), known(&[("id", 1), ("c", 3)]));
        check(&streamed(&["id", "c"]), &before, &now, None);
        check(&streamed(&["id", "x", "c"]), &before, &now, Some(&[1, 2, 3]));
        check(&streamed(&["id", "former"]), &before, &now, None);
        let two = known(&[("id", 1), ("a", 2)]);
        check(&streamed(&["id", "a"]), &two, &now, None);
        let had_two = Relation { last_number: 2, ..before };
        check(&streamed(&["id", "c"]), &had_two, &now, Some(&[1, 3]));
        let gone = Relation { last_number: 2, ..known(&[("id", 1)]) };
        check(&streamed(&["id", "c"]), &known(&[("id", 1)]), &gone, Some(&[1, 2]));
    }

    #[test]
    fn what_the_rules_exclude_has_no_numbers() {
        let table = known(&[("id", 1), ("a", 2)]);
        check(&streamed(&["id"]), &table, &table, None);
        check(&streamed(&["id", "a", "b"]), &table, &table, None);
    }
}
