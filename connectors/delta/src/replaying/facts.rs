//! What rows of a history say of the events that they are of.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use sooner_api::{Code, Error, Result};
use sooner_schemas::{Lsn, Position};

use crate::history::change_type::ChangeType;
use crate::history::columns::{FACT_COLUMNS, fact_columns};
use crate::rows::columns::LakeColumn;

/// What a row says of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowFacts {
    /// What it is.
    pub change: ChangeType,
    /// Position of the event.
    pub position: Position,
    /// Commit time of its transaction, in microseconds since 1970.
    pub commit_micros: i64,
    /// Its transaction, where that is known.
    pub transaction: Option<i64>,
}

/// The columns of rows that say what happened.
#[derive(Clone, Debug)]
pub struct FactColumns {
    changes: StringArray,
    lsns: Int64Array,
    ordinals: Int64Array,
    times: TimestampMicrosecondArray,
    transactions: Int64Array,
    unchanged: ListArray,
}

impl FactColumns {
    /// Those of rows of a history, whose first columns they are. An operator error if they are not.
    pub fn of(rows: &RecordBatch) -> Result<FactColumns> {
        FactColumns::find(rows).ok_or_else(|| unreadable("its first columns are not those of a history"))
    }

    fn find(rows: &RecordBatch) -> Option<FactColumns> {
        if rows.num_columns() < FACT_COLUMNS {
            return None;
        }
        Some(FactColumns {
            changes: rows.column(0).as_string_opt::<i32>()?.clone(),
            lsns: rows.column(1).as_primitive_opt::<Int64Type>()?.clone(),
            ordinals: rows.column(2).as_primitive_opt::<Int64Type>()?.clone(),
            times: rows.column(3).as_primitive_opt::<TimestampMicrosecondType>()?.clone(),
            transactions: rows.column(4).as_primitive_opt::<Int64Type>()?.clone(),
            unchanged: rows.column(5).as_list_opt::<i32>()?.clone(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a row says. An operator error if it does not say what, where and when.
    pub fn at(&self, row: usize) -> Result<RowFacts> {
        if self.changes.is_null(row) || self.lsns.is_null(row) || self.ordinals.is_null(row) || self.times.is_null(row)
        {
            return Err(unreadable("a row does not say what happened, where in the log, or when"));
        }
        let change = ChangeType::of_name(self.changes.value(row));
        let change = change.ok_or_else(|| unreadable("a row is of a change that histories do not have"))?;
        Ok(RowFacts {
            change,
            position: Position {
                commit_lsn: Lsn(self.lsns.value(row).cast_unsigned()),
                ordinal: self.ordinals.value(row).cast_unsigned(),
            },
            commit_micros: self.times.value(row),
            transaction: self.transactions.is_valid(row).then(|| self.transactions.value(row)),
        })
    }

    /// Names of the columns whose values the source left out of a row.
    pub fn unchanged(&self, row: usize) -> Vec<String> {
        if self.unchanged.is_null(row) {
            return Vec::new();
        }
        let names = self.unchanged.value(row);
        let names = names.as_string_opt::<i32>().map(|names| names.iter().flatten().map(str::to_owned).collect());
        names.unwrap_or_default()
    }
}

/// An error unless a table's first columns are those of a history.
pub fn check_columns(columns: &[LakeColumn]) -> Result<()> {
    let facts = fact_columns();
    let is_same =
        |(column, fact): (&LakeColumn, &LakeColumn)| column.name == fact.name && column.lake_type == fact.lake_type;
    match columns.len() >= facts.len() && columns.iter().zip(&facts).all(is_same) {
        true => Ok(()),
        false => Err(unreadable("its first columns are not those of a history")),
    }
}

fn unreadable(why: &str) -> Error {
    Error::operator(
        Code::TableAltered,
        "cannot read the events of a history",
        why,
        "RESTORE the history to a version before somebody else changed it",
    )
}
