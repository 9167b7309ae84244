//! Which rows of a history make up its table at a position. Without I/O.
//!
//! It is, for each key, the last event since the table was last copied whole or emptied; a value that the source left
//! out is that of the event before. Rows are told apart by their number, in commit order, so that they can be found
//! when the history is read again.

use std::collections::HashMap;

use crate::history::change_type::ChangeType;

/// Rows of some keys at a position.
#[derive(Debug, Default)]
pub struct Choice {
    states: HashMap<u128, State>,
    /// The table was copied whole or emptied at or before the position, or the history is whole from before.
    pub is_whole: bool,
    /// Rows are missing: an event after the position, committed then (in microseconds since 1970), is of a row that was
    /// there before, and that no event up to the position is of.
    pub missing_until: Option<i64>,
    /// Bytes of the values that rows borrow from others, about.
    pub borrowed_bytes: u64,
}

/// What is known of a key.
#[derive(Debug)]
enum State {
    /// There was a row, and there is none.
    Gone,
    /// There is a row.
    Row(ChosenRow),
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenRow {
    /// Number of the history's row that it is of.
    pub number: u64,
    /// Columns whose values are those of other rows of the history: places, and the rows' numbers.
    pub borrowed: Vec<(usize, u64)>,
    /// Places of columns whose values no event has.
    pub unknown: Vec<usize>,
    /// Bytes of its texts.
    pub bytes: u64,
}

/// A row of a history.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub change: ChangeType,
    /// Its key.
    pub key: u128,
    /// Places of the columns that the source left out.
    pub unchanged: &'a [usize],
    /// Bytes of its texts.
    pub bytes: u64,
}

impl Choice {
    /// Of a history that is whole from before its first row, or not.
    pub fn new(is_whole: bool) -> Choice {
        Choice { is_whole, ..Choice::default() }
    }

    /// All rows went: the table was emptied, or a copy of all of it begins.
    pub fn begin(&mut self) {
        *self = Choice::new(true);
    }

    /// Takes in an event of a row, at or before the position.
    pub fn take(&mut self, event: Event<'_>) {
        let former = self.states.remove(&event.key);
        if let Some(State::Row(row)) = &former {
            self.borrowed_bytes -= row.borrowed_bytes();
        }
        if event.change == ChangeType::Delete {
            self.states.insert(event.key, State::Gone);
            return;
        }
        let (borrowed, unknown) = (Vec::new(), Vec::new());
        let mut row = ChosenRow { number: event.number, borrowed, unknown, bytes: event.bytes };
        for place in event.unchanged {
            match &former {
                Some(State::Row(former)) if !former.unknown.contains(place) => {
                    row.borrowed.push((*place, former.source_of(*place)));
                    row.bytes = row.bytes.max(former.bytes);
                }
                _ => row.unknown.push(*place),
            }
        }
        self.borrowed_bytes += row.borrowed_bytes();
        self.states.insert(event.key, State::Row(row));
    }

    /// Takes in an event of a row after the position, committed at `micros`. `is_new` if an update gave the row its
    /// key.
    pub fn pass(&mut self, change: ChangeType, key: u128, micros: i64, is_new: bool) {
        if self.states.contains_key(&key) {
            return;
        }
        if change != ChangeType::Insert && !is_new {
            self.missing_until = self.missing_until.max(Some(micros));
        }
        self.states.insert(key, State::Gone);
    }

    /// How many keys are known of.
    pub fn keys(&self) -> usize {
        self.states.len()
    }

    /// Whether a row has values that no event has.
    pub fn has_unknown(&self) -> bool {
        self.states.values().any(|state| matches!(state, State::Row(row) if !row.unknown.is_empty()))
    }

    /// The rows, by their numbers.
    pub fn into_rows(self) -> Vec<ChosenRow> {
        let rows = self.states.into_values().filter_map(|state| match state {
            State::Row(row) => Some(row),
            State::Gone => None,
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_unstable_by_key(|row| row.number);
        rows
    }
}

impl ChosenRow {
    /// Number of the row that has its value of a column.
    fn source_of(&self, place: usize) -> u64 {
        self.borrowed.iter().find(|(borrowed, _)| *borrowed == place).map_or(self.number, |(_, number)| *number)
    }

    fn borrowed_bytes(&self) -> u64 {
        if self.borrowed.is_empty() { 0 } else { self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, change: ChangeType, key: u128, unchanged: &[usize]) -> Event<'_> {
        Event { number, change, key, unchanged, bytes: 10 }
    }

    #[test]
    fn a_value_that_was_left_out_is_that_of_the_last_event_that_has_it() {
        let mut choice = Choice::default();
        choice.take(event(0, ChangeType::Insert, 7, &[]));
        choice.begin();
        choice.take(event(2, ChangeType::Snapshot, 7, &[]));
        choice.take(event(3, ChangeType::Postimage, 7, &[4]));
        choice.take(event(4, ChangeType::Postimage, 7, &[4, 5]));
        choice.take(event(5, ChangeType::Insert, 8, &[]));
        choice.take(event(6, ChangeType::Delete, 8, &[]));
        assert!(choice.is_whole && !choice.has_unknown() && choice.borrowed_bytes == 10);
        let borrowed = vec![(4, 2), (5, 3)];
        assert_eq!(choice.into_rows(), [ChosenRow { number: 4, borrowed, unknown: Vec::new(), bytes: 10 }]);
        let mut choice = Choice::default();
        choice.take(event(0, ChangeType::Postimage, 7, &[4]));
        assert!(choice.has_unknown(), "nothing is known before it");
        choice.take(event(1, ChangeType::Postimage, 7, &[4]));
        assert!(choice.has_unknown(), "nor is it by then");
        choice.take(event(2, ChangeType::Snapshot, 7, &[]));
        assert!(!choice.has_unknown(), "a copy brings it");
    }

    #[test]
    fn a_row_that_is_first_heard_of_after_the_position_was_missing_unless_it_is_new() {
        let mut choice = Choice::default();
        choice.begin();
        choice.take(event(1, ChangeType::Snapshot, 1, &[]));
        choice.take(event(2, ChangeType::Delete, 2, &[]));
        for key in [1, 2] {
            choice.pass(ChangeType::Postimage, key, 50, false);
        }
        choice.pass(ChangeType::Insert, 3, 60, false);
        choice.pass(ChangeType::Postimage, 3, 70, false);
        choice.pass(ChangeType::Postimage, 4, 80, true);
        assert_eq!(choice.missing_until, None);
        choice.pass(ChangeType::Snapshot, 5, 90, false);
        choice.pass(ChangeType::Delete, 6, 85, false);
        assert_eq!((choice.missing_until, choice.into_rows().len()), (Some(90), 1));
    }
}
