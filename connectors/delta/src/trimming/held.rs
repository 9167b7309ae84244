//! Subjects whose rows legal holds keep.

use arrow_array::{Array, RecordBatch};

use super::rule::HoldNumber;
use crate::erasure::hashed_subject::HashedSubject;
use crate::erasure::subject::{is_another_type_of, text_of};
use crate::rows::columns::LakeColumn;

/// A legal hold of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSubject {
    /// Name of the hold.
    pub hold: String,
    /// The subject.
    pub subject: HashedSubject,
}

/// Held subjects, with the columns of a history's files that may have their values.
#[derive(Clone, Debug)]
pub struct HeldColumns<'a> {
    /// Each with its columns, by their names in data files.
    subjects: Vec<(&'a HeldSubject, Vec<String>)>,
}

impl<'a> HeldColumns<'a> {
    /// For a history with these columns, which has one for each type that a column of the source has had. Files may
    /// still have a column under the name that it had before.
    pub fn of(held: &'a [HeldSubject], columns: &[LakeColumn]) -> HeldColumns<'a> {
        let subjects = held.iter().map(|held| {
            let name = &held.subject.column;
            let meant = columns.iter().filter(|column| column.name == *name || is_another_type_of(column, name));
            let mut names: Vec<_> = meant.map(|column| column.stored_name().to_owned()).collect();
            if !names.contains(name) {
                names.push(name.clone());
            }
            (held, names)
        });
        HeldColumns { subjects: subjects.collect() }
    }

    /// Names of the columns in data files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.subjects.iter().flat_map(|(_, names)| names).map(String::as_str)
    }

    /// The first hold that keeps a row.
    pub fn hold_of(&self, rows: &RecordBatch, row: usize) -> Option<HoldNumber> {
        self.subjects.iter().position(|(held, names)| {
            let columns = names.iter().filter_map(|name| rows.column_by_name(name));
            let mut values = columns.filter(|values| values.is_valid(row));
            values.any(|values| held.subject.is(&text_of(values.as_ref(), row)))
        })
    }

    /// Name of a hold.
    pub fn name(&self, hold: HoldNumber) -> &str {
        self.subjects.get(hold).map_or("", |(held, _)| held.hold.as_str())
    }
}
