//! Writes a row's columns as an Avro record, by a plan compiled from the relation.

use super::tuple::{TupleValue, ValueError};
use crate::column_type::ColumnType;
use crate::policy::{ValuePolicy, write_substitute};
use crate::relation::Relation;
use crate::unholdable::Unholdable;
use crate::value::{write_fallback, write_placeholder, write_value};
use crate::wire::write_long;

/// Reason for a NULL under a schema that says NOT NULL: the row is older than the constraint.
pub const UNEXPECTED_NULL: Unholdable = Unholdable("it is NULL, but the column is NOT NULL");

/// Plan of a record: which columns are written, in which order and how.
#[derive(Debug)]
pub struct RowPlan {
    fields: Vec<FieldPlan>,
}

#[derive(Debug)]
struct FieldPlan {
    /// Index of the column in the row.
    index: usize,
    name: String,
    column_type: ColumnType,
    null: Null,
    /// What becomes of a value that the type cannot hold.
    policy: ValuePolicy,
    in_key: bool,
    /// Avro bytes of the column's default.
    default: Option<Vec<u8>>,
}

/// Whether a field may be null, and which branch of its union null is. A default has the type of the union's first
/// branch, so null comes second in a column with a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Null {
    Never,
    First,
    Second,
}

impl Null {
    /// Index of the union's null branch; none if the field is never null.
    fn branch(self) -> Option<i64> {
        match self {
            Null::Never => None,
            Null::First => Some(0),
            Null::Second => Some(1),
        }
    }
}

impl RowPlan {
    /// Plan of the `Value` record: all columns in their order.
    pub fn value(relation: &Relation) -> RowPlan {
        let fields = (0..relation.columns.len()).map(|index| field(relation, index, relation.columns[index].nullable));
        RowPlan { fields: fields.collect() }
    }

    /// Plan of the `Key` record: the key's columns in the key's order. Its fields are never null.
    pub fn key(relation: &Relation) -> RowPlan {
        RowPlan { fields: relation.key.iter().map(|&index| field(relation, index, false)).collect() }
    }

    /// Number of columns that a row must have at least.
    pub fn width(&self) -> usize {
        self.fields.iter().map(|field| field.index + 1).max().unwrap_or(0)
    }

    /// Appends a whole row. Columns that Postgres left out get a placeholder, and their indexes are added to
    /// `unavailable`.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        row: &[TupleValue<'_>],
        unavailable: &mut Vec<u16>,
    ) -> Result<(), ValueError> {
        for field in &self.fields {
            match row[field.index] {
                TupleValue::Text(text) => field.write(out, text)?,
                TupleValue::Null => match field.null.branch() {
                    Some(null) => write_long(out, null),
                    None => return Err(field.error(UNEXPECTED_NULL)),
                },
                TupleValue::Unavailable => {
                    unavailable.push(field.index as u16);
                    field.write_unavailable(out);
                }
            }
        }
        Ok(())
    }

    /// Appends a row in which no value may be left out: a key.
    pub fn write_complete(&self, out: &mut Vec<u8>, row: &[TupleValue<'_>]) -> Result<(), ValueError> {
        let left_out = self.fields.iter().find(|field| row[field.index] == TupleValue::Unavailable);
        match left_out {
            Some(field) => Err(field.error(Unholdable("it is part of the key, and Postgres left its value out"))),
            None => self.write(out, row, &mut Vec::new()),
        }
    }

    /// Appends a row of which only the key is known. The other columns are null; those that cannot be null get
    /// their default, or a fallback if they have none.
    pub fn write_key_only(&self, out: &mut Vec<u8>, row: &[TupleValue<'_>]) -> Result<(), ValueError> {
        for field in &self.fields {
            match row[field.index] {
                TupleValue::Text(text) if field.in_key => field.write(out, text)?,
                _ => field.write_nothing(out),
            }
        }
        Ok(())
    }
}

impl FieldPlan {
    #[inline]
    fn write(&self, out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
        let start = out.len();
        self.write_branch(out);
        let value = out.len();
        match write_value(out, &self.column_type, text) {
            Ok(()) => Ok(()),
            Err(reason) if matches!(self.policy, ValuePolicy::Park | ValuePolicy::Text) => Err(self.error(reason)),
            Err(reason) => {
                out.truncate(value);
                if write_substitute(out, &self.column_type, text, self.policy) {
                    return Ok(());
                }
                out.truncate(start);
                let null = self.null.branch().ok_or_else(|| self.error(reason))?;
                write_long(out, null);
                Ok(())
            }
        }
    }

    fn write_unavailable(&self, out: &mut Vec<u8>) {
        let start = out.len();
        self.write_branch(out);
        if write_placeholder(out, &self.column_type) {
            return;
        }
        out.truncate(start);
        self.write_nothing(out);
    }

    /// Appends the branch index of a value that is not null, if the field is nullable.
    fn write_branch(&self, out: &mut Vec<u8>) {
        if let Some(null) = self.null.branch() {
            write_long(out, 1 - null);
        }
    }

    fn write_nothing(&self, out: &mut Vec<u8>) {
        match (self.null.branch(), &self.default) {
            (Some(null), _) => write_long(out, null),
            (None, Some(default)) => out.extend_from_slice(default),
            (None, None) => write_fallback(out, &self.column_type),
        }
    }

    fn error(&self, reason: Unholdable) -> ValueError {
        ValueError { column: self.name.clone(), reason }
    }
}

fn field(relation: &Relation, index: usize, nullable: bool) -> FieldPlan {
    let column = &relation.columns[index];
    FieldPlan {
        index,
        name: column.name.clone(),
        column_type: column.column_type.clone(),
        null: match (nullable, &column.default) {
            (false, _) => Null::Never,
            (true, None) => Null::First,
            (true, Some(_)) => Null::Second,
        },
        policy: column.policy,
        in_key: relation.is_key(index),
        default: column.default.as_ref().map(|default| default.avro().to_vec()),
    }
}
