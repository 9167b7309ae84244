//! Whose rows are erased: those that have a value in a column. Values are compared as texts, as the lake's readers show
//! them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::str::FromStr;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int16Type, Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_cast::display::array_value_to_string;
use arrow_schema::DataType;
use sooner_schemas::TableName;

use crate::rows::lake_column::LakeColumn;
use crate::rows::lake_type::type_name;

/// A value of a column, by which rows are found. It is never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Subject {
    /// The only table that is meant; every table that has the column if none.
    pub table: Option<TableName>,
    /// Name of the column.
    pub column: String,
    /// Text of the value.
    pub value: String,
}

impl FromStr for Subject {
    type Err = String;

    /// From `column=value` or `schema.table.column=value`. The message of an error does not have the value.
    fn from_str(text: &str) -> Result<Subject, String> {
        let usage = || "expected COLUMN=VALUE or SCHEMA.TABLE.COLUMN=VALUE".to_owned();
        let (place, value) = text.split_once('=').ok_or_else(usage)?;
        if place.is_empty() || value.is_empty() {
            return Err(usage());
        }
        let (table, column) = match place.rsplit_once('.') {
            None => (None, place),
            Some((table, column)) => (Some(table.parse::<TableName>().map_err(|_| usage())?), column),
        };
        Ok(Subject { table, column: column.to_owned(), value: value.to_owned() })
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("table", &self.table).field("column", &self.column).finish_non_exhaustive()
    }
}

impl Subject {
    /// Whether rows of a table may be meant.
    pub fn concerns(&self, table: &TableName) -> bool {
        self.table.as_ref().is_none_or(|meant| meant == table)
    }

    /// Column that is meant, as `column` or `schema.table.column`.
    pub fn place(&self) -> String {
        self.table.as_ref().map_or_else(|| self.column.clone(), |table| format!("{table}.{}", self.column))
    }
}

/// The values that rows of one table are looked for by.
#[derive(Clone, Default)]
pub struct Wanted {
    /// By names of columns in data files.
    values: BTreeMap<String, HashSet<String>>,
}

impl Wanted {
    /// What the subjects mean in a table with these columns. Files may still have a column under the name that it had
    /// before, and a history has one for each type that the column has had.
    pub fn of(subjects: &[Subject], table: &TableName, columns: &[LakeColumn]) -> Wanted {
        let (mut wanted, is_history) = (Wanted::default(), columns.iter().any(|column| column.name == "_change_type"));
        for subject in subjects.iter().filter(|subject| subject.concerns(table)) {
            let is_typed = |column: &LakeColumn| is_history && is_another_type_of(column, &subject.column);
            let stored = columns.iter().filter(|column| column.name == subject.column || is_typed(column));
            let names: BTreeSet<_> = stored.map(LakeColumn::stored_name).chain([subject.column.as_str()]).collect();
            for name in names {
                wanted.values.entry(name.to_owned()).or_default().insert(subject.value.clone());
            }
        }
        wanted
    }

    /// Names of columns in data files.
    pub fn columns(&self) -> Vec<&str> {
        self.values.keys().map(String::as_str).collect()
    }

    /// For each of the rows whether it has one of the values.
    pub fn matches(&self, rows: &RecordBatch) -> Vec<bool> {
        let mut found = vec![false; rows.num_rows()];
        for (name, wanted) in &self.values {
            let Some(values) = rows.column_by_name(name) else { continue };
            for (row, found) in found.iter_mut().enumerate() {
                *found = *found || (values.is_valid(row) && holds(wanted, values.as_ref(), row));
            }
        }
        found
    }
}

/// Whether a history's column has the values that a column had under another type.
pub fn is_another_type_of(column: &LakeColumn, name: &str) -> bool {
    let kind = type_name(&column.lake_type);
    let kind: String = kind.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let rest = column.name.strip_prefix(name).and_then(|rest| rest.strip_prefix('_'));
    rest.is_some_and(|rest| rest.starts_with(kind.trim_end_matches('_')))
}

fn holds(wanted: &HashSet<String>, values: &dyn Array, row: usize) -> bool {
    match values.data_type() {
        DataType::Utf8 => wanted.contains(values.as_string::<i32>().value(row)),
        _ => wanted.contains(&text_of(values, row)),
    }
}

/// Text of a value, as readers show it.
pub fn text_of(values: &dyn Array, row: usize) -> String {
    match values.data_type() {
        DataType::Int16 => values.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => values.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => values.as_primitive::<Int64Type>().value(row).to_string(),
        _ => array_value_to_string(values, row).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int32Array, StringArray};

    use super::*;
    use crate::rows::lake_type::LakeType;

    fn column(name: &str, lake_type: LakeType) -> LakeColumn {
        LakeColumn { name: name.into(), lake_type, nullable: true, number: None, stored: None, missing: None }
    }

    #[test]
    fn a_subject_is_a_column_and_a_value_and_perhaps_a_table() {
        let everywhere: Subject = "email=a@b.c=d".parse().unwrap();
        assert_eq!((everywhere.table, everywhere.value.as_str()), (None, "a@b.c=d"));
        let one: Subject = "public.users.email=x".parse().unwrap();
        assert_eq!((one.table.clone(), one.column.as_str()), (Some(TableName::new("public", "users")), "email"));
        assert!(one.concerns(&TableName::new("public", "users")) && !one.concerns(&TableName::new("public", "u")));
        for odd in ["email", "=x", "email=", "users.email=x"] {
            assert!(odd.parse::<Subject>().is_err(), "{odd}");
        }
        assert!(!format!("{one:?}").contains('x'));
    }

    #[test]
    fn values_are_compared_as_texts_under_every_name_of_the_column() {
        let table = TableName::new("public", "t");
        let change = column("_change_type", LakeType::String);
        let columns = [change, column("id", LakeType::Integer), column("id_string", LakeType::String)];
        let mirror = Wanted::of(&["id=7".parse().unwrap()], &table, &columns[1..]);
        assert_eq!(mirror.columns(), ["id"], "a mirror has each column once");
        let wanted = Wanted::of(&["id=7".parse().unwrap()], &table, &columns);
        assert_eq!(wanted.columns(), ["id", "id_string"]);
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(7), Some(77), None, Some(1)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![None, None, Some("7"), Some("x")]));
        let rows = RecordBatch::try_from_iter_with_nullable([("id", numbers, true), ("id_string", texts, true)]);
        assert_eq!(wanted.matches(&rows.unwrap()), [true, false, true, false]);
    }
}
