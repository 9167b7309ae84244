//! What is made of a look at the catalog, and the errors that say why.

use sooner_api::{Code, Error, TableNote};
use sooner_schemas::TableName;

use crate::postponed::Reshaped;

/// What something new about a table means.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It goes on, and this is known of it.
    Noted(TableNote),
    /// Its columns are others by now, and the rows that are there stay right.
    Reshaped(Box<Reshaped>),
    /// It cannot go on: it has to be copied, or a person has to decide.
    Stopped(TableName, Error),
    /// Tables came or went: all of them have to be inspected again.
    Changed(Error),
    /// As `Changed`, but nothing is wrong until then: a table, whose object id this may be, was dropped, or is new.
    ChangedLater(Option<u32>, Error),
}

/// A table is copied again for columns that cannot be dropped or renamed in the lake.
pub fn columns_changed(table: &TableName) -> Verdict {
    Verdict::Stopped(table.clone(), copy_needed(table, "columns were dropped or renamed".to_owned()))
}

/// Why a table is copied again.
pub fn copy_needed(table: &TableName, why: String) -> Error {
    Error::retry(Code::CopyNeeded, format!("{table} is copied again"), why, "nothing")
}

/// A row came into what a publication's filter admits, by a change that leaves unchanged large values out, and Postgres
/// has no old row to take them from.
pub fn entered_in_part(table: &TableName) -> Error {
    let why = "a row came into the publication's filter without its unchanged large values, which REPLICA IDENTITY FULL \
               would send";
    copy_needed(table, why.to_owned())
}

/// Why a table cannot go on as it is by now.
pub fn shape_changed(table: &TableName, what: &str) -> Error {
    let remedy = format!("`sooner resume {table}` copies it again, once it has a key and rules for its masked columns");
    Error::operator(Code::ShapeChanged, format!("cannot follow {table}"), format!("its shape changed: {what}"), remedy)
}

/// Why all tables are inspected again.
pub fn tables_changed(why: String) -> Error {
    Error::retry(Code::TablesChanged, "the tables are inspected again", why, "nothing")
}
