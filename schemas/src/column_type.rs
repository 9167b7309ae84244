//! Types of columns, reduced to what decides how their values are written.

use serde::{Deserialize, Serialize};

/// A column's type without array dimensions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// A single value.
    Scalar(Scalar),
    /// A one-dimensional array of values, each of which may be null.
    Array(Scalar),
}
