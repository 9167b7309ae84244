//! The model of a source table: what the catalog says, reduced to what an event needs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::default_value::DefaultValue;

/// A table's schema-qualified name, unquoted. Shown as `schema.table`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// Schema (namespace), such as `public`.
    pub schema: String,
    /// Table within that schema.
    pub table: String,
}

impl TableName {
    /// Builds a name from its two parts.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> TableName {
        TableName { schema: schema.into(), table: table.into() }
    }

    /// Parses `schema.table`, as [`fmt::Display`] shows it; none without a dot. A schema whose name contains a dot
    /// is not read back correctly.
    pub fn parse(text: &str) -> Option<TableName> {
        text.split_once('.').map(|(schema, table)| TableName::new(schema, table))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// A column's type without array dimensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric(precision, scale)` with `0 <= scale <= precision`
    Decimal {
        /// Digits in all, 1 to 1000.
        precision: u16,
        /// Digits after the point.
        scale: u16,
    },
    /// `numeric` without precision (or with a negative scale): each value has its own scale.
    Numeric,
    /// `text`, `varchar`, `char`, `name`, …
    Text,
    /// `bytea`
    Bytea,
    /// `date`
    Date,
    /// `time` with this many fraction digits, 0 to 6
    Time(u8),
    /// `timestamp without time zone` with this many fraction digits, 0 to 6
    Timestamp(u8),
    /// `timestamp with time zone` with this many fraction digits, 0 to 6
    Timestamptz(u8),
    /// `uuid`
    Uuid,
    /// `json` or `jsonb`
    Json,
    /// An enum, with its labels in order.
    Enum(Vec<String>),
    /// Any other type, carried as Postgres' own text for the value.
    Other,
}

/// A column's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// A single value.
    Scalar(Scalar),
    /// A one-dimensional array of values, each of which may be null.
    Array(Scalar),
}

/// A column of a source table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// Type.
    pub column_type: ColumnType,
    /// False if declared NOT NULL.
    pub nullable: bool,
    /// Whether the column has, or had, a default: rows older than the column may hold a value that no event carries.
    pub has_default: bool,
    /// Default that the event schemas declare for the column, if any.
    pub default: Option<DefaultValue>,
    /// Attribute number at the source, if known; it differs for a column dropped and added again by the same name.
    pub number: Option<i16>,
}

/// A source table: its name and its columns in the order in which Postgres sends them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Schema-qualified name.
    pub name: TableName,
    /// Columns in attribute order.
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the key that identifies a row, in the key's own order: the primary key, or the index
    /// of `REPLICA IDENTITY USING INDEX`. Empty for a table without either.
    pub key: Vec<usize>,
}

impl Relation {
    /// Whether the column at this index is part of the key.
    pub fn is_key(&self, column: usize) -> bool {
        self.key.contains(&column)
    }
}
