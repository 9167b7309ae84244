//! Reads single values of a query's row.

use sooner_api::Result;

use crate::client::Row;
use crate::errors::protocol;

/// Text of a column of a query's row; a protocol error if it is NULL or missing.
pub fn text(row: &Row, index: usize) -> Result<&str> {
    row.get(index)
        .and_then(Option::as_deref)
        .ok_or_else(|| protocol("cannot understand Postgres' catalog", format!("column {index} of a row is missing")))
}

/// Number in a column of a query's row; a protocol error if it is NULL, missing or not a number.
pub fn number<N: std::str::FromStr>(row: &Row, index: usize) -> Result<N> {
    let text = text(row, index)?;
    text.parse()
        .map_err(|_| protocol("cannot understand Postgres' catalog", format!("'{text}' is not the expected number")))
}
