//! A column of a table in the lake.

use super::lake_type::LakeType;

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
}

impl LakeColumn {
    /// Its name in data files and statistics.
    pub fn stored_name(&self) -> &str {
        self.stored.as_ref().map_or(&self.name, |stored| &stored.name)
    }

    /// Whether it is the column that another one is of, whatever they are called.
    pub fn is_same(&self, other: &LakeColumn) -> bool {
        match (self.number, other.number) {
            (Some(number), Some(other)) => number == other,
            _ => self.name == other.name,
        }
    }
}
