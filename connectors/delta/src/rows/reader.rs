//! Decodes event messages into rows: the `after` image of the envelope, column by column.

use std::sync::Arc;

use arrow_array::ArrayRef;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use sooner_schemas::avro::{RecordSchema, Schema};
use sooner_schemas::event::EventSchema;
use sooner_schemas::wire::{Malformed, Reader, split_header};

use super::builder::{ColumnBuilder, Refused};
use super::columns::row_record;

/// Decodes rows from value messages of one envelope schema.
pub struct RowReader {
    table: TableName,
    /// Schemas of the envelope's fields that precede `after`.
    before_after: Vec<Schema>,
    after_null: Option<usize>,
    row: Arc<RecordSchema>,
}

impl RowReader {
    /// Compiles a reader for an envelope schema; one without an `after` record is an operator error.
    pub fn new(schema: &EventSchema) -> Result<RowReader> {
        let unusable = || {
            let what = format!("cannot read events of {}", schema.table);
            Error::operator(
                Code::MessageUnreadable,
                what,
                "their schema has no 'after' record",
                "send events in Debezium's envelope",
            )
        };
        let envelope = schema.value.as_record().ok_or_else(unusable)?;
        let after = envelope.field_index("after").ok_or_else(unusable)?;
        let row = row_record(&schema.value).and_then(Schema::as_record).ok_or_else(unusable)?;
        Ok(RowReader {
            table: schema.table.clone(),
            before_after: envelope.fields[..after].iter().map(|field| field.schema.clone()).collect(),
            after_null: envelope.fields[after].schema.without_null().1,
            row: row.clone(),
        })
    }

    /// Number of columns in a row.
    pub fn width(&self) -> usize {
        self.row.fields.len()
    }

    /// Empty builders for all columns, in order; a type that is not supported is an operator error.
    pub fn builders(&self) -> Result<Vec<ColumnBuilder>> {
        (0..self.width()).map(|column| self.builder(column)).collect()
    }

    /// An empty builder for one column; a type that is not supported is an operator error.
    pub fn builder(&self, column: usize) -> Result<ColumnBuilder> {
        ColumnBuilder::new(&self.row.fields[column].schema).ok_or_else(|| {
            let what = format!("cannot read events of {}", self.table);
            let why = format!("the type of column '{}' is not supported", self.row.fields[column].column);
            Error::operator(Code::TypeUnsupported, what, why, "leave the table out (exclude), or change the column")
        })
    }

    /// Decodes the row of a value message and appends it to all builders. Columns in `left_out` get a null, to be
    /// filled in afterwards. After an error the builders may differ in length.
    pub fn append(&self, message: &[u8], left_out: &[u16], builders: &mut [ColumnBuilder]) -> Result<()> {
        let mut reader = self.seek_row(message).map_err(|why| self.refused(None, why.into()))?;
        for (index, (field, builder)) in self.row.fields.iter().zip(builders).enumerate() {
            let taken = if left_out.contains(&(index as u16)) {
                builder.append_null();
                field.schema.skip(&mut reader).map_err(Refused::from)
            } else {
                builder.append(&mut reader)
            };
            taken.map_err(|why| self.refused(Some(&field.column), why))?;
        }
        Ok(())
    }

    /// Decodes one column of the row in a value message, and appends it to that column's builder.
    pub fn append_column(&self, message: &[u8], column: usize, builder: &mut ColumnBuilder) -> Result<()> {
        let mut reader = self.seek_row(message).map_err(|why| self.refused(None, why.into()))?;
        for field in &self.row.fields[..column] {
            field.schema.skip(&mut reader).map_err(|why| self.refused(Some(&field.column), why.into()))?;
        }
        builder.append(&mut reader).map_err(|why| self.refused(Some(&self.row.fields[column].column), why))
    }

    fn seek_row<'a>(&self, message: &'a [u8]) -> std::result::Result<Reader<'a>, Malformed> {
        let (_, datum) = split_header(message)?;
        let mut reader = Reader::new(datum);
        for field in &self.before_after {
            field.skip(&mut reader)?;
        }
        if let Some(null) = self.after_null
            && reader.length()? == null
        {
            return Err(Malformed::NoSuchBranch);
        }
        Ok(reader)
    }

    fn refused(&self, column: Option<&str>, why: Refused) -> Error {
        let what = match column {
            None => format!("cannot read an event of {}", self.table),
            Some(column) => format!("cannot store the column '{column}' of an event of {}", self.table),
        };
        let remedy = format!("correct the value at the source, then `sooner resume {}`", self.table);
        Error::operator(Code::ValueUnholdable, what, why, remedy)
    }
}

/// Finishes all builders, and returns their arrays.
pub fn finish(builders: &mut [ColumnBuilder]) -> Vec<ArrayRef> {
    builders.iter_mut().map(ColumnBuilder::finish).collect()
}
