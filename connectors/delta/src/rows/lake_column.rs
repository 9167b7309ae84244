//! A column of a table in the lake.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, StringArray, new_null_array};
use arrow_cast::cast;
use arrow_schema::ArrowError;
use arrow_select::interleave::interleave;

use super::lake_type::{LakeType, arrow_type};

/// How a column stands in the files of a table with column mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the table, which no other column gets.
    pub id: i32,
    /// Its name in data files and statistics.
    pub name: String,
}

/// A column of a lake table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeColumn {
    /// Name of the column, as at the source.
    pub name: String,
    /// Type of the column in the lake.
    pub lake_type: LakeType,
    /// Whether the column may be null.
    pub nullable: bool,
    /// Number of the column at the source, where it is known; a column that was dropped and added again has another
    /// one.
    pub number: Option<i16>,
    /// How it stands in the table's files, if they know it by another name.
    pub stored: Option<Stored>,
    /// What rows hold in it that are older than it, as Postgres' text; NULL if none.
    pub missing: Option<String>,
}

impl LakeColumn {
    /// Its name in data files and statistics.
    pub fn stored_name(&self) -> &str {
        self.stored.as_ref().map_or(&self.name, |stored| &stored.name)
    }

    /// Its values in so many rows that are older than it. An error if its type cannot hold what they held.
    pub fn missing_values(&self, rows: usize) -> Result<ArrayRef, ArrowError> {
        let data_type = arrow_type(&self.lake_type);
        let Some(text) = &self.missing else { return Ok(new_null_array(&data_type, rows)) };
        let text: ArrayRef = Arc::new(StringArray::from(vec![text.as_str()]));
        let value = cast(&text, &data_type)?;
        if value.is_null(0) {
            return Err(ArrowError::CastError(format!("'{}' cannot hold its default", self.name)));
        }
        interleave(&[value.as_ref()], &vec![(0, 0); rows])
    }

    /// Whether it is the column that another one is of, whatever they are called.
    pub fn is_same(&self, other: &LakeColumn) -> bool {
        match (self.number, other.number) {
            (Some(number), Some(other)) => number == other,
            _ => self.name == other.name,
        }
    }
}
