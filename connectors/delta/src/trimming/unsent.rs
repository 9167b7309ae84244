//! Sets of columns that the source left out of an event because they had not changed. Few of them differ, so rows are
//! known by a set's number.

use std::collections::{BTreeSet, HashMap};

/// Number of a set of columns.
pub type SetNumber = u32;
/// Number of the empty set: the source sent all columns.
pub const NONE: SetNumber = 0;

/// The sets that rows of a history have.
#[derive(Debug)]
pub struct UnsentSets {
    numbers: HashMap<BTreeSet<String>, SetNumber>,
    sets: Vec<BTreeSet<String>>,
}

impl Default for UnsentSets {
    fn default() -> UnsentSets {
        let none = BTreeSet::new();
        UnsentSets { numbers: HashMap::from([(none.clone(), NONE)]), sets: vec![none] }
    }
}

impl UnsentSets {
    /// Number of a set.
    pub fn number_of<'a>(&mut self, columns: impl Iterator<Item = &'a str>) -> SetNumber {
        let set: BTreeSet<String> = columns.map(str::to_owned).collect();
        if let Some(number) = self.numbers.get(&set) {
            return *number;
        }
        let number = SetNumber::try_from(self.sets.len()).unwrap_or(SetNumber::MAX);
        self.numbers.insert(set.clone(), number);
        self.sets.push(set);
        number
    }

    /// Columns of a set.
    pub fn columns(&self, set: SetNumber) -> impl Iterator<Item = &str> {
        self.sets.get(set as usize).into_iter().flatten().map(String::as_str)
    }

    /// Whether a set has a column.
    pub fn has(&self, set: SetNumber, column: &str) -> bool {
        self.sets.get(set as usize).is_some_and(|set| set.contains(column))
    }
}
