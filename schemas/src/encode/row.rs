//! A row's columns to an Avro record, by a plan compiled from the relation.

use super::value::{write_fallback, write_placeholder, write_value};
use super::{TupleValue, Unholdable, ValueError};
use crate::relation::{ColumnType, Relation};
use crate::wire::write_long;

/// A NULL under a schema that says NOT NULL: the row is older than the constraint.
pub const UNEXPECTED_NULL: Unholdable = Unholdable("it is NULL, but the column is NOT NULL");

/// Which columns are written as a record, in which order and how.
#[derive(Debug)]
pub struct RowPlan {
    fields: Vec<FieldPlan>,
}

#[derive(Debug)]
struct FieldPlan {
    /// Index into the row.
    index: usize,
    name: String,
    column_type: ColumnType,
    nullable: bool,
    in_key: bool,
}

impl RowPlan {
    /// All columns in their order: the `Value` record.
    pub fn value(relation: &Relation) -> RowPlan {
        let fields = (0..relation.columns.len()).map(|index| field(relation, index, relation.columns[index].nullable));
        RowPlan { fields: fields.collect() }
    }

    /// The key's columns in the key's order: the `Key` record, whose fields are never null.
    pub fn key(relation: &Relation) -> RowPlan {
        RowPlan { fields: relation.key.iter().map(|&index| field(relation, index, false)).collect() }
    }

    /// Number of columns that a row must have at least.
    pub fn width(&self) -> usize {
        self.fields.iter().map(|field| field.index + 1).max().unwrap_or(0)
    }

    /// Appends a whole row. Columns that Postgres left out get a placeholder, and their indexes go to `unavailable`.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        row: &[TupleValue<'_>],
        unavailable: &mut Vec<u16>,
    ) -> Result<(), ValueError> {
        for field in &self.fields {
            match row[field.index] {
                TupleValue::Text(text) => field.write(out, text)?,
                TupleValue::Null if field.nullable => write_long(out, 0),
                TupleValue::Null => return Err(field.error(UNEXPECTED_NULL)),
                TupleValue::Unavailable => {
                    unavailable.push(field.index as u16);
                    field.write_unavailable(out);
                }
            }
        }
        Ok(())
    }

    /// Appends a row of which nothing may be left out: a key.
    pub fn write_complete(&self, out: &mut Vec<u8>, row: &[TupleValue<'_>]) -> Result<(), ValueError> {
        let left_out = self.fields.iter().find(|field| row[field.index] == TupleValue::Unavailable);
        match left_out {
            Some(field) => Err(field.error(Unholdable("it is part of the key, and Postgres left its value out"))),
            None => self.write(out, row, &mut Vec::new()),
        }
    }

    /// Appends a row of which only the key is known: the other columns are null, or a fallback where they cannot be.
    pub fn write_key_only(&self, out: &mut Vec<u8>, row: &[TupleValue<'_>]) -> Result<(), ValueError> {
        for field in &self.fields {
            match row[field.index] {
                TupleValue::Text(text) if field.in_key => field.write(out, text)?,
                _ if field.nullable => write_long(out, 0),
                _ => write_fallback(out, &field.column_type),
            }
        }
        Ok(())
    }
}

impl FieldPlan {
    #[inline]
    fn write(&self, out: &mut Vec<u8>, text: &[u8]) -> Result<(), ValueError> {
        if self.nullable {
            write_long(out, 1);
        }
        write_value(out, &self.column_type, text).map_err(|reason| self.error(reason))
    }

    fn write_unavailable(&self, out: &mut Vec<u8>) {
        let start = out.len();
        if self.nullable {
            write_long(out, 1);
        }
        if write_placeholder(out, &self.column_type) {
            return;
        }
        out.truncate(start);
        if self.nullable {
            write_long(out, 0);
        } else {
            write_fallback(out, &self.column_type);
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
        nullable,
        in_key: relation.is_key(index),
    }
}
