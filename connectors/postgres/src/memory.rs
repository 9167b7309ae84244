//! What reading may take of the memory, and what happens to a row that is larger.

use sooner_api::{Code, Error, MemoryBudget};
use sooner_schemas::TableName;

/// Limits of the memory that reading takes.
#[derive(Clone, Debug)]
pub struct ReadLimits {
    /// Size of one row as text, at most.
    pub row_bytes: usize,
    /// Room for rows of copies that have been read, and not handed on.
    pub copies: MemoryBudget,
}

/// Error of a table that has a row which is too large.
pub fn row_too_large(table: &TableName, bytes: usize, limits: &ReadLimits) -> Error {
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    Error::operator(
        Code::RowTooLarge,
        format!("cannot read a row of {table}"),
        format!(
            "it has {} MiB as text, and one row may have {} MiB, an eighth of `memory`",
            mib(bytes),
            mib(limits.row_bytes)
        ),
        format!("set `memory` to at least {}MiB, restart, then `sooner resume {table}`", 8 * mib(bytes)),
    )
}
